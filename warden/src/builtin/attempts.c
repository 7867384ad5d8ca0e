/* Each attempt is made in a process of its own, so that one that succeeds, or is answered with a signal, leaves the
 * operation as it was. What it makes it removes again. */
#define _GNU_SOURCE
#include "attempts.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* None waits for anything; this is for what nobody has foreseen. */
#define PATIENCE_S 5
/* Writable for all in every container that Docker makes, also where the root is read-only. */
#define DEVICE "/dev/shm/.sandyard-probe"
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static int open_only(const char *path, int flags)
{
	return open(path, flags | O_CLOEXEC);
}

static int signal_init(void)
{
	return kill(1, 0);
}

static int trace_init(void)
{
	return (int)ptrace(PTRACE_SEIZE, 1, NULL, NULL);
}

static int read_init(void)
{
	char byte;
	struct iovec ours = { &byte, 1 }, theirs = { (void *)0x400000, 1 };

	return (int)process_vm_readv(1, &ours, 1, &theirs, 1, 0);
}

static int open_init_memory(void)
{
	return open_only("/proc/1/mem", O_RDWR);
}

static int open_init_output(void)
{
	return open_only("/proc/1/fd/1", O_WRONLY);
}

static int open_init_environment(void)
{
	return open_only("/proc/1/environ", O_RDONLY);
}

static int become_root(void)
{
	return setresuid(0, 0, 0);
}

static int drop_groups(void)
{
	return setgroups(0, NULL);
}

static int raise_nofile(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -1;
	limit.rlim_cur = limit.rlim_max = limit.rlim_max + 1;
	return setrlimit(RLIMIT_NOFILE, &limit);
}

static int make_user_namespace(void)
{
	return unshare(CLONE_NEWUSER);
}

static int make_mount_namespace(void)
{
	return unshare(CLONE_NEWNS);
}

static int mount_tmpfs(void)
{
	int result = mount("none", "/proc", "tmpfs", 0, NULL);

	if (result == 0)
		umount2("/proc", MNT_DETACH);
	return result;
}

static int change_root(void)
{
	return chroot("/");
}

static int make_device(void)
{
	int result = mknod(DEVICE, S_IFBLK | 0600, makedev(8, 0));

	if (result == 0)
		unlink(DEVICE);
	return result;
}

static int write_sysctl(void)
{
	return open_only("/proc/sys/kernel/hostname", O_WRONLY);
}

static int write_sysrq(void)
{
	return open_only("/proc/sysrq-trigger", O_WRONLY);
}

static int load_module(void)
{
	return (int)syscall(SYS_init_module, "", 0ul, "");
}

static int use_bpf(void)
{
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };

	return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr);
}

static int use_perf(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof attr,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.disabled = 1,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};

	return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0ul);
}

static int use_keys(void)
{
	return (int)syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
}

static int use_userfaultfd(void)
{
	return (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
}

static int use_io_uring(void)
{
	struct io_uring_params params = { 0 };

	return (int)syscall(SYS_io_uring_setup, 1, &params);
}

static int socket_raw(void)
{
	return socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
}

static int socket_packet(void)
{
	return socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
}

static int socket_vsock(void)
{
	return socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int socket_alg(void)
{
	return socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
}

static const struct attempt {
	const char *name;
	int (*act)(void);
} attempts[] = {
	{ "signal_init", signal_init },
	{ "trace_init", trace_init },
	{ "read_init", read_init },
	{ "open_init_memory", open_init_memory },
	{ "open_init_output", open_init_output },
	{ "open_init_environment", open_init_environment },
	{ "become_root", become_root },
	{ "drop_groups", drop_groups },
	{ "raise_nofile", raise_nofile },
	{ "make_user_namespace", make_user_namespace },
	{ "make_mount_namespace", make_mount_namespace },
	{ "mount", mount_tmpfs },
	{ "chroot", change_root },
	{ "make_device", make_device },
	{ "write_sysctl", write_sysctl },
	{ "write_sysrq", write_sysrq },
	{ "init_module", load_module },
	{ "bpf", use_bpf },
	{ "perf_event_open", use_perf },
	{ "keyctl", use_keys },
	{ "userfaultfd", use_userfaultfd },
	{ "io_uring_setup", use_io_uring },
	{ "socket_raw", socket_raw },
	{ "socket_packet", socket_packet },
	{ "socket_vsock", socket_vsock },
	{ "socket_alg", socket_alg },
};

/* Nothing that was buffered here is written twice: the child ends without looking at it. */
static _Noreturn void make(const struct attempt *attempt)
{
	struct sigaction by_default = { .sa_handler = SIG_DFL };

	sigaction(SIGALRM, &by_default, NULL);
	alarm(PATIENCE_S);
	errno = 0;
	_exit(attempt->act() < 0 ? errno : 0);
}

static const char *describe(int status)
{
	static char text[32];
	const char *name;

	if (WIFSIGNALED(status)) {
		name = sigabbrev_np(WTERMSIG(status));
		snprintf(text, sizeof text, "SIG%s", name ? name : "UNKNOWN");
		return text;
	}
	if (WEXITSTATUS(status) == 0)
		return "ok";
	name = strerrorname_np(WEXITSTATUS(status));
	return name ? name : "EUNKNOWN";
}

void attempt_all(void (*tell)(const char *name, const char *result))
{
	for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++) {
		int status = 0;
		pid_t pid = fork(), ended;

		if (pid == 0)
			make(&attempts[i]);
		do
			ended = pid < 0 ? -1 : waitpid(pid, &status, 0);
		while (ended < 0 && pid > 0 && errno == EINTR);
		tell(attempts[i].name, ended < 0 ? "untried" : describe(status));
	}
}
