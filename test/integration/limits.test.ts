import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { SandboxManager } from '../../src/index.js';
import { dockerClient, eventually, removeAll, RUNTIMES, testManager, testSandbox } from '../fixtures/run.js';

/* Limits that are measured from inside, under load, and not read back from the engine. */
describe('limits', () => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

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
