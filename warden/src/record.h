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

enum end_code { END_LEASE = 90, END_IDLE = 91, END_STATE = 92, END_ARGUMENTS = 93 };

/* The record that is there, or the one that a new sandbox begins with. */
void record_open(int64_t lease_ms, int64_t idle_ms);
/* Returns an errno; then nothing has changed. */
int record_set(uint64_t version, int64_t lease_ms, int64_t idle_ms, const struct text *blob);
void record_put(struct out *out, uint32_t stream);
/* Somebody uses the sandbox. */
void record_note_activity(void);

#endif
