/*
 * What code in a sandbox may ask of the kernel: the profile that goes with each container, as the engine's API takes it.
 * What isn't named is refused with EPERM. It began as the engine's own default for a container without capabilities. Left
 * out of that is what few programs need and many escapes have begun with: io_uring, memfd_secret, userfaultfd, the
 * memory of other processes (process_vm_*; a debugger uses ptrace), fanotify, file handles, keys, descriptors of 16-bit
 * code (modify_ldt), remap_file_pages, fallocate but for making holes, and sockets of all kinds but four, of which AF_VSOCK reaches a hypervisor also
 * from a sandbox that has no network. Calls in a 32-bit ABI (int 0x80, x32) end the program with SIGSYS.
 *
 * Under gVisor it is not in force: the kernel that code talks to there is gVisor's.
 */

const FILES = [
  'access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64',
  'fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr',
  'fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr ioctl lchown lgetxattr link',
  'linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat',
  'openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr rename',
  'renameat renameat2 rmdir sendfile setxattr splice stat statfs statx symlink symlinkat sync sync_file_range syncfs',
  'tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev cachestat',
];
const WAITING = [
  'epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd',
  'eventfd2 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch pipe pipe2 poll ppoll pselect6 select signalfd',
  'signalfd4 timerfd_create timerfd_gettime timerfd_settime',
  // Of the kernel's older asynchronous I/O, not of io_uring.
  'io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit',
];
const MEMORY = [
  'brk madvise map_shadow_stack membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync',
  'munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect',
];
const PROCESSES = [
  'arch_prctl capget capset execve execveat exit exit_group fork getegid geteuid getgid getgroups getpgid getpgrp getpid',
  'getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid get_robust_list get_thread_area',
  'ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self pause pidfd_open',
  'pidfd_send_signal prctl prlimit64 process_mrelease ptrace restart_syscall rseq rt_sigaction rt_sigpending',
  'rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity',
  'sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval',
  'sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp setfsgid setfsuid setgid',
  'setgroups setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid set_robust_list',
  'set_thread_area set_tid_address sigaltstack tgkill tkill vfork wait4 waitid',
];
const TIME = [
  'adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer',
  'time timer_create timer_delete timer_getoverrun timer_gettime timer_settime times',
];
const TALKING = [
  'accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg',
  'sendto setsockopt shutdown',
  'futex futex_requeue futex_wait futex_waitv futex_wake',
  'mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop',
  'semtimedop shmat shmctl shmdt shmget',
];
const SYSTEM = ['getcpu getrandom sysinfo uname'];

/** AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK, by which programs learn of their own interfaces. */
const SOCKET_FAMILIES = [1, 2, 10, 16];
const AF_UNIX = 1;
/** CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID and -NET: in a user namespace of its own a process has all capabilities. */
const NEW_NAMESPACES = 0x7e02_0000;
/** Linux's own, and with it what wide addresses and the 32-bit machine are, but not what makes memory executable. */
const PERSONALITIES = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const ENOSYS = 38;
const EOPNOTSUPP = 95;
const FALLOC_FL_PUNCH_HOLE = 2;

interface Rule {
  readonly names: readonly string[];
  readonly action: 'SCMP_ACT_ALLOW' | 'SCMP_ACT_ERRNO';
  readonly errnoRet?: number;
  readonly args?: readonly {
    index: number;
    value: number;
    valueTwo?: number;
    op: 'SCMP_CMP_EQ' | 'SCMP_CMP_MASKED_EQ';
  }[];
}

const allowed = (names: readonly string[]): Rule => ({ names, action: 'SCMP_ACT_ALLOW' });

const allowedWith = (name: string, first: number): Rule => ({
  ...allowed([name]),
  args: [{ index: 0, value: first, op: 'SCMP_CMP_EQ' }],
});

/** Every call that is allowed whatever its arguments. */
export const ALLOWED_CALLS: readonly string[] = [FILES, WAITING, MEMORY, PROCESSES, TIME, TALKING, SYSTEM]
  .flat()
  .flatMap((names) => names.split(' '));

/** As text, because the engine keeps it as it was given, and gives it back so. The engine picks its own architecture. */
export const SECCOMP_PROFILE = JSON.stringify({
  defaultAction: 'SCMP_ACT_ERRNO',
  archMap: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_AARCH64'].map((architecture) => ({ architecture, subArchitectures: [] })),
  syscalls: [
    allowed(ALLOWED_CALLS),
    ...SOCKET_FAMILIES.map((family) => allowedWith('socket', family)),
    allowedWith('socketpair', AF_UNIX),
    ...PERSONALITIES.map((personality) => allowedWith('personality', personality)),
    {
      ...allowed(['clone']),
      args: [{ index: 0, value: NEW_NAMESPACES, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }],
    },
    // It could take all of a disk in one call, before anybody sees it: for that there is no fallocate, as on some file systems.
    ...[FALLOC_FL_PUNCH_HOLE, 0].map((flag): Rule => ({
      names: ['fallocate'],
      ...(flag === 0 ? { action: 'SCMP_ACT_ERRNO', errnoRet: EOPNOTSUPP } : { action: 'SCMP_ACT_ALLOW' }),
      args: [{ index: 1, value: FALLOC_FL_PUNCH_HOLE, valueTwo: flag, op: 'SCMP_CMP_MASKED_EQ' }],
    })),
    // Its flags lie in memory, where no filter sees them: programs that are told that there is none use clone.
    { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS },
  ] satisfies Rule[],
});
