/* What the code under test has asked of the rest of the warden, which takes it and does nothing. What starts processes,
 * and finds what they leave, is each test's own. */
#ifndef STAND_INS_H
#define STAND_INS_H

#include <stdbool.h>
#include <stdint.h>

#include "../src/record.h"

struct asked {
	/* Its blob is where it came from; this is a copy. */
	struct record_change change;
	char blob[256];
	uint16_t rows, columns;
	int signal;
};

extern struct asked asked;

#endif
