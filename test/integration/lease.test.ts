import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import type { SandboxManager } from '../../src/index.js';
import { firstLine, killHard, startOtherManager } from '../fixtures/manager-process.js';
import { countProcesses, dockerClient, eventually, removeAll, RUNTIMES, sleep, testManager } from '../fixtures/run.js';
import { WardenContainer } from '../fixtures/warden-container.js';

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
    expect((await manager.prune({ dryRun: true })).sandboxes).toEqual([
      { id, reason: 'lease_expired', action: 'none' },
    ]);
    expect((await manager.prune()).sandboxes).toEqual([{ id, reason: 'lease_expired', action: 'removed' }]);
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
    const { sandboxes: reaped } = await manager.prune();
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

/* What the warden does by itself: no manager has a part in it but by its record. */
describe.each(RUNTIMES)('the record of a sandbox of %s', (runtime) => {
  const start = (...args: string[]) => WardenContainer.start(runtime, args);
  const LONG = 600_000;

  it.concurrent('gives it no more than the time to be set up, until somebody takes it', async () => {
    await using left = await start('--setup-ms=2500', '--ttl-ms=600000', '--idle-ms=500', '--on-expiry=pause');
    await using taken = await start('--setup-ms=2500', '--ttl-ms=600000');
    const channel = taken.channel();
    const before = await channel.record();
    expect(before).toMatchObject({ version: 1n, renewMs: LONG, onExpiry: 'destroy', taken: false });
    expect(before.leaseLeftMs).toBeLessThanOrEqual(2500);
    expect(await channel.setRecord({ blob: Buffer.from('x') })).toMatchObject({ taken: false });
    expect(await channel.setRecord({ ttlMs: LONG })).toMatchObject({ version: 3n, taken: true });
    expect(await left.ended()).toBe(94);
    await sleep(1000);
    expect(await taken.isRunning()).toBe(true);
  });

  it.concurrent('gives it that time again when it is started again before that', async () => {
    await using sandbox = await start('--setup-ms=8000');
    await sandbox.channel().record(); // its container runs before the warden has written one
    await sandbox.container.kill();
    expect(await sandbox.recordFile()).toMatchObject({ version: 1n, taken: false });
    await sleep(2000);
    await sandbox.container.start();
    const record = await sandbox.channel().record();
    expect(record).toMatchObject({ version: 1n, taken: false });
    expect(record.leaseLeftMs).toBeGreaterThan(6500);
    expect(await sandbox.ended()).toBe(94);
  });

  it.concurrent.each([
    ['destroy', 90],
    ['stop', undefined],
    ['pause', undefined],
  ] as const)('is started after its lease ended, and on expiry says %s', async (onExpiry, code) => {
    await using sandbox = await start('--setup-ms=60000');
    await sandbox.channel().setRecord({ ttlMs: 1000, renewMs: LONG, onExpiry });
    await sandbox.container.kill();
    await sleep(1500);
    await sandbox.container.start();
    if (code !== undefined) {
      expect(await sandbox.ended()).toBe(code);
      return;
    }
    const record = await sandbox.channel().record();
    expect(record).toMatchObject({ version: 2n, renewMs: LONG, onExpiry, taken: true });
    expect(record.leaseLeftMs).toBeGreaterThan(LONG - 20_000);
    expect((await sandbox.recordFile()).leaseEndsAt?.getTime()).toBeGreaterThan(Date.now() + LONG - 20_000);
  });

  it.concurrent('lets no lease go beyond its longest lifetime, which ends it whatever it says', async () => {
    await using sandbox = await start('--setup-ms=60000', '--on-expiry=pause', '--last-ms=30000');
    const channel = sandbox.channel();
    const taken = await channel.setRecord({ ttlMs: LONG, renewMs: LONG });
    expect(taken.leaseLeftMs).toBe(taken.lastLeftMs);
    expect(taken.lastLeftMs).toBeLessThanOrEqual(30_000);
    expect((await channel.setRecord({ lastMs: 3000 })).leaseLeftMs).toBeLessThanOrEqual(3000);
    expect((await channel.setRecord({ ttlMs: LONG })).leaseLeftMs).toBeLessThanOrEqual(3000);
    expect(await sandbox.ended()).toBe(90);
    await sandbox.container.start();
    expect(await sandbox.ended()).toBe(90);
  });

  it.concurrent('waits to be paused when its lease has ended, and then ends', async () => {
    await using sandbox = await start('--on-expiry=pause', '--expiry-grace-ms=4000');
    const channel = sandbox.channel();
    const { version } = await channel.setRecord({ ttlMs: 1000 });
    await sleep(1500);
    expect(await channel.record()).toMatchObject({ version, leaseLeftMs: 0, taken: true });
    await expect(channel.setRecord({ ttlMs: LONG })).rejects.toMatchObject({ errno: 62 });
    expect(await channel.setRecord({ blob: Buffer.from('x') })).toMatchObject({ leaseLeftMs: 0 });
    expect(await sandbox.ended()).toBe(90);
  });

  it.concurrent('is idle, waits to be paused, and goes on when its lease is renewed', async () => {
    await using sandbox = await start(
      '--ttl-ms=600000',
      '--idle-ms=1500',
      '--on-expiry=pause',
      '--expiry-grace-ms=4000',
    );
    const channel = sandbox.channel();
    await sleep(2500);
    const { version, leaseLeftMs } = await channel.record();
    expect(leaseLeftMs).toBe(0);
    expect((await sandbox.recordFile()).leaseEndsAt?.getTime()).toBeLessThanOrEqual(Date.now());
    expect(await channel.setRecord({ version, ttlMs: LONG, idleMs: 5000 })).toMatchObject({ version: version + 1n });
    await sleep(4500);
    expect(await sandbox.isRunning()).toBe(true);
    expect(await sandbox.ended()).toBe(91);
  });

  it.concurrent('is idle from when its last process ended', async () => {
    await using sandbox = await start('--idle-ms=6000');
    const ids = { cwd: '/', env: [], uid: 1000, gid: 1000, graceMs: 100 };
    await sandbox.channel().spawn({ id: 'a', argv: ['sleep', '8'], ...ids }).exit;
    await sleep(2000);
    expect(await sandbox.isRunning()).toBe(true);
    expect(await sandbox.ended()).toBe(91);
  });

  it.concurrent("isn't idle because it was paused", async () => {
    await using sandbox = await start('--idle-ms=4000');
    await sandbox.container.pause();
    await sleep(7000);
    await sandbox.container.unpause();
    await sleep(2000);
    expect(await sandbox.isRunning()).toBe(true);
    expect(await sandbox.ended()).toBe(91);
  });

  it.concurrent('has the time to be renewed that it had when it was paused', async () => {
    await using sandbox = await start('--on-expiry=pause', '--expiry-grace-ms=4000');
    const { version } = await sandbox.channel().setRecord({ ttlMs: 1000 });
    await sleep(1500);
    await sandbox.container.pause();
    const file = await sandbox.recordFile();
    expect(file).toMatchObject({ version, onExpiry: 'pause' });
    expect(file.leaseEndsAt?.getTime()).toBeLessThanOrEqual(Date.now());
    await sleep(6000);
    await sandbox.container.unpause();
    const channel = sandbox.channel();
    await expect(channel.setRecord({ ttlMs: LONG })).rejects.toMatchObject({ errno: 62 });
    expect((await channel.setRecord({ version, ttlMs: LONG })).leaseLeftMs).toBeGreaterThan(LONG - 1000);
    await sleep(4500);
    expect(await sandbox.isRunning()).toBe(true);
  });

  it.concurrent('is on disk before it is answered for', async () => {
    await using sandbox = await start('--setup-ms=60000');
    // As a link where it is short enough, and as the one after the other.
    for (const [round, length] of [0, 6000, 30_000, 2000, 2100, 2300, 32_768, 1].entries()) {
      const blob = Buffer.alloc(length, round);
      const { version } = await sandbox.channel().setRecord({ ttlMs: LONG, lastMs: 2 * LONG, onExpiry: 'stop', blob });
      await sandbox.container.kill();
      const file = await sandbox.recordFile();
      expect({ ...file, blob: Buffer.compare(file.blob, blob) }).toMatchObject({
        version,
        taken: true,
        blob: 0,
        isLink: length <= 2100,
      });
      expect(file.leaseEndsAt?.getTime()).toBeGreaterThan(Date.now() + LONG - 60_000);
      await sandbox.container.start();
      expect(await sandbox.channel().record()).toMatchObject({ version, onExpiry: 'stop', taken: true });
    }
  });

  it.concurrent(
    'is begun anew where it is damaged, and the sandbox is not taken for one that nobody has used',
    async () => {
      await using sandbox = await start('--setup-ms=2000', '--ttl-ms=600000', '--on-expiry=stop');
      await sandbox.channel().setRecord({ ttlMs: LONG, blob: Buffer.from('x') });
      await sandbox.container.kill();
      await sandbox.spoilRecord();
      await sandbox.container.start();
      const record = await sandbox.channel().record();
      expect(record).toMatchObject({ renewMs: LONG, onExpiry: 'stop', taken: true, blob: Buffer.alloc(0) });
      expect(record.leaseLeftMs).toBeGreaterThan(LONG - 30_000);
      expect(record.version).toBeGreaterThan(1_000_000n);
    },
  );

  it.concurrent('is taken by exactly one of two at once', async () => {
    await using sandbox = await start();
    const channels = [sandbox.channel(), sandbox.channel()];
    const witness = sandbox.channel();
    let { version } = await witness.record();
    await Promise.all(channels.map((channel) => channel.open()));
    for (let round = 0; round < 50; round++) {
      const claims = channels.map((channel, index) =>
        channel.setRecord({ version, ttlMs: LONG, blob: Buffer.of(index) }),
      );
      const results = await Promise.allSettled(claims);
      const won = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
      const lost = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
      expect(lost).toEqual([expect.objectContaining({ name: 'RemoteError', errno: 11 })]);
      expect(won).toHaveLength(1);
      expect(await witness.record()).toMatchObject({ version: won[0]?.version, blob: won[0]?.blob });
      version = won[0]?.version ?? 0n;
    }
  });

  it.concurrent('refuses what can be no record', async () => {
    await using sandbox = await start();
    const channel = sandbox.channel();
    const { version } = await channel.record();
    for (const change of [{ ttlMs: -2 }, { renewMs: -5 }, { blob: Buffer.alloc(32 * 1024 + 1) }]) {
      await expect(channel.setRecord(change)).rejects.toMatchObject({ errno: 22 });
    }
    expect((await channel.setRecord({ ttlMs: Number.MAX_VALUE })).leaseLeftMs).toBeGreaterThan(9e14);
    expect((await channel.record()).version).toBe(version + 1n);
    await using never = await start('--on-expiry=never');
    await using unclear = await start('--ttl-ms=1h');
    expect([await never.ended(), await unclear.ended()]).toEqual([93, 93]);
  });

  it.concurrent('tells what it uses, and what it used', async () => {
    await using sandbox = await start();
    const channel = sandbox.channel();
    const { machineAvailableBytes, diskFreeBytes } = await channel.usage();
    expect(machineAvailableBytes).toBeGreaterThan(2 ** 20);
    expect(diskFreeBytes).toBeGreaterThan(2 ** 20);
    const samples = await eventually(
      async () => {
        const found = await channel.usageHistory();
        return found.length < 2 ? undefined : found;
      },
      { everyMs: 1000, what: 'the second sample' },
    );
    const [first, second] = samples;
    expect((second?.at.getTime() ?? 0) - (first?.at.getTime() ?? 0)).toBeGreaterThan(9000);
    expect(Math.abs(Date.now() - (second?.at.getTime() ?? 0))).toBeLessThan(60_000);
    expect(first?.memoryBytes).toBeGreaterThan(0);
    expect(first?.processes).toBeGreaterThan(0);
  });
});
