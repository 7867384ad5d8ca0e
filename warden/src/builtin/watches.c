#define _GNU_SOURCE
#include "watches.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In the order of their numbers: the kernel counts upwards, so a new one nearly always is the last. */
static struct entry {
	int watch;
	char *path;
} *entries;
static size_t count, room;

/* Where a watch is, or would have to be. */
static size_t position(int watch)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (entries[middle].watch < watch)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct entry *find(int watch)
{
	size_t at = position(watch);

	return at < count && entries[at].watch == watch ? &entries[at] : NULL;
}

const char *watches_path(int watch)
{
	const struct entry *entry = find(watch);

	return entry ? entry->path : NULL;
}

int watches_set(int watch, const char *path)
{
	char *copy = strdup(path);
	struct entry *known = find(watch);
	size_t at = position(watch);

	if (!copy)
		return -1;
	if (known) {
		int moved = strcmp(known->path, path) != 0;

		free(known->path);
		known->path = copy;
		return moved;
	}
	if (count == room) {
		size_t more = room ? 2 * room : 64;
		struct entry *bigger = reallocarray(entries, more, sizeof(*entries));

		if (!bigger) {
			free(copy);
			return -1;
		}
		entries = bigger;
		room = more;
	}
	memmove(entries + at + 1, entries + at, (count - at) * sizeof(*entries));
	entries[at] = (struct entry){ watch, copy };
	count++;
	return 1;
}

void watches_drop(int watch)
{
	struct entry *entry = find(watch);

	if (!entry)
		return;
	free(entry->path);
	count--;
	memmove(entry, entry + 1, (count - (size_t)(entry - entries)) * sizeof(*entries));
}

static bool is_below(const char *path, const char *directory)
{
	size_t length = strlen(directory);

	return !strncmp(path, directory, length) && (path[length] == '/' || path[length] == '\0');
}

int watches_move(const char *from, const char *to)
{
	for (size_t i = 0; i < count; i++) {
		char *path;

		if (!is_below(entries[i].path, from))
			continue;
		if (asprintf(&path, "%s%s", to, entries[i].path + strlen(from)) < 0)
			return -1;
		free(entries[i].path);
		entries[i].path = path;
	}
	return 0;
}

int watches_below(const char *path, size_t *index)
{
	while (*index < count) {
		const struct entry *entry = &entries[(*index)++];

		if (is_below(entry->path, path))
			return entry->watch;
	}
	return -1;
}

void watches_clear(void)
{
	while (count > 0)
		free(entries[--count].path);
}
