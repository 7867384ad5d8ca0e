#include "announced.h"

#include <stddef.h>
#include <stdint.h>

/* When there are more, the oldest are told twice. */
#define ANNOUNCED_MAX 4096

static uint64_t hashes[ANNOUNCED_MAX];
static size_t count, next;

/* FNV-1a, never 0. */
static uint64_t hash(const char *text)
{
	uint64_t value = 0xcbf29ce484222325;

	for (; *text; text++)
		value = (value ^ (unsigned char)*text) * 0x100000001b3;
	return value | 1;
}

void announced_add(const char *path)
{
	hashes[next] = hash(path);
	next = (next + 1) % ANNOUNCED_MAX;
	if (count < ANNOUNCED_MAX)
		count++;
}

bool announced_take(const char *path)
{
	uint64_t wanted;

	if (count == 0)
		return false;
	wanted = hash(path);
	for (size_t i = 0; i < count; i++)
		if (hashes[i] == wanted) {
			hashes[i] = 0;
			return true;
		}
	return false;
}

bool announced_any(void)
{
	return count > 0;
}

void announced_clear(void)
{
	count = next = 0;
}
