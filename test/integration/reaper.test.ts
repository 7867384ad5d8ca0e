import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';

import { readEngineEnvironment } from '../../src/config.js';
import { EngineClock } from '../../src/record/engine-clock.js';
import { DockerEngine } from '../../src/engine/docker-engine.js';
import { SandboxManager } from '../../src/index.js';
import { SandboxSockets } from '../../src/sandbox-sockets.js';
import { silentLog } from '../../src/log.js';
import { removeOrphans } from '../../src/fleet/orphans.js';
import { toLabels } from '../../src/record/record.js';
import { silentTelemetry } from '../../src/telemetry.js';
import {
  dockerClient,
  eventually,
  IMAGE,
  newOwner,
  removeAll,
  RUN_LABELS,
  RUN_SUFFIX,
  sleep,
  testManager,
} from '../fixtures/run.js';

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
    expect((await other.prune()).sandboxes).toEqual([]);
    await other.close();
    expect(await remaining()).toEqual([sandbox.id]);
  });

  it('only tells in a dry run', async () => {
    const sandbox = await manager.create({ ttlMs: 1000 });
    await sleep(2100);
    const expired = { id: sandbox.id, reason: 'lease_expired' };
    expect((await manager.prune({ dryRun: true })).sandboxes).toEqual([{ ...expired, action: 'none' }]);
    expect(await remaining()).toEqual([sandbox.id]);
    expect((await manager.prune()).sandboxes).toEqual([{ ...expired, action: 'removed' }]);
    expect(await remaining()).toEqual([]);
  });

  it('removes what is idle, and not what is used', async () => {
    const idle = await manager.create({ idleTimeoutMs: 2000 });
    const busy = await manager.create({ idleTimeoutMs: 2000 });
    const running = await busy.spawn(['sleep', '30']);
    await sleep(3600);
    expect((await manager.prune()).sandboxes).toEqual([{ id: idle.id, reason: 'idle', action: 'removed' }]);
    await running.kill('SIGKILL');
    await running.wait();
    await sleep(1000); // the end counts as activity, too
    expect((await manager.prune()).sandboxes).toEqual([]);
    await sleep(2600);
    expect((await manager.prune()).sandboxes).toEqual([{ id: busy.id, reason: 'idle', action: 'removed' }]);
  });

  it('removes what stopped long ago', async () => {
    const own = await testManager({ owner: manager.owner, limits: { stoppedRetentionMs: 1000 } });
    const stopped = await own.create();
    const fresh = await own.create();
    await stopped.stop();
    await sleep(1100);
    await fresh.stop();
    const reaped = [{ id: stopped.id, reason: 'stopped_too_long', action: 'removed' }];
    expect((await own.prune()).sandboxes).toEqual(reaped);
    await own.close();
  });

  it('keeps what is to be stopped when its lease ends', async () => {
    const sandbox = await manager.create({ ttlMs: 1000, onExpiry: 'stop' });
    await eventually(async () => ((await sandbox.inspect()).state === 'exited' ? true : undefined));
    expect((await manager.prune()).sandboxes).toEqual([]);
    expect(await remaining()).toEqual([sandbox.id]);
  });

  it('pauses what is to be paused when its lease ends, and keeps it', async () => {
    const sandbox = await manager.create({ ttlMs: 1000, onExpiry: 'pause' });
    await sleep(2500);
    const paused = [{ id: sandbox.id, reason: 'lease_expired', action: 'paused' }];
    expect((await manager.prune()).sandboxes).toEqual(paused);
    expect((await sandbox.inspect()).state).toBe('paused');
    expect((await manager.prune()).sandboxes).toEqual([]);
  });
});

describe('what a manager that died has left', () => {
  const TRAITS = {
    limits: { memoryBytes: 1, cpus: 1, pids: 1, nofile: 1, diskBytes: null, inodes: null },
    disk: 'none',
    network: 'none',
    secrets: {},
    workdir: '/workspace',
    user: 'sandbox',
    ttlMs: 3_600_000,
    idleTimeoutMs: null,
    onExpiry: 'destroy',
    wakeOnUse: false,
    runtime: null,
    profile: 'standard',
    metadata: {},
  } as const;
  const docker = dockerClient();

  interface Left {
    readonly owner?: string;
    readonly name?: string;
    readonly labels?: Record<string, string>;
    /** What its PID 1 ends with; it isn't started without. */
    readonly exitCode?: number;
    readonly volume?: string;
  }

  /** A container as a manager makes it, without a warden; `Created` is the engine's doing. */
  async function leave(id: string, { owner = '', name, labels, exitCode, volume }: Left): Promise<string> {
    const about = { id, owner, projectName: undefined, createdAt: new Date(0), maxLifetimeMs: 86_400_000 };
    const container = await docker.createContainer({
      name: name ?? `sandyard-${id}`,
      Image: IMAGE,
      Entrypoint: ['sh', '-c', `exit ${exitCode}`],
      Labels: { ...(labels ?? toLabels(TRAITS, about)), ...RUN_LABELS },
      HostConfig: {
        NetworkMode: 'none',
        ...(volume === undefined ? {} : { Mounts: [{ Type: 'volume', Source: volume, Target: '/mnt' }] }),
      },
    });
    onTestFinished(() => container.remove({ force: true }).catch(() => {}));
    if (exitCode === undefined) return container.id;
    await container.start();
    await container.wait();
    return container.id;
  }

  const isThere = (id: string) =>
    docker
      .getContainer(id)
      .inspect()
      .then(() => true)
      .catch(() => false);

  it('is removed when it is provably that, and nothing of anybody else', async () => {
    const owner = newOwner();
    // Not opened: it goes by a list of its own.
    const manager = new SandboxManager({ image: IMAGE, owner, reaper: { halfCreatedAfterMs: 2000 }, pool: [] });
    onTestFinished(() => manager.close());
    const half = await leave(`half${RUN_SUFFIX}`, { owner });
    const never = await leave(`never${RUN_SUFFIX}`, { owner, exitCode: 94 });
    const others = [
      await leave(`stopped${RUN_SUFFIX}`, { owner, exitCode: 0 }),
      await leave(`other${RUN_SUFFIX}`, { owner: newOwner(), exitCode: 94 }),
      await leave(`otherhalf${RUN_SUFFIX}`, { owner: newOwner() }),
      await leave(`foreign${RUN_SUFFIX}`, { labels: {}, exitCode: 94 }),
      await leave(`imitation${RUN_SUFFIX}`, { labels: { 'sandyard.managed': '1', 'sandyard.owner': owner } }),
      await leave(`renamed${RUN_SUFFIX}`, { owner, name: `mine-now-${RUN_SUFFIX}`, exitCode: 94 }),
    ];
    await sleep(3100);
    const young = await leave(`young${RUN_SUFFIX}`, { owner });
    const { sandboxes } = await manager.prune();
    expect(sandboxes.toSorted((a, b) => a.id.localeCompare(b.id))).toEqual([
      { id: `half${RUN_SUFFIX}`, reason: 'half_created', action: 'removed' },
      { id: `never${RUN_SUFFIX}`, reason: 'half_created', action: 'removed' },
    ]);
    expect(await Promise.all([half, never].map(isThere))).toEqual([false, false]);
    expect(await Promise.all([...others, young].map(isThere))).toEqual([...others, young].map(() => true));
  });

  it('are volumes and networks, too: in use or young ones stay', async () => {
    const owner = newOwner();
    const engine = new DockerEngine({ env: readEngineEnvironment() });
    onTestFinished(() => engine.close());
    const ours = {
      ...toLabels(TRAITS, { id: 'gone', owner, projectName: undefined, createdAt: new Date(0), maxLifetimeMs: 1 }),
    };
    const name = (what: string) => `sandyard-test-${what}-${RUN_SUFFIX}`;
    for (const what of ['orphan', 'used']) {
      await docker.createVolume({ Name: name(what), Labels: { ...ours, ...RUN_LABELS } });
      onTestFinished(() =>
        docker
          .getVolume(name(what))
          .remove()
          .catch(() => {}),
      );
    }
    await docker.createVolume({ Name: name('foreign'), Labels: RUN_LABELS });
    onTestFinished(() => docker.getVolume(name('foreign')).remove());
    const network = await docker.createNetwork({
      Name: name('net'),
      Internal: true,
      Labels: { ...ours, ...RUN_LABELS },
    });
    onTestFinished(() => network.remove().catch(() => {}));
    await leave(`user${RUN_SUFFIX}`, { owner: newOwner(), volume: name('used') });
    const forAMoment = await leave(`fill${RUN_SUFFIX}`, {
      labels: { 'sandyard.temporary': '1' },
      volume: name('orphan'),
    });

    const clock = new EngineClock();
    const info = await engine.info();
    const { systemTime } = info;
    clock.see(systemTime);
    const parts = { engine, clock, log: silentLog, telemetry: silentTelemetry, owner, sockets: SandboxSockets.none };
    expect(await removeOrphans(parts)).toEqual([]); // they are young
    expect(await isThere(forAMoment)).toBe(true);
    const later = new Date(systemTime.getTime() + 11 * 60_000);
    clock.see(later);
    vi.spyOn(engine, 'info').mockImplementation(async () => ({ ...info, systemTime: later }));
    const orphans = (await removeOrphans(parts)).filter((found) => found.name.endsWith(RUN_SUFFIX));
    expect(orphans).toEqual([
      { kind: 'volume', name: name('orphan'), reason: 'sandbox_gone', removed: true },
      { kind: 'network', name: name('net'), reason: 'sandbox_gone', removed: true },
    ]);
    const { Volumes } = await docker.listVolumes({ filters: { name: ['sandyard-test-'] } });
    const left = Volumes.map(({ Name }) => Name).filter((found) => found.endsWith(RUN_SUFFIX));
    expect(left.toSorted()).toEqual([name('foreign'), name('used')]);
    expect(await isThere(forAMoment)).toBe(false);
  });
});
