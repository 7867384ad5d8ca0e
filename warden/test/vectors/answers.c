/* What the warden says: written from the fields of a vector. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vectors.h"

static void put_text(const struct vector *vector, struct out *out, const char *key)
{
	size_t length = bytes(vector, key);

	out_text(out, (const char *)scratch, length);
}

static void put_list(const struct vector *vector, struct out *out, const char *key)
{
	uint64_t count = number(vector, key);
	char item[64];

	out_u32(out, (uint32_t)count);
	for (uint64_t i = 0; i < count; i++) {
		snprintf(item, sizeof item, "%s%" PRIu64, key, i);
		put_text(vector, out, item);
	}
}

static void put_samples(const struct vector *vector, struct out *out, const char *key)
{
	static const char *const names[] = { "at", "memory", "cpu", "processes", "received", "sent" };
	uint64_t count = number(vector, key);
	char name[64];

	out_u32(out, (uint32_t)count);
	for (uint64_t i = 0; i < count; i++)
		for (size_t field = 0; field < sizeof names / sizeof *names; field++) {
			snprintf(name, sizeof name, "%s%" PRIu64, names[field], i);
			out_u64(out, number(vector, name));
		}
}

static void put_exit(const struct vector *vector, struct out *out)
{
	struct process process = { 0 };
	int64_t code = (int64_t)number(vector, "code");

	process.ring.last_seq = number(vector, "last");
	process.outcome = (enum outcome)number(vector, "outcome");
	process.left = number(vector, "left") != 0;
	process.status = code >= 0 ? (int)code << 8 : (int)number(vector, "signal");
	process.reaped_us = (int64_t)number(vector, "duration");
	process.usage.ru_utime = (struct timeval){ (time_t)(number(vector, "user") / 1000000),
						   (suseconds_t)(number(vector, "user") % 1000000) };
	process.usage.ru_stime = (struct timeval){ (time_t)(number(vector, "system") / 1000000),
						   (suseconds_t)(number(vector, "system") % 1000000) };
	process.output[0].total = number(vector, "stdout");
	process.output[1].total = number(vector, "stderr");
	process_put_exit(&process, out, vector->stream);
	/* The kernel counts in KiB, which not every vector does. */
	for (int i = 0; i < 8; i++)
		out->data[FRAME_HEADER + 42 + i] = (uint8_t)(number(vector, "rss") >> (8 * i));
}

/* Each as its own code says it. Returns whether it could be said so. */
static bool put_by_its_code(const struct vector *vector, struct tunnel *tunnel)
{
	struct out *out = &tunnel->control;

	if (strcmp(vector->name, "pong") == 0) {
		struct out payload = { 0 };

		out_u64(&payload, number(vector, "token"));
		give(tunnel, F_PING, 0, &payload);
	} else if (strcmp(vector->name, "fault") == 0) {
		scratch[bytes(vector, "text")] = '\0';
		tunnel_fault(tunnel, (const char *)scratch);
	} else if (strcmp(vector->name, "done") == 0) {
		tunnel_put_done(tunnel, vector->stream);
	} else if (strcmp(vector->name, "error") == 0) {
		scratch[bytes(vector, "text")] = '\0';
		tunnel_put_error(tunnel, vector->stream, (int)(uint32_t)number(vector, "errno"),
				 (enum stage)number(vector, "stage"), (const char *)scratch);
	} else if (strcmp(vector->name, "stdin_ack") == 0) {
		struct process process = { .input = { .confirmed = number(vector, "offset"),
						      .closed = number(vector, "closed") != 0 } };
		struct reader reader = { .process = &process, .tunnel = tunnel, .stream = vector->stream, .told = true };

		tunnel_put_stdin_ack(&reader);
	} else if (strcmp(vector->name, "exit") == 0) {
		put_exit(vector, out);
	} else {
		return false;
	}
	return true;
}

/* The others, from their fields: their code needs what only a sandbox has. Types in order of the payload: 1, 2, 4
 * and 8 are integers of that many bytes, t text, l a list, s samples, b bytes that end the frame. */
static void put_by_layout(const struct vector *vector, struct out *out)
{
	static const struct {
		const char *name;
		enum frame_type type;
		const char *layout;
	} layouts[] = {
		{ "started", F_STARTED, "1existing 4pid 8first 8last 8stdin 8start" },
		{ "output", F_OUTPUT, "8seq 1of bdata" },
		{ "lost", F_LOST, "8first 8last" },
		{ "listed", F_LISTED,
		  "tid 4pid 1outcome 4flags 4code 4signal 8start 8first 8last 4readers largv" },
		{ "usage_is", F_USAGE_IS,
		  "8memory 8limit 8cpu 8processes 8received 8sent 8oom_kills 8machine 8disk 8written 8inodes" },
		{ "record_is", F_RECORD_IS, "8version 8lease 8idle 8ttl 1on_expiry 8last 1taken tblob" },
		{ "usage_samples", F_USAGE_SAMPLES, "ssamples" },
		{ "hello", F_GREETING, "2version bboot tbuild" },
	};
	char key[32];
	int taken;

	for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
		const char *at = layouts[i].layout;
		size_t frame;

		if (strcmp(layouts[i].name, vector->name) != 0)
			continue;
		frame = frame_begin(out, layouts[i].type, vector->stream);
		if (layouts[i].type == F_GREETING)
			out_u32(out, HELLO_MAGIC);
		for (char kind; sscanf(at, " %c%31s%n", &kind, key, &taken) == 2; at += taken) {
			if (kind == 't')
				put_text(vector, out, key);
			else if (kind == 'l')
				put_list(vector, out, key);
			else if (kind == 's')
				put_samples(vector, out, key);
			else if (kind == 'b')
				out_bytes(out, scratch, bytes(vector, key));
			else if (kind == '1')
				out_u8(out, (uint8_t)number(vector, key));
			else if (kind == '2')
				out_u16(out, (uint16_t)number(vector, key));
			else if (kind == '4')
				out_u32(out, (uint32_t)number(vector, key));
			else
				out_u64(out, number(vector, key));
		}
		frame_end(out, frame);
		return;
	}
	fail(vector, "is no frame that is known");
}

void check_answer(const struct vector *vector)
{
	struct tunnel *tunnel = new_tunnel();
	const struct out *out = &tunnel->control;

	if (!put_by_its_code(vector, tunnel))
		put_by_layout(vector, &tunnel->control);
	check(vector, out->length == vector->length && memcmp(out->data, vector->frame, out->length) == 0,
	      "is said in other bytes");
	free_tunnel(tunnel);
}
