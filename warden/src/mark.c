#include "mark.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Marks lie where no user's own groups do. In a user namespace not all numbers exist: there they come from what a
 * remapped engine has, 65,536. */
#define WIDE_FIRST 0x40000000u
#define WIDE_COUNT 0x3ffffff0u
#define NARROW_FIRST 40000u
#define NARROW_COUNT 20000u

static int proc_fd = -1;
static gid_t first_mark = WIDE_FIRST;
static uint32_t mark_count = WIDE_COUNT;
static uint32_t marks_used;
/* Not on the heap: a tree is ended also when there is no memory. */
static char entries[32768] __attribute__((aligned(8)));
static char text[8192];

/* As the kernel has it; the C library has no type for it. */
struct linux_dirent64 {
	uint64_t inode;
	int64_t offset;
	unsigned short length;
	unsigned char type;
	char name[];
};

static ssize_t read_proc(const char *path, char *buffer, size_t size)
{
	int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return -1;
	length = read(fd, buffer, size - 1);
	close(fd);
	if (length >= 0)
		buffer[length] = '\0';
	return length;
}

static bool has_wide_groups(void)
{
	unsigned long inside, outside, count;

	return read_proc("self/gid_map", text, sizeof text) <= 0 ||
	       sscanf(text, "%lu %lu %lu", &inside, &outside, &count) != 3 || inside + count >= WIDE_FIRST + WIDE_COUNT;
}

void mark_open(void)
{
	proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!has_wide_groups()) {
		first_mark = NARROW_FIRST;
		mark_count = NARROW_COUNT;
	}
}

static bool has_number(const char *line, unsigned long number)
{
	while (*line && *line != '\n') {
		char *end;
		unsigned long found = strtoul(line, &end, 10);

		if (end == line)
			return false;
		if (found == number)
			return true;
		line = end + strspn(end, " \t");
	}
	return false;
}

/* Whether the process runs, so is no zombie, and bears the mark. */
static bool bears(const char *pid, gid_t mark)
{
	char path[32];
	const char *state, *groups;

	snprintf(path, sizeof path, "%.12s/status", pid);
	if (read_proc(path, text, sizeof text) <= 0)
		return false;
	state = strstr(text, "\nState:");
	groups = strstr(text, "\nGroups:");
	if (!state || !groups)
		return false;
	state += strlen("\nState:");
	state += strspn(state, " \t");
	groups += strlen("\nGroups:");
	return *state != 'Z' && *state != 'X' && has_number(groups + strspn(groups, " \t"), mark);
}

/* Of a process that runs, so is no zombie. */
static bool read_stat(const char *pid, pid_t *parent, pid_t *session)
{
	char path[32], state;
	const char *end;
	int group;

	snprintf(path, sizeof path, "%.12s/stat", pid);
	/* The name, in parentheses, is the program's own choice. */
	if (read_proc(path, text, sizeof text) <= 0 || !(end = strrchr(text, ')')) ||
	    sscanf(end + 1, " %c %d %d %d", &state, parent, &group, session) != 4)
		return false;
	return state != 'Z' && state != 'X';
}

static bool is_in_session(const char *pid, pid_t session)
{
	pid_t parent, found;

	return session != 0 && read_stat(pid, &parent, &found) && found == session;
}

int mark_signal(gid_t mark, int signal)
{
	return mark_signal_session(mark, 0, signal);
}

struct chosen {
	gid_t mark;
	pid_t session;
	bool (*is_spared)(pid_t pid);
};

static bool is_of_tree(const char *pid, const struct chosen *chosen)
{
	return bears(pid, chosen->mark) || is_in_session(pid, chosen->session);
}

/* What the engine has brought in has no parent here. */
static bool is_of_sandbox(const char *pid, const struct chosen *chosen)
{
	pid_t parent, session;

	return read_stat(pid, &parent, &session) && parent != 0 && !chosen->is_spared((pid_t)atoi(pid));
}

static int signal_chosen(bool (*is_chosen)(const char *pid, const struct chosen *chosen), struct chosen chosen, int signal)
{
	int found = 0;
	long length;

	lseek(proc_fd, 0, SEEK_SET);
	while ((length = syscall(SYS_getdents64, proc_fd, entries, sizeof entries)) > 0) {
		for (char *at = entries; at < entries + length;) {
			struct linux_dirent64 *entry = (struct linux_dirent64 *)(void *)at;
			pid_t pid = (pid_t)atoi(entry->name);

			at += entry->length;
			if (pid <= 1 || !is_chosen(entry->name, &chosen))
				continue;
			found++;
			if (signal)
				kill(pid, signal);
			/* What is stopped would act on it only when it goes on. */
			if (signal == SIGTERM || signal == SIGHUP || signal == SIGINT)
				kill(pid, SIGCONT);
		}
	}
	return found;
}

int mark_signal_session(gid_t mark, pid_t session, int signal)
{
	return signal_chosen(is_of_tree, (struct chosen){ .mark = mark, .session = session }, signal);
}

int mark_signal_all(int signal, bool (*is_spared)(pid_t pid))
{
	return signal_chosen(is_of_sandbox, (struct chosen){ .is_spared = is_spared }, signal);
}

static bool is_left_alone(const char *pid, const struct chosen *chosen)
{
	return !is_of_sandbox(pid, chosen);
}

/* All in one call: where a process ends, or leaves its group, while another of the group is already stopped, the kernel
 * may send the group SIGHUP. Linux does when that makes it an orphan (POSIX.1-2017, _exit), gVisor whenever it is one. */
void mark_stop_all(bool (*is_spared)(pid_t pid))
{
	kill(-1, SIGSTOP);
	signal_chosen(is_left_alone, (struct chosen){ .is_spared = is_spared }, SIGCONT);
}

gid_t mark_new(void)
{
	/* Once all have been given out, the next one may still be in use. */
	for (uint32_t tries = 0; tries < mark_count; tries++) {
		gid_t mark = first_mark + marks_used++ % mark_count;

		if (marks_used <= mark_count || mark_signal(mark, 0) == 0)
			return mark;
	}
	return first_mark;
}

bool mark_left(gid_t mark, bool (*is_main)(pid_t pid))
{
	static char children[65536];
	char *at = children, *end;

	/* What lost its parent is a child of PID 1. Where the kernel doesn't list children, all processes are
	 * looked at. */
	if (read_proc("1/task/1/children", children, sizeof children) < 0)
		return mark_signal(mark, 0) > 0;
	for (long pid; (pid = strtol(at, &end, 10)) > 0; at = end) {
		char name[24];

		snprintf(name, sizeof name, "%ld", pid);
		if (!is_main((pid_t)pid) && bears(name, mark))
			return true;
	}
	return false;
}
