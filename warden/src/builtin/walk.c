#include "walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* How many directories are held open. One further up is closed, and found again by way of "..". */
#define HELD 32

struct walk_level {
	DIR *stream; /* NULL while it is closed */
	long position;
	dev_t device;
	ino_t inode;
	size_t length; /* of its path */
};

bool is_gone(int error)
{
	return error == ENOENT || error == ENOTDIR || error == ELOOP || error == ESRCH;
}

static int grow(void **memory, size_t *room, size_t needed, size_t size)
{
	size_t more = *room ? *room : 64;
	void *bigger;

	if (needed <= *room)
		return 0;
	while (more < needed)
		more *= 2;
	bigger = reallocarray(*memory, more, size);
	if (!bigger)
		return ENOMEM;
	*memory = bigger;
	*room = more;
	return 0;
}

static int open_level(struct walk_level *level, int fd)
{
	struct stat status;

	/* By its name in itself, as that takes the right to search it: without, nothing can be done with what it
	 * lists. */
	if (fd >= 0 && fstatat(fd, ".", &status, 0) == 0) {
		level->device = status.st_dev;
		level->inode = status.st_ino;
		level->stream = fdopendir(fd);
		if (level->stream)
			return 0;
	}
	if (fd >= 0) {
		int error = errno;

		close(fd);
		errno = error;
	}
	return errno;
}

static void close_level(struct walk_level *level)
{
	if (level->stream) {
		level->position = telldir(level->stream);
		closedir(level->stream);
		level->stream = NULL;
	}
}

static int push(struct walk *walk, int fd)
{
	void *levels = walk->levels;
	struct walk_level level = { .length = strlen(walk->path) };
	int error = grow(&levels, &walk->levels_room, walk->depth + 1, sizeof(level));

	walk->levels = levels;
	if (error) {
		close(fd);
		return error;
	}
	error = open_level(&level, fd);
	if (error)
		return error;
	if (walk->depth >= HELD)
		close_level(&walk->levels[walk->depth - HELD]);
	walk->levels[walk->depth++] = level;
	return 0;
}

int walk_begin(struct walk *walk, int dir)
{
	int error;

	memset(walk, 0, sizeof(*walk));
	walk->path = calloc(1, 64);
	walk->path_room = 64;
	if (!walk->path) {
		close(dir);
		return ENOMEM;
	}
	error = push(walk, dir);
	if (error)
		walk_end(walk);
	return error;
}

/* Back to the directory above, from the one that was read to its end. */
static int pop(struct walk *walk)
{
	struct walk_level *left = &walk->levels[--walk->depth];
	struct walk_level *above = left - 1;
	int error = 0;

	if (walk->depth > 0 && !above->stream) {
		struct walk_level again;

		error = open_level(&again, openat(dirfd(left->stream), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
		if (!error && (again.device != above->device || again.inode != above->inode)) {
			/* Somebody moved the directory: where we are now is none of our business. */
			closedir(again.stream);
			error = ESTALE;
		}
		if (!error) {
			above->stream = again.stream;
			seekdir(above->stream, above->position);
		}
	}
	closedir(left->stream);
	left->stream = NULL;
	return error;
}

static bool leave(struct walk *walk)
{
	size_t length = walk->levels[walk->depth - 1].length;
	char *slash;

	walk->error = pop(walk);
	if (walk->error || walk->depth == 0)
		return false;
	walk->path[length] = '\0';
	slash = strrchr(walk->path, '/');
	walk->name = slash ? slash + 1 : walk->path;
	walk->dir = dirfd(walk->levels[walk->depth - 1].stream);
	walk->type = DT_DIR;
	walk->leaving = true;
	return true;
}

/* Not every file system says in its directories what is what. */
static unsigned char type_of(const struct walk *walk)
{
	struct stat status;

	if (fstatat(walk->dir, walk->name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return DT_UNKNOWN;
	return (unsigned char)IFTODT(status.st_mode);
}

static bool found(struct walk *walk, const struct walk_level *level, const struct dirent *item)
{
	size_t start = level->length ? level->length + 1 : 0;
	void *path = walk->path;

	walk->error = grow(&path, &walk->path_room, start + strlen(item->d_name) + 1, 1);
	walk->path = path;
	if (walk->error)
		return false;
	if (start)
		walk->path[start - 1] = '/';
	strcpy(walk->path + start, item->d_name);
	walk->name = walk->path + start;
	walk->dir = dirfd(level->stream);
	walk->type = item->d_type == DT_UNKNOWN ? type_of(walk) : item->d_type;
	walk->leaving = false;
	return true;
}

bool walk_next(struct walk *walk)
{
	struct walk_level *level;
	struct dirent *item;

	if (walk->depth == 0 || walk->error)
		return false;
	level = &walk->levels[walk->depth - 1];
	do {
		errno = 0;
		item = readdir(level->stream);
	} while (item && (!strcmp(item->d_name, ".") || !strcmp(item->d_name, "..")));
	if (item)
		return found(walk, level, item);
	/* A directory that goes while it is read has come to its end. */
	if (errno && !is_gone(errno)) {
		walk->error = errno;
		return false;
	}
	return leave(walk);
}

int walk_enter(struct walk *walk)
{
	int fd = openat(walk->dir, walk->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? errno : push(walk, fd);
}

int walk_end(struct walk *walk)
{
	for (size_t i = 0; i < walk->depth; i++)
		if (walk->levels[i].stream)
			closedir(walk->levels[i].stream);
	free(walk->levels);
	free(walk->path);
	walk->levels = NULL;
	walk->path = NULL;
	walk->depth = 0;
	return walk->error;
}
