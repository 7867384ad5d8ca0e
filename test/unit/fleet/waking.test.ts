import { describe, expect, it, vi } from 'vitest';

import { SandboxConnections } from '../../../src/connections.js';
import { LifecycleEvents } from '../../../src/fleet/lifecycle.js';
import { Records } from '../../../src/fleet/records.js';
import { Waking } from '../../../src/fleet/waking.js';
import { settleable } from '../../../src/settleable.js';
import type { FakeContainer } from '../../fixtures/fake-engine.js';
import { makeFleet, plant, recordOf, settle, type Planted } from '../../fixtures/fake-fleet.js';

function world(given: Planted = {}) {
  const fleet = makeFleet();
  const { engine } = fleet;
  const lifecycle = new LifecycleEvents();
  const connections = new SandboxConnections(engine, (one) => waking.wake(one));
  const records = new Records({ ...fleet, connections });
  const waking = new Waking({ ...fleet, records, lifecycle });
  const container = plant(engine, 'a', { ...given, traits: { wakeOnUse: true, onExpiry: 'pause', ...given.traits } });
  return { ...fleet, connections, records, waking, container, record: recordOf(container), lifecycle };
}

const ended = ({ warden }: FakeContainer, by = 1000) => {
  warden.record.leaseEndsAt = Date.now() - by;
};

describe('wakes', () => {
  it.each<[string, Planted, leftMs: number, woken: boolean, calls: string]>([
    ['stopped by its lease', { state: 'exited', exitCode: 90 }, -1, true, 'startContainer'],
    ['stopped by its idle timeout', { state: 'exited', exitCode: 91 }, 1000, true, 'startContainer'],
    ['stopped by somebody', { state: 'exited', exitCode: 137 }, -1, false, ''],
    ['ended by itself', { state: 'exited', exitCode: 0 }, -1, false, ''],
    ['never given out', { state: 'exited', exitCode: 94 }, -1, false, ''],
    ['paused by its lease', { state: 'paused' }, -1, true, 'unpauseContainer'],
    ['paused by somebody', { state: 'paused' }, 60_000, false, ''],
    ['not started yet', { state: 'created' }, -1, false, ''],
    ['running after all', {}, -1, true, ''],
    ['not to be woken', { state: 'exited', exitCode: 90, traits: { wakeOnUse: false } }, -1, false, ''],
  ])('one that is %s: %j, %d ms before its end: %s', async (_, given, leftMs, woken, calls) => {
    const { waking, record, container, engine } = world(given);
    ended(container, -leftMs);
    expect(await waking.wake(record)).toBe(woken);
    await settle();
    const changes = engine.calls.map(({ method }) => method).filter((method) => /^(start|unpause)/.test(method));
    expect(changes.join()).toBe(calls);
  });

  it('judges by the engine’s clock', async () => {
    const { waking, record, container, clock, engine } = world({ state: 'paused' });
    ended(container, -3_600_000);
    expect(await waking.wake(record)).toBe(false);
    engine.clockOffsetMs = 2 * 3_600_000;
    clock.see(engine.now());
    expect(await waking.wake(record)).toBe(true);
    await settle();
  });

  it('once for all that come meanwhile, and again when it has failed', async () => {
    const { waking, record, engine } = world({ state: 'exited', exitCode: 90 });
    const started = settleable<void>();
    engine.before.startContainer = () => started.promise;
    const waking1 = waking.wake(record).catch((error: unknown) => error);
    const waking2 = waking.wake(record).catch((error: unknown) => error);
    await settle();
    started.reject(new Error('no'));
    expect([await waking1, await waking2]).toMatchObject([{ message: 'no' }, { message: 'no' }]);
    engine.before = {};
    expect(await waking.wake(record)).toBe(true);
    expect(engine.count('startContainer')).toBe(2);
  });

  it('tells why, and of a lease that can not be had', async () => {
    const { waking, record, container, lifecycle, log } = world({ state: 'paused' });
    const intend = vi.spyOn(lifecycle, 'intend');
    ended(container);
    container.warden.refusal = new Error('no way');
    await waking.wake(record);
    expect(intend.mock.calls).toEqual([['a', 'woken', ['unpaused']]]);
    await vi.waitFor(() => expect(log.warn).toHaveBeenCalledOnce(), 8000);
  });
});

describe('a use', () => {
  it('wakes it and gives it a new lease, and reaches it', async () => {
    const { connections, record, container } = world({ state: 'paused' });
    const { record: kept } = container.warden;
    kept.renewMs = 60_000;
    kept.expire();
    await settle();
    const held = connections.use(record);
    expect((await held.channel.usage()).processes).toBe(3);
    await settle();
    expect(container.state).toBe('running');
    expect((kept.leaseEndsAt ?? 0) - Date.now()).toBeGreaterThan(50_000);
    held.release();
  });

  it('that is over long since does not keep it awake', async () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    const { connections, record, container, engine } = world();
    const held = connections.use(record);
    const process = held.channel.spawn(
      { id: 'p', argv: ['sleep', 'infinity'], cwd: '/', env: [], uid: 1, gid: 1, graceMs: 1 },
      {},
    );
    process.exit.catch(() => {});
    await process.started;
    vi.advanceTimersByTime(60_000);
    container.warden.record.expire();
    await engine.pauseContainer(container.id);
    connections.cut('a');
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(engine.count('openTunnel')).toBeGreaterThan(1);
    expect(container.state).toBe('paused');
    const fresh = connections.use(record);
    void fresh.channel.usage().catch(() => {});
    await vi.waitFor(() => expect(container.state).toBe('running'), 4000);
    connections.destroyed('a');
    vi.useRealTimers();
  });

  it('that is over does not have a look wake it', async () => {
    const { connections, record, container, engine } = world();
    const held = connections.use(record);
    await held.channel.usage();
    held.release();
    held.release();
    container.warden.record.expire();
    await engine.pauseContainer(container.id);
    connections.cut('a');
    await expect(connections.hold(record).channel.usage()).rejects.toMatchObject({ code: 'wrong_state' });
    expect(container.state).toBe('paused');
  });

  it('gets in, too, by an attempt that began while it was paused, once it runs again', async () => {
    const { connections, record, container, engine } = world({ traits: { wakeOnUse: false } });
    await engine.pauseContainer(container.id);
    const tried = settleable<void>();
    engine.before.inspectContainer = async () => {
      tried.resolve();
      await engine.unpauseContainer(container.id);
    };
    const early = connections.hold(record).channel.usage();
    await tried.promise;
    const later = connections.hold(record).channel.usage();
    expect(await Promise.all([early, later])).toMatchObject([{ processes: 3 }, { processes: 3 }]);
    expect(engine.count('openTunnel')).toBe(2);
  });

  it('gets in also where the attempt that it comes to has found it paused, and it runs by then', async () => {
    const { connections, record, container, engine } = world({ traits: { wakeOnUse: false } });
    await engine.pauseContainer(container.id);
    const [found, told] = [settleable<void>(), settleable<void>()];
    engine.after.inspectContainer = () => {
      found.resolve();
      return told.promise;
    };
    const early = connections.hold(record).channel.usage();
    await found.promise;
    await engine.unpauseContainer(container.id);
    const later = connections.use(record).channel.usage();
    told.resolve();
    expect(await Promise.all([early, later])).toMatchObject([{ processes: 3 }, { processes: 3 }]);
  });

  it('is told that it is paused, however many come meanwhile', async () => {
    const { connections, record, container, engine } = world({ traits: { wakeOnUse: false } });
    await engine.pauseContainer(container.id);
    const later: Promise<unknown>[] = [];
    const refused = { code: 'wrong_state' };
    engine.before.inspectContainer = () => {
      later.push(expect(connections.use(record).channel.usage()).rejects.toMatchObject(refused));
    };
    await expect(connections.use(record).channel.usage()).rejects.toMatchObject(refused);
    await Promise.all(later);
    expect(later.length).toBe(3);
  });

  it('wakes it also where it comes to an attempt of one that only looks', async () => {
    const { connections, record, container, engine } = world({ state: 'paused' });
    container.warden.record.expire();
    const [tried, judged] = [settleable<void>(), settleable<void>()];
    engine.before.inspectContainer = () => {
      tried.resolve();
      return judged.promise;
    };
    const look = connections.hold(record).channel.usage();
    await tried.promise;
    const use = connections.use(record).channel.usage();
    judged.resolve();
    expect(await Promise.all([look, use])).toMatchObject([{ processes: 3 }, { processes: 3 }]);
    expect(container.state).toBe('running');
  });

  it('is none where somebody only looks', async () => {
    const { connections, record, container } = world({ state: 'paused' });
    container.warden.record.expire();
    const held = connections.hold(record);
    await expect(held.channel.usage()).rejects.toMatchObject({ code: 'wrong_state' });
    expect(container.state).toBe('paused');
  });
});
