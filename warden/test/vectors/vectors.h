/* A line of vectors.txt, and what it takes to check it. */
#ifndef VECTORS_H
#define VECTORS_H

#include "../../src/tunnel.h"

struct vector {
	const char *name, *fields;
	uint32_t stream;
	uint8_t frame[1 << 17];
	size_t length;
};

void fail(const struct vector *vector, const char *what);
void check(const struct vector *vector, bool holds, const char *what);

/* The fields of a vector. */
uint64_t number(const struct vector *vector, const char *key);
/* Puts it into `scratch`, and returns its length. */
size_t bytes(const struct vector *vector, const char *key);

extern uint8_t scratch[1 << 17];

/* requests.c */

/* One that nobody is at the other end of. */
struct tunnel *new_tunnel(void);
void free_tunnel(struct tunnel *tunnel);
void give(struct tunnel *tunnel, uint8_t type, uint32_t stream, struct out *payload);
void spawn(struct tunnel *tunnel, uint32_t stream, const char *id);
/* Acts on what a manager says, as it is, and with a byte missing or too many. */
void check_request(struct vector *vector);

/* answers.c: says what the vector says. */
void check_answer(const struct vector *vector);

#endif
