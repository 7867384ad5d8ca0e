import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { ALLOWED_CALLS } from '../../src/engine/seccomp-profile.js';
import type { SandboxManager } from '../../src/index.js';
import { removeAll, run, testManager, testSandbox, IMAGE, RUN_ID } from '../fixtures/run.js';
import { ROOT } from '../fixtures/service.js';

/*
 * Each system call that the image's headers know, and each family of sockets, as it is in a sandbox, and as it is without
 * any filter: what differs is what the profile does. gVisor isn't asked: it takes no filter.
 */

const EPERM = '1';
const EFAULT = '14';
const ENOSYS = '38';
const SIGSYS = 'signal 31';
/** What the profile is there to refuse, by name; all that isn't allowed is looked at as well. */
const REFUSED = [
  'io_uring_setup io_uring_enter io_uring_register memfd_secret process_vm_readv process_vm_writev process_madvise',
  'pidfd_getfd kcmp fanotify_init fanotify_mark name_to_handle_at open_by_handle_at remap_file_pages userfaultfd keyctl',
  'add_key request_key bpf perf_event_open mount umount2 pivot_root chroot unshare setns init_module finit_module',
  'delete_module kexec_load reboot swapon swapoff iopl ioperm modify_ldt settimeofday clock_settime sethostname',
  'setdomainname quotactl syslog acct lookup_dcookie nfsservctl vhangup move_pages mbind migrate_pages set_mempolicy',
  'get_mempolicy uselib ustat sysfs _sysctl fsopen fsconfig fsmount fspick move_mount open_tree mount_setattr',
]
  .join(' ')
  .split(' ');
const FAMILIES = { allowed: [1, 2, 10, 16], other: [17, 29, 31, 38, 40] };

const SOURCE = readFileSync(`${ROOT}/test/fixtures/seccomp/prober.c`, 'utf8');
const BUILD = `cd /tmp && printf %s "$1" > prober.c &&
  echo '#include <sys/syscall.h>' | gcc -E -dM - |
    sed -n 's/^#define SYS_\\([a-z0-9_]*\\) .*/{ .name = "\\1", .number = SYS_\\1 },/p' > calls.h &&
  gcc -O1 -o prober prober.c && ./prober`;
const COMMAND = ['sh', '-c', BUILD, 'sh', SOURCE];

function parse(printed: string): Map<string, string> {
  return new Map(
    printed
      .trim()
      .split('\n')
      .map((line) => {
        const at = line.lastIndexOf(': ');
        return [line.slice(0, at), line.slice(at + 2)];
      }),
  );
}

describe('the seccomp profile', () => {
  let manager: SandboxManager;
  let inside: Map<string, string>;
  let unfiltered: Map<string, string>;

  beforeAll(async () => {
    manager = await testManager();
    const sandbox = await manager.create({ runtime: 'runc' });
    const probed = await sandbox.exec(COMMAND);
    expect(probed).toMatchObject({ outcome: 'exited', exitCode: 0, stderr: '' });
    inside = parse(probed.stdout);
    const without = [
      '--security-opt',
      'seccomp=unconfined',
      '--security-opt',
      'no-new-privileges',
      '--cap-drop',
      'ALL',
    ];
    const label = ['--label', `sandyard.test-run=${RUN_ID}`];
    const { stdout } = await run(
      'docker',
      ['run', '--rm', '--network', 'none', '--user', '1000:1000', ...without, ...label, IMAGE, ...COMMAND],
      { maxBuffer: 2 ** 22 },
    );
    unfiltered = parse(stdout);
  });
  afterAll(() => removeAll(manager));

  it('was probed whole', () => {
    expect(inside.size).toBeGreaterThan(300);
    expect([...inside.keys()]).toEqual([...unfiltered.keys()]);
  });

  it('lets every call through that it names, which then fails or succeeds as without a filter', () => {
    const changed = ALLOWED_CALLS.filter((name) => inside.get(name) !== unfiltered.get(name));
    expect(changed.map((name) => `${name}: ${inside.get(name)}, not ${unfiltered.get(name)}`)).toEqual([]);
  });

  it('refuses every other call', () => {
    const names = [...inside.keys()].filter((name) => /^\w+$/.test(name) && !/^(x32|int80)$/.test(name));
    const others = names.filter((name) => !ALLOWED_CALLS.includes(name) && !['clone3', 'fallocate'].includes(name));
    const passed = others.filter((name) => ![EPERM, ENOSYS].includes(inside.get(name) ?? ''));
    expect(passed.map((name) => `${name}: ${inside.get(name)}`)).toEqual([]);
    expect(others.length).toBeGreaterThan(60);
  });

  it.each(REFUSED)('refuses %s', (name) => {
    expect(ALLOWED_CALLS).not.toContain(name);
    // Headers of an older system don't know the newest ones; what they don't know the profile refuses all the same.
    expect([EPERM, ENOSYS, undefined]).toContain(inside.get(name));
  });

  it('refuses what would have been had without it', () => {
    const had = (name: string) => unfiltered.get(name) !== EPERM && unfiltered.get(name) !== ENOSYS;
    const wanted = ['io_uring_setup', 'process_vm_readv', 'fanotify_mark', 'name_to_handle_at', 'keyctl', 'unshare'];
    expect(wanted.filter((name) => !had(name))).toEqual([]);
    expect(had('socket 0x28')).toBe(true);
  });

  it('allows sockets of four families, and no other', () => {
    const allowed = Array.from({ length: 51 }, (_, family) => family).filter(
      (family) => inside.get(`socket ${hex(family)}`) !== EPERM,
    );
    expect(allowed).toEqual(FAMILIES.allowed);
    for (const family of FAMILIES.other) expect(inside.get(`socket ${hex(family)}`)).toBe(EPERM);
    for (const family of FAMILIES.allowed) expect(inside.get(`socket ${hex(family)}`)).toBe('0');
    expect(inside.get('socketpair 0x1')).toBe(EFAULT); // nowhere to write the pair to
    expect(inside.get('socketpair 0x2')).toBe(EPERM);
  });

  it('allows a process to be made, but no namespace, and says that there is no clone3', () => {
    expect(inside.get('clone 0')).toBe('0');
    const namespaces = [...inside.keys()].filter((name) => name.startsWith('clone 0x'));
    expect(namespaces.map((name) => inside.get(name))).toEqual(namespaces.map(() => EPERM));
    expect(namespaces).toHaveLength(7);
    expect(inside.get('clone3')).toBe(ENOSYS);
  });

  it('allows the personalities that a program of this machine has, and none that makes memory executable', () => {
    for (const harmless of ['0', '0x8', '0x20000', '0x20008', '0xffffffff']) {
      expect(inside.get(`personality ${harmless}`)).toBe('0');
    }
    expect(inside.get('personality 0x400000')).toBe(EPERM);
    expect(inside.get('personality 0x40000')).toBe(EPERM);
  });

  it.runIf(process.arch === 'x64')('ends what calls in a 32-bit ABI', () => {
    expect(inside.get('x32')).toBe(SIGSYS);
    expect(inside.get('int80')).toBe(SIGSYS);
  });

  it('lets a program trace its own child', async () => {
    const sandbox = await testSandbox(manager, { runtime: 'runc' });
    const trace = `
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
pid = os.fork()
if pid == 0:
    libc.ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(7)
print(os.WIFSTOPPED(os.waitpid(pid, 0)[1]), libc.ptrace(7, pid, 0, 0))
print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))`;
    expect(await sandbox.exec(['python3', '-c', trace])).toMatchObject({ stdout: 'True 0\n7\n', stderr: '' });
  });

  it.each([
    [
      'git',
      'git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git clone -q . ../c',
    ],
    [
      'python',
      'python3 -m venv --without-pip v && v/bin/python -c "import multiprocessing as m; print(m.Pool(2).map(abs, [-1]))"',
    ],
    [
      'node',
      "node -e \"new (require('worker_threads').Worker)('1', { eval: true }); require('fs').watch('.').close()\"",
    ],
    ['a compiler', 'printf "int main(void){return 0;}" > a.c && gcc -O2 -o a a.c && ./a'],
  ])('leaves %s as it is', async (_, command) => {
    const sandbox = await testSandbox(manager, { runtime: 'runc', memoryLimit: '512m' });
    expect(await sandbox.exec(command)).toMatchObject({ exitCode: 0 });
  });
});

function hex(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}
