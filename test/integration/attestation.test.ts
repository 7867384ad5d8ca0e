import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';

import type { Attestation, Sandbox, SandboxManager } from '../../src/index.js';
import {
  dockerClient,
  eventually,
  removeAll,
  RUNTIMES,
  testManager,
  testSandbox,
  withNetwork,
} from '../fixtures/run.js';

const faults = ({ checks }: Attestation) =>
  Object.fromEntries(checks.filter(({ status }) => status !== 'ok').map((one) => [one.check, one.found]));

/** gVisor counts its own threads. */
const SIZE = { runc: {}, runsc: { pidsLimit: 2048 } } as Readonly<Record<string, object>>;

describe.each(RUNTIMES)('attestation on %s', (runtime) => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  const make = (options = {}): Promise<Sandbox> => testSandbox(manager, { runtime, ...SIZE[runtime], ...options });

  it('finds a sandbox as it was made', async () => {
    const attestation = await (await make()).attest();
    expect(faults(attestation)).toEqual({});
    expect(attestation).toMatchObject({ runtime, ok: true, drift: false });
    const inside = attestation.checks.filter(({ source }) => source === 'inside').map(({ check }) => check);
    expect(inside).toEqual(
      expect.arrayContaining(['capabilities bounding', 'seccomp', 'memory', 'interfaces', 'attempt to signal PID 1']),
    );
  });

  it.each([
    ['another user', { user: '2000:2000' }],
    ['other limits', { memoryLimit: '300000000', cpuLimit: 0.3, pidsLimit: 1500, nofileLimit: 1000 }],
    ['the network of the bridge', { network: 'bridge' as const, runtime: withNetwork(runtime) }],
    ['the profile strict', { profile: 'strict' as const }],
    ['the profile dev', { profile: 'dev' as const }],
  ])('finds one with %s as it was made', async (_what, options) => {
    expect(faults(await (await make(options)).attest())).toEqual({});
  });

  it('finds a warm one as it was claimed', async () => {
    const pooled = await testManager({ pool: { size: 1, runtime, ...SIZE[runtime] } });
    onTestFinished(() => removeAll(pooled));
    await eventually(async () => (await pooled.gauges()).pool.ready > 0 || undefined, { what: 'a warm sandbox' });
    // gVisor can't change the limits of what runs.
    const limits = runtime === 'runsc' ? {} : { memoryLimit: '300m' };
    const [warm] = await dockerClient().listContainers({ filters: { label: [`sandyard.owner=${pooled.owner}`] } });
    const sandbox = await pooled.create({ runtime, ...SIZE[runtime], ...limits });
    expect(warm?.Names[0]).toContain(sandbox.id);
    expect(faults(await sandbox.attest())).toEqual({});
  });

  it('finds one as it was started again', async () => {
    const sandbox = await make({ onExpiry: 'stop' });
    await sandbox.restart();
    expect(faults(await sandbox.attest())).toEqual({});
  });
});

describe('drift', () => {
  const docker = dockerClient();
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager({ socketDirectory: 'none' }); // what is imitated would have another's directory
  });
  afterAll(() => removeAll(manager));

  it('is found of limits that were changed behind the manager, by the engine and inside', async () => {
    const sandbox = await testSandbox(manager);
    const memory = 512 * 1024 ** 2;
    const container = docker.getContainer(`sandyard-${sandbox.id}`);
    await container.update({ Memory: memory, MemorySwap: 2 * memory, PidsLimit: 999, NanoCpus: 2e9 });
    const attestation = await manager.attest(sandbox.id);
    expect(attestation).toMatchObject({ ok: false, drift: true });
    expect(faults(attestation)).toEqual({
      Memory: String(memory),
      MemorySwap: String(2 * memory),
      NanoCpus: '2000000000',
      PidsLimit: '999',
      memory: String(memory),
      swap: expect.stringMatching(/^[1-9]\d+$/) as string,
      pids: '999',
      cpus: expect.stringMatching(/\d/) as string,
    });
    expect(attestation.checks.find(({ check }) => check === 'Memory')?.fix).toContain('docker update');
  });

  it('is found of a network that was added', async () => {
    const sandbox = await testSandbox(manager, { network: 'bridge' });
    const network = await docker.createNetwork({ Name: `sandyard-test-${sandbox.id}`, Internal: true });
    onTestFinished(async () => {
      await network.disconnect({ Container: `sandyard-${sandbox.id}`, Force: true }).catch(() => {});
      await network.remove();
    });
    await network.connect({ Container: `sandyard-${sandbox.id}` });
    expect(faults(await sandbox.attest())).toMatchObject({
      Networks: expect.stringContaining(`sandyard-test-${sandbox.id}`) as string,
      interfaces: 'eth0, eth1, lo',
    });
  });

  /** A container as a sandbox of ours is made, but by hand and with something more. */
  async function imitate(change: (host: Record<string, unknown>) => void): Promise<Sandbox> {
    const model = await testSandbox(manager);
    const { Config, HostConfig, Path, Args } = await docker.getContainer(`sandyard-${model.id}`).inspect();
    const id = `${model.id}x`;
    const host = { ...(HostConfig as unknown as Record<string, unknown>) };
    change(host);
    const labels = { ...Config.Labels, 'sandyard.id': id };
    const container = await docker.createContainer({
      name: `sandyard-${id}`,
      Image: Config.Image,
      Labels: labels,
      Env: Config.Env,
      User: Config.User,
      WorkingDir: Config.WorkingDir,
      Entrypoint: [Path, ...Args.filter((argument) => !argument.startsWith('--setup-ms'))],
      Cmd: [],
      StopSignal: 'SIGTERM',
      HostConfig: host,
    });
    onTestFinished(async () => {
      await container.remove({ force: true });
    });
    await container.start();
    return manager.get(id);
  }

  it('is found of a container with a capability more, made by hand with our labels', async () => {
    const sandbox = await imitate((host) => {
      host['CapAdd'] = [...(host['CapAdd'] as string[]), 'SYS_PTRACE'];
    });
    const attestation = await sandbox.attest();
    expect(attestation).toMatchObject({ ok: false, drift: true });
    expect(Object.keys(faults(attestation))).toEqual(['CapAdd']);
  });

  it('is found of one with a directory of the host, by the engine and inside', async () => {
    const sandbox = await imitate((host) => {
      host['Binds'] = ['/usr/share:/mnt:ro'];
    });
    expect(faults(await sandbox.attest())).toMatchObject({
      Binds: '1',
      Mounts: expect.stringContaining('/mnt') as string,
    });
  });

  it('is found of one without seccomp, and with its masks off', async () => {
    const sandbox = await imitate((host) => {
      host['SecurityOpt'] = ['no-new-privileges:true', 'seccomp=unconfined'];
      host['MaskedPaths'] = [];
      host['ReadonlyPaths'] = [];
    });
    const found = faults(await sandbox.attest());
    expect(found).toMatchObject({ SecurityOpt: 'false', MaskedPaths: '', ReadonlyPaths: '' });
    expect(found['readable masked paths']).toContain('/proc/');
  });

  it("is found of one with the host's processes and messages", async () => {
    const sandbox = await imitate((host) => {
      host['IpcMode'] = 'host';
      host['UTSMode'] = 'host';
      host['CgroupnsMode'] = 'host';
    });
    expect(faults(await sandbox.attest())).toMatchObject({
      IpcMode: 'host',
      UTSMode: 'host',
      'namespace ipc': "the machine's first",
      'namespace uts': "the machine's first",
      'namespace cgroup': "the machine's first",
    });
  });
});

describe('a probe', () => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  it('that user code keeps from answering is told of, and is no attestation', async () => {
    const sandbox = await testSandbox(manager);
    await sandbox.spawn(['python3', '-c', KILLER]);
    const { ok, checks } = await sandbox.attest();
    if (!ok) expect(checks.some(({ status }) => status === 'unknown')).toBe(true);
    expect((await sandbox.inspect()).state).toBe('running');
  });

  it('leaves nothing behind', async () => {
    const sandbox = await testSandbox(manager);
    const before = await sandbox.exec('ls -A /dev/shm /tmp');
    await Promise.all(Array.from({ length: 5 }, () => sandbox.attest()));
    expect((await sandbox.exec('ls -A /dev/shm /tmp')).stdout).toBe(before.stdout);
    expect((await sandbox.stats()).pids).toBeLessThanOrEqual(2);
  });
});

/** Kills all that it may, but itself. */
const KILLER = `
import os, signal
while True:
    for pid in os.listdir('/proc'):
        if pid.isdigit() and int(pid) not in (1, os.getpid()):
            try: os.kill(int(pid), signal.SIGKILL)
            except OSError: pass
`;
