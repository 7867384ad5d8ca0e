/* Writes a tar of what is at a path. */
#include "builtin.h"
#include "emit.h"
#include "operation.h"
#include "place.h"
#include "tar.h"
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is to be packed under a name of the archive's. */
struct source {
	int dir;
	const char *name;
	const char *shown;
	const struct stat *status;
};

static int emit_content(int fd, uint64_t size)
{
	uint64_t left = size;

	while (left > 0) {
		size_t room;
		void *buffer = emit_room(&room);
		ssize_t got = read(fd, buffer, left < room ? (size_t)left : room);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno;
		if (got == 0)
			break;
		emit_added((size_t)got);
		left -= (uint64_t)got;
	}
	/* The header has announced so much: only the exit code can tell that the rest isn't the file's. */
	emit_zeros((size_t)left);
	emit_zeros(tar_padding(size));
	return left > 0 ? ENODATA : 0;
}

static int pack_file(const struct source *source)
{
	struct stat status;
	int error = 0;
	int fd = openat(source->dir, source->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	if (fstat(fd, &status) < 0) {
		error = errno;
	} else if (S_ISREG(status.st_mode)) {
		tar_emit(source->shown, "", TAR_FILE, &status);
		error = emit_content(fd, (uint64_t)status.st_size);
	}
	close(fd);
	return error;
}

static int pack_link(const struct source *source)
{
	char target[PATH_MAX];
	ssize_t length = readlinkat(source->dir, source->name, target, sizeof(target) - 1);

	if (length < 0)
		return errno;
	target[length] = '\0';
	tar_emit(source->shown, target, TAR_LINK, source->status);
	return 0;
}

static char type_of(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return TAR_FILE;
	case S_IFLNK:
		return TAR_LINK;
	case S_IFDIR:
		return TAR_DIRECTORY;
	case S_IFCHR:
		return TAR_CHARACTER_DEVICE;
	case S_IFBLK:
		return TAR_BLOCK_DEVICE;
	case S_IFIFO:
		return TAR_FIFO;
	default:
		return 0;
	}
}

/* Packs whatever the name stands for, of a directory only itself. */
static int pack_one(int dir, const char *name, const char *shown, const struct stat *status)
{
	struct source source = { .dir = dir, .name = name, .shown = shown, .status = status };
	char type = type_of(status->st_mode);

	if (type == TAR_FILE)
		return pack_file(&source);
	if (type == TAR_LINK)
		return pack_link(&source);
	if (type)
		tar_emit(shown, "", type, status);
	return 0;
}

static int pack_found(struct walk *walk)
{
	static char shown[TAR_NAME_MAX];
	struct stat status;
	int printed, error;

	if (walk->leaving)
		return 0;
	if (fstatat(walk->dir, walk->name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno;
	printed = snprintf(shown, sizeof(shown), "./%s%s", walk->path, S_ISDIR(status.st_mode) ? "/" : "");
	if (printed < 0 || (size_t)printed >= sizeof(shown))
		return ENAMETOOLONG;
	error = pack_one(walk->dir, walk->name, shown, &status);
	if (!error && S_ISDIR(status.st_mode))
		error = walk_enter(walk);
	return error;
}

/* Goes on after a file that became shorter, as all others are still right. */
static int pack_directory(const char *path, int fd, const struct stat *status)
{
	struct walk walk;
	int error, shorter = 0;

	error = walk_begin(&walk, fd);
	if (error)
		return blame(path, error);
	pack_one(AT_FDCWD, path, "./", status);
	while (!error && walk_next(&walk)) {
		error = pack_found(&walk);
		if (error == ENODATA && !shorter)
			shorter = blame_below(path, walk.path, error);
		if (error == ENODATA || is_gone(error))
			error = 0;
	}
	if (error && !shorter)
		blame_below(path, walk.path, error);
	else if (walk.error && !shorter)
		blame(path, walk.error);
	walk_end(&walk);
	if (!error)
		error = walk.error;
	return error ? error : shorter;
}

static int pack_path(const char *path)
{
	struct stat status;
	char name[PATH_MAX];
	int fd;

	if (lstat(path, &status) < 0)
		return blame(path, errno);
	if (S_ISSOCK(status.st_mode))
		return blame(path, ENOTSUP);
	if (!S_ISDIR(status.st_mode))
		return blame(path, pack_one(AT_FDCWD, path, base_name(path, name), &status));
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return blame(path, errno);
	return pack_directory(path, fd, &status);
}

int builtin_pack(int argc, char **argv)
{
	int error;

	operation_begin();
	if (argc != 2)
		return EINVAL;
	error = pack_path(argv[1]);
	/* Without its end it is no tar: nobody takes for whole what isn't. */
	if (!error || error == ENODATA)
		emit_zeros(2 * TAR_BLOCK);
	emit_flush();
	return error;
}
