/* What a process has printed, in numbered pieces, the oldest first. */
#ifndef RING_H
#define RING_H

#include <stddef.h>
#include <stdint.h>

struct piece {
	struct piece *next;
	uint64_t seq;
	uint32_t length;
	uint8_t stream;
	uint8_t data[];
};

struct ring {
	struct piece *first, *last;
	uint64_t last_seq;
	size_t bytes;
};

/* Of all rings together. */
extern size_t ring_total;

void ring_add(struct ring *ring, uint8_t stream, const void *data, uint32_t length);
void ring_drop_first(struct ring *ring);
void ring_clear(struct ring *ring);
/* The number of the oldest piece there is; one more than the last when there is none. */
uint64_t ring_first_seq(const struct ring *ring);
/* The oldest piece whose number is greater, or NULL. */
struct piece *ring_after(const struct ring *ring, uint64_t seq);

#endif
