import { describe, expect, it, test } from 'vitest';

import { judgeContainer, judgeInside, probedPaths, type Expectations } from '../../../src/attest/judge.js';
import { parseProbe } from '../../../src/attest/probe-report.js';
import type { ContainerComparison, SettingsSeenInside } from '../../../src/engine/engine.js';
import { GVISOR_PROBE, RUNC_PROBE } from '../../fixtures/probe-output.js';

const INSIDE: SettingsSeenInside = {
  memoryBytes: 256 * 1024 ** 2,
  swapBytes: 0,
  pids: 256,
  cpus: 1,
  ulimits: [
    { name: 'nofile', value: 4096 },
    { name: 'core', value: 0 },
    { name: 'memlock', value: 65_536 },
  ],
  network: 'none',
  readOnlyRoot: false,
  ownSeccompProfile: false,
  maskedPaths: ['/proc/kcore', '/proc/keys'],
  writable: [],
};

function comparison(
  inside: Partial<SettingsSeenInside> = {},
  given: Partial<ContainerComparison> = {},
): ContainerComparison {
  return { state: 'running', runtime: 'runc', settings: [], inside: { ...INSIDE, ...inside }, mounts: [], ...given };
}

/** The checks that aren't ok, by name. */
function faults(output: string, expectations: Partial<Expectations> = {}): Record<string, string> {
  const user = { uid: 1000, gid: 1000 };
  const checks = judgeInside(parseProbe(Buffer.from(output)), {
    comparison: comparison(),
    user,
    gvisor: false,
    ...expectations,
  });
  expect(checks.filter(({ status, fix }) => (status === 'ok') !== (fix === null))).toEqual([]);
  return Object.fromEntries(checks.filter(({ status }) => status !== 'ok').map((one) => [one.check, one.status]));
}

describe('what a probe has found', () => {
  it('is as it should be in a sandbox as it was made', () => {
    expect(faults(RUNC_PROBE)).toEqual({});
    expect(faults(GVISOR_PROBE, { gvisor: true })).toEqual({});
  });

  test.each([
    ['uid', 'uid 1000 1000 1000', 'uid 0 0 0'],
    ['gid', 'gid 1000 1000 1000', 'gid 1000 0 1000'],
    ['capabilities effective', 'effective 0000000000000000', 'effective 0000000000200000'],
    ['capabilities bounding', 'bounding 0000000000000000', 'bounding 00000000a80425fb'],
    ['capabilities ambient', 'ambient 0000000000000000', 'ambient 0000000000000001'],
    ['no_new_privs', 'no_new_privs 1', 'no_new_privs 0'],
    ['seccomp', 'seccomp 2', 'seccomp 0'],
    ['limit nofile', 'limit nofile 4096 4096', 'limit nofile 4096 1048576'],
    ['limit core', 'limit core 0 0', 'limit core unlimited unlimited'],
    ['limit memlock', 'limit memlock 65536 65536', 'limit memlock unlimited unlimited'],
    ['memory', 'limit_in_bytes 268435456', 'limit_in_bytes 9223372036854771712'],
    ['swap', 'memsw.limit_in_bytes 268435456', 'memsw.limit_in_bytes 536870912'],
    ['pids', 'pids.max 256', 'pids.max max'],
    ['cpus', 'cfs_quota_us 100000', 'cfs_quota_us -1'],
    ['interfaces', 'interface lo', 'interface lo\ninterface eth0'],
    ['interfaces', 'interface lo', 'interfaces EPERM'],
    ['init_name', 'init_name warden', 'init_name sleep'],
    ['init_uid', 'init_uid 0', 'init_uid 1000'],
    ['namespace pid', 'pid:[4026539679]', 'pid:[4026531836]'],
    ['namespace ipc', 'ipc:[4026539678]', 'ipc:[4026531839]'],
    ['namespace uts', 'uts:[4026539677]', 'uts:[4026531838]'],
    ['namespace cgroup', 'cgroup:[4026539816]', 'cgroup:[4026531835]'],
    ['root file system', '/ / rw,relatime', '/ / ro,relatime'],
    [
      'unexpected mounts',
      'path ENOENT /proc/kcore',
      'mount 1 2 254:0 /etc /mnt/etc rw - ext4\npath ENOENT /proc/kcore',
    ],
    [
      'unexpected mounts',
      'path ENOENT /proc/kcore',
      'mount 1 2 0:5 /docker.sock /etc/hosts rw - tmpfs\npath ENOENT /proc/kcore',
    ],
    ['unexpected mounts', 'path ENOENT /proc/kcore', 'mount 1 2 254:0 / /proc/1 rw - ext4\npath ENOENT /proc/kcore'],
    ['readable masked paths', 'path ENOENT /proc/kcore', 'path readable /proc/kcore'],
    ['sockets of an engine', 'ENOENT /var/run/docker.sock', 'socket /var/run/docker.sock'],
    ['attempt to signal PID 1', 'signal_init EPERM', 'signal_init ok'],
    ['attempt to mount', 'attempt mount EPERM', 'attempt mount EINVAL'],
    ['attempt to use bpf', 'attempt bpf EPERM', 'attempt bpf ok'],
  ])('drifts: %s, when "%s" is "%s"', (check, from, to) => {
    expect(RUNC_PROBE).toContain(from);
    expect(faults(RUNC_PROBE.replace(from, to))).toEqual({ [check]: 'drift' });
  });

  test.each(['seccomp 2\n', 'attempt mount EPERM\n', 'cgroup pids/pids.max 256\n', 'namespace pid pid:[4026539679]\n'])(
    'is not known without the line %j',
    (line) => {
      expect(Object.values(faults(RUNC_PROBE.replace(line, '')))).toEqual(['unknown']);
    },
  );

  it('is not known of what could not be attempted', () => {
    expect(faults(RUNC_PROBE.replace('attempt mount EPERM', 'attempt mount untried'))).toEqual({
      'attempt to mount': 'unknown',
    });
  });

  it('refuses more where the seccomp profile is ours', () => {
    expect(faults(RUNC_PROBE, { comparison: comparison({ ownSeccompProfile: true }) })).toEqual({
      'attempt to use io_uring': 'drift',
      'attempt to open a socket to the hypervisor (AF_VSOCK)': 'drift',
    });
  });

  it('has what the sandbox asked for: a network, a root that is read-only, mounts of its own', () => {
    const bridged = RUNC_PROBE.replace('interface lo', 'interface lo\ninterface eth0\ninterface tunl0');
    expect(faults(bridged, { comparison: comparison({ network: 'bridge' }) })).toEqual({});
    const strict = RUNC_PROBE.replace('/ / rw,relatime', '/ / ro,relatime').replace(
      'path ENOENT /proc/kcore',
      'mount 1 2 0:9 / /workspace rw - tmpfs\npath ENOENT /proc/kcore',
    );
    const mounts = [{ target: '/workspace', writable: true }];
    expect(faults(strict, { comparison: comparison({ readOnlyRoot: true }, { mounts }) })).toEqual({});
    const readOnly = [{ target: '/workspace', writable: false }];
    expect(faults(strict, { comparison: comparison({ readOnlyRoot: true }, { mounts: readOnly }) })).toEqual({
      'unexpected mounts': 'drift',
    });
  });

  it('may be rounded to pages, and in the units of cgroup v2', () => {
    const v2 = RUNC_PROBE.replaceAll(/^cgroup .*\n/gm, '').replace(
      'kernel ',
      'cgroup memory.max 268435456\ncgroup memory.swap.max 0\ncgroup pids.max 256\ncgroup cpu.max 50000 100000\nkernel ',
    );
    expect(faults(v2, { comparison: comparison({ cpus: 0.5, memoryBytes: 268_436_000 }) })).toEqual({});
    expect(faults(v2.replace('swap.max 0', 'swap.max max'), { comparison: comparison({ cpus: 0.5 }) })).toEqual({
      swap: 'drift',
    });
  });
});

describe('what the engine says', () => {
  it('is compared setting by setting, and says how a limit is set back', () => {
    const settings = [
      { setting: 'Memory', asked: '1', found: '2' },
      { setting: 'CapAdd', asked: 'KILL', found: 'KILL,SYS_ADMIN' },
      { setting: 'User', asked: '0:0', found: '0:0' },
    ];
    const [memory, capabilities, user] = judgeContainer(comparison({}, { settings }), 'abc');
    expect(memory).toMatchObject({ status: 'drift', fix: expect.stringContaining('docker update') as string });
    expect(capabilities).toMatchObject({ status: 'drift', expected: 'KILL', found: 'KILL,SYS_ADMIN' });
    expect(user).toMatchObject({ status: 'ok', fix: null });
  });

  it('may have the volume that brings the warden, its own directory for sockets, and nothing else', () => {
    const warden = 'volume sandyard-warden-00ab4639ec78 on /usr/lib/sandyard, read-only';
    const sockets = 'bind /srv/sockets/00ab/abc on /run/sandyard, read-only';
    const statusOf = (found: string) => {
      return judgeContainer(comparison({}, { settings: [{ setting: 'Mounts', asked: '', found }] }), 'abc')[0]?.status;
    };
    expect([statusOf(warden), statusOf(`${sockets}; ${warden}`)]).toEqual(['ok', 'ok']);
    for (const mount of [warden, sockets]) expect(statusOf(mount.replace('read-only', 'writable'))).toBe('drift');
    expect(statusOf(sockets.replace('abc', 'abd'))).toBe('drift'); // another sandbox's
    expect(statusOf(sockets.replace('/run/sandyard', '/mnt'))).toBe('drift');
    expect(statusOf(`bind /mnt on /mnt, writable; ${warden}`)).toBe('drift');
  });
});

it('tries what is masked, and where engines have their sockets', () => {
  expect(probedPaths(comparison())).toEqual(expect.arrayContaining(['/proc/kcore', '/var/run/docker.sock']));
});
