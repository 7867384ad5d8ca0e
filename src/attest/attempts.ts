/*
 * What the warden's probe attempts, and what an answer to that means. The names are those of `warden/src/builtin/attempts.c`.
 */

export interface Attempt {
  readonly name: string;
  /** Completes "user code can't". */
  readonly what: string;
  /** gVisor's kernel answers it, for itself: whatever comes of it stays in the sandbox. */
  readonly gvisorsOwn?: true;
  /** Refused by a seccomp profile of ours, and by that of an engine only where it is new enough. */
  readonly byOwnProfile?: true;
}

export const ATTEMPTS: readonly Attempt[] = [
  { name: 'signal_init', what: 'signal PID 1' },
  { name: 'trace_init', what: 'trace PID 1' },
  { name: 'read_init', what: 'read the memory of PID 1' },
  { name: 'open_init_memory', what: 'open the memory of PID 1' },
  { name: 'open_init_output', what: 'write to the streams of PID 1', gvisorsOwn: true }, // where they are /dev/null
  { name: 'open_init_environment', what: 'read the environment of PID 1', gvisorsOwn: true },
  { name: 'become_root', what: 'become root' },
  { name: 'drop_groups', what: 'drop the group that marks it' },
  { name: 'raise_nofile', what: 'raise its limit of open files' },
  { name: 'make_user_namespace', what: 'make a user namespace' },
  { name: 'make_mount_namespace', what: 'make a mount namespace', gvisorsOwn: true },
  { name: 'mount', what: 'mount' },
  { name: 'chroot', what: 'change its root' },
  { name: 'make_device', what: 'make a device', gvisorsOwn: true },
  { name: 'write_sysctl', what: 'write to /proc/sys' },
  { name: 'write_sysrq', what: 'write to /proc/sysrq-trigger' },
  { name: 'init_module', what: 'load a module into the kernel' },
  { name: 'bpf', what: 'use bpf' },
  { name: 'perf_event_open', what: 'use perf events', gvisorsOwn: true },
  { name: 'keyctl', what: "use the kernel's keys" },
  { name: 'userfaultfd', what: 'use userfaultfd' },
  { name: 'io_uring_setup', what: 'use io_uring', gvisorsOwn: true, byOwnProfile: true },
  { name: 'socket_raw', what: 'open a raw socket' },
  { name: 'socket_packet', what: 'open a packet socket (AF_PACKET)' },
  { name: 'socket_vsock', what: 'open a socket to the hypervisor (AF_VSOCK)', byOwnProfile: true },
  { name: 'socket_alg', what: "open a socket to the kernel's ciphers (AF_ALG)", byOwnProfile: true },
];

/** Answers that say no. With any other, such as EINVAL, the call has got through to what it is for. */
const REFUSED: ReadonlySet<string> = new Set([
  'EPERM',
  'EACCES',
  'EROFS',
  'ENOSYS',
  'ENOENT',
  'EAFNOSUPPORT',
  'EPROTONOSUPPORT',
  'ESOCKTNOSUPPORT',
  'SIGSYS',
]);

export function isRefused(answer: string): boolean {
  return REFUSED.has(answer);
}
