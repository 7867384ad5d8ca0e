/* What the sandbox remembers of itself: until when it may live, and what managers have written down. It is on
 * disk, where only root can read or write it, so it outlives a stop; and the lease is kept here, so nothing
 * outlives it. */
#ifndef RECORD_H
#define RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

#define STATE_DIRECTORY "/var/lib/sandyard"
#define BLOB_MAX (32u << 10)
#define KEEP (-1)
/* 31,000 years: what is added to it stays a date, and a number that all languages hold exactly. */
#define TIME_MAX_MS 1000000000000000

enum end_code { END_LEASE = 90, END_IDLE = 91, END_STATE = 92, END_ARGUMENTS = 93, END_SETUP = 94 };

/* What the end of a lease or of an idle timeout does. */
enum on_expiry { EXPIRY_DESTROY, EXPIRY_STOP, EXPIRY_PAUSE, EXPIRY_KEEP = 255 };

/* What a new sandbox begins with. A time of 0 is none. */
struct terms {
	/* Until somebody takes it; none: it is taken from the beginning. */
	int64_t setup_ms;
	int64_t ttl_ms, idle_ms, last_ms;
	uint8_t on_expiry;
	/* How long it waits to be paused. */
	int64_t grace_ms;
};

struct record_change {
	/* That it must have, or 0. */
	uint64_t version;
	/* Or KEEP. */
	int64_t lease_ms, idle_ms, ttl_ms, last_ms;
	uint8_t on_expiry;
	bool has_blob;
	struct text blob;
};

/* The record that is there, or the one that a new sandbox begins with. */
void record_open(const struct terms *terms);
/* Returns an errno; then nothing has changed. */
int record_set(const struct record_change *change);
void record_put(struct out *out, uint32_t stream);
/* Somebody uses the sandbox. */
void record_note_activity(void);

#endif
