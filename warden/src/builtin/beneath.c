#define _GNU_SOURCE
#include "beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int root = -1;
/* The directory that was used last: most names are in the same as the one before. */
static int last = -1;
static char last_path[PATH_MAX];

int beneath_begin(const char *path)
{
	root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root;
}

static bool leads_out(const char *path)
{
	if (*path == '/')
		return true;
	for (const char *part = path; *part; part += strspn(part, "/")) {
		size_t length = strcspn(part, "/");

		if (length == 2 && !memcmp(part, "..", 2))
			return true;
		part += length;
	}
	return false;
}

int beneath_clean(char *path)
{
	char *out = path;

	if (leads_out(path))
		return EXDEV;
	for (char *part = path; *part;) {
		size_t length = strcspn(part, "/");
		char *next = part + length + (part[length] == '/');

		if (length > 0 && !(length == 1 && *part == '.')) {
			if (out != path)
				*out++ = '/';
			memmove(out, part, length);
			out += length;
		}
		part = next;
	}
	*out = '\0';
	return 0;
}

/* Opens a directory in another, made if it is missing; EXDEV for a link. */
static int enter(int dir, const char *name)
{
	const int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	struct stat status;
	int fd = openat(dir, name, flags);
	int error = errno;

	if (fd >= 0)
		return fd;
	if (error == ENOENT) {
		if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
			return -1;
		return openat(dir, name, flags);
	}
	if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(status.st_mode))
		error = EXDEV;
	errno = error;
	return -1;
}

/* One name at a time: O_NOFOLLOW is only about the last. */
int beneath_open(char *path)
{
	int fd = root;

	for (char *part = path; part && *part;) {
		char *slash = strchr(part, '/');
		int next;

		if (slash)
			*slash = '\0';
		next = enter(fd, part);
		if (slash)
			*slash = '/';
		if (fd != root) {
			int error = errno;

			close(fd);
			errno = error;
		}
		if (next < 0)
			return -1;
		fd = next;
		part = slash ? slash + 1 : NULL;
	}
	return fd;
}

int beneath_above(char *path, const char **name)
{
	char *slash = strrchr(path, '/');
	int error;

	*name = slash ? slash + 1 : path;
	if (!slash)
		return root;
	*slash = '\0';
	if (last < 0 || strcmp(path, last_path) != 0) {
		int fd = beneath_open(path);

		error = errno;
		if (last >= 0)
			close(last);
		last = fd;
		strcpy(last_path, path);
		errno = error;
	}
	*slash = '/';
	return last;
}
