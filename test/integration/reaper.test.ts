import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import type { SandboxManager } from '../../src/index.js';
import { dockerClient, eventually, IMAGE, removeAll, RUN_SUFFIX, sleep, testManager } from '../fixtures/run.js';

describe('the reaper', () => {
  let manager: SandboxManager;
  beforeEach(async () => {
    manager = await testManager({ reaper: false });
  });
  afterEach(() => removeAll(manager));

  const remaining = async () => (await manager.list()).sandboxes.map(({ id }) => id);

  it('removes a sandbox whose lease has run out, by its schedule', async () => {
    const short = await manager.create({ ttlMs: 1500 });
    const long = await manager.create();
    const reaping = await testManager({ owner: manager.owner, reaper: { schedule: '* * * * * *' } });
    try {
      await eventually(async () => ((await remaining()).includes(short.id) ? undefined : true));
      expect(await remaining()).toEqual([long.id]);
    } finally {
      await reaping.close();
    }
  });

  it('goes by the lease that another manager has renewed', async () => {
    const sandbox = await manager.create({ ttlMs: 1000 });
    await sandbox.renew({ ttlMs: 3_600_000 });
    await sleep(1100);
    const other = await testManager({ owner: manager.owner });
    expect(await other.reap()).toEqual([]);
    await other.close();
    expect(await remaining()).toEqual([sandbox.id]);
  });

  it('only tells in a dry run', async () => {
    const sandbox = await manager.create({ ttlMs: 1000 });
    await sleep(1100);
    expect(await manager.reap({ dryRun: true })).toEqual([{ id: sandbox.id, reason: 'lease_expired', removed: false }]);
    expect(await remaining()).toEqual([sandbox.id]);
    expect(await manager.reap()).toEqual([{ id: sandbox.id, reason: 'lease_expired', removed: true }]);
    expect(await remaining()).toEqual([]);
  });

  it('removes what is idle, and not what is used', async () => {
    const idle = await manager.create({ idleTimeoutMs: 2000 });
    const busy = await manager.create({ idleTimeoutMs: 2000 });
    const running = await busy.spawn(['sleep', '30']);
    await sleep(2600);
    expect(await manager.reap()).toEqual([{ id: idle.id, reason: 'idle', removed: true }]);
    await running.kill('SIGKILL');
    await running.wait();
    await sleep(1000); // the end counts as activity, too
    expect(await manager.reap()).toEqual([]);
    await sleep(2600);
    expect(await manager.reap()).toEqual([{ id: busy.id, reason: 'idle', removed: true }]);
  });

  it('removes what stopped long ago', async () => {
    const own = await testManager({ owner: manager.owner, limits: { stoppedRetentionMs: 1000 } });
    const stopped = await own.create();
    const fresh = await own.create();
    await stopped.stop();
    await sleep(1100);
    await fresh.stop();
    expect(await own.reap()).toEqual([{ id: stopped.id, reason: 'stopped_too_long', removed: true }]);
    await own.close();
  });

  it('removes what a manager that died has left half-made, when it opens', async () => {
    const sample = await manager.create();
    const docker = dockerClient();
    const { Config } = await docker.getContainer(`sandyard-${sample.id}`).inspect();
    const halfMade = (id: string, createdAt: Date) =>
      docker.createContainer({
        name: `sandyard-${id}`,
        Image: IMAGE,
        Labels: { ...Config.Labels, 'sandyard.id': id, 'sandyard.created-at': createdAt.toISOString() },
      });
    await halfMade(`halfmadeold${RUN_SUFFIX}`, new Date(Date.now() - 3_600_000));
    await halfMade(`halfmadenew${RUN_SUFFIX}`, new Date());
    const opened = await testManager({ owner: manager.owner });
    expect((await remaining()).toSorted()).toEqual([`halfmadenew${RUN_SUFFIX}`, sample.id].toSorted());
    await opened.close();
  });
});
