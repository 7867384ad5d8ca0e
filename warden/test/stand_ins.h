/* What the code under test has asked of the rest of the warden, which takes it and does nothing. What starts processes,
 * and finds what they leave, is each test's own. */
#ifndef STAND_INS_H
#define STAND_INS_H

#include <stdbool.h>
#include <stdint.h>

struct asked {
	uint64_t version;
	int64_t lease_ms, idle_ms;
	bool has_blob;
	char blob[256];
	uint32_t blob_length;
	uint16_t rows, columns;
	int signal;
};

extern struct asked asked;

#endif
