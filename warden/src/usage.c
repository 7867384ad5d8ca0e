#define _GNU_SOURCE
#include "usage.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "disk.h"

#define UNKNOWN UINT64_MAX
#define GROUPS "/sys/fs/cgroup/"

/* Kept open: they are read while the sandbox is out of descriptors or memory, too. */
struct file {
	int fd;
};

static struct file memory_used, memory_limit, memory_stat, memory_events, cpu, pids, network, machine_memory, all_processes;
static int is_v2;

static struct file open_file(const char *path)
{
	return (struct file){ open(path, O_RDONLY | O_CLOEXEC) };
}

void usage_open(void)
{
	is_v2 = access(GROUPS "cgroup.controllers", F_OK) == 0;
	memory_used = open_file(is_v2 ? GROUPS "memory.current" : GROUPS "memory/memory.usage_in_bytes");
	memory_limit = open_file(is_v2 ? GROUPS "memory.max" : GROUPS "memory/memory.limit_in_bytes");
	memory_stat = open_file(is_v2 ? GROUPS "memory.stat" : GROUPS "memory/memory.stat");
	memory_events = open_file(is_v2 ? GROUPS "memory.events" : GROUPS "memory/memory.oom_control");
	cpu = open_file(is_v2 ? GROUPS "cpu.stat" : GROUPS "cpuacct/cpuacct.usage");
	pids = open_file(is_v2 ? GROUPS "pids.current" : GROUPS "pids/pids.current");
	network = open_file("/proc/net/dev");
	machine_memory = open_file("/proc/meminfo");
	all_processes = open_file("/proc");
}

static const char *read_text(struct file file)
{
	static char text[8192];
	ssize_t length = file.fd < 0 ? -1 : pread(file.fd, text, sizeof text - 1, 0);

	text[length < 0 ? 0 : length] = '\0';
	return text;
}

static uint64_t first_number(const char *text)
{
	return isdigit((unsigned char)*text) ? strtoull(text, NULL, 10) : UNKNOWN;
}

static uint64_t read_number(struct file file)
{
	return first_number(read_text(file));
}

/* The number behind a word that begins a line. */
static uint64_t number_of(const char *text, const char *word)
{
	size_t length = strlen(word);

	while (text) {
		if (strncmp(text, word, length) == 0 && strchr(" :\t", text[length]))
			return first_number(text + length + strspn(text + length, " :\t"));
		text = strchr(text, '\n');
		if (text)
			text++;
	}
	return UNKNOWN;
}

static uint64_t known(uint64_t number)
{
	return number == UNKNOWN ? 0 : number;
}

uint64_t usage_memory_limit(void)
{
	uint64_t limit = read_number(memory_limit);

	/* Version 1 says "none" by the largest number of pages that there is. */
	return limit > (1ull << 60) ? UNKNOWN : limit;
}

uint64_t usage_oom_kills(void)
{
	return known(number_of(read_text(memory_events), "oom_kill"));
}

/* Without the page cache that the kernel can take back at once. */
static uint64_t memory_in_use(void)
{
	uint64_t used = read_number(memory_used);
	uint64_t cache;

	if (used == UNKNOWN) {
		const char *text = read_text(machine_memory);
		uint64_t total = known(number_of(text, "MemTotal")), free_memory = known(number_of(text, "MemAvailable"));

		return total > free_memory ? (total - free_memory) * 1024 : 0;
	}
	cache = known(number_of(read_text(memory_stat), is_v2 ? "inactive_file" : "total_inactive_file"));
	return used > cache ? used - cache : 0;
}

/* Where there are no control groups to be seen: of what has ended, which is all that gVisor tells. */
static uint64_t cpu_ns_of_children(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_CHILDREN, &usage) < 0)
		return 0;
	return ((uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec) * 1000000000 +
	       ((uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec) * 1000;
}

static uint64_t cpu_ns(void)
{
	if (cpu.fd < 0)
		return cpu_ns_of_children();
	return is_v2 ? known(number_of(read_text(cpu), "usage_usec")) * 1000 : known(read_number(cpu));
}

/* Those that /proc lists. Reads it as the kernel gives it: opendir() would take memory each time. */
static uint64_t count_processes(void)
{
	static _Alignas(struct dirent64) char entries[8192];
	uint64_t number = 0;

	if (all_processes.fd < 0 || lseek(all_processes.fd, 0, SEEK_SET) < 0)
		return 0;
	for (long length; (length = syscall(SYS_getdents64, all_processes.fd, entries, sizeof entries)) > 0;)
		for (long at = 0; at < length;) {
			const struct dirent64 *entry = (const void *)(entries + at);

			number += isdigit((unsigned char)entry->d_name[0]) != 0;
			at += entry->d_reclen;
		}
	return number;
}

static uint64_t process_number(void)
{
	uint64_t number = read_number(pids);

	return number == UNKNOWN ? count_processes() : number;
}

/* Of all interfaces but the loopback one: lines of "name: received … sent …", with eight numbers each. */
static void network_bytes(uint64_t *received, uint64_t *sent)
{
	*received = *sent = 0;
	for (const char *line = read_text(network); line && *line; line = strchr(line, '\n'), line += line != NULL) {
		const char *colon = strchr(line, ':');
		const char *end = strchr(line, '\n');
		uint64_t in, out;

		if (!colon || (end && colon > end) || strncmp(line + strspn(line, " "), "lo:", 3) == 0)
			continue;
		if (sscanf(colon + 1, "%lu %*u %*u %*u %*u %*u %*u %*u %lu", &in, &out) != 2)
			continue;
		*received += in;
		*sent += out;
	}
}

struct usage usage_now(void)
{
	struct usage usage = { .memory = memory_in_use(), .cpu_ns = cpu_ns(), .processes = process_number() };

	network_bytes(&usage.received, &usage.sent);
	return usage;
}

static uint64_t machine_memory_available(void)
{
	uint64_t kilobytes = number_of(read_text(machine_memory), "MemAvailable");

	return kilobytes == UNKNOWN ? UNKNOWN : kilobytes * 1024;
}

static uint64_t disk_free(void)
{
	struct statvfs root;

	if (statvfs("/", &root) < 0 || root.f_blocks == 0)
		return UNKNOWN;
	return (uint64_t)root.f_bavail * root.f_frsize;
}

void usage_put(struct out *out, uint32_t stream)
{
	size_t frame = frame_begin(out, F_USAGE_IS, stream);
	struct usage usage = usage_now();

	out_u64(out, usage.memory);
	out_u64(out, usage_memory_limit());
	out_u64(out, usage.cpu_ns);
	out_u64(out, usage.processes);
	out_u64(out, usage.received);
	out_u64(out, usage.sent);
	out_u64(out, usage_oom_kills());
	out_u64(out, machine_memory_available());
	out_u64(out, disk_free());
	out_u64(out, disk_used().bytes);
	out_u64(out, disk_used().inodes);
	frame_end(out, frame);
}
