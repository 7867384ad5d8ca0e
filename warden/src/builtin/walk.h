/* Walks the tree below a directory, depth first, without following links. However deep the tree, few descriptors are
 * open; memory grows with the depth alone.
 *
 *	while (walk_next(&walk))
 *		if (!walk.leaving && walk.type == DT_DIR)
 *			error = walk_enter(&walk);
 *	error = walk_end(&walk);
 */
#ifndef WALK_H
#define WALK_H

#include <stdbool.h>
#include <stddef.h>

struct walk_level;

struct walk {
	/* What walk_next found: a name in an open directory, and its path from where the walk began. */
	int dir;
	const char *name;
	char *path;
	unsigned char type; /* DT_DIR and so on; DT_UNKNOWN for what is gone already */
	bool leaving;       /* a directory that was entered, after all that is in it */
	size_t depth;       /* 1 for what is in the first directory */

	struct walk_level *levels;
	size_t levels_room;
	size_t path_room;
	int error;
};

/* Begins below a directory, which is closed in the end, or at once when it fails. */
int walk_begin(struct walk *walk, int dir);
bool walk_next(struct walk *walk);

/* Goes on with what is in the directory that walk_next just found, or just left. Fails with EACCES also when it
 * can be read but not searched. */
int walk_enter(struct walk *walk);

/* Returns what made walk_next stop, 0 for the end. */
int walk_end(struct walk *walk);

/* Whether a fault only says that something went or changed meanwhile. */
bool is_gone(int error);

#endif
