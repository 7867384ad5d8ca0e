/* How much the sandbox has written.
 *
 * What lies in the layers of the image was there before the sandbox, and nobody can set the time at which an inode was
 * last changed: so what has changed since the sandbox was made is what it has written. A directory of the image in which
 * nothing was made is older, too, and nothing below it is newer: overlayfs copies a directory, and all above it, before
 * anything is made in it. So the walk goes only where the sandbox has written, whatever the size of its image. */
#define _GNU_SOURCE
#include "disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "builtin/walk.h"

/* Of files that were deleted and are open: power of two. Many processes have the same one open. */
#define SEEN 16384u

struct tally {
	struct disk_use *use;
	int64_t since_ms;
	uint64_t most_inodes;
	dev_t device;
};

/* With several names it is found as often. */
static void add(struct disk_use *use, const struct stat *found)
{
	uint64_t bytes = (uint64_t)found->st_blocks * 512;
	uint64_t names = S_ISDIR(found->st_mode) || found->st_nlink == 0 ? 1 : found->st_nlink;

	use->bytes += (bytes + names - 1) / names;
	use->inodes++;
}

static bool is_older(const struct stat *found, int64_t since_ms)
{
	return (int64_t)found->st_ctim.tv_sec * 1000 + found->st_ctim.tv_nsec / 1000000 < since_ms;
}

/* Returns an errno. */
static int look(const struct tally *tally, struct walk *walk)
{
	struct stat found;
	int error;

	if (fstatat(walk->dir, walk->name, &found, AT_SYMLINK_NOFOLLOW) < 0)
		return is_gone(errno) ? 0 : errno;
	if (is_older(&found, tally->since_ms))
		return 0;
	if (S_ISDIR(found.st_mode) && found.st_dev != tally->device)
		return 0; /* mounted there: counted by itself, if it is on a disk */
	add(tally->use, &found);
	if (!S_ISDIR(found.st_mode))
		return 0;
	error = walk_enter(walk);
	return is_gone(error) ? 0 : error;
}

static bool measure_tree(struct tally tally, const char *path)
{
	struct walk walk;
	struct stat root;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool complete = true;

	if (fd < 0 || fstat(fd, &root) < 0)
		return false;
	tally.device = root.st_dev;
	if (walk_begin(&walk, fd))
		return false;
	while (tally.use->inodes <= tally.most_inodes && walk_next(&walk))
		if (!walk.leaving && look(&tally, &walk))
			complete = false;
	return walk_end(&walk) == 0 && complete;
}

/* What isn't on a disk: in memory, and counted as such, or the kernel's. */
static bool is_virtual(const char *type)
{
	static const char *const types[] = { "proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2" };

	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (!strcmp(type, types[i]))
			return true;
	return false;
}

/* The kernel writes blanks and the like in octal. */
static void unescape(char *text)
{
	char *out = text;

	for (; *text; text++) {
		unsigned int code;

		if (*text == '\\' && sscanf(text + 1, "%3o", &code) == 1) {
			*out++ = (char)code;
			text += 3;
		} else {
			*out++ = *text;
		}
	}
	*out = '\0';
}

/* All of a volume is the sandbox's own: the engine makes it with the container, and fills it from the image. */
static bool measure_mount(const struct tally *tally, const char *path)
{
	struct tally all = *tally;
	struct stat found;

	all.since_ms = 0;
	if (lstat(path, &found) < 0)
		return is_gone(errno);
	if (S_ISDIR(found.st_mode))
		return measure_tree(all, path);
	add(tally->use, &found);
	return true;
}

/* A line of mountinfo: "… … … … TARGET OPTIONS … - TYPE …". */
static bool measure_line(const struct tally *tally, char *line)
{
	char *rest = strstr(line, " - "), *type, *target = line, *options;

	if (rest == NULL)
		return true;
	*rest = '\0';
	type = rest + 3;
	type[strcspn(type, " ")] = '\0';
	for (int i = 0; i < 4; i++) {
		target = strchr(target, ' ');
		if (target == NULL)
			return true;
		target++;
	}
	options = strchr(target, ' ');
	if (options == NULL)
		return true;
	*options++ = '\0';
	unescape(target);
	if (is_virtual(type) || !strcmp(target, "/") || !strncmp(options, "ro", 2))
		return true;
	return measure_mount(tally, target);
}

/* What else the engine has mounted from its disk to be written to. */
static bool measure_mounts(const struct tally *tally)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	bool complete = true;
	char *line = NULL;
	size_t room = 0;

	if (file == NULL)
		return false;
	while (getline(&line, &room, file) > 0)
		complete &= measure_line(tally, line);
	free(line);
	fclose(file);
	return complete;
}

static uint64_t seen[SEEN];

static bool was_seen(uint64_t inode)
{
	for (uint32_t i = 0; i < 64; i++) {
		uint64_t *place = &seen[((inode * 0x9e3779b97f4a7c15u >> 50) + i) & (SEEN - 1)];

		if (*place == inode)
			return true;
		if (*place == 0) {
			*place = inode;
			return false;
		}
	}
	return false;
}

/* gVisor counts the last name of a file as long as it is open. */
static bool is_deleted(int descriptors, const char *name, const struct stat *found)
{
	static const char mark[] = " (deleted)";
	char path[4096];
	ssize_t length;

	if (!S_ISREG(found->st_mode) || found->st_nlink == 0)
		return S_ISREG(found->st_mode);
	length = readlinkat(descriptors, name, path, sizeof path);
	return length > (ssize_t)sizeof mark - 1 && !memcmp(path + length - (sizeof mark - 1), mark, sizeof mark - 1);
}

/* Files that have no name any more: they take their room until the last process that has them open ends. */
static void measure_descriptors(struct disk_use *use, int process)
{
	int fd = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *descriptors = fd < 0 ? NULL : fdopendir(fd);

	if (descriptors == NULL) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (struct dirent *entry; (entry = readdir(descriptors)) != NULL;) {
		struct stat found;
		struct statfs on;
		int file;

		if (fstatat(fd, entry->d_name, &found, 0) < 0 || !is_deleted(fd, entry->d_name, &found))
			continue;
		file = openat(fd, entry->d_name, O_PATH | O_CLOEXEC);
		if (file >= 0 && fstatfs(file, &on) == 0 && on.f_type != TMPFS_MAGIC && !was_seen(found.st_ino))
			add(use, &found);
		if (file >= 0)
			close(file);
	}
	closedir(descriptors);
}

/* As the user that it is of: nobody else may look. Who allows nobody can't be looked into. Meanwhile that user can signal
 * us; PID 1 then has this done again, with all halted. */
static void measure_process(struct disk_use *use, int proc, const char *pid)
{
	int process = openat(proc, pid, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat owner;

	if (process < 0)
		return;
	if (fstat(process, &owner) == 0 && setresgid(owner.st_gid, owner.st_gid, 0) == 0) {
		if (setresuid(owner.st_uid, owner.st_uid, 0) == 0)
			measure_descriptors(use, process);
		if (setresuid(0, 0, 0) < 0 || setresgid(0, 0, 0) < 0)
			_exit(72);
	}
	close(process);
}

static void measure_deleted(struct disk_use *use)
{
	DIR *processes = opendir("/proc");

	if (processes == NULL)
		return;
	for (struct dirent *entry; (entry = readdir(processes)) != NULL;)
		if (atoi(entry->d_name) > 1)
			measure_process(use, dirfd(processes), entry->d_name);
	closedir(processes);
}

bool disk_measure(struct disk_use *use, int64_t since_ms, uint64_t most_inodes)
{
	struct tally tally = { use, since_ms, most_inodes, 0 };
	bool complete;

	*use = (struct disk_use){ 0 };
	complete = measure_tree(tally, "/");
	complete &= measure_mounts(&tally);
	measure_deleted(use);
	return complete;
}
