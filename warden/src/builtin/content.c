/* What is in files: read, write, append. */
#include "builtin.h"
#include "operation.h"
#include "emit.h"
#include "place.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEW_FILE_MODE 0644

static unsigned char chunk[CHUNK];

static int only_regular(mode_t mode)
{
	if (S_ISREG(mode))
		return 0;
	return S_ISDIR(mode) ? EISDIR : ENOTSUP;
}

static void emit_file(const struct stat *status, const char *path)
{
	char name[PATH_MAX];

	emit_entry(AT_FDCWD, path, status, base_name(path, name));
}

/* Where to begin: at OFFSET, or that much before the end. */
static bool parse_offset(const char *text, uint64_t size, uint64_t *offset)
{
	uint64_t number;

	if (!parse_decimal(*text == '-' ? text + 1 : text, &number))
		return false;
	if (*text == '-')
		number = number < size ? size - number : 0;
	*offset = number < size ? number : size;
	return true;
}

static int emit_content(int fd, uint64_t offset, uint64_t length)
{
	while (length > 0) {
		size_t room;
		void *buffer = emit_room(&room);
		ssize_t got = pread(fd, buffer, length < room ? (size_t)length : room, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno;
		if (got == 0)
			return ENODATA;
		emit_added((size_t)got);
		offset += (uint64_t)got;
		length -= (uint64_t)got;
	}
	return 0;
}

int builtin_read(int argc, char **argv)
{
	struct stat status;
	uint64_t offset, length = UINT64_MAX;
	int fd, error;

	operation_begin();
	if (argc != 4)
		return EINVAL;
	/* A FIFO or a terminal must neither hold us up nor become ours. */
	fd = open(argv[1], O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &status) < 0)
		/* ENXIO is said of a socket. */
		return blame(argv[1], errno == ENXIO ? ENOTSUP : errno);
	error = only_regular(status.st_mode);
	if (error)
		return blame(argv[1], error);
	if (!parse_offset(argv[2], (uint64_t)status.st_size, &offset))
		return EINVAL;
	if (strcmp(argv[3], "-") != 0 && !parse_decimal(argv[3], &length))
		return EINVAL;
	if (length > (uint64_t)status.st_size - offset)
		length = (uint64_t)status.st_size - offset;
	emit_file(&status, argv[1]);
	error = emit_content(fd, offset, length);
	emit_flush();
	return blame(argv[1], error);
}

static int copy_input(int fd)
{
	for (;;) {
		ssize_t got = read_full(STDIN_FILENO, chunk, sizeof(chunk));
		int error;

		if (got <= 0)
			return got < 0 ? errno : 0;
		error = write_all(fd, chunk, (size_t)got);
		if (error)
			return error;
	}
}

static bool has_tag(const struct stat *status, const char *tag)
{
	char own[80];

	snprintf(own, sizeof(own), "%" PRIx64 "-%" PRIx64 "-%" PRIx64 "-%" PRIx64, (uint64_t)status->st_ino,
		(uint64_t)status->st_mtim.tv_sec, (uint64_t)status->st_mtim.tv_nsec, (uint64_t)status->st_size);
	return !strcmp(own, tag);
}

/* Whether what is at the place now may be replaced. */
static int check(const struct place *place, const char *tag, struct stat *status, bool *exists)
{
	*exists = fstatat(place->dir, place->name, status, AT_SYMLINK_NOFOLLOW) == 0;
	if (!*exists) {
		if (errno != ENOENT)
			return errno;
		return !strcmp(tag, "-") || !strcmp(tag, "!") ? 0 : ESTALE;
	}
	if (!strcmp(tag, "!"))
		return EEXIST;
	if (only_regular(status->st_mode))
		return only_regular(status->st_mode);
	if (strcmp(tag, "-") != 0 && strcmp(tag, "*") != 0 && !has_tag(status, tag))
		return ESTALE;
	return may_access(place->dir, place->name, W_OK);
}

static int create_beside(const struct place *place, char *name, size_t size)
{
	for (int tries = 0; tries < 100; tries++) {
		uint32_t random;
		int fd;

		if (getrandom(&random, sizeof(random), 0) != sizeof(random))
			return -1;
		snprintf(name, size, TEMPORARY_NAME, random);
		fd = unfinished_create(place->dir, name);
		if (fd >= 0 || errno != EEXIST)
			return fd;
	}
	return -1;
}

/* A new file gets its name by a link: nobody else's is replaced, and those who watch see it created, not renamed. */
static int put_in_place(const struct place *place, const char *temporary, const char *tag, bool exists)
{
	if (!exists && linkat(place->dir, temporary, place->dir, place->name, 0) == 0) {
		unfinished_remove();
		return 0;
	}
	if (!strcmp(tag, "!")) {
		int error = rename_exclusive(place->dir, temporary, place->dir, place->name);

		if (error)
			return error;
	} else if (renameat(place->dir, temporary, place->dir, place->name) < 0) {
		return errno;
	}
	unfinished_keep();
	return 0;
}

/* Those that replace a certain version take turns, or two could find the same one and both replace it. The turn
 * ends with the process. Where the directory can't be read there is no turn to take, and the last one wins. */
static void take_turn(const struct place *place)
{
	int fd = openat(place->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0)
		flock(fd, LOCK_EX);
}

static int write_place(const struct place *place, char **argv)
{
	mode_t mode = NEW_FILE_MODE;
	char temporary[32];
	struct stat status;
	bool exists;
	int fd;
	/* Before the content is read, too: what can't be written needn't be sent. */
	int error = check(place, argv[3], &status, &exists);

	if (error)
		return error;
	if (strcmp(argv[2], "-") != 0 && !parse_mode(argv[2], &mode))
		return EINVAL;
	fd = create_beside(place, temporary, sizeof(temporary));
	if (fd < 0)
		return errno;
	error = copy_input(fd);
	if (!error && strcmp(argv[3], "-") != 0)
		take_turn(place);
	if (!error)
		error = check(place, argv[3], &status, &exists);
	/* As with any write, the set-user-id and set-group-id bits are gone after it. */
	if (!error && exists && !strcmp(argv[2], "-"))
		mode = status.st_mode & 0777;
	if (!error && (fchmod(fd, mode) < 0 || fstat(fd, &status) < 0))
		error = errno;
	/* Closed later, it would be seen as one more write, to the file in its place. */
	if (close(fd) < 0 && !error)
		error = errno;
	if (!error)
		error = put_in_place(place, temporary, argv[3], exists);
	unfinished_remove();
	if (!error)
		emit_file(&status, argv[1]);
	return error;
}

int builtin_write(int argc, char **argv)
{
	static struct place place;
	int error;

	operation_begin();
	if (argc != 4)
		return EINVAL;
	error = place_to_write(&place, argv[1]);
	if (!error)
		error = write_place(&place, argv);
	emit_flush();
	return blame(argv[1], error);
}

/* Opens without waiting for a reader of a FIFO, and without touching a device. */
static int open_to_append(const char *path, mode_t mode, struct stat *status)
{
	int flags = O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	int fd, error;

	if (stat(path, status) == 0) {
		error = only_regular(status->st_mode);
		if (error) {
			errno = error;
			return -1;
		}
	} else {
		mode_t before;

		error = make_parents(path);
		if (error) {
			errno = error;
			return -1;
		}
		before = umask(0);
		fd = open(path, flags | O_CREAT, mode);
		umask(before);
		return fd;
	}
	return open(path, flags);
}

int builtin_append(int argc, char **argv)
{
	mode_t mode = NEW_FILE_MODE;
	struct stat status;
	int fd, error;

	operation_begin();
	if (argc != 3 || (strcmp(argv[2], "-") != 0 && !parse_mode(argv[2], &mode)))
		return EINVAL;
	fd = open_to_append(argv[1], mode, &status);
	if (fd < 0 || fstat(fd, &status) < 0)
		return blame(argv[1], errno);
	error = only_regular(status.st_mode);
	if (!error)
		error = copy_input(fd);
	if (!error && fstat(fd, &status) < 0)
		error = errno;
	if (!error)
		emit_file(&status, argv[1]);
	emit_flush();
	return blame(argv[1], error);
}
