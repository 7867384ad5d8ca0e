#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "confine.h"
#include "disk.h"
#include "history.h"
#include "loop.h"
#include "process.h"
#include "record.h"
#include "mark.h"
#include "tunnel.h"
#include "usage.h"

/* For everything to end by itself when the sandbox does. */
#define END_GRACE_MS 2000
/* After so long without a process, memory that is not needed goes back. */
#define REST_MS 1000
#define STOPPED (128 + SIGTERM)
/* For a manager to pause it, and for another when that one has died. */
#define EXPIRY_GRACE_MS 120000

unsigned char boot_id[BOOT_ID_BYTES];

static struct watch signals;
static struct timer end_timer, rest_timer;
static int end_code = -1;
static bool root_commands;
static const char *sockets;
static struct disk_bound disk;
static struct terms terms = { .grace_ms = EXPIRY_GRACE_MS };

static _Noreturn void fail(int code, const char *what)
{
	dprintf(2, "sandyard-warden: %s: %s\n", what, strerror(errno));
	_exit(code);
}

static void on_end_timer(struct timer *timer)
{
	(void)timer;
	/* The kernel kills whatever is left when PID 1 has gone. */
	_exit(end_code);
}

void init_end(int code)
{
	if (end_code >= 0)
		return;
	end_code = code;
	kill(-1, SIGTERM);
	kill(-1, SIGCONT);
	end_timer.fire = on_end_timer;
	/* Who stops a container says itself how long that may take. */
	if (code != STOPPED)
		timer_set(&end_timer, END_GRACE_MS);
}

bool init_is_ending(void)
{
	return end_code >= 0;
}

static void on_signal(struct watch *watch, uint32_t events)
{
	struct signalfd_siginfo info;

	(void)events;
	while (read(watch->fd, &info, sizeof info) == sizeof info)
		if (info.ssi_signo == SIGTERM)
			init_end(STOPPED);
		else if (info.ssi_signo == SIGIO)
			dial_all();
}

static void on_rest(struct timer *timer)
{
	(void)timer;
	tunnels_rest();
	malloc_trim(0);
}

/* Once per round of the loop: a signal that was sent twice before it was read comes once. */
static void settle(void)
{
	static bool was_busy;
	bool is_busy = process_count() > 0;
	bool has_children = process_reap();

	if (!has_children && end_code >= 0) {
		/* The last words go out as far as they can without waiting. */
		tunnels_settle();
		_exit(end_code);
	}
	disk_settle(has_children);
	tunnels_settle();
	rest_timer.fire = on_rest;
	if (was_busy && !is_busy) {
		timer_set(&rest_timer, REST_MS);
		record_note_activity();
	}
	was_busy = is_busy;
}

static void open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_SETMASK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signals = (struct watch){ .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .ready = on_signal };
	if (watch_for(&signals, EPOLLIN) < 0)
		fail(END_STATE, "signals");
}

/* Makes it, and what is above it, where it isn't there. */
static int make_directory(const char *path, mode_t mode)
{
	char above[4096];
	const char *slash = strrchr(path, '/');

	if (mkdir(path, mode) == 0 || errno == EEXIST)
		return 0;
	if (errno != ENOENT || slash == path || (size_t)(slash - path) >= sizeof above)
		return -1;
	memcpy(above, path, (size_t)(slash - path));
	above[slash - path] = '\0';
	return make_directory(above, 0755) < 0 ? -1 : mkdir(path, mode);
}

/* Where the record is and the socket. It must be root's and nobody else's, whatever the image has there. */
static void make_state_directory(void)
{
	struct stat found;

	if (make_directory(STATE_DIRECTORY, 0700) < 0 || lstat(STATE_DIRECTORY, &found) < 0)
		fail(END_STATE, STATE_DIRECTORY);
	if (!S_ISDIR(found.st_mode) || found.st_uid != 0) {
		errno = ENOTDIR;
		fail(END_STATE, STATE_DIRECTORY);
	}
	if (chmod(STATE_DIRECTORY, 0700) < 0)
		fail(END_STATE, STATE_DIRECTORY);
}

/* "UID:GID:/path": a directory that the user is to have. One that can't be had shows where it is used. */
static void give_directory(const char *text)
{
	char *path;
	unsigned long uid = strtoul(text, &path, 10);
	unsigned long gid = *path == ':' ? strtoul(path + 1, &path, 10) : 0;

	if (path[0] != ':' || path[1] != '/')
		fail(END_ARGUMENTS, text);
	path++;
	if (make_directory(path, 0755) == 0 && lchown(path, (uid_t)uid, (gid_t)gid) < 0)
		dprintf(2, "sandyard-warden: %s: %s\n", path, strerror(errno));
}

static const char *value_of(const char *argument, const char *name)
{
	size_t length = strlen(name);

	return strncmp(argument, name, length) == 0 ? argument + length : NULL;
}

static _Noreturn void refuse(const char *argument)
{
	errno = EINVAL;
	fail(END_ARGUMENTS, argument);
}

/* Whether it is this one of the numbers; its value is then taken. */
static bool read_number(const char *argument, const char *name, int64_t *number)
{
	const char *value = value_of(argument, name);
	char *end;

	if (value == NULL)
		return false;
	errno = 0;
	*number = strtoll(value, &end, 10);
	if (end == value || *end || errno || *number < 0 || *number > TIME_MAX_MS)
		refuse(argument);
	return true;
}

static bool read_amount(const char *argument, const char *name, uint64_t *amount)
{
	int64_t value = 0;

	if (!read_number(argument, name, &value))
		return false;
	*amount = (uint64_t)value;
	return true;
}

static void read_on_expiry(const char *argument, const char *value)
{
	static const char *const names[] = { "destroy", "stop", "pause" };

	for (uint8_t i = 0; i <= EXPIRY_PAUSE; i++)
		if (strcmp(value, names[i]) == 0) {
			terms.on_expiry = i;
			return;
		}
	refuse(argument);
}

static void read_argument(const char *argument)
{
	const char *value;

	if (read_number(argument, "--setup-ms=", &terms.setup_ms) || read_number(argument, "--ttl-ms=", &terms.ttl_ms) ||
	    read_number(argument, "--idle-ms=", &terms.idle_ms) || read_number(argument, "--last-ms=", &terms.last_ms) ||
	    read_number(argument, "--expiry-grace-ms=", &terms.grace_ms) ||
	    read_number(argument, "--disk-since-ms=", &disk.since_ms) ||
	    read_amount(argument, "--disk-bytes=", &disk.most.bytes) ||
	    read_amount(argument, "--disk-inodes=", &disk.most.inodes))
		return;
	if ((value = value_of(argument, "--on-expiry=")))
		read_on_expiry(argument, value);
	else if ((value = value_of(argument, "--nofile=")))
		spawn_set_nofile(strtoul(value, NULL, 10));
	else if ((value = value_of(argument, "--sockets=")))
		sockets = value;
	else if (strcmp(argument, "--root-commands") == 0)
		root_commands = true;
	else if ((value = value_of(argument, "--own=")))
		give_directory(value);
	else
		refuse(argument);
}

static bool is_pipe(int fd)
{
	struct stat found;

	return fstat(fd, &found) == 0 && S_ISFIFO(found.st_mode);
}

/* Whoever has attached to the container is at the other end of its standard streams. */
static void open_first_tunnel(void)
{
	if (is_pipe(0) && is_pipe(1))
		tunnel_open(fcntl(0, F_DUPFD_CLOEXEC, 3), fcntl(1, F_DUPFD_CLOEXEC, 3));
}

/* Descriptors 0 to 2 are there, and lead nowhere: nothing that comes later gets one of these numbers by chance. */
static void close_standard_streams(void)
{
	int fd = open("/dev/null", O_RDWR);

	for (int i = 0; i < 3 && fd >= 0; i++)
		if (fd != i)
			dup2(fd, i);
	if (fd > 2)
		close(fd);
}

int init_main(int argc, char **argv)
{
	if (getpid() != 1) {
		dprintf(2, "sandyard-warden: init is for PID 1 of a container: it ends all other processes.\n");
		return END_ARGUMENTS;
	}
	/* Nobody traces it or reads its memory, whatever their rights in the sandbox. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	umask(022);
	for (int i = 2; i < argc; i++)
		read_argument(argv[i]);
	make_state_directory();
	hosts_write();
	if (getrandom(boot_id, sizeof boot_id, 0) != sizeof boot_id)
		fail(END_STATE, "random numbers");
	if (confine(root_commands) < 0)
		fail(END_STATE, "confinement");
	if (root_commands) {
		spawn_allow_root();
		request_allow_root();
	}
	loop_open();
	mark_open();
	usage_open();
	output_set_memory(usage_memory_limit());
	open_signals();
	if (tunnel_open_socket() < 0)
		fail(END_STATE, SOCKET_PATH);
	record_open(&terms);
	history_begin();
	if (disk.most.bytes)
		disk_open(&disk);
	open_first_tunnel();
	if (sockets)
		dial_open(sockets);
	close_standard_streams();
	for (;;) {
		loop_round();
		settle();
	}
}
