/* The record as it is on disk. */
#ifndef RECORD_FILE_H
#define RECORD_FILE_H

#include "record.h"

/* As a time: there is none. */
#define NEVER INT64_MAX

struct record {
	uint64_t version;
	/* By a clock that nobody can set; on disk by the wall clock, the only one that goes on while the sandbox
	 * is stopped. */
	int64_t lease_ends, last_ends;
	/* 0: none. */
	int64_t idle_ms, ttl_ms;
	uint8_t on_expiry;
	/* Whether a manager has ever set its lease. */
	bool taken;
	char *blob;
	uint32_t blob_length;
};

enum loaded { RECORD_ABSENT, RECORD_DAMAGED, RECORD_LOADED };

/* Returns an errno; then what was there is there still. */
int record_save(const struct record *record);
/* Fills it in only where it is RECORD_LOADED. */
enum loaded record_load(struct record *record);

#endif
