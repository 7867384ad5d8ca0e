import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { CreateOptions, Sandbox, SandboxManager } from '../../src/index.js';
import { dockerClient, eventually, removeAll, RUNTIMES, sleep, testManager, testSandbox } from '../fixtures/run.js';

const MIB = 1024 ** 2;

/** Each prints what it managed to write to, of all the places there are. */
const WRITES = `
import os
for path in ['/', '/etc', '/usr', '/usr/lib/sandyard', '/var', '/var/tmp', '/var/lib', '/var/lib/sandyard', '/run', '/opt',
             '/root', '/srv', '/proc', '/proc/sys/kernel', '/sys', '/sys/fs/cgroup', '/dev',
             '/tmp', '/workspace', '/home/sandbox', '/dev/shm']:
    try:
        with open(path + '/probe', 'w') as file: file.write('x')
        print(path)
    except OSError: pass`;

/** Fills every place that can be written to, to the last byte and the last file, and leaves it so. */
const FILL = `
import os, sys
for path in ['/workspace', '/tmp', '/home/sandbox', '/dev/shm']:
    stop = False
    try:
        with open(path + '/full', 'wb', buffering=0) as file:
            while True: file.write(b'x' * 65536)
    except OSError as error: print(path, 'bytes', error.strerror)
    count = 0
    if sys.argv[1] == 'bytes': continue
    try:
        os.mkdir(path + '/many')
        while count < 200000:
            os.close(os.open(path + '/many/%d' % count, os.O_CREAT | os.O_WRONLY)); count += 1
    except OSError as error: pass
    print(path, 'files', count, flush=True)`;

describe.each(RUNTIMES)('a strict sandbox of %s', (runtime) => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  const create = (options: CreateOptions = {}) => testSandbox(manager, { profile: 'strict', runtime, ...options });
  const python = (sandbox: Sandbox, program: string) => sandbox.exec(['python3', '-c', program]);

  it('can be written to where its user works, and nowhere else', async () => {
    const sandbox = await create();
    const { stdout, stderr } = await python(sandbox, WRITES);
    expect({ stdout, stderr }).toEqual({ stdout: '/tmp\n/workspace\n/home/sandbox\n/dev/shm\n', stderr: '' });
    expect(await sandbox.inspect()).toMatchObject({ profile: 'strict', runtime });
  });

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

  it('works on when all that can be written to is full to the last byte, and to the last file where those are bounded', async () => {
    const sandbox = await create({ memoryLimit: '256m' });
    // gVisor doesn't bound how many files there are: they take its memory until that ends the sandbox.
    const what = runtime === 'runsc' ? 'bytes' : 'files';
    const filled = await sandbox.exec(['python3', '-c', FILL, what]);
    expect(filled).toMatchObject({ outcome: 'exited', exitCode: 0 });
    expect(filled.stdout.match(/No space left/g)).toHaveLength(4);
    const counts = [...filled.stdout.matchAll(/ files (\d+)$/gm)].map(([, count]) => Number(count));
    expect(counts).toHaveLength(runtime === 'runsc' ? 0 : 4);
    for (const count of counts) expect(count).toBeLessThan((64 * MIB) / 4096);
    expect(await sandbox.exec('echo alive')).toMatchObject({ outcome: 'exited', stdout: 'alive\n' });
    expect(await python(sandbox, 'block = bytearray(32 * 1024 * 1024)')).toMatchObject({
      outcome: 'exited',
      exitCode: 0,
    });
    await sandbox.exec('rm -rf /workspace/full /workspace/many');
    expect(await sandbox.exec('echo again > /workspace/a && cat /workspace/a')).toMatchObject({ stdout: 'again\n' });
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
    expect(Mounts).toMatchObject([{ Type: 'volume', Destination: '/var/lib/sandyard', RW: true }]);
    await sandbox.pause();
    const archive = await container.infoArchive({ path: '/var/lib/sandyard/record' });
    expect(archive).toBeDefined();
    await sandbox.unpause();
    await sandbox.destroy();
    await expect(docker.getVolume(Mounts[0]?.Name ?? '').inspect()).rejects.toMatchObject({ statusCode: 404 });
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

  it('works with an image that has nothing of ours', async () => {
    const sandbox = await create({ image: 'busybox:latest' }).catch(() => undefined);
    if (sandbox === undefined) return; // the engine has none
    expect(await sandbox.exec('echo hello > a && cat a')).toMatchObject({ stdout: 'hello\n' });
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
