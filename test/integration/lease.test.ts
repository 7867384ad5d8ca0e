import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import type { SandboxManager } from '../../src/index.js';
import { firstLine, killHard, startOtherManager } from '../fixtures/manager-process.js';
import { countProcesses, dockerClient, eventually, removeAll, sleep, testManager } from '../fixtures/run.js';

/* A lease is the sandbox's own: whether there is any manager makes no difference to when it ends. */
describe('the lease of a sandbox', () => {
  let manager: SandboxManager;
  beforeEach(async () => {
    manager = await testManager();
  });
  afterEach(() => removeAll(manager));

  /** Made by a manager that dies at once. */
  const orphan = async (options: object, command: string[] = []) => {
    const other = startOtherManager(manager.owner, '', 'create', JSON.stringify(options), ...command);
    const id = await firstLine(other);
    await killHard(other);
    return id;
  };
  const state = async (id: string) => (await dockerClient().getContainer(`sandyard-${id}`).inspect()).State;
  const ended = (id: string) =>
    eventually(async () => ((await state(id)).Running ? undefined : (await state(id)).ExitCode), { what: 'the end' });

  it('ends it when every manager was killed, and another removes it', async () => {
    const id = await orphan({ ttlMs: 3000 });
    expect((await state(id)).Running).toBe(true);
    expect(await ended(id)).toBe(90);
    expect(await manager.reap({ dryRun: true })).toEqual([{ id, reason: 'lease_expired', removed: false }]);
    expect(await manager.reap()).toEqual([{ id, reason: 'lease_expired', removed: true }]);
    await expect(manager.get(id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });

  it('ends it when it was idle, and not while a command runs', async () => {
    const idle = orphan({ idleTimeoutMs: 2000 });
    const busy = await orphan({ idleTimeoutMs: 2000 }, ['sleep 301']);
    expect(await ended(await idle)).toBe(91);
    await sleep(2500);
    expect((await state(busy)).Running).toBe(true);
    const sandbox = await manager.get(busy);
    expect(await countProcesses(sandbox, 'sleep 301')).toBeGreaterThan(0);
    for (const process of await sandbox.processes.list()) {
      if (process.state === 'running') await (await sandbox.processes.get(process.id)).kill('SIGKILL');
    }
    expect(await ended(busy)).toBe(91);
    const reaped = await manager.reap();
    expect(new Map(reaped.map(({ id, reason }) => [id, reason]))).toEqual(
      new Map([await idle, busy].map((id) => [id, 'idle'])),
    );
  });

  it('ends it though what runs in it ignores every signal', async () => {
    const sandbox = await manager.create({ ttlMs: 2000 });
    const process = await sandbox.spawn("trap '' TERM HUP INT; while :; do sleep 302; done", { whenUnread: 'run' });
    expect(await process.wait()).toMatchObject({ outcome: 'sandbox_died' });
    expect(await ended(sandbox.id)).toBe(90);
  });

  it('is renewed for good: over a stop and a start, and the end of the manager that did it', async () => {
    const id = await orphan({ ttlMs: 4000 });
    const own = await testManager({ owner: manager.owner });
    await own.renew(id, { ttlMs: 3_600_000 });
    await own.stop(id);
    await own.close();
    const { state: now, expiresAt } = await manager.start(id);
    expect(now).toBe('running');
    expect(expiresAt.getTime()).toBeGreaterThan(Date.now() + 3_500_000);
    await sleep(4000);
    expect((await manager.inspect(id)).state).toBe('running');
  });

  it('goes on while it is stopped', async () => {
    const sandbox = await manager.create({ ttlMs: 1500 });
    await sandbox.stop();
    expect(await ended(sandbox.id)).not.toBe(90);
    await sleep(1600);
    await sandbox.start().catch(() => {}); // it may have ended again before it was looked at
    await eventually(async () => ((await state(sandbox.id)).ExitCode === 90 ? true : undefined), { what: 'the end' });
  });

  it('is shortened, too', async () => {
    const sandbox = await manager.create();
    await sandbox.renew({ ttlMs: 1000 });
    expect(await ended(sandbox.id)).toBe(90);
  });
});
