#include "watched.h"

#include "announced.h"
#include "change.h"
#include "place.h"
#include "walk.h"
#include "watches.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

#define CHANGES (IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO)

static int inotify = -1;
static const char *root;
static bool recursive;
/* Why not all is watched that should be. */
static int error;

/* Whether there is a watch now where none was before. What went meanwhile or may not be read isn't watched. */
static bool add_watch(const char *path)
{
	char full[PATH_MAX];
	int watch;

	if (snprintf(full, sizeof(full), "%s/%s", root, path) >= (int)sizeof(full))
		return false;
	watch = inotify_add_watch(inotify, full, CHANGES | IN_ONLYDIR | IN_DONT_FOLLOW);
	if (watch < 0) {
		if (errno == ENOSPC || errno == ENOMEM)
			error = errno;
		return false;
	}
	watch = watches_set(watch, path);
	if (watch < 0)
		error = ENOMEM;
	return watch > 0;
}

/* Watches what is below a directory that is watched itself. With `announce` it is new to the reader: whatever was put
 * into it before it was watched brings no event of its own. */
static void add_below(const char *path, bool announce)
{
	char full[PATH_MAX];
	struct walk walk;
	int fd;

	if (snprintf(full, sizeof(full), "%s/%s", root, path) >= (int)sizeof(full))
		return;
	fd = open(full, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || walk_begin(&walk, fd))
		return;
	while (!error && walk_next(&walk)) {
		bool is_directory = walk.type == DT_DIR;

		if (walk.leaving)
			continue;
		if (snprintf(full, sizeof(full), "%s%s%s", path, *path ? "/" : "", walk.path) >= (int)sizeof(full))
			continue;
		if (announce && !is_temporary(walk.name)) {
			tell(CREATE, is_directory, full, NULL);
			announced_add(full);
		}
		if (is_directory) {
			add_watch(full);
			walk_enter(&walk);
		}
	}
	walk_end(&walk);
}

int watched_begin(const char *path, bool all_below)
{
	int watch;

	if (inotify >= 0)
		close(inotify);
	watches_clear();
	root = path;
	recursive = all_below;
	inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (inotify < 0)
		return errno;
	watch = inotify_add_watch(inotify, root, CHANGES | IN_ONLYDIR | IN_DELETE_SELF | IN_MOVE_SELF);
	if (watch < 0)
		return errno;
	if (watches_set(watch, "") < 0)
		return ENOMEM;
	if (recursive)
		add_below("", false);
	return error;
}

int watched_inotify(void)
{
	return inotify;
}

int watched_error(void)
{
	return error;
}

void watched_add(const char *path)
{
	if (recursive && add_watch(path))
		add_below(path, true);
}

/* What has the new name by now may be another directory than the one that got it: then that is watched, too, and the
 * table is put right where it is wrong. */
void watched_move(const char *from, const char *to)
{
	if (watches_move(from, to) < 0)
		error = ENOMEM;
	watched_add(to);
}

void watched_drop(const char *path)
{
	size_t index = 0;
	int watch;

	/* The table loses them when the kernel confirms it. */
	while ((watch = watches_below(path, &index)) >= 0)
		inotify_rm_watch(inotify, watch);
}
