#include "operation.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
	int dir;
	char name[NAME_MAX + 1];
	volatile sig_atomic_t there;
} unfinished;

static void end_early(int signal_number)
{
	(void)signal_number;
	if (unfinished.there)
		unlinkat(unfinished.dir, unfinished.name, 0);
	_exit(EINTR);
}

static void ending_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
}

void operation_begin(void)
{
	struct sigaction end = { .sa_handler = end_early };
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigset_t none;

	ending_signals(&end.sa_mask);
	sigaction(SIGTERM, &end, NULL);
	sigaction(SIGINT, &end, NULL);
	sigaction(SIGHUP, &end, NULL);
	/* Both are told by errno, too, which leaves time to clean up. */
	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGXFSZ, &ignore, NULL);
	/* Whoever forked us may have blocked what it reads from a descriptor. */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

int blame(const char *path, int error)
{
	if (error)
		write_all(STDERR_FILENO, path, strlen(path));
	return error;
}

int blame_below(const char *path, const char *below, int error)
{
	blame(path, error);
	blame("/", error);
	return blame(below, error);
}

static bool parse_number(const char *text, int base, uint64_t *value)
{
	const char *digits = base == 8 ? "01234567" : "0123456789";

	if (!*text || text[strspn(text, digits)])
		return false;
	errno = 0;
	*value = strtoull(text, NULL, base);
	return errno == 0;
}

bool parse_decimal(const char *text, uint64_t *value)
{
	return parse_number(text, 10, value);
}

bool parse_mode(const char *text, mode_t *mode)
{
	uint64_t value;

	if (!parse_number(text, 8, &value) || value > 07777)
		return false;
	*mode = (mode_t)value;
	return true;
}

bool parse_flag(const char *text, bool *value)
{
	*value = !strcmp(text, "1");
	return *value || !strcmp(text, "0");
}

ssize_t read_full(int fd, void *buffer, size_t size)
{
	size_t filled = 0;

	while (filled < size) {
		ssize_t got = read(fd, (char *)buffer + filled, size - filled);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		if (got == 0)
			break;
		filled += (size_t)got;
	}
	return (ssize_t)filled;
}

int write_all(int fd, const void *data, size_t size)
{
	const char *rest = data;

	while (size > 0) {
		ssize_t put = write(fd, rest, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return errno;
		rest += put;
		size -= (size_t)put;
	}
	return 0;
}

/* A signal between the making of the file and the note of it would leave it behind: it has to wait. */
int unfinished_create(int dir, const char *name)
{
	sigset_t ending, before;
	int fd = -1;
	int error = ENAMETOOLONG;

	ending_signals(&ending);
	sigprocmask(SIG_BLOCK, &ending, &before);
	if (strlen(name) <= NAME_MAX) {
		fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		error = errno;
	}
	if (fd >= 0) {
		unfinished.dir = dir;
		strcpy(unfinished.name, name);
		unfinished.there = 1;
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	errno = error;
	return fd;
}

void unfinished_keep(void)
{
	unfinished.there = 0;
}

void unfinished_remove(void)
{
	if (unfinished.there)
		unlinkat(unfinished.dir, unfinished.name, 0);
	unfinished.there = 0;
}
