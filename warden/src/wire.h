/* Frames and their fields, as PROTOCOL.md has them: all integers little-endian. */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROTOCOL_VERSION 1
#define HELLO_MAGIC 0x44575953u
#define FRAME_HEADER 9
#define MAX_PAYLOAD 65600u
#define MAX_DATA 65536u
#define MAX_REQUEST (4u << 20)
#define MAX_ID 64

enum frame_type {
	/* from the manager */
	F_HELLO = 0x01, F_PART, F_PING,
	F_SPAWN = 0x10, F_ATTACH, F_ACK, F_STDIN, F_STDIN_END, F_RESIZE, F_DETACH,
	F_SIGNAL = 0x20, F_KILL, F_LIST, F_FORGET, F_USAGE, F_RECORD_GET, F_RECORD_SET, F_WAIT,
	F_USAGE_HISTORY,
	/* from the warden */
	F_GREETING = 0x41, F_PONG = 0x43, F_FAULT,
	F_STARTED = 0x50, F_OUTPUT, F_LOST, F_STDIN_ACK, F_EXIT,
	F_DONE = 0x60, F_ERROR, F_LISTED, F_USAGE_IS, F_RECORD_IS,
	F_USAGE_SAMPLES = 0x67,
};

enum stage { STAGE_REQUEST, STAGE_MAKE, STAGE_USER, STAGE_CWD, STAGE_PROGRAM };

/* Reading: what is asked for beyond the end makes the rest 0 and `bad` true, so that a payload is checked once, at
 * its end. */
struct in {
	const uint8_t *at, *end;
	bool bad;
};

struct text {
	const char *at;
	uint32_t length;
};

struct in in_of(const void *data, size_t length);
size_t in_left(const struct in *in);
uint8_t in_u8(struct in *in);
uint16_t in_u16(struct in *in);
uint32_t in_u32(struct in *in);
uint64_t in_u64(struct in *in);
struct text in_text(struct in *in);
/* Whether all was there and nothing is left. */
bool in_done(const struct in *in);

/* Writing: a buffer that grows. */
struct out {
	uint8_t *data;
	size_t length, capacity;
};

void out_reserve(struct out *out, size_t more);
void out_free(struct out *out);
void out_u8(struct out *out, uint8_t value);
void out_u16(struct out *out, uint16_t value);
void out_u32(struct out *out, uint32_t value);
void out_u64(struct out *out, uint64_t value);
void out_bytes(struct out *out, const void *data, size_t length);
void out_text(struct out *out, const char *text, size_t length);

/* A frame: its fields go between the two, and `frame_end` fills in their length. */
size_t frame_begin(struct out *out, enum frame_type type, uint32_t stream);
void frame_end(struct out *out, size_t frame);

#endif
