import { describe, expect, it, test } from 'vitest';

import { readConfig, type ServiceConfig } from '../../../src/config.js';
import { checkEngine, checkImage, checkQuota, checkRuntimes, type DoctorCheck } from '../../../src/doctor/checks.js';
import { checkService } from '../../../src/doctor/service-checks.js';
import type { EngineExamination } from '../../../src/engine/engine.js';
import { SandyardError } from '../../../src/errors.js';

const GOOD: EngineExamination = {
  address: 'unix:///var/run/docker.sock',
  version: '28.5.2',
  apiVersion: '1.48',
  operatingSystem: 'Debian',
  architecture: 'x86_64',
  cpus: 2,
  memoryBytes: 8e9,
  storageDriver: 'overlay2',
  dataRoot: '/var/lib/docker',
  cgroupVersion: '2',
  runtimes: ['runc', 'runsc'],
  runtimesWithoutNetwork: [],
  defaultRuntime: 'runc',
  securityOptions: ['name=apparmor', 'name=seccomp,profile=builtin', 'name=userns', 'name=cgroupns'],
  liveRestore: true,
  systemTime: new Date(),
  components: [
    { name: 'Engine', version: '28.5.2' },
    { name: 'containerd', version: '1.7.29' },
    { name: 'runc', version: '1.3.3' },
  ],
  kernelVersion: '6.12.0',
  limits: { memory: true, swap: true, pids: true, cpu: true },
  warnings: [],
  transport: 'socket',
};

const faultsOf = (checks: readonly DoctorCheck[]) => {
  expect(checks.filter(({ severity, fix }) => (severity === 'ok') !== (fix === null))).toEqual([]);
  return checks.filter(({ severity }) => severity !== 'ok').map(({ check, severity }) => `${check}: ${severity}`);
};
const component = (name: string, version: string) => ({ components: [{ name, version }] });

describe('an engine', () => {
  it('that lacks nothing has no fault', () => {
    expect(faultsOf(checkEngine(GOOD))).toEqual([]);
  });

  test.each<[string, Partial<EngineExamination>, string[]]>([
    ['an old runc', component('runc', '1.1.11'), ['known holes of runc: fail']],
    ['an old runc that may be patched', component('runc', '1.1.5+ds1-1+deb12u1'), ['known holes of runc: warn']],
    ['an old containerd', component('containerd', '1.7.20'), ['known holes of containerd: warn']],
    ['an old Docker', component('Engine', '20.10.24'), ['known holes of Docker: warn']],
    ['no seccomp', { securityOptions: ['name=apparmor', 'name=userns'] }, ['seccomp: fail']],
    [
      'an unconfined seccomp',
      { securityOptions: ['name=apparmor', 'name=userns', 'name=seccomp,profile=unconfined'] },
      ['seccomp: fail'],
    ],
    [
      'no user namespaces',
      { securityOptions: ['name=selinux', 'name=seccomp,profile=builtin'] },
      ['user namespaces: warn'],
    ],
    [
      'no security module',
      { securityOptions: ['name=rootless', 'name=seccomp,profile=builtin'] },
      ['security module: warn'],
    ],
    ['no swap limit', { limits: { ...GOOD.limits, swap: false } }, ['limits: fail']],
    ['no live-restore', { liveRestore: false }, ['live restore: warn']],
    ['a poor storage driver', { storageDriver: 'vfs' }, ['storage driver: warn']],
    ['a way without TLS', { transport: 'plain', address: 'tcp://10.0.0.7:2375' }, ['way to the engine: fail']],
    ['one on this machine', { transport: 'plain', address: 'tcp://127.0.0.1:2375' }, ['way to the engine: warn']],
    ['TLS', { transport: 'tls', address: 'tcp://docker:2376' }, []],
    ['a warning', { warnings: ['WARNING: No swap limit support'] }, ['warning of the engine: warn']],
    [
      'an open API',
      { warnings: ['[DEPRECATION NOTICE]: API is accessible on http://0.0.0.0:2375 without encryption.'] },
      ['warning of the engine: fail'],
    ],
  ])('with %s', (_what, given, faults) => {
    expect(faultsOf(checkEngine({ ...GOOD, ...given }))).toEqual(faults);
  });

  it('says of a hole that a distribution may have patched it', () => {
    const found = checkEngine({ ...GOOD, ...component('runc', '1.1.5+ds1-1+deb12u1') }).find(({ check }) =>
      check.endsWith('runc'),
    );
    expect(found?.found).toMatch(/CVE-2024-21626.*unless your distribution has patched it/);
  });
});

describe('what was tried', () => {
  test.each([
    ['all is well', [undefined, undefined], []],
    ['the default fails', ['It hangs.', undefined], ['runtime runc: fail']],
    ['the other fails', [undefined, 'It hangs.'], ['runtime runsc: warn', 'second kernel: warn']],
  ])('runtimes, when %s', (_what, [runc, runsc], faults) => {
    const trials = [
      { runtime: 'runc', seconds: 0.4, fault: runc },
      { runtime: 'runsc', seconds: 0.6, fault: runsc },
    ];
    expect(faultsOf(checkRuntimes(trials, GOOD))).toEqual(faults);
  });

  it('a disk quota', () => {
    expect(faultsOf([checkQuota(undefined, 'btrfs')])).toEqual([]);
    expect(checkQuota('no pquota', 'overlay2')).toMatchObject({
      severity: 'warn',
      found: "it can't, and each sandbox watches its own: no pquota",
    });
    expect(checkQuota('none', 'vfs')).toMatchObject({ severity: 'fail' });
  });

  test.each([
    ['1', []],
    ['2', ['sandbox image: warn']],
    [null, ['sandbox image: warn']],
    [undefined, ['sandbox image: fail']],
  ])('an image with the warden %s', (protocol, faults) => {
    expect(faultsOf([checkImage('box', { protocol, expected: '1' })])).toEqual(faults);
  });
});

describe('the settings of the service', () => {
  const read = (env: Record<string, string>) => () => readConfig(env);
  const TOKEN = 'x'.repeat(32);

  test.each<[string, Record<string, string>, string[]]>([
    ['nothing', {}, []],
    ['a token', { HOST: '0.0.0.0', SANDBOX_TOKEN: TOKEN }, []],
    ['tokens that are issued', { HOST: '0.0.0.0', SANDBOX_TOKEN_SECRET: TOKEN }, []],
    ['no token for others', { HOST: '0.0.0.0' }, ['service settings: fail']],
    ['a variable that is none', { SANDBOX_MEMORRY: '1g' }, ['service variables: warn']],
    ['a value that is none', { SANDBOX_MEMORY: 'much' }, ['service settings: fail']],
    [
      'webhooks over http',
      { SANDBOX_WEBHOOK_URLS: 'http://example.com/hook,https://example.com/hook', SANDBOX_WEBHOOK_SECRET: TOKEN },
      ['service webhooks: warn'],
    ],
    ['webhooks here', { SANDBOX_WEBHOOK_URLS: 'http://127.0.0.1:1/', SANDBOX_WEBHOOK_SECRET: TOKEN }, []],
  ])('with %s', (_what, env, faults) => {
    const checks = checkService(read(env));
    expect(faultsOf(checks)).toEqual(faults);
    expect(JSON.stringify(checks)).not.toContain(TOKEN);
  });

  it('are judged also where another has made them', () => {
    const config = { ...readConfig({}), host: '0.0.0.0' } satisfies ServiceConfig;
    expect(faultsOf(checkService(() => config))).toEqual(['service address: fail']);
  });

  it('lets other faults through', () => {
    const fault = new SandyardError('internal', 'Oh.');
    expect(() => checkService(() => { throw fault; })).toThrow(fault); // prettier-ignore
  });
});
