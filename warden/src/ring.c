#include "ring.h"

#include <stdlib.h>
#include <string.h>

#include "loop.h"

size_t ring_total;

/* Many small pieces cost more than their bytes. */
static size_t cost(const struct piece *piece)
{
	return piece->length + sizeof *piece + 16;
}

void ring_add(struct ring *ring, uint8_t stream, const void *data, uint32_t length)
{
	struct piece *piece = must(malloc(sizeof *piece + length));

	*piece = (struct piece){ .seq = ++ring->last_seq, .length = length, .stream = stream };
	memcpy(piece->data, data, length);
	if (ring->last)
		ring->last->next = piece;
	else
		ring->first = piece;
	ring->last = piece;
	ring->bytes += cost(piece);
	ring_total += cost(piece);
}

void ring_drop_first(struct ring *ring)
{
	struct piece *piece = ring->first;

	ring->first = piece->next;
	if (ring->first == NULL)
		ring->last = NULL;
	ring->bytes -= cost(piece);
	ring_total -= cost(piece);
	free(piece);
}

void ring_clear(struct ring *ring)
{
	while (ring->first)
		ring_drop_first(ring);
}

uint64_t ring_first_seq(const struct ring *ring)
{
	return ring->first ? ring->first->seq : ring->last_seq + 1;
}

struct piece *ring_after(const struct ring *ring, uint64_t seq)
{
	struct piece *piece = ring->first;

	while (piece && piece->seq <= seq)
		piece = piece->next;
	return piece;
}
