import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { eventually, removeAll, testManager, wardenMemory } from '../fixtures/run.js';

const MIB = 1024 * 1024;
/** What the warden may hold on to: the output of what has ended, up to 4 MiB, and what it remembers of it. */
const WARDEN_GROWTH = 12 * MIB;
/** Far less than what passes through in these tests, and more than the collector leaves lying about. */
const MANAGER_GROWTH = 150 * MIB;

describe('a sandbox under load', () => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  let memory: { warden: number; manager: number };
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ memoryLimit: '1g', pidsLimit: 4096 });
    await sandbox.exec(['true']);
    memory = { warden: await wardenMemory(sandbox), manager: process.memoryUsage().rss };
  });
  afterAll(() => removeAll(manager));

  const expectFlat = async () => {
    expect((await wardenMemory(sandbox)) - memory.warden).toBeLessThan(WARDEN_GROWTH);
    expect(process.memoryUsage().rss - memory.manager).toBeLessThan(MANAGER_GROWTH);
    expect(await sandbox.exec(['echo', 'usable'])).toMatchObject({ exitCode: 0, stdout: 'usable\n' });
  };
  const lastSeq = async (id: string) => (await sandbox.processes.list()).find((found) => found.id === id)?.lastSeq ?? 0;

  it('has what prints without end run on where it may', async () => {
    const running = await sandbox.spawn(['yes'], { whenUnread: 'run' });
    const before = await lastSeq(running.id);
    await eventually(async () => ((await lastSeq(running.id)) > before + 5000 ? true : undefined));
    await expectFlat();
    await running.kill('SIGKILL');
    expect(await running.wait()).toMatchObject({ outcome: 'killed' });
  });

  it('runs 500 commands at once', async () => {
    const results = await Promise.all(
      Array.from({ length: 500 }, (_, index) => sandbox.exec(`sleep 1; echo ${index}; exit ${index % 256}`)),
    );
    expect(results.map(({ exitCode, stdout }) => [exitCode, stdout])).toEqual(
      results.map((_, index) => [index % 256, `${index}\n`]),
    );
    await expectFlat();
  });

  it('runs 10,000 commands, sixteen at a time', async () => {
    let next = 0;
    const worker = async () => {
      for (let index = next++; index < 10_000; index = next++) {
        const { exitCode, stdout } = await sandbox.exec(['echo', String(index)]);
        if (exitCode !== 0 || stdout !== `${index}\n`) throw new Error(`command ${index}: ${exitCode} ${stdout}`);
      }
    };
    await Promise.all(Array.from({ length: 16 }, worker));
    await expectFlat();
    expect((await sandbox.processes.list()).filter(({ command }) => command[0] === 'echo')).toEqual([]);
  });

  it('remembers no more than it has room for', async () => {
    for (let index = 0; index < 1100; index += 20) {
      await Promise.all(
        Array.from({ length: 20 }, (_, of) =>
          sandbox.exec('head -c 65536 /dev/zero', { execId: `kept-${index + of}` }),
        ),
      );
    }
    const { length } = await sandbox.processes.list();
    expect(length).toBeGreaterThan(500);
    expect(length).toBeLessThanOrEqual(1024);
    await expectFlat();
  });
});
