/* Puts what is in a tar below a directory: nothing of it anywhere else, whatever its names and links say. */
#define _GNU_SOURCE
#include "beneath.h"
#include "builtin.h"
#include "operation.h"
#include "place.h"
#include "tar.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A directory gets its mode and time at the end: before, what is put into it would change the one and could be
 * forbidden by the other. The last comes first then, so those within others before these. */
struct waiting {
	struct waiting *next;
	mode_t mode;
	struct timespec modified;
	char path[];
};

/* Beyond that they are settled at once: an archive of nothing but directories must not take all memory. */
#define WAITING_BYTES_MAX (16u << 20)

static struct waiting *waiting;
static size_t waiting_bytes;
static bool root_waits;

/* Modes and times of what belongs to somebody else can't be set, and needn't. */
static void settle(int dir, const char *name, mode_t mode, struct timespec modified)
{
	const struct timespec times[] = { { .tv_nsec = UTIME_NOW }, modified };

	fchmodat(dir, name, mode, 0);
	utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW);
}

static size_t cost(const struct waiting *last)
{
	return sizeof(*last) + strlen(last->path) + 16;
}

static void settle_waiting(void)
{
	while (waiting) {
		struct waiting *last = waiting;
		const char *name;
		int dir = beneath_above(last->path, &name);

		if (dir >= 0)
			settle(dir, *name ? name : ".", last->mode, last->modified);
		waiting = last->next;
		waiting_bytes -= cost(last);
		free(last);
	}
}

static int let_wait(const struct tar_member *member)
{
	struct waiting *last = malloc(sizeof(*last) + strlen(member->path) + 1);

	if (!last)
		return ENOMEM;
	*last = (struct waiting){ waiting, member->mode & 0777, member->modified };
	strcpy(last->path, member->path);
	waiting = last;
	waiting_bytes += cost(last);
	if (waiting_bytes > WAITING_BYTES_MAX)
		settle_waiting();
	return 0;
}

/* What an archive has twice is as it was the second time. */
static void forget_waiting(const char *path)
{
	for (struct waiting **link = &waiting; *link; link = &(*link)->next) {
		struct waiting *found = *link;

		if (strcmp(found->path, path) != 0)
			continue;
		*link = found->next;
		waiting_bytes -= cost(found);
		free(found);
		return;
	}
}

static int put_directory(const struct tar_member *member, int dir, const char *name)
{
	struct stat status;

	if (mkdirat(dir, name, 0700) < 0) {
		if (errno != EEXIST)
			return errno;
		if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
			return errno;
		/* A link may lead to a directory that the archive's maker took for this one. */
		if (S_ISLNK(status.st_mode))
			return EXDEV;
		if (!S_ISDIR(status.st_mode) && (unlinkat(dir, name, 0) < 0 || mkdirat(dir, name, 0700) < 0))
			return errno;
		/* One that was unpacked before, to be read only: it will be so again when it has waited. */
		if (S_ISDIR(status.st_mode) && (status.st_mode & 0700) != 0700)
			fchmodat(dir, name, (status.st_mode & 0777) | 0700, 0);
		forget_waiting(member->path);
	}
	return let_wait(member);
}

static int copy_content(int fd, uint64_t size)
{
	uint64_t left = size;

	while (left > 0) {
		const void *data;
		size_t got;
		int error = tar_content(&data, &got, left);

		if (!error)
			error = write_all(fd, data, got);
		if (error)
			return error;
		left -= got;
	}
	return tar_skip(tar_padding(size));
}

static int put_file(const struct tar_member *member, int dir, const char *name)
{
	const struct timespec times[] = { { .tv_nsec = UTIME_NOW }, member->modified };
	int fd = unfinished_create(dir, name);
	int error;

	if (fd < 0)
		return errno;
	error = copy_content(fd, member->size);
	if (!error && fchmod(fd, member->mode & 0777) < 0)
		error = errno;
	futimens(fd, times);
	if (close(fd) < 0 && !error)
		error = errno;
	if (error)
		unfinished_remove();
	unfinished_keep();
	return error;
}

static int put_link(const struct tar_member *member, int dir, const char *name)
{
	const struct timespec times[] = { { .tv_nsec = UTIME_NOW }, member->modified };

	if (!*member->link)
		return EBADMSG;
	if (symlinkat(member->link, dir, name) < 0)
		return errno;
	utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW);
	return 0;
}

/* What it links to is looked for beneath the directory, as a member's place is, and need not be of this archive. */
static int put_hard_link(struct tar_member *member, int dir, const char *name)
{
	const char *target;
	int from, error;
	/* `dir` may be closed when the directory of the target is asked for. */
	int kept = dup(dir);

	if (kept < 0)
		return errno;
	from = beneath_above(member->link, &target);
	error = from < 0 || linkat(from, target, kept, name, 0) < 0 ? errno : 0;
	close(kept);
	return error;
}

static int put_fifo(const struct tar_member *member, int dir, const char *name)
{
	if (mkfifoat(dir, name, 0600) < 0)
		return errno;
	settle(dir, name, member->mode & 0777, member->modified);
	return 0;
}

static int put(struct tar_member *member, int dir, const char *name)
{
	switch (member->type) {
	case TAR_FILE:
		return put_file(member, dir, name);
	case TAR_HARD_LINK:
		return put_hard_link(member, dir, name);
	case TAR_LINK:
		return put_link(member, dir, name);
	case TAR_DIRECTORY:
		return put_directory(member, dir, name);
	case TAR_FIFO:
		return put_fifo(member, dir, name);
	default:
		return EPERM;
	}
}

/* The root's own mode and time are the archive's only if the root is. */
static int put_root(const struct tar_member *member, bool root_made)
{
	if (member->type != TAR_DIRECTORY)
		return EBADMSG;
	if (!root_made || root_waits)
		return 0;
	root_waits = true;
	return let_wait(member);
}

static int put_again(struct tar_member *member)
{
	const char *name;
	int dir = beneath_above(member->path, &name);

	/* Replaced, not written to: it may be running, or have other names. */
	if (dir < 0 || unlinkat(dir, name, 0) < 0)
		return errno;
	return put(member, dir, name);
}

static int unpack_member(struct tar_member *member, bool root_made)
{
	const char *name;
	int dir, error = beneath_clean(member->path);

	if (!error && member->type == TAR_HARD_LINK)
		error = beneath_clean(member->link);
	if (error)
		return error;
	if (!*member->path)
		return put_root(member, root_made);
	/* A link to itself would be lost with what it replaces. */
	if (member->type == TAR_HARD_LINK && !strcmp(member->path, member->link))
		return 0;
	dir = beneath_above(member->path, &name);
	if (dir < 0)
		return errno;
	error = put(member, dir, name);
	return error == EEXIST ? put_again(member) : error;
}

static int unpack(const char *path, bool root_made)
{
	static struct tar_member member;
	int error;

	if (beneath_begin(path) < 0)
		return blame(path, errno);
	for (;;) {
		error = tar_next(&member);
		if (error || !member.type)
			break;
		error = unpack_member(&member, root_made);
		if (error) {
			path = member.path;
			break;
		}
	}
	settle_waiting();
	return blame(path, error);
}

int builtin_unpack(int argc, char **argv)
{
	struct stat status;
	int error;

	operation_begin();
	if (argc != 2)
		return EINVAL;
	error = make_parents(argv[1]);
	if (error)
		return blame(argv[1], error);
	if (mkdir(argv[1], 0755) == 0)
		return unpack(argv[1], true);
	error = errno;
	if (stat(argv[1], &status) < 0)
		return blame(argv[1], error);
	return S_ISDIR(status.st_mode) ? unpack(argv[1], false) : blame(argv[1], ENOTDIR);
}
