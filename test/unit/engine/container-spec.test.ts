import type Docker from 'dockerode';
import { describe, expect, it } from 'vitest';

import { toCreateOptions, verifyApplied } from '../../../src/engine/container-spec.js';
import type { ContainerSpec } from '../../../src/engine/engine.js';

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

  it('has PID 1 run as another user than commands', () => {
    expect(options.User).toBe('65532:65532');
  });

  it.each<[setting: string, value: unknown]>([
    ['Privileged', false],
    ['CapDrop', ['ALL']],
    ['CapAdd', []],
    ['SecurityOpt', ['no-new-privileges:true']],
    ['IpcMode', 'private'],
    ['CgroupnsMode', 'private'],
    ['LogConfig', { Type: 'none', Config: {} }],
    ['RestartPolicy', { Name: 'no' }],
    ['AutoRemove', false],
    ['Binds', []],
    ['Init', true],
  ])('always has %s: %j', (setting, value) => {
    expect(host[setting]).toEqual(value);
  });

  it.each([
    'Mounts',
    'VolumesFrom',
    'Devices',
    'DeviceRequests',
    'PidMode',
    'UsernsMode',
    'PortBindings',
    'ExtraHosts',
  ])('never has %s', (setting) => {
    expect(host[setting]).toBeUndefined();
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
      { Name: 'nofile', Soft: 1024, Hard: 1024 },
      { Name: 'core', Soft: 0, Hard: 0 },
      { Name: 'memlock', Soft: 65_536, Hard: 65_536 },
    ]);
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
    expect(options).toMatchObject({ Healthcheck: { Test: ['NONE'] }, Tty: false, OpenStdin: false });
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

describe('verifyApplied', () => {
  it.each<[what: string, found: Docker.ContainerInspectInfo]>([
    ['what was asked for', applied()],
    ['empty lists as null', applied({ CapAdd: null, Binds: null, PidMode: '' })],
    ['more security options', applied({ SecurityOpt: ['no-new-privileges:true', 'seccomp=x'] })],
    ['no-new-privileges in short', applied({ SecurityOpt: ['no-new-privileges'] })],
    ['a volume', applied({}, { Mounts: [{ Type: 'volume' }] })],
  ])('takes %s', (_, found) => {
    expect(() => verifyApplied(SPEC, found)).not.toThrow();
  });

  it.each<[setting: string, found: Docker.ContainerInspectInfo]>([
    ['User', applied({}, { Config: { User: '' } })],
    ['Privileged', applied({ Privileged: true })],
    ['CapDrop', applied({ CapDrop: null })],
    ['CapAdd', applied({ CapAdd: ['SYS_ADMIN'] })],
    ['SecurityOpt', applied({ SecurityOpt: null })],
    ['SecurityOpt', applied({ SecurityOpt: ['no-new-privileges:false'] })],
    ['SecurityOpt', applied({ SecurityOpt: ['no-new-privileges:true', 'seccomp=unconfined'] })],
    ['Binds', applied({ Binds: ['/:/host'] })],
    ['Binds', applied({}, { Mounts: [{ Type: 'bind' }] })],
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

  it('names all that differ', () => {
    expect(() => verifyApplied(SPEC, applied({ Memory: 1, PidsLimit: 0 }))).toThrow(/Memory.*PidsLimit/);
  });
});
