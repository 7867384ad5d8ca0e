/* How much a sandbox has written to the engine's disk, and what becomes of what runs when that is more than it may.
 *
 * Measuring takes a walk, so it is not done for its own sake: what is free in the file system below, which takes
 * microseconds to ask, tells whether anything can have been written. When enough has gone, or after a while, a fork of
 * PID 1 walks through what the sandbox has written. */
#ifndef DISK_H
#define DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define DISK_UNKNOWN UINT64_MAX

struct disk_use {
	uint64_t bytes;
	/* Files, directories and whatever else has a name; and what was deleted, and is open yet. */
	uint64_t inodes;
};

/* The most that may be written, from when the sandbox was made on, in ms since 1970. */
struct disk_bound {
	struct disk_use most;
	int64_t since_ms;
};

/* Begins to look, where there is a bound. */
void disk_open(const struct disk_bound *bound);
/* Once per round of the loop: whether anything runs. */
void disk_settle(bool has_children);
/* A child that is no process of anybody's has ended. */
void disk_reaped(pid_t pid);
/* As it was last measured; DISK_UNKNOWN when it never was. */
struct disk_use disk_used(void);
/* Whether there is more than there may be: nothing is to be written until some of it is removed. */
bool disk_is_full(void);
/* Whether there is so much more that no command is to be started, either. */
bool disk_is_closed(void);

/* disk_measure.c: in a process of its own. Returns whether all of it was seen: somebody may have moved a directory while
 * it was in there. Stops at so many files. */
bool disk_measure(struct disk_use *use, int64_t since_ms, uint64_t most_inodes);

#endif
