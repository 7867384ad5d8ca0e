/* Files and directories by their names: stat, list, mkdir, rename, remove, chmod. */
#include "builtin.h"
#include "operation.h"
#include "emit.h"
#include "place.h"
#include "walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int builtin_stat(int argc, char **argv)
{
	struct stat status;
	char name[PATH_MAX];
	bool follow;

	operation_begin();
	if (argc != 3 || !parse_flag(argv[2], &follow))
		return EINVAL;
	if (fstatat(AT_FDCWD, argv[1], &status, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0)
		return blame(argv[1], errno);
	emit_entry(AT_FDCWD, argv[1], &status, base_name(argv[1], name));
	emit_flush();
	return 0;
}

/* What a walk passes over: what went meanwhile, and what this user may not see. */
static bool may_skip(int error)
{
	return is_gone(error) || error == EACCES || error == EPERM;
}

static int list_found(struct walk *walk, uint64_t depth)
{
	struct stat status;
	int error;

	if (walk->leaving)
		return 0;
	if (fstatat(walk->dir, walk->name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return may_skip(errno) ? 0 : errno;
	emit_entry(walk->dir, walk->name, &status, walk->path);
	/* What lies deeper than a path can be long could be listed, but not be named in any request. */
	if (!S_ISDIR(status.st_mode) || walk->depth >= depth || strlen(walk->path) >= PATH_MAX)
		return 0;
	error = walk_enter(walk);
	return may_skip(error) ? 0 : error;
}

int builtin_list(int argc, char **argv)
{
	struct walk walk;
	uint64_t depth;
	int fd, error;

	operation_begin();
	if (argc != 3 || !parse_decimal(argv[2], &depth))
		return EINVAL;
	fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	error = fd < 0 ? errno : walk_begin(&walk, fd);
	if (error)
		return blame(argv[1], error);
	while (depth > 0 && !error && walk_next(&walk))
		error = list_found(&walk, depth);
	if (error)
		blame_below(argv[1], walk.path, error);
	else if (walk.error)
		error = blame(argv[1], walk.error);
	walk_end(&walk);
	emit_flush();
	return error;
}

static int make_directory(const char *path, mode_t mode)
{
	mode_t before = umask(0);
	int made = mkdir(path, mode);

	umask(before);
	/* mkdir() knows nothing of the set-group-id bit. */
	if (made == 0 && (mode & (S_ISUID | S_ISGID)) != 0)
		made = chmod(path, mode);
	return made < 0 ? errno : 0;
}

int builtin_mkdir(int argc, char **argv)
{
	mode_t mode = 0755;
	struct stat status;
	bool parents;
	int error = 0;

	operation_begin();
	if (argc != 4 || (strcmp(argv[2], "-") != 0 && !parse_mode(argv[2], &mode)) || !parse_flag(argv[3], &parents))
		return EINVAL;
	if (parents)
		error = make_parents(argv[1]);
	if (!error)
		error = make_directory(argv[1], mode);
	if (error && parents && stat(argv[1], &status) == 0 && S_ISDIR(status.st_mode))
		error = 0;
	return blame(argv[1], error);
}

int builtin_rename(int argc, char **argv)
{
	struct stat status;
	bool replace;
	int error;

	operation_begin();
	if (argc != 4 || !parse_flag(argv[3], &replace))
		return EINVAL;
	if (lstat(argv[1], &status) < 0)
		return blame(argv[1], errno);
	if (replace)
		error = rename(argv[1], argv[2]) < 0 ? errno : 0;
	else
		error = rename_exclusive(AT_FDCWD, argv[1], AT_FDCWD, argv[2]);
	return blame(argv[2], error);
}

/* Removes what can be removed on the way, and each directory when it is left. `progress` is what went since one
 * wasn't empty: on some file systems a directory that is read on after it changed shows only part of what is in
 * it. */
static int remove_found(struct walk *walk, bool *progress)
{
	int error;

	if (!walk->leaving && walk->type == DT_DIR)
		return walk_enter(walk);
	if (unlinkat(walk->dir, walk->name, walk->leaving ? AT_REMOVEDIR : 0) == 0) {
		*progress = true;
		return 0;
	}
	error = errno;
	if (error == EISDIR && !walk->leaving)
		return walk_enter(walk);
	if (error == ENOTEMPTY && *progress) {
		*progress = false;
		return walk_enter(walk);
	}
	return error;
}

static int remove_below(int dir, const char *path)
{
	struct walk walk;
	bool progress = false;
	int error = walk_begin(&walk, dir);

	if (error)
		return blame(path, error);
	while (!error && walk_next(&walk)) {
		error = remove_found(&walk, &progress);
		if (error == ENOENT)
			error = 0;
	}
	if (error)
		blame_below(path, walk.path, error);
	else if (walk.error)
		error = blame(path, walk.error);
	walk_end(&walk);
	return error;
}

/* Whether a directory could be removed if it were empty: nothing in it may go when it can't. */
static int removable(const struct place *place, const struct stat *status)
{
	struct stat above;

	if (fstatat(place->dir, ".", &above, 0) < 0)
		return errno;
	if (above.st_dev != status->st_dev)
		return EBUSY;
	if ((above.st_mode & S_ISVTX) && above.st_uid != geteuid() && status->st_uid != geteuid())
		return EPERM;
	return may_access(place->dir, ".", W_OK | X_OK);
}

static int remove_tree(const struct place *place, const struct stat *status, const char *path)
{
	int error = removable(place, status);
	int fd;

	if (error)
		return blame(path, error);
	if (unlinkat(place->dir, place->name, AT_REMOVEDIR) == 0)
		return 0;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return blame(path, errno);
	fd = openat(place->dir, place->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return blame(path, errno);
	error = remove_below(fd, path);
	if (error)
		return error;
	return unlinkat(place->dir, place->name, AT_REMOVEDIR) < 0 ? blame(path, errno) : 0;
}

int builtin_remove(int argc, char **argv)
{
	static struct place place;
	struct stat status;
	bool recursive;
	int error;

	operation_begin();
	if (argc != 3 || !parse_flag(argv[2], &recursive))
		return EINVAL;
	error = place_open(&place, argv[1]);
	if (!error && fstatat(place.dir, place.name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		error = errno;
	if (error)
		return blame(argv[1], error == EISDIR ? EBUSY : error);
	if (S_ISDIR(status.st_mode) && recursive)
		return remove_tree(&place, &status, argv[1]);
	if (unlinkat(place.dir, place.name, S_ISDIR(status.st_mode) ? AT_REMOVEDIR : 0) < 0)
		return blame(argv[1], errno);
	return 0;
}

int builtin_chmod(int argc, char **argv)
{
	mode_t mode;

	operation_begin();
	if (argc != 3 || !parse_mode(argv[2], &mode))
		return EINVAL;
	return chmod(argv[1], mode) < 0 ? blame(argv[1], errno) : 0;
}
