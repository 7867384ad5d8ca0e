#define _GNU_SOURCE
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/falloc.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAST_CAPABILITY 63

#if defined(__x86_64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the architecture isn't known"
#endif

#define BIT(capability) (1u << (capability))
/* What root commands may have, where there may be any: what it takes to install packages. All are below 32. */
#define ROOT_COMMANDS                                                                                                 \
	(BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FOWNER) | BIT(CAP_KILL) | BIT(CAP_SETGID) | BIT(CAP_SETUID))

/* What nothing that is started from now on can ever have. */
static void narrow_bounds(uint32_t kept)
{
	for (unsigned long capability = 0; capability <= LAST_CAPABILITY; capability++)
		if (capability > 31 || !(kept & BIT(capability)))
			prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
}

static int keep_capabilities(uint32_t kept)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capget, &header, data) < 0)
		return -1;
	data[0].inheritable = data[1].inheritable = 0;
	data[0].permitted &= kept;
	data[1].permitted = 0;
	data[0].effective = data[0].permitted;
	data[1].effective = 0;
	return (int)syscall(SYS_capset, &header, data);
}

/* Nothing that is started gets a capability, whatever it runs: the bounding set is emptied, and what PID 1 could
 * pass on. PID 1 itself keeps what it needs to start, signal and end processes of other users. Where there may be
 * root commands it must also have what these are to have: without new privileges nobody gets what its parent hasn't. */
static int drop_capabilities(bool root_commands)
{
	uint32_t own = BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_KILL) | BIT(CAP_SETGID) | BIT(CAP_SETUID);

	narrow_bounds(root_commands ? ROOT_COMMANDS : 0);
	return keep_capabilities(root_commands ? ROOT_COMMANDS | BIT(CAP_SETPCAP) : own);
}

void confine_user_command(void)
{
	narrow_bounds(0);
}

int confine_root_operation(void)
{
	narrow_bounds(0);
	return keep_capabilities(BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FOWNER));
}

/* To look into root's processes takes all that those have. */
int confine_measuring(void)
{
	return keep_capabilities(ROOT_COMMANDS | BIT(CAP_DAC_READ_SEARCH));
}

/* Whether the engine has the kernel filter system calls, as Docker's own profile does. gVisor takes no filter from it. */
static bool is_filtered(void)
{
	char text[4096];
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

	if (fd >= 0)
		close(fd);
	text[length < 0 ? 0 : length] = '\0';
	return strstr(text, "\nSeccomp:\t2") != NULL;
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)
#define FAIL(error) RETURN(SECCOMP_RET_ERRNO | (error))
/* Skips so many of what follows. */
#define UNLESS(number, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, skip)
#define IF(number, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, skip, 0)

/* What Docker's profile and Linux see to elsewhere. In a user namespace of its own a process has all capabilities, and
 * could drop the group that is its mark: what makes one is refused, and clone3, whose flags a filter can't see, is said
 * not to exist; programs then use clone. By fallocate it could take all of the disk in one call: the file system is said
 * to have none but for punching holes. And gVisor lets root end PID 1 by a signal, which Linux doesn't. */
static int filter_calls(void)
{
	struct sock_filter filter[] = {
		LOAD(arch),
		IF(OWN_ARCHITECTURE, 1),
		FAIL(ENOSYS),
		LOAD(nr),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1),
		FAIL(ENOSYS),
		UNLESS(SYS_clone3, 1),
		FAIL(ENOSYS),
		IF(SYS_clone, 8),
		IF(SYS_unshare, 7),
		IF(SYS_fallocate, 10),
		IF(SYS_kill, 13),
		IF(SYS_tkill, 12),
		IF(SYS_tgkill, 11),
		IF(SYS_rt_sigqueueinfo, 10),
		IF(SYS_rt_tgsigqueueinfo, 9),
		RETURN(SECCOMP_RET_ALLOW),
		/* Of those that make a process or change its namespaces, the flags. */
		LOAD(args[0]),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER, 0, 1),
		FAIL(EPERM),
		RETURN(SECCOMP_RET_ALLOW),
		/* Of fallocate, how. */
		LOAD(args[1]),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, FALLOC_FL_PUNCH_HOLE, 1, 0),
		FAIL(EOPNOTSUPP),
		RETURN(SECCOMP_RET_ALLOW),
		/* Of those that send a signal, whom to. */
		LOAD(args[0]),
		UNLESS(1, 1),
		FAIL(EPERM),
		RETURN(SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof filter / sizeof *filter, filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int confine(bool root_commands)
{
	if (drop_capabilities(root_commands) < 0)
		return -1;
	return is_filtered() ? 0 : filter_calls();
}
