/* What user code finds here: its rights, its limits, what it sees, and what it is refused. */
#define _GNU_SOURCE
#include "attempts.h"
#include "builtin.h"
#include "emit.h"
#include "operation.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/capability.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#define GROUPS_DIRECTORY "/sys/fs/cgroup/"
#define LAST_CAPABILITY 63

/* One line: what would be another one is cut off, such as the newline at the end of a file. */
static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
	char line[PATH_MAX + 256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof line, format, arguments);
	va_end(arguments);
	line[strcspn(line, "\n")] = '\0';
	emit_bytes(line, strlen(line));
	emit_u8('\n');
}

static const char *errno_name(int error)
{
	const char *name = strerrorname_np(error);

	return name ? name : "EUNKNOWN";
}

static void say_user(void)
{
	uid_t uid[3];
	gid_t gid[3];

	if (getresuid(&uid[0], &uid[1], &uid[2]) == 0)
		say("uid %u %u %u", uid[0], uid[1], uid[2]);
	if (getresgid(&gid[0], &gid[1], &gid[2]) == 0)
		say("gid %u %u %u", gid[0], gid[1], gid[2]);
}

static uint64_t capabilities_by(int option, unsigned long first)
{
	uint64_t found = 0;

	for (unsigned int capability = 0; capability <= LAST_CAPABILITY; capability++) {
		int result = option == PR_CAP_AMBIENT ? prctl(option, first, capability, 0, 0) : prctl(option, capability, 0, 0, 0);

		if (result == 1)
			found |= UINT64_C(1) << capability;
	}
	return found;
}

static void say_capabilities(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data) == 0) {
		say("capabilities effective %08" PRIx32 "%08" PRIx32, data[1].effective, data[0].effective);
		say("capabilities permitted %08" PRIx32 "%08" PRIx32, data[1].permitted, data[0].permitted);
		say("capabilities inheritable %08" PRIx32 "%08" PRIx32, data[1].inheritable, data[0].inheritable);
	}
	say("capabilities bounding %016" PRIx64, capabilities_by(PR_CAPBSET_READ, 0));
	say("capabilities ambient %016" PRIx64, capabilities_by(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET));
}

static void say_option(const char *name, int option)
{
	int value = prctl(option, 0, 0, 0, 0);

	if (value < 0)
		say("%s %s", name, errno_name(errno));
	else
		say("%s %d", name, value);
}

static const char *limit_text(rlim_t limit, char *buffer, size_t size)
{
	if (limit == RLIM_INFINITY)
		return "unlimited";
	snprintf(buffer, size, "%ju", (uintmax_t)limit);
	return buffer;
}

static void say_limits(void)
{
	static const struct {
		const char *name;
		__rlimit_resource_t resource;
	} limits[] = { { "nofile", RLIMIT_NOFILE }, { "core", RLIMIT_CORE }, { "memlock", RLIMIT_MEMLOCK } };

	for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
		struct rlimit limit;
		char soft[32], hard[32];

		if (getrlimit(limits[i].resource, &limit) == 0)
			say("limit %s %s %s", limits[i].name, limit_text(limit.rlim_cur, soft, sizeof soft),
			    limit_text(limit.rlim_max, hard, sizeof hard));
	}
}

/* What the kernel itself says of the group of processes that this one is in, in either version of its files. */
static void say_groups(void)
{
	static const char *const files[] = {
		"memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes", "pids/pids.max", "cpu/cpu.cfs_quota_us",
		"cpu/cpu.cfs_period_us", "memory.max", "memory.swap.max", "pids.max", "cpu.max",
	};

	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		char path[128], text[128];
		ssize_t length;
		int fd;

		snprintf(path, sizeof path, GROUPS_DIRECTORY "%s", files[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		length = fd < 0 ? -1 : read_full(fd, text, sizeof text - 1);
		if (fd >= 0)
			close(fd);
		if (length <= 0)
			continue;
		text[length] = '\0';
		say("cgroup %s %s", files[i], text);
	}
}

static void say_machine(void)
{
	struct sysinfo machine;
	struct utsname names;

	if (uname(&names) == 0)
		say("kernel %s", names.release);
	if (sysinfo(&machine) == 0)
		say("memory_total %ju", (uintmax_t)machine.totalram * machine.mem_unit);
}

static void say_interfaces(void)
{
	struct if_nameindex *interfaces = if_nameindex();

	if (!interfaces)
		say("interfaces %s", errno_name(errno));
	for (struct if_nameindex *at = interfaces; at && at->if_name; at++)
		say("interface %s", at->if_name);
	if_freenameindex(interfaces);
}

static void say_namespaces(void)
{
	static const char *const kinds[] = { "cgroup", "ipc", "mnt", "net", "pid", "user", "uts" };

	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		char path[64], target[64];
		ssize_t length;

		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
		length = readlink(path, target, sizeof target - 1);
		if (length <= 0)
			continue;
		target[length] = '\0';
		say("namespace %s %s", kinds[i], target);
	}
}

static void say_init(void)
{
	char name[64] = "";
	struct stat status;
	int fd = open("/proc/1/comm", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		ssize_t length = read_full(fd, name, sizeof name - 1);

		name[length < 0 ? 0 : length] = '\0';
		close(fd);
		say("init_name %s", name);
	}
	if (stat("/proc/1", &status) == 0)
		say("init_uid %u", status.st_uid);
}

/* Without what a file system is mounted from and with which options of its own, which can be long. */
static void say_mounts(void)
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;

	while (mounts && getline(&line, &room, mounts) > 0) {
		char *type = strstr(line, " - ");

		if (type)
			type[3 + strcspn(type + 3, " \n")] = '\0';
		say("mount %s", line);
	}
	free(line);
	if (mounts)
		fclose(mounts);
}

static const char *read_directory(int fd)
{
	DIR *directory = fdopendir(fd);
	int entries = 0;

	if (!directory) {
		close(fd);
		return "EIO";
	}
	for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			entries++;
	closedir(directory);
	return entries == 0 ? "empty" : "readable";
}

static const char *try_to_read(const char *path)
{
	struct stat status;
	int fd, error;
	char byte;
	ssize_t got;

	if (lstat(path, &status) == 0 && S_ISSOCK(status.st_mode))
		return "socket";
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno_name(errno);
	if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode))
		return read_directory(fd);
	got = read(fd, &byte, 1);
	error = errno;
	close(fd);
	if (got < 0)
		return errno_name(error);
	return got == 0 ? "empty" : "readable";
}

static void say_attempt(const char *name, const char *result)
{
	say("attempt %s %s", name, result);
}

int builtin_probe(int argc, char **argv)
{
	uid_t user = geteuid();

	operation_begin();
	/* As user code is: the operations of the warden have another real uid, by which that code can't signal them. */
	if (setresuid(user, user, user) < 0)
		return errno;
	say_user();
	say_capabilities();
	say_option("no_new_privs", PR_GET_NO_NEW_PRIVS);
	say_option("seccomp", PR_GET_SECCOMP);
	say_limits();
	say_groups();
	say_machine();
	say_interfaces();
	say_namespaces();
	say_init();
	say_mounts();
	for (int i = 1; i < argc; i++)
		say("path %s %s", try_to_read(argv[i]), argv[i]);
	attempt_all(say_attempt);
	say("end");
	emit_flush();
	return 0;
}
