/* What the sandbox uses, by its control groups (version 1 or 2), or by /proc where it sees none. */
#ifndef USAGE_H
#define USAGE_H

#include <stdint.h>

#include "wire.h"

void usage_open(void);
uint64_t usage_memory_limit(void);
/* How many processes the kernel has killed for want of memory; 0 where it doesn't tell. */
uint64_t usage_oom_kills(void);
/* What of it is kept for a while. */
struct usage {
	uint64_t memory, cpu_ns, processes, received, sent;
};

/* Needs no memory. */
struct usage usage_now(void);
void usage_put(struct out *out, uint32_t stream);

#endif
