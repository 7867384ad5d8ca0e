import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { SandboxManager } from '../../src/index.js';
import {
  countProcesses,
  dockerClient,
  eventually,
  removeAll,
  RUNTIMES,
  testManager,
  testSandbox,
} from '../fixtures/run.js';

/* Limits that are measured from inside, under load, and not read back from the engine. */
describe('limits', () => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  it('kills what allocates past the memory limit, says so, and goes on', async () => {
    const sandbox = await testSandbox(manager, { memoryLimit: '64m' });
    const hog = await sandbox.exec(['python3', '-c', 'block = bytearray(256 * 1024 * 1024); print(len(block))']);
    expect(hog).toMatchObject({ outcome: 'oom_killed', exitCode: 137, stdout: '' });
    expect(await sandbox.exec(['echo', 'alive'])).toMatchObject({ outcome: 'exited', stdout: 'alive\n' });
    const modest = await sandbox.exec(['python3', '-c', 'block = bytearray(16 * 1024 * 1024); print(len(block))']);
    expect(modest).toMatchObject({ outcome: 'exited', exitCode: 0 });
    await expect(manager.engineInfo()).resolves.toBeDefined();
  });

  it.each(RUNTIMES)('says so where that is the end of a sandbox of %s', async (runtime) => {
    const sandbox = await testSandbox(manager, { runtime, memoryLimit: '96m', pidsLimit: 2048 });
    const hog = await sandbox.exec(['python3', '-c', 'block = bytearray(512 * 1024 * 1024); print(len(block))']);
    expect(hog).toMatchObject(
      runtime === 'runsc'
        ? { outcome: 'sandbox_died', diedOf: 'out_of_memory', stdout: '' }
        : { outcome: 'oom_killed', diedOf: null, stdout: '' },
    );
    if (runtime === 'runsc') await sandbox.start(); // there the kernel that runs out of memory is the sandbox's own
    expect(await sandbox.exec(['echo', 'usable'])).toMatchObject({ stdout: 'usable\n' });
  });

  it.runIf(RUNTIMES.includes('runsc'))(
    'tells what a sandbox of gVisor has died of, in results and in events',
    async () => {
      const events: [string, string, number | null][] = [];
      const signal = new AbortController();
      const reading = (async () => {
        for await (const event of manager.events({ types: ['stopped', 'oom'], signal: signal.signal })) {
          events.push([event.type, event.reason, event.exitCode]);
        }
      })();
      const told = async (reason: string) =>
        eventually(async () => events.find(([type, why]) => type === 'stopped' && why === reason), { what: reason });

      const hungry = await testSandbox(manager, { runtime: 'runsc', memoryLimit: '96m' });
      const read = await hungry.spawn(['python3', '-c', 'block = bytearray(512 * 1024 * 1024)']);
      expect(await read.wait()).toMatchObject({ outcome: 'sandbox_died', diedOf: 'out_of_memory' });
      expect(await told('out_of_memory')).toEqual(['stopped', 'out_of_memory', 137]);

      const many = await testSandbox(manager, { runtime: 'runsc', pidsLimit: 8, memoryLimit: '2g' });
      const bomb = await many.exec([
        'python3',
        '-c',
        'import os\nwhile True:\n  if os.fork() == 0: os.read(os.pipe()[0], 1)',
      ]);
      expect(bomb).toMatchObject({ outcome: 'sandbox_died', diedOf: 'too_many_threads' });
      expect(await told('too_many_threads')).toEqual(['stopped', 'too_many_threads', 2]);

      const killed = await testSandbox(manager, { runtime: 'runsc' });
      const waiting = killed.exec(['sleep', '60']);
      await eventually(async () => ((await killed.processes.list()).length > 0 ? true : undefined));
      await dockerClient().getContainer(`sandyard-${killed.id}`).kill();
      expect(await waiting).toMatchObject({ outcome: 'sandbox_died', diedOf: 'killed' });
      expect(await told('killed')).toEqual(['stopped', 'killed', 137]);
      signal.abort();
      await reading;
    },
  );

  it("doesn't call a SIGKILL of its own an out-of-memory kill", async () => {
    const sandbox = await testSandbox(manager, { memoryLimit: '64m' });
    await sandbox.exec(['python3', '-c', 'bytearray(256 * 1024 * 1024)']);
    expect(await sandbox.exec('kill -KILL $$')).toMatchObject({ outcome: 'signaled', signal: 'SIGKILL' });
  });

  it('gives half a core to a busy loop under a limit of 0.5', async () => {
    const sandbox = await testSandbox(manager, { cpuLimit: '0.5' });
    const spin =
      'import time, os\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass\nprint(os.times().user + os.times().system)';
    const { stdout } = await sandbox.exec(['python3', '-c', spin]);
    const share = Number(stdout) / 3;
    expect(share).toBeGreaterThan(0.2);
    expect(share).toBeLessThan(0.65);
  });

  it('holds all processes together under the CPU limit', async () => {
    const sandbox = await testSandbox(manager, { cpuLimit: 0.5 });
    const before = (await sandbox.stats()).cpuSeconds;
    const started = performance.now();
    await sandbox.exec('for i in 1 2 3 4; do timeout 2 sh -c "while :; do :; done" & done; wait');
    const used = (await sandbox.stats()).cpuSeconds - before;
    expect(used / ((performance.now() - started) / 1000)).toBeLessThan(0.65);
  });

  it('contains a fork bomb, and can still end and destroy it', async () => {
    const sandbox = await testSandbox(manager, { pidsLimit: 48 });
    const neighbour = await testSandbox(manager);
    const bomb = 'bomb() { bomb | bomb & }; bomb; sleep 30';
    const running = sandbox.exec(['bash', '-c', bomb], { timeoutMs: 8000 });
    const pids = await eventually(async () => {
      const { pids } = await sandbox.stats();
      return pids > 40 ? pids : undefined;
    });
    expect(pids).toBeLessThanOrEqual(48);
    expect(await neighbour.exec(['echo', 'undisturbed'])).toMatchObject({ stdout: 'undisturbed\n' });
    const result = await running;
    expect(result.outcome).toBe('timed_out');
    expect(result.durationMs).toBeLessThan(20_000);
    expect((await sandbox.inspect()).state).toBe('running');
    expect(await countProcesses(sandbox, 'bash')).toBe(0);

    await sandbox.spawn(['bash', '-c', bomb]);
    await eventually(async () => ((await sandbox.stats()).pids > 40 ? true : undefined));
    await sandbox.destroy();
    await expect(manager.get(sandbox.id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });

  it('limits the files that a process may have open, and cores and locked memory', async () => {
    const sandbox = await testSandbox(manager, { nofileLimit: 100 });
    const open =
      'import os\nn = 0\ntry:\n  while True: os.open("/dev/null", 0); n += 1\nexcept OSError as e: print(n, e.strerror)';
    expect((await sandbox.exec(['python3', '-c', open])).stdout).toMatch(/^9\d Too many open files\n$/);
    expect((await sandbox.exec('ulimit -Hn; ulimit -Hc; ulimit -n 200')).stdout).toBe('100\n0\n');
  });

  it.each([
    [{ memoryLimit: '1000g' }, 'memoryLimit', '8g'],
    [{ cpuLimit: 1000 }, 'cpuLimit', '8'],
    [{ pidsLimit: 1_000_000 }, 'pidsLimit', '4096'],
    [{ nofileLimit: 1_000_000 }, 'nofileLimit', '65536'],
    [{ ttlMs: 300 * 24 * 3_600_000 }, 'ttlMs', '86400000 ms'],
  ])('refuses %j, which is above a ceiling, by name', async (options, field, ceiling) => {
    const refusal = expect(manager.create(options)).rejects;
    await refusal.toMatchObject({ code: 'limit_exceeded', issues: [{ path: [field] }] });
    await refusal.toThrow(ceiling);
  });

  it('says so when the engine has fewer CPUs than were asked for, and leaves nothing', async () => {
    const { NCPU: cpus } = (await dockerClient().info()) as { NCPU: number };
    const roomy = await testManager({ limits: { maxCpus: cpus + 8 } });
    try {
      await expect(roomy.create({ cpuLimit: cpus + 4 })).rejects.toMatchObject({ code: 'limit_exceeded' });
      expect((await roomy.list()).sandboxes).toEqual([]);
    } finally {
      await removeAll(roomy);
    }
  });
});
