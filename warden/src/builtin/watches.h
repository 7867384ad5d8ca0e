/* Which directory each watch of inotify is of: a table of watch numbers and paths. */
#ifndef WATCHES_H
#define WATCHES_H

#include <stddef.h>

/* The path of a watch, or NULL. */
const char *watches_path(int watch);

/* Notes where a watch is. Returns 1 when it is new or was elsewhere, 0 when that was known, -1 when there is no
 * memory. */
int watches_set(int watch, const char *path);
void watches_drop(int watch);

/* The directory `from` is `to` now, with all that is below. Returns -1 when there is no memory. */
int watches_move(const char *from, const char *to);

/* The first watch of a directory or of what is below it, from an index on, which goes beyond it; -1: no more. */
int watches_below(const char *path, size_t *index);
void watches_clear(void);

#endif
