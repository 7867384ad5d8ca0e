import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { CreateOptions, SandboxManager } from '../../src/index.js';
import { dockerClient, eventually, removeAll, RUNTIMES, sleep, testManager, testSandbox } from '../fixtures/run.js';

describe.each(RUNTIMES)('a strict sandbox of %s', (runtime) => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  const create = (options: CreateOptions = {}) => testSandbox(manager, { profile: 'strict', runtime, ...options });

  it('runs what agents run: a compiler, Python, Node.js, git, and programs that were just written', async () => {
    const sandbox = await create({ memoryLimit: '512m' });
    const work = [
      'cd /tmp && printf "#!/bin/sh\\necho from-tmp\\n" > run && chmod +x run && ./run',
      'cd /workspace && printf "int main(void){return 0;}" > a.c && gcc a.c -o a && ./a && echo compiled',
      'cd /workspace && git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && echo commited',
      "cd ~ && python3 -c \"open('x', 'w').write('1')\" && node -e \"console.log(require('fs').readFileSync('x', 'utf8'))\"",
    ];
    const results = await Promise.all(work.map((command) => sandbox.exec(command)));
    expect(results.map(({ stdout, stderr }) => [stdout, stderr])).toEqual([
      ['from-tmp\n', ''],
      ['compiled\n', ''],
      ['commited\n', expect.any(String)],
      ['1\n', ''],
    ]);
  });

  it('has files, copies and archives like any other', async () => {
    const sandbox = await create();
    await sandbox.files.write('/workspace/a/b.txt', 'hello');
    await sandbox.files.write('/tmp/c.txt', 'hello');
    expect(await sandbox.files.readText('/workspace/a/b.txt')).toBe('hello');
    expect((await sandbox.exec('cat /tmp/c.txt; id -u; stat -c %u /workspace /home/sandbox || true')).stdout).toMatch(
      /^hello1000\n/,
    );
    await expect(sandbox.files.write('/etc/x', 'no')).rejects.toMatchObject({ code: expect.any(String) });
  });

  it('is not stopped nor started again, because it would lose its files; it is paused', async () => {
    const sandbox = await create({ ttlMs: 600_000, metadata: { a: 'b' } });
    await sandbox.files.write('/workspace/kept', 'kept');
    const refusal = { code: 'wrong_state', details: { profile: 'strict' } };
    await expect(sandbox.stop()).rejects.toMatchObject(refusal);
    await expect(sandbox.restart()).rejects.toMatchObject(refusal);
    expect(await sandbox.start()).toMatchObject({ state: 'running' });
    await sandbox.pause();
    await sandbox.unpause();
    expect(await sandbox.files.readText('/workspace/kept')).toBe('kept');

    // Behind its manager's back it can be.
    const container = dockerClient().getContainer(`sandyard-${sandbox.id}`);
    await container.stop({ t: 1 });
    expect(await sandbox.stop()).toMatchObject({ state: 'exited', metadata: { a: 'b' } });
    await expect(sandbox.start()).rejects.toMatchObject(refusal);
    await expect(sandbox.exec(['true'])).rejects.toMatchObject({
      code: expect.stringMatching(/wrong_state|sandbox_died/),
    });
  });

  it('has a record that outlives its end, and goes with it', async () => {
    const sandbox = await create({ ttlMs: 600_000 });
    const docker = dockerClient();
    const container = docker.getContainer(`sandyard-${sandbox.id}`);
    const { Mounts } = await container.inspect();
    const volumes = Mounts.filter(({ Type }) => Type === 'volume');
    expect(volumes).toMatchObject([{ Destination: '/var/lib/sandyard', RW: true }]);
    await sandbox.pause();
    const archive = await container.infoArchive({ path: '/var/lib/sandyard/record' });
    expect(archive).toBeDefined();
    await sandbox.unpause();
    await sandbox.destroy();
    await expect(docker.getVolume(volumes[0]?.Name ?? '').inspect()).rejects.toMatchObject({ statusCode: 404 });
  });

  it('ends with its lease, and is gone', async () => {
    const sandbox = await create({ ttlMs: 1500 });
    await eventually(async () => ((await sandbox.inspect()).state === 'exited' ? true : undefined));
    expect(await sandbox.inspect()).toMatchObject({ endedBy: 'lease_expired' });
    await eventually(async () => {
      const { sandboxes } = await manager.prune();
      return sandboxes.some(({ id }) => id === sandbox.id) ? true : undefined;
    });
  });

  it('is woken where it is paused, but not without its files', async () => {
    const sandbox = await create({ onExpiry: 'pause', wakeOnUse: true });
    await dockerClient().getContainer(`sandyard-${sandbox.id}`).kill();
    await sleep(200);
    await expect(sandbox.exec(['true'])).rejects.toMatchObject({
      code: expect.stringMatching(/wrong_state|sandbox_died/),
    });
  });
});

describe('what is chosen', () => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  it('is gVisor for strict, where the engine has it', async () => {
    const { runtimes } = await manager.engineInfo();
    const sandbox = await testSandbox(manager, { profile: 'strict' });
    expect((await sandbox.inspect()).runtime).toBe(runtimes.includes('runsc') ? 'runsc' : null);
  });

  it('is refused before anything is made, where the engine has no such runtime', async () => {
    await expect(manager.create({ runtime: 'none-such' })).rejects.toMatchObject({
      code: 'validation_failed',
      message: 'The engine has no runtime none-such.',
    });
    expect((await manager.list()).sandboxes).toEqual([]);
  });

  it('is what the operator allows', async () => {
    const closed = await testManager({
      isolation: { allowedProfiles: ['standard'], allowedNetworks: ['none'], allowedImages: ['ubuntu:*'] },
    });
    try {
      for (const [options, setting] of [
        [{ profile: 'dev' }, 'SANDBOX_ALLOWED_PROFILES'],
        [{ network: 'bridge' }, 'SANDBOX_ALLOWED_NETWORKS'],
        [{ image: 'debian:12' }, 'SANDBOX_ALLOWED_IMAGES'],
      ] as const) {
        await expect(closed.create(options)).rejects.toMatchObject({ code: 'forbidden', details: { setting } });
      }
      expect((await closed.list()).sandboxes).toEqual([]);
      await closed.create({ memoryLimit: '64m' });
    } finally {
      await removeAll(closed);
    }
  });

  it('can be kept warm', async () => {
    const pooled = await testManager({
      pool: { size: 1, profile: 'strict', memoryLimit: '128m', image: manager.image },
    });
    try {
      await eventually(async () => ((await pooled.gauges()).pool.ready > 0 ? true : undefined));
      const sandbox = await pooled.create({ profile: 'strict', memoryLimit: '128m', metadata: { a: 'b' } });
      expect(await sandbox.exec('echo warm > /workspace/a && cat /workspace/a')).toMatchObject({ stdout: 'warm\n' });
      expect(await sandbox.inspect()).toMatchObject({ profile: 'strict', metadata: { a: 'b' } });
    } finally {
      await removeAll(pooled);
    }
  });
});
