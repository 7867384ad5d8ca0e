/*
 * The cases that SANDBOX.md has a table of: what hostile code, a hostile client or a failing engine does, and what is to
 * come of it. Their tests, a file for each group beside this one, tell what was found.
 */

export interface SecurityCase {
  readonly number: number;
  readonly tried: string;
  readonly expected: string;
  /** Why it isn't tried on a runtime. */
  readonly notOn?: Readonly<Partial<Record<'runc' | 'runsc', string>>>;
}

const ENGINE = { runsc: 'it is about the engine, whatever the runtime' };

export const CASES: readonly SecurityCase[] = [
  {
    number: 1,
    tried: 'Read `/proc/self/status` as user code',
    expected: 'uid 1000, no capabilities and none to be had, `no_new_privs`, a seccomp filter',
  },
  {
    number: 2,
    tried: 'Read all settings of the container back from the engine',
    expected: 'As asked for: not privileged, no directory of the host but its own, no network, bounded',
  },
  {
    number: 3,
    tried: 'Write to every directory of the system',
    expected: "Only the user's own, `/tmp` and `/dev/shm`; in `standard`, whose root isn't read-only, `/var/tmp`, too",
  },
  {
    number: 4,
    tried: 'mount, unshare, keyctl, bpf, perf_event_open, userfaultfd, init_module',
    expected: "All refused; what gVisor's kernel answers for itself isn't looked at",
  },
  { number: 5, tried: 'Sockets of AF_VSOCK, AF_PACKET and AF_ALG; io_uring', expected: 'All refused, as before' },
  {
    number: 6,
    tried: 'Send `TERM` `INT` `STOP` `KILL` to PID 1; `kill -9 -1`',
    expected: 'The sandbox runs on, and its next command runs',
  },
  {
    number: 7,
    tried: 'Flood the output of PID 1',
    expected: "Nothing on the host's disk",
  },
  {
    number: 8,
    tried: 'A fork bomb',
    expected: 'Never more than `pidsLimit`; it can be ended, and destroyed under it; its neighbour: see 46',
  },
  {
    number: 9,
    tried: 'Allocate four times the memory',
    expected: 'Only that command ends, as `oom_killed`',
    notOn: { runsc: 'there the whole sandbox ends, see 44' },
  },
  {
    number: 10,
    tried: 'Fill `/workspace`, then delete',
    expected:
      'In memory ENOSPC; on the disk all that runs ends as `disk_full`; the next command runs, and there can be written again',
  },
  {
    number: 11,
    tried: 'Fill every directory in memory of a `strict` sandbox at once',
    expected: 'ENOSPC; no command ends for lack of memory',
  },
  {
    number: 12,
    tried: 'Make files without end',
    expected: 'The same at a number of them; in the memory of gVisor there is none but what they take, as in 44',
  },
  { number: 13, tried: 'Spin in eight processes under half a CPU', expected: 'Half a CPU in all, 5 % more at most' },
  {
    number: 14,
    tried: 'Open files without end, and raise the limit',
    expected: 'EMFILE at `nofileLimit`, which stays',
  },
  { number: 15, tried: 'Leave fifty orphans that end', expected: 'No zombie is left' },
  {
    number: 16,
    tried: 'Print a gigabyte (200 MB on gVisor) to a client that reads all of it',
    expected: 'Cut at `maxOutputBytes` and said so; memory stays flat',
  },
  {
    number: 17,
    tried: 'Print without end while nobody reads, under a time limit',
    expected: 'It waits, memory stays flat, and it ends at its limit',
  },
  {
    number: 18,
    tried: 'Hang up on `execute` while the command runs',
    expected: 'The command and all that it started end, unless it has an `exec_id` to be asked for by',
  },
  {
    number: 19,
    tried: 'Escape from a command in seven ways (sessions, double forks, empty environments …) until its time limit',
    expected: '`timed_out`, nothing left, and the sandbox is usable',
  },
  {
    number: 20,
    tried: 'A fork bomb until its time limit',
    expected: 'The same; or the sandbox ends, and says of what',
  },
  {
    number: 21,
    tried: '`sleep & echo ok`, ten times, then another command',
    expected: 'None waits for what is left behind, which is told of',
  },
  {
    number: 22,
    tried: 'Leave background processes, with and without output',
    expected: 'They survive later commands, and can be ended by the id of theirs',
  },
  {
    number: 23,
    tried: 'Run what is missing or no program, in a directory that is missing, as `nobody`',
    expected: 'Errors with a code each, not output',
  },
  {
    number: 24,
    tried: 'An argument of 128 KiB, an environment and arguments of 5 MB',
    expected: 'Refused before anything is sent',
  },
  {
    number: 25,
    tried: 'A working directory below `/proc` or `/sys`, with `..`, relative, empty, with NUL',
    expected: 'Refused before anything is sent',
  },
  {
    number: 26,
    tried: 'Upload a tar with `..`, absolute names, links, devices, pipes, setuid files',
    expected: "Refused, or inside the target, the user's, without special bits; nothing beside it",
  },
  {
    number: 27,
    tried: 'Upload a megabyte of gzip that is a gigabyte; the same uncompressed',
    expected: 'Refused; what is unpacked stays within the disk of the sandbox',
  },
  {
    number: 28,
    tried: 'Download links to `/etc/shadow`, to a path of the host, and through `/proc/1`',
    expected: 'Nothing of the host, and nothing that the user may not read',
  },
  {
    number: 29,
    tried: 'Download a sparse file of 1 TiB, a named pipe, `/dev/zero`',
    expected: 'Refused, at the latest after `maxBytes`',
  },
  {
    number: 30,
    tried: 'Download a file that is truncated, renamed and removed all the time, 100 times',
    expected: 'All of it or an error, each time',
  },
  {
    number: 31,
    tried: 'Without a network: connect to the bridge, the metadata service, a name server; look up a name',
    expected: 'All fail within 5 s',
  },
  {
    number: 32,
    tried: "With egress: a service of the engine's host, by any of its addresses; another sandbox",
    expected: 'Unreachable, directly and by the proxy',
  },
  {
    number: 33,
    tried: 'With egress: hosts, ports and addresses that no rule has, names that lead inside or change; past the proxy',
    expected: 'An allowed host answers; each of the others is refused for its reason within 5 s',
  },
  { number: 34, tried: 'With egress: look up a name by DNS', expected: 'No answer within 3 s' },
  {
    number: 35,
    tried: 'Make 40 sandboxes with egress at once, and destroy them',
    expected: 'All work; no network is left',
  },
  {
    number: 36,
    tried: 'Kill a manager with five sandboxes, three commands and an ended lease',
    expected: 'The next one adopts all that live, with their commands, and removes what has expired',
    notOn: ENGINE,
  },
  {
    number: 37,
    tried: 'Kill the engine, with live-restore, in the middle of everything, and start it again',
    expected: 'Calls fail as `engine_unavailable`; then all goes on, with no output lost and no outcome invented',
    notOn: ENGINE,
  },
  {
    number: 38,
    tried: 'The same without live-restore',
    expected: '`sandbox_died` for all that ran; told as lost, and removed, but for what is to be kept',
    notOn: ENGINE,
  },
  {
    number: 39,
    tried: 'An engine that breaks off, never answers, or fails with 500',
    expected: 'Every call ends with an error within its time',
    notOn: ENGINE,
  },
  {
    number: 40,
    tried: 'The first call after a restart of the engine',
    expected: 'Works, without an error of an old connection',
    notOn: ENGINE,
  },
  {
    number: 41,
    tried: 'Destroy a sandbox during a command and an upload, twice at once',
    expected: 'Both calls end; no container, volume or network is left',
  },
  {
    number: 42,
    tried: 'Let the lease end under a command that ignores every signal, after trying to set the clock',
    expected: 'Ended in time, the command told as `sandbox_died`, and removed by the reaper',
  },
  {
    number: 43,
    tried: 'Kill a manager before and after each step of making a sandbox',
    expected: 'What is left ends or is removed, and nothing else',
    notOn: ENGINE,
  },
  {
    number: 44,
    tried: 'Allocate five times the memory',
    expected: '`sandbox_died`, of `out_of_memory`, with an event',
    notOn: { runc: 'there only the command ends, see 9' },
  },
  {
    number: 45,
    tried: 'What docker-bench-security (its rules for containers) and deepce look for',
    expected:
      'From outside 5.13 and 5.27, 5.4 where the disk is watched, 5.2 where the kernel has no AppArmor; from inside nothing',
    notOn: { runsc: 'what they look for is a Linux kernel under the container' },
  },
  {
    number: 46,
    tried: "Fork, memory, disk, log, fd and CPU bombs in turn, with half of the host's CPUs, beside another sandbox",
    expected: "The other's p95 stays under 3 × its base, and the host loses nothing",
  },
];
