import type Docker from 'dockerode';
import { describe, expect, it } from 'vitest';

import { compareSettings, verifyApplied } from '../../../src/engine/applied-settings.js';
import { toCreateOptions } from '../../../src/engine/container-spec.js';
import type { ContainerSpec } from '../../../src/engine/engine.js';
import { SECCOMP_PROFILE } from '../../../src/engine/seccomp-profile.js';

const GIB = 1024 ** 3;
const SPEC: ContainerSpec = {
  name: 'sandyard-abc',
  image: 'ubuntu:24.04',
  labels: { 'sandyard.id': 'abc' },
  env: ['A=b'],
  entrypoint: ['sleep', 'infinity'],
  workdir: '/workspace',
  hostname: 'abc',
  memoryBytes: 3 * GIB,
  cpus: 0.3,
  pids: 256,
  nofile: 1024,
  network: 'none',
};

const EGRESS = {
  network: 'sandyard-abc',
  address: '10.217.0.2',
  proxy: { name: 'egress-proxy', address: '10.217.0.3' },
};
const WITH_EGRESS = { ...SPEC, egress: EGRESS };
const WITH_VOLUME = { ...SPEC, volume: { name: 'sandyard-warden-1', target: '/usr/lib/sandyard' } };
const MOUNT = { Type: 'volume', Name: 'sandyard-warden-1', Destination: '/usr/lib/sandyard', RW: false };
const ANONYMOUS = { Type: 'volume', Name: 'a'.repeat(64), Destination: '/data', RW: true };

const SECCOMP = `seccomp=${SECCOMP_PROFILE}`;
const NO_NEW_PRIVILEGES = 'no-new-privileges:true';

const options = toCreateOptions(SPEC);
const host = options.HostConfig as Docker.HostConfig & Record<string, unknown>;

describe('what a container is made with', () => {
  it('is what was asked for', () => {
    expect(options).toMatchObject({
      name: 'sandyard-abc',
      Image: 'ubuntu:24.04',
      Labels: { 'sandyard.id': 'abc' },
      Env: ['A=b'],
      Entrypoint: ['sleep', 'infinity'],
      Cmd: [],
      WorkingDir: '/workspace',
      Hostname: 'abc',
    });
    expect(host).toMatchObject({ NetworkMode: 'none', PidsLimit: 256, NanoCpus: 300_000_000 });
  });

  it('has PID 1 run as root, which user code never is, and told to stop by SIGTERM', () => {
    expect(options).toMatchObject({ User: '0:0', StopSignal: 'SIGTERM' });
  });

  it.each<[setting: string, value: unknown]>([
    ['Privileged', false],
    ['CapDrop', ['ALL']],
    ['CapAdd', ['CHOWN', 'KILL', 'SETGID', 'SETPCAP', 'SETUID']],
    ['SecurityOpt', ['no-new-privileges:true', SECCOMP]],
    ['IpcMode', 'private'],
    ['CgroupnsMode', 'private'],
    ['LogConfig', { Type: 'none', Config: {} }],
    ['RestartPolicy', { Name: 'no' }],
    ['AutoRemove', false],
    ['Binds', []],
    ['Init', false],
    ['OomScoreAdj', 0],
  ])('always has %s: %j', (setting, value) => {
    expect(host[setting]).toEqual(value);
  });

  it('mounts nothing but what it was given, read-only, and a volume never filled from the image', () => {
    expect(host.Mounts).toEqual([]);
    const directory = { source: '/srv/abc', target: '/run/sandyard' };
    expect(toCreateOptions({ ...SPEC, directory }).HostConfig?.Mounts).toEqual([
      { Type: 'bind', Source: '/srv/abc', Target: '/run/sandyard', ReadOnly: true },
    ]);
    expect(toCreateOptions(WITH_VOLUME).HostConfig?.Mounts).toEqual([
      {
        Type: 'volume',
        Source: 'sandyard-warden-1',
        Target: '/usr/lib/sandyard',
        ReadOnly: true,
        VolumeOptions: { NoCopy: true },
      },
    ]);
  });

  it('leaves the runtime to the engine unless one was asked for', () => {
    expect(host).not.toHaveProperty('Runtime');
    expect(toCreateOptions({ ...SPEC, runtime: 'runsc' }).HostConfig?.Runtime).toBe('runsc');
  });

  it.each(['VolumesFrom', 'Devices', 'DeviceRequests', 'PidMode', 'UsernsMode', 'PortBindings', 'ExtraHosts'])(
    'never has %s',
    (setting) => {
      expect(host[setting]).toBeUndefined();
    },
  );

  it('with egress is in that network alone, at its address, with no name server and no IPv6', () => {
    const { HostConfig, NetworkingConfig } = toCreateOptions(WITH_EGRESS);
    expect(HostConfig).toMatchObject({
      NetworkMode: 'sandyard-abc',
      Dns: ['127.0.0.1'],
      ExtraHosts: ['egress-proxy:10.217.0.3'],
      Sysctls: { 'net.ipv6.conf.all.disable_ipv6': '1', 'net.ipv6.conf.default.disable_ipv6': '1' },
    });
    expect(NetworkingConfig?.EndpointsConfig).toEqual({
      'sandyard-abc': { IPAMConfig: { IPv4Address: '10.217.0.2' } },
    });
    expect(options).not.toHaveProperty('NetworkingConfig');
  });

  it.each<[network: string, maker: string, spec: ContainerSpec]>([
    ['none', 'the runtime', SPEC],
    ['none and a read-only root', 'the engine', { ...SPEC, readOnly: { tmpfs: [], kept: '/kept' } }],
    ['bridge', 'the engine', { ...SPEC, network: 'bridge' }],
    ['egress', 'the engine', WITH_EGRESS],
  ])('with network %s has what there is of it made by %s', (_, maker, spec) => {
    expect(toCreateOptions(spec).NetworkDisabled).toBe(maker === 'the runtime');
  });

  it('swaps nothing', () => {
    expect(host).toMatchObject({ Memory: 3 * GIB, MemorySwap: 3 * GIB });
  });

  it.each([
    [3 * GIB, 64 * 1024 ** 2],
    [16 * 1024 ** 2, 4 * 1024 ** 2],
  ])('with %d bytes of memory gives %d to /dev/shm, which is charged to it', (memoryBytes, shm) => {
    expect(toCreateOptions({ ...SPEC, memoryBytes }).HostConfig?.ShmSize).toBe(shm);
  });

  it('bounds open files, cores and locked memory, soft and hard', () => {
    expect(host.Ulimits).toEqual([
      { Name: 'nofile', Soft: 8192, Hard: 8192 },
      { Name: 'core', Soft: 0, Hard: 0 },
      { Name: 'memlock', Soft: 65_536, Hard: 65_536 },
    ]);
  });

  it('leaves the warden room for files, and gives more where more was asked for', () => {
    expect(toCreateOptions({ ...SPEC, nofile: 10_000 }).HostConfig?.Ulimits).toContainEqual({
      Name: 'nofile',
      Soft: 10_000,
      Hard: 10_000,
    });
  });

  it.each([
    '/proc/acpi',
    '/proc/asound',
    '/proc/kcore',
    '/proc/keys',
    '/proc/latency_stats',
    '/proc/timer_list',
    '/proc/timer_stats',
    '/proc/sched_debug',
    '/proc/scsi',
    '/sys/firmware',
    '/proc/config.gz',
    '/proc/kallsyms',
  ])('masks %s', (path) => {
    expect(host.MaskedPaths).toContain(path);
  });

  it('leaves no health check and no terminal of the image', () => {
    expect(options).toMatchObject({ Healthcheck: { Test: ['NONE'] }, Tty: false });
  });

  it('gives PID 1 the input of whoever attaches to it, and the end of it when that goes', () => {
    expect(options).toMatchObject({ OpenStdin: true, StdinOnce: true });
  });

  it('shares nothing with the spec that a client could change', () => {
    options.Env?.push('C=d');
    expect(SPEC.env).toEqual(['A=b']);
  });
});

/** As an engine answers that has applied everything. */
function applied(hostChange: object = {}, change: object = {}): Docker.ContainerInspectInfo {
  const { HostConfig, ...config } = toCreateOptions(SPEC);
  const found = { Config: config, HostConfig: { ...HostConfig, ...hostChange }, Mounts: [], ...change };
  return found as unknown as Docker.ContainerInspectInfo;
}

const LINUX_NAMES = ['CAP_SETUID', 'CAP_SETPCAP', 'CAP_SETGID', 'CAP_KILL', 'CAP_CHOWN'];

/** What has a volume of the image's, which declares those. */
function declaring(volumes: object | null): object {
  const { HostConfig: _, ...config } = options;
  return { Config: { ...config, Volumes: volumes }, Mounts: [ANONYMOUS] };
}

const READ_ONLY: ContainerSpec = {
  ...SPEC,
  readOnly: {
    tmpfs: [{ target: '/workspace', bytes: 4096, inodes: 8, uid: 1000, gid: 1001, mode: 0o1755 }],
    kept: '/var/lib/sandyard',
  },
};
const OWN_VOLUME = { Type: 'volume', Name: 'a'.repeat(64), Destination: '/var/lib/sandyard', RW: true };

/** As an engine answers that has made it read-only. */
function appliedReadOnly(hostChange: object = {}, mounts: object[] = [OWN_VOLUME]): Docker.ContainerInspectInfo {
  const { HostConfig, ...config } = toCreateOptions(READ_ONLY);
  const found = { Config: config, HostConfig: { ...HostConfig, ...hostChange }, Mounts: mounts };
  return found as unknown as Docker.ContainerInspectInfo;
}

describe('a read-only root', () => {
  const readOnly = toCreateOptions(READ_ONLY).HostConfig as Docker.HostConfig & Record<string, unknown>;

  it('is only had where it is asked for', () => {
    expect(host).toMatchObject({ ReadonlyRootfs: false });
    expect(host).not.toHaveProperty('Tmpfs');
    expect(readOnly).toMatchObject({ ReadonlyRootfs: true });
  });

  it('has bounded directories in memory, of the user, from which programs can be run', () => {
    const options = 'rw,nosuid,nodev,exec,size=4096,nr_inodes=8,uid=1000,gid=1001,mode=1755';
    expect(readOnly['Tmpfs']).toEqual({ '/workspace': options });
  });

  it('has a volume of no name, with its own labels, for what outlives a stop', () => {
    const VolumeOptions = { NoCopy: true, Labels: { 'sandyard.id': 'abc' } };
    expect(readOnly.Mounts).toEqual([
      { Type: 'volume', Source: '', Target: '/var/lib/sandyard', ReadOnly: false, VolumeOptions },
    ]);
  });

  it('is compared with what the engine has made', () => {
    expect(() => verifyApplied(READ_ONLY, appliedReadOnly())).not.toThrow();
  });

  it.each<[setting: string, found: Docker.ContainerInspectInfo]>([
    ['ReadonlyRootfs', appliedReadOnly({ ReadonlyRootfs: false })],
    ['Tmpfs', appliedReadOnly({ Tmpfs: null })],
    ['Tmpfs', appliedReadOnly({ Tmpfs: { '/workspace': 'rw' } })],
    ['Tmpfs', appliedReadOnly({ Tmpfs: { ...(readOnly['Tmpfs'] as object), '/etc': 'rw' } })],
    ['Mounts', appliedReadOnly({}, [])],
    ['Mounts', appliedReadOnly({}, [{ ...OWN_VOLUME, Name: 'shared' }])],
    ['Mounts', appliedReadOnly({}, [{ ...OWN_VOLUME, RW: false }])],
    ['Mounts', appliedReadOnly({}, [{ ...OWN_VOLUME, Type: 'bind' }])],
  ])('is refused with another %s', (setting, found) => {
    expect(() => verifyApplied(READ_ONLY, found)).toThrow(expect.objectContaining({ code: 'engine_error' }));
    expect(() => verifyApplied(READ_ONLY, found)).toThrow(setting);
  });

  it('is refused where a writable one was asked for', () => {
    expect(() => verifyApplied(SPEC, applied({ ReadonlyRootfs: true }))).toThrow(/ReadonlyRootfs/);
  });
});

describe('root commands', () => {
  const spec = { ...SPEC, rootCommands: true };
  const capabilities = ['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'KILL', 'SETGID', 'SETPCAP', 'SETUID'];

  it('need two more capabilities, and no more', () => {
    expect(toCreateOptions(spec).HostConfig?.CapAdd).toEqual(capabilities);
    expect(() => verifyApplied(spec, applied({ CapAdd: capabilities }))).not.toThrow();
    expect(() => verifyApplied(spec, applied({ CapAdd: [...capabilities, 'SYS_ADMIN'] }))).toThrow(/CapAdd/);
    expect(() => verifyApplied(SPEC, applied({ CapAdd: capabilities }))).toThrow(/CapAdd/);
  });
});

describe('verifyApplied', () => {
  it.each<[what: string, found: Docker.ContainerInspectInfo]>([
    ['what was asked for', applied()],
    ['empty lists as null', applied({ Binds: null, Mounts: null, PidMode: '' }, { Mounts: null })],
    ["Linux's names of capabilities, in any order", applied({ CapAdd: LINUX_NAMES })],
    ["the engine's own runtime", applied({ Runtime: 'runc' })],
    ['more security options', applied({ SecurityOpt: [NO_NEW_PRIVILEGES, 'apparmor=x', SECCOMP] })],
    ['no-new-privileges in short', applied({ SecurityOpt: ['no-new-privileges', SECCOMP] })],
    ['a volume that the image declares', applied({}, declaring({ '/data': {} }))],
  ])('takes %s', (_, found) => {
    expect(() => verifyApplied(SPEC, found)).not.toThrow();
  });

  it.each<[setting: string, found: Docker.ContainerInspectInfo]>([
    ['User', applied({}, { Config: { User: '' } })],
    ['StopSignal', applied({}, { Config: { StopSignal: 'SIGKILL' } })],
    ['Init', applied({ Init: true })],
    ['OomScoreAdj', applied({ OomScoreAdj: 500 })],
    ['CapAdd', applied({ CapAdd: null })],
    ['CapAdd', applied({ CapAdd: [...LINUX_NAMES, 'CAP_SYS_ADMIN'] })],
    ['Mounts', applied({}, { Mounts: [MOUNT] })],
    ['Mounts', applied({}, declaring(null))],
    ['Mounts', applied({}, declaring({ '/other': {} }))],
    ['Privileged', applied({ Privileged: true })],
    ['CapDrop', applied({ CapDrop: null })],
    ['CapAdd', applied({ CapAdd: ['SYS_ADMIN'] })],
    ['SecurityOpt', applied({ SecurityOpt: null })],
    ['SecurityOpt', applied({ SecurityOpt: ['no-new-privileges:false', SECCOMP] })],
    ['SecurityOpt', applied({ SecurityOpt: [NO_NEW_PRIVILEGES] })],
    ['SecurityOpt', applied({ SecurityOpt: [NO_NEW_PRIVILEGES, 'seccomp=unconfined'] })],
    ['SecurityOpt', applied({ SecurityOpt: [NO_NEW_PRIVILEGES, 'seccomp={}'] })],
    ['SecurityOpt', applied({ SecurityOpt: [NO_NEW_PRIVILEGES, SECCOMP, 'seccomp={}'] })],
    ['Binds', applied({ Binds: ['/:/host'] })],
    ['Mounts', applied({}, { Mounts: [{ Type: 'bind', Destination: '/host', RW: true }] })],
    ['NetworkMode', applied({ NetworkMode: 'bridge' })],
    ['PidMode', applied({ PidMode: 'host' })],
    ['IpcMode', applied({ IpcMode: 'host' })],
    ['CgroupnsMode', applied({ CgroupnsMode: 'host' })],
    ['LogConfig', applied({ LogConfig: { Type: 'json-file', Config: {} } })],
    ['Memory', applied({ Memory: 0 })],
    ['MemorySwap', applied({ MemorySwap: -1 })],
    ['NanoCpus', applied({ NanoCpus: 0 })],
    ['PidsLimit', applied({ PidsLimit: null })],
    ['Ulimits', applied({ Ulimits: [] })],
    ['MaskedPaths', applied({ MaskedPaths: [] })],
  ])('refuses another %s, and names it', (setting, found) => {
    expect(() => verifyApplied(SPEC, found)).toThrow(
      expect.objectContaining({ code: 'engine_error', message: expect.stringContaining(setting) }),
    );
  });

  it.each<[what: string, mounts: object[], accepted: boolean]>([
    ['there', [MOUNT], true],
    ['missing', [], false],
    ['writable', [{ ...MOUNT, RW: true }], false],
    ['another', [{ ...MOUNT, Name: 'x' }], false],
    ['elsewhere', [{ ...MOUNT, Destination: '/usr' }], false],
    ['not alone', [MOUNT, { ...MOUNT, Name: 'x', Destination: '/x' }], false],
  ])('of a volume that is %s', (_, Mounts, accepted) => {
    const verify = () => verifyApplied(WITH_VOLUME, applied({}, { Mounts }));
    if (accepted) expect(verify).not.toThrow();
    else expect(verify).toThrow(/Mounts: asked volume sandyard-warden-1 on \/usr\/lib\/sandyard, read-only, found/);
  });

  it('refuses another runtime than was asked for', () => {
    const spec = { ...SPEC, runtime: 'runsc' };
    expect(() => verifyApplied(spec, applied({ Runtime: 'runsc' }))).not.toThrow();
    expect(() => verifyApplied(spec, applied({ Runtime: 'runc' }))).toThrow(/Runtime: asked runsc, found runc/);
  });

  it('compares the networks themselves only where one is its own: else who attests it does', () => {
    const rows = (spec: ContainerSpec, Networks: object) =>
      compareSettings(spec, applied({}, { NetworkSettings: { Networks } })).filter(
        ({ setting }) => setting === 'Networks',
      );
    expect(rows(SPEC, { none: {} })).toEqual([]);
    const both = { asked: EGRESS.network, found: `${EGRESS.network},other` };
    expect(rows(WITH_EGRESS, { [EGRESS.network]: {}, other: {} })).toMatchObject([both]);
  });

  it('names all that differ', () => {
    expect(() => verifyApplied(SPEC, applied({ Memory: 1, PidsLimit: 0 }))).toThrow(/Memory.*PidsLimit/);
  });
});
