/* From a request to a running process. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "builtin/builtin.h"
#include "confine.h"
#include "process.h"
#include "mark.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
/* The kernel's choice when memory is short: anything before PID 1. */
#define OOM_SCORE "500"
#define WIDE_PIPE (256 << 10)
#define START_MS 250
/* What PID 1 keeps for finding and ending processes, and for one more tunnel. */
#define RESERVED_DESCRIPTORS 64

extern char **environ;

/* The ends of the pipes or the terminal: `child` are what the process gets as 0, 1 and 2. */
struct ends {
	int child[3], input, output[2];
	char terminal[32];
};

/* What kept a process from being started. */
struct failure {
	int error;
	enum stage stage;
};

static rlim_t nofile = RLIM_INFINITY;
static bool root_commands;

void spawn_set_nofile(rlim_t limit)
{
	nofile = limit;
}

void spawn_allow_root(void)
{
	root_commands = true;
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void close_ends(struct ends *ends)
{
	for (int i = 0; i < 3; i++)
		close_if_open(ends->child[i]);
	close_if_open(ends->input);
	for (int i = 0; i < 2; i++)
		close_if_open(ends->output[i]);
}

static int make_pipe(int *ours, int *theirs, bool to_child)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -1;
	*ours = fds[to_child ? 1 : 0];
	*theirs = fds[to_child ? 0 : 1];
	return fcntl(*ours, F_SETFL, O_NONBLOCK);
}

static int make_terminal(struct ends *ends, const struct spawn_request *request)
{
	struct winsize size = { .ws_row = request->rows, .ws_col = request->columns };
	unsigned int number;

	ends->output[0] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (ends->output[0] < 0 || ioctl(ends->output[0], TIOCSPTLCK, &(int){ 0 }) < 0 ||
	    ioctl(ends->output[0], TIOCGPTN, &number) < 0 || ioctl(ends->output[0], TIOCSWINSZ, &size) < 0)
		return -1;
	ends->input = fcntl(ends->output[0], F_DUPFD_CLOEXEC, 3);
	snprintf(ends->terminal, sizeof ends->terminal, "/dev/pts/%u", number);
	/* Held open here, or there would be a moment in which nobody has it open, which reads as its end. */
	ends->child[0] = open(ends->terminal, O_RDWR | O_NOCTTY | O_CLOEXEC);
	return ends->input < 0 || ends->child[0] < 0 ? -1 : 0;
}

/* Operations move files: with more room in the pipe they and PID 1 take turns less often. It works without. */
static void widen(const struct ends *ends)
{
	fcntl(ends->output[0], F_SETPIPE_SZ, WIDE_PIPE);
	if (ends->input >= 0)
		fcntl(ends->input, F_SETPIPE_SZ, WIDE_PIPE);
}

static int make_pipes(struct ends *ends, const struct spawn_request *request)
{
	if (request->flags & SPAWN_STDIN) {
		if (make_pipe(&ends->input, &ends->child[0], true) < 0)
			return -1;
	} else {
		ends->child[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (ends->child[0] < 0)
			return -1;
	}
	for (int i = 0; i < 2; i++)
		if (make_pipe(&ends->output[i], &ends->child[i + 1], false) < 0)
			return -1;
	if (request->flags & SPAWN_BUILTIN)
		widen(ends);
	return 0;
}

/* Made as the user, whose they then are: a program may open /dev/stdout or its terminal by name. */
static int make_ends(struct ends *ends, const struct spawn_request *request)
{
	int result, error;

	*ends = (struct ends){ .child = { -1, -1, -1 }, .input = -1, .output = { -1, -1 } };
	if (setresuid((uid_t)-1, request->uid, (uid_t)-1) < 0)
		return -1;
	result = request->flags & SPAWN_TTY ? make_terminal(ends, request) : make_pipes(ends, request);
	error = errno;
	if (setresuid((uid_t)-1, 0, (uid_t)-1) < 0)
		_exit(72);
	if (result == 0 && ends->output[0] >= sysconf(_SC_OPEN_MAX) - RESERVED_DESCRIPTORS) {
		result = -1;
		error = EMFILE;
	}
	if (result < 0)
		close_ends(ends);
	errno = error;
	return result;
}

static int set_limits(const struct spawn_request *request)
{
	if (nofile != RLIM_INFINITY && setrlimit(RLIMIT_NOFILE, &(struct rlimit){ nofile, nofile }) < 0)
		return -1;
	for (uint32_t i = 0; i < request->limit_count; i++) {
		const struct limit *limit = &request->limits[i];

		/* The C library's type for the first argument depends on the language. */
		if (setrlimit((__rlimit_resource_t)limit->resource, &limit->value) < 0)
			return -1;
	}
	return 0;
}

static void make_likely_victim(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	ssize_t written;

	if (fd < 0)
		return;
	/* Where that can't be said, it is as likely as PID 1, which uses less. */
	written = write(fd, OOM_SCORE, sizeof OOM_SCORE - 1);
	(void)written;
	close(fd);
}

/* With the user's rights, but not yet as one of the user's own: nobody can stop it half-way. */
static int take_rights(const struct spawn_request *request, gid_t mark)
{
	if (set_limits(request) < 0 || setgroups(1, &mark) < 0)
		return -1;
	if (root_commands && request->uid != 0)
		confine_user_command();
	if (setresgid(request->gid, request->gid, request->gid) < 0)
		return -1;
	return setresuid(BUILTIN_UID, request->uid, BUILTIN_UID);
}

static int take_ends(const struct ends *ends)
{
	if (setsid() < 0)
		return -1;
	if (ends->terminal[0]) {
		/* Taken as its own by the leader of a session that has none. */
		int fd = open(ends->terminal, O_RDWR | O_CLOEXEC);

		if (fd < 0)
			return -1;
		ioctl(fd, TIOCSCTTY, 0);
		for (int i = 0; i < 3; i++)
			if (dup2(fd, i) < 0)
				return -1;
		return 0;
	}
	for (int i = 0; i < 3; i++)
		if (dup2(ends->child[i], i) < 0)
			return -1;
	return 0;
}

static void reset_signals(void)
{
	sigset_t none;

	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static const char *search_path(char *const *env)
{
	for (; *env; env++)
		if (strncmp(*env, "PATH=", 5) == 0)
			return *env + 5;
	return DEFAULT_PATH;
}

/* As execvpe(3), but by the PATH of the new process, and without a shell for what has no "#!". Returns the errno. */
static int execute(const struct spawn_request *request)
{
	const char *name = request->argv[0], *end;
	int error = ENOENT;
	char path[4096];

	if (strchr(name, '/')) {
		execve(name, request->argv, request->env);
		return errno;
	}
	for (const char *at = search_path(request->env);; at = end + 1) {
		end = strchrnul(at, ':');
		if ((size_t)snprintf(path, sizeof path, "%.*s%s%s", (int)(end - at), at, end == at ? "" : "/", name) <
		    sizeof path && (access(path, F_OK) == 0 || errno != ENOENT)) {
			/* To execute what isn't there costs ten times as much as to look. */
			execve(path, request->argv, request->env);
			if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
				return errno;
			if (errno == EACCES)
				error = EACCES;
		}
		if (*end == '\0')
			return error;
	}
}

/* In the child. Returns the stage that failed; of a built-in operation STAGE_PROGRAM, which is still to come. */
static enum stage become(const struct spawn_request *request, const struct ends *ends, gid_t mark)
{
	make_likely_victim();
	if (take_rights(request, mark) < 0)
		return STAGE_USER;
	if (take_ends(ends) < 0)
		return STAGE_MAKE;
	if (chdir(request->cwd) < 0)
		return STAGE_CWD;
	reset_signals();
	if (request->flags & SPAWN_BUILTIN)
		return request->uid == 0 && confine_root_operation() < 0 ? STAGE_USER : STAGE_PROGRAM;
	if (setresuid(request->uid, request->uid, request->uid) < 0)
		return STAGE_USER;
	errno = execute(request);
	return STAGE_PROGRAM;
}

static int count(char **list)
{
	int length = 0;

	while (list[length])
		length++;
	return length;
}

/* A built-in operation runs no program, by which this would be closed. Left open, it would keep other processes' input
 * from ending. */
void spawn_close_the_rest(void)
{
	DIR *open_here;

	if (close_range(3, ~0u, 0) == 0 || (open_here = opendir("/proc/self/fd")) == NULL)
		return;
	for (struct dirent *entry; (entry = readdir(open_here)) != NULL;) {
		int fd = atoi(entry->d_name);

		if (fd > 2 && fd != dirfd(open_here))
			close(fd);
	}
	closedir(open_here);
}

static _Noreturn void run_child(const struct spawn_request *request, const struct ends *ends, gid_t mark, int status)
{
	builtin_run *run = request->flags & SPAWN_BUILTIN ? builtin_find(request->argv[0]) : NULL;
	struct failure failure = { .stage = become(request, ends, mark) };

	if (run && failure.stage == STAGE_PROGRAM) {
		spawn_close_the_rest();
		_exit(run(count(request->argv), request->argv));
	}
	failure.error = errno;
	if (write(status, &failure, sizeof failure) < 0)
		_exit(126);
	_exit(127);
}

/* Waits until the child runs what it is to, or tells why not. Not for long: from when it is the user's own, others
 * of that user's can stop it, and then it counts as started. */
static void await(int status, struct failure *failure)
{
	struct pollfd poll_for = { .fd = status, .events = POLLIN };

	if (poll(&poll_for, 1, START_MS) <= 0 || read(status, failure, sizeof *failure) != sizeof *failure)
		*failure = (struct failure){ 0 };
}

/* By fork, not vfork: PID 1 must not depend on a child that user code can stop. */
static pid_t start(const struct spawn_request *request, const struct ends *ends, gid_t mark, struct failure *failure)
{
	int status[2];
	pid_t pid;

	if (pipe2(status, O_CLOEXEC) < 0)
		return -1;
	pid = fork();
	if (pid == 0)
		run_child(request, ends, mark, status[1]);
	close(status[1]);
	if (pid > 0)
		await(status[0], failure);
	close(status[0]);
	return pid;
}

int spawn_start(struct process *process, const struct spawn_request *request, enum stage *stage)
{
	struct failure failure = { 0 };
	struct ends ends;

	*stage = STAGE_MAKE;
	if (make_ends(&ends, request) < 0)
		return errno;
	process->mark = mark_new();
	process->root = request->uid == 0;
	process->pid = start(request, &ends, process->mark, &failure);
	if (process->pid < 0 || failure.error) {
		int error = failure.error ? failure.error : errno;

		if (failure.error) {
			/* It is about to end, unless somebody has just stopped it. */
			kill(process->pid, SIGKILL);
			waitpid(process->pid, NULL, 0);
			*stage = failure.stage;
		}
		close_ends(&ends);
		return error;
	}
	for (int i = 0; i < 3; i++)
		close_if_open(ends.child[i]);
	input_open(process, ends.input);
	for (int i = 0; i < 2; i++)
		if (ends.output[i] >= 0)
			output_open(&process->output[i], ends.output[i]);
	return 0;
}

void spawn_resize(struct process *process, uint16_t rows, uint16_t columns)
{
	struct winsize size = { .ws_row = rows, .ws_col = columns };

	if ((process->flags & SPAWN_TTY) && process->input.watch.fd >= 0)
		ioctl(process->input.watch.fd, TIOCSWINSZ, &size);
}
