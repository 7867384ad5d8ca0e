/* A place in the file system: a name in a directory that is held open, whether anything is there or not. */
#ifndef PLACE_H
#define PLACE_H

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>

struct place {
	int dir;
	const char *name;
	char path[PATH_MAX];
};

/* Where `path` ends, without following a link there. ENOENT when its directory is missing; EISDIR when it can only be
 * a directory, as "/" or "..". A slash at its end is of no importance. */
int place_open(struct place *place, const char *path);

/* The same, but where the links at the end of `path` lead, whether anything is there or not, and with the directories
 * above made where they are missing. EISDIR when the path ends with a slash. */
int place_to_write(struct place *place, const char *path);

/* What `write` calls the file beside another until it is whole. Those who watch needn't hear of it. */
#define TEMPORARY_NAME ".sandyard-%08" PRIx32
bool is_temporary(const char *path);

/* The last name in a path, as entries show it. */
const char *base_name(const char *path, char *buffer);

/* Makes the directories above the last name of a path where they are missing. */
int make_parents(const char *path);

/* Whether the effective user has this access (R_OK, W_OK, X_OK) to a name in a directory. Returns 0 or an errno. */
int may_access(int dir, const char *name, int wanted);

/* Gives `from` the name `to` when nothing has that name yet, EEXIST otherwise. Both are relative to their
 * directory. */
int rename_exclusive(int from_dir, const char *from, int to_dir, const char *to);

#endif
