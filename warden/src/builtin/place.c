#define _GNU_SOURCE
#include "place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As many as the kernel itself follows. */
#define LINKS_MAX 40

static int copy_path(char *to, const char *path)
{
	if (!*path)
		return ENOENT;
	if (strlen(path) >= PATH_MAX)
		return ENAMETOOLONG;
	strcpy(to, path);
	return 0;
}

static void strip_slashes(char *path)
{
	size_t length = strlen(path);

	while (length > 1 && path[length - 1] == '/')
		path[--length] = '\0';
}

const char *base_name(const char *path, char *buffer)
{
	char *slash;

	if (copy_path(buffer, path))
		return "";
	strip_slashes(buffer);
	slash = strrchr(buffer, '/');
	return slash && slash[1] ? slash + 1 : buffer;
}

/* Splits place->path into its directory, which is opened, and the name in it. */
static int open_directory(struct place *place)
{
	char *slash = strrchr(place->path, '/');
	const char *above = ".";

	place->name = slash ? slash + 1 : place->path;
	if (!*place->name || !strcmp(place->name, ".") || !strcmp(place->name, ".."))
		return EISDIR;
	if (slash) {
		above = slash == place->path ? "/" : place->path;
		*slash = '\0';
	}
	/* Without O_PATH it would have to be readable, too. */
	place->dir = open(above, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return place->dir < 0 ? errno : 0;
}

int place_open(struct place *place, const char *path)
{
	int error = copy_path(place->path, path);

	if (error)
		return error;
	strip_slashes(place->path);
	return open_directory(place);
}

/* Puts the target of the link that `path` is in its place. */
static int follow_link(char *path, const char *target)
{
	char *slash = strrchr(path, '/');
	size_t above = *target == '/' || !slash ? 0 : (size_t)(slash + 1 - path);

	if (above + strlen(target) >= PATH_MAX)
		return ENAMETOOLONG;
	strcpy(path + above, target);
	return 0;
}

static int follow_links(char *path)
{
	for (int i = 0; i < LINKS_MAX; i++) {
		char target[PATH_MAX];
		ssize_t length;
		int error;

		/* With a slash at its end it would be followed by the kernel, and its target could only be a
		 * directory. */
		if (path[strlen(path) - 1] == '/')
			return EISDIR;
		length = readlink(path, target, sizeof(target) - 1);
		if (length < 0)
			return errno == EINVAL || errno == ENOENT ? 0 : errno;
		target[length] = '\0';
		error = follow_link(path, target);
		if (error)
			return error;
	}
	return ELOOP;
}

int place_to_write(struct place *place, const char *path)
{
	int error = copy_path(place->path, path);

	if (!error)
		error = follow_links(place->path);
	if (!error)
		error = make_parents(place->path);
	return error ? error : open_directory(place);
}

bool is_temporary(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	const size_t length = strlen(".sandyard-");

	return !strncmp(name, ".sandyard-", length) && strspn(name + length, "0123456789abcdef") == 8 &&
		strlen(name) == length + 8;
}

static bool is_directory(const char *path)
{
	struct stat status;

	return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

int make_parents(const char *path)
{
	char above[PATH_MAX];
	int error = copy_path(above, path);

	if (error)
		return error;
	strip_slashes(above);
	for (char *slash = strchr(above + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		/* Not only EEXIST: for what is there, some file systems say first that it can't be made. */
		if (mkdir(above, 0777) < 0) {
			error = errno;
			if (!is_directory(above))
				return error == EEXIST ? ENOTDIR : error;
		}
		*slash = '/';
	}
	return 0;
}

static bool in_group(gid_t group)
{
	gid_t groups[NGROUPS_MAX];
	int count = getgroups(NGROUPS_MAX, groups);

	for (int i = 0; i < count; i++)
		if (groups[i] == group)
			return true;
	return group == getegid();
}

/* access() asks for the real user, who is nobody here, and so does the C library's AT_EACCESS where the kernel has
 * no faccessat2, as older gVisors (older Dockers forbid it, with EPERM). As there are no capabilities, the mode
 * says all. */
int may_access(int dir, const char *name, int wanted)
{
	struct stat status;
	mode_t granted;

	if (syscall(SYS_faccessat2, dir, name, wanted, AT_EACCESS) == 0)
		return 0;
	if (errno != ENOSYS && errno != EPERM)
		return errno;
	if (fstatat(dir, name, &status, 0) < 0)
		return errno;
	if (status.st_uid == geteuid())
		granted = status.st_mode >> 6;
	else
		granted = in_group(status.st_gid) ? status.st_mode >> 3 : status.st_mode;
	return ((mode_t)wanted & ~granted & 7) ? EACCES : 0;
}

/* An empty directory may be replaced by another, and making it is exclusive. */
static int rename_directory(int from_dir, const char *from, int to_dir, const char *to)
{
	int error;

	if (mkdirat(to_dir, to, 0700) < 0)
		return errno;
	if (renameat(from_dir, from, to_dir, to) == 0)
		return 0;
	error = errno;
	unlinkat(to_dir, to, AT_REMOVEDIR);
	return error;
}

int rename_exclusive(int from_dir, const char *from, int to_dir, const char *to)
{
	struct stat status;

	if (renameat2(from_dir, from, to_dir, to, RENAME_NOREPLACE) == 0)
		return 0;
	/* Kernels and file systems that don't have it say so in both ways. */
	if (errno != EINVAL && errno != ENOSYS)
		return errno;
	if (fstatat(from_dir, from, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno;
	if (S_ISDIR(status.st_mode))
		return rename_directory(from_dir, from, to_dir, to);
	if (linkat(from_dir, from, to_dir, to, 0) == 0)
		return unlinkat(from_dir, from, 0) < 0 ? errno : 0;
	if (errno == EEXIST)
		return EEXIST;
	/* Without links there is a moment between the look and the rename, and no way to do without it. */
	if (fstatat(to_dir, to, &status, AT_SYMLINK_NOFOLLOW) == 0)
		return EEXIST;
	return renameat(from_dir, from, to_dir, to) < 0 ? errno : 0;
}
