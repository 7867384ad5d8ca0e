/* Tells what changes in a directory, or of one file. */
#include "announced.h"
#include "builtin.h"
#include "change.h"
#include "inotify_queue.h"
#include "operation.h"
#include "place.h"
#include "watched.h"
#include "watches.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is done to a file comes as several events that mean the same: there is little to tell when they come
 * together. */
#define GATHER_MS 2

static struct {
	bool recursive;
	char root[PATH_MAX];
	/* When PATH is a file it is watched by its name in its directory, as most programs replace a file to
	 * change it. */
	const char *only;
	int error;
	bool root_gone;
} state;

/* The kernel lost events, among them perhaps those of new directories: begins again. */
static void begin_again(void)
{
	inotify_queue_clear();
	announced_clear();
	state.error = watched_begin(state.root, state.recursive);
	if (!state.error)
		tell(OVERFLOW, false, "", NULL);
	else if (state.error == ENOENT || state.error == ENOTDIR)
		state.root_gone = true;
}

static void moved_away(bool is_directory, const char *path)
{
	announced_take(path);
	if (!is_temporary(path))
		tell(REMOVE, is_directory, path, NULL);
	if (is_directory) {
		announced_clear();
		watched_drop(path);
	}
}

static void moved_here(bool is_directory, const char *path)
{
	if (!is_temporary(path))
		tell(CREATE, is_directory, path, NULL);
	if (is_directory)
		watched_add(path);
}

static void renamed(bool is_directory, const char *from, const char *to)
{
	/* So the operation `write` replaces a file that is there. */
	if (is_temporary(from)) {
		tell(WRITE, false, to, NULL);
		return;
	}
	announced_take(from);
	tell(RENAME, is_directory, from, to);
	if (!is_directory)
		return;
	/* What is below has other paths now. */
	announced_clear();
	watched_move(from, to);
}

static void created(bool is_directory, const char *path)
{
	if (!announced_take(path) && !is_temporary(path))
		tell(CREATE, is_directory, path, NULL);
	if (is_directory)
		watched_add(path);
}

static bool path_of(const struct inotify_event *event, char *path)
{
	const char *directory = watches_path(event->wd);

	return directory && snprintf(path, PATH_MAX, "%s%s%s", directory, *directory ? "/" : "", event->name) < PATH_MAX;
}

static void handle_named(const struct inotify_event *event)
{
	bool is_directory = event->mask & IN_ISDIR;
	char path[PATH_MAX], to[PATH_MAX];

	if (!path_of(event, path))
		return;
	if (event->mask & IN_CREATE)
		created(is_directory, path);
	if (event->mask & IN_MOVED_TO)
		moved_here(is_directory, path);
	if (event->mask & IN_MOVED_FROM) {
		struct inotify_event *partner = inotify_queue_partner(watched_inotify(), event->cookie);

		if (partner && path_of(partner, to)) {
			partner->mask = 0;
			renamed(is_directory, path, to);
		} else {
			moved_away(is_directory, path);
		}
		return;
	}
	if (is_temporary(path))
		return;
	if (event->mask & (IN_MODIFY | IN_CLOSE_WRITE))
		tell(WRITE, is_directory, path, NULL);
	if (event->mask & IN_ATTRIB)
		tell(CHMOD, is_directory, path, NULL);
	if (event->mask & IN_DELETE) {
		announced_take(path);
		tell(REMOVE, is_directory, path, NULL);
	}
}

/* Only one file is watched, whose path is the empty one. */
static void handle_only(const struct inotify_event *event)
{
	if (strcmp(event->name, state.only) != 0)
		return;
	if (event->mask & IN_CREATE)
		tell(CREATE, false, "", NULL);
	if (event->mask & (IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_TO))
		tell(WRITE, false, "", NULL);
	if (event->mask & IN_ATTRIB)
		tell(CHMOD, false, "", NULL);
	if (event->mask & (IN_DELETE | IN_MOVED_FROM))
		state.root_gone = true;
}

static void handle_nameless(const struct inotify_event *event)
{
	const char *path = watches_path(event->wd);
	bool is_root = path && !*path;
	const uint32_t gone = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED;

	if (is_root && (event->mask & gone))
		state.root_gone = true;
	else if (is_root && (event->mask & IN_ATTRIB) && !state.only)
		tell(CHMOD, true, "", NULL);
	if (event->mask & IN_IGNORED)
		watches_drop(event->wd);
}

static void handle_events(void)
{
	const struct inotify_event *event;

	while (!state.error && !state.root_gone && (event = inotify_queue_next()) != NULL) {
		if (event->mask & IN_Q_OVERFLOW)
			begin_again();
		else if (event->len == 0)
			handle_nameless(event);
		else if (state.only)
			handle_only(event);
		else
			handle_named(event);
	}
}

static int run(void)
{
	tell(READY, false, "", NULL);
	while (!state.error && !state.root_gone) {
		struct pollfd fds[] = { { .fd = watched_inotify(), .events = POLLIN }, { .fd = STDOUT_FILENO } };
		int ready;

		tell_flush();
		ready = poll(fds, 2, announced_any() ? 0 : -1);
		if (ready < 0 && errno != EINTR)
			return errno;
		if (fds[1].revents & POLLERR)
			return EPIPE;
		/* Every event from before a directory was looked through has been seen. */
		if (ready == 0)
			announced_clear();
		if (ready > 0) {
			poll(NULL, 0, GATHER_MS);
			state.error = inotify_queue_read(watched_inotify());
			handle_events();
			if (!state.error)
				state.error = watched_error();
		}
	}
	if (state.root_gone)
		tell(REMOVE, !state.only, "", NULL);
	tell_flush();
	return state.root_gone ? 0 : state.error;
}

/* Where PATH really is: it is to be watched, not a link to it. */
static int find_root(const char *path)
{
	static char name[PATH_MAX];
	struct stat status;
	char *slash;

	if (!realpath(path, state.root) || stat(state.root, &status) < 0)
		return errno;
	/* Not every kernel asks for the right to read what is watched. */
	if (S_ISDIR(status.st_mode))
		return may_access(AT_FDCWD, state.root, R_OK);
	slash = strrchr(state.root, '/');
	strcpy(name, slash + 1);
	slash[slash == state.root] = '\0';
	state.only = name;
	state.recursive = false;
	return 0;
}

int builtin_watch(int argc, char **argv)
{
	int error;

	operation_begin();
	if (argc != 3 || !parse_flag(argv[2], &state.recursive))
		return EINVAL;
	error = find_root(argv[1]);
	if (!error)
		error = watched_begin(state.root, state.recursive);
	if (!error)
		error = run();
	return blame(argv[1], error);
}
