import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { FrameType } from '../../../src/channel/wire.js';
import { currentContext, withContext, type CallContext } from '../../../src/context.js';
import { SandyardError } from '../../../src/errors.js';
import type { PoolKind } from '../../../src/create/filling.js';
import { Pool, POOL_LEASE_MS } from '../../../src/create/pool.js';
import { containerName, decodeClaim, DISCARDED, poolName, type SandboxRecord } from '../../../src/record/record.js';
import { settleable } from '../../../src/settleable.js';
import { FakeEngine, type FakeContainer } from '../../fixtures/fake-engine.js';
import { claimOf, HOUR, makeFleet, plant, recordOf, settle } from '../../fixtures/fake-fleet.js';
import { answer } from '../../fixtures/warden-wire.js';

const unhandled: unknown[] = [];
const onUnhandled = (reason: unknown) => unhandled.push(reason);
const closings: (() => Promise<void>)[] = [];

beforeEach(() => {
  process.on('unhandledRejection', onUnhandled);
  vi.useFakeTimers({
    toFake: ['Date', 'performance', 'setInterval', 'clearInterval', 'setTimeout', 'clearTimeout'],
  });
});
afterEach(async () => {
  const closed = Promise.all(closings.splice(0).map((close) => close()));
  for (let step = 0; step < 4; step += 1) {
    await settle(5);
    vi.advanceTimersByTime(3000);
  }
  await closed;
  vi.useRealTimers();
  process.off('unhandledRejection', onUnhandled);
  expect(unhandled.splice(0)).toEqual([]);
});

async function pass(ms: number): Promise<void> {
  await settle();
  vi.advanceTimersByTime(ms);
  await settle();
}

let made = 0;

/** A manager's pool. Several share an engine. */
async function open({ engine = new FakeEngine(), kinds = [{ key: 'k', min: 0, max: 0 }] as PoolKind[] } = {}) {
  const fleet = makeFleet({ engine });
  const contexts: CallContext[] = [];
  const parts = {
    ...fleet,
    telemetry: { claim: vi.fn() } as never,
    look: vi.fn((record: SandboxRecord) => fleet.records.look(record)),
    kinds: vi.fn(() => {
      contexts.push(currentContext());
      return Promise.resolve(kinds as readonly PoolKind[]);
    }),
    make: vi.fn(async ({ key }: PoolKind, _signal: AbortSignal): Promise<SandboxRecord | undefined> => {
      made += 1;
      const record = recordOf(plant(engine, `made${made}`, { pool: key, traits: { ttlMs: POOL_LEASE_MS } }));
      const held = fleet.connections.hold(record);
      await held.channel.open();
      held.release();
      return record;
    }),
    remove: vi.fn(({ containerId }: SandboxRecord) => engine.removeContainer(containerId)),
    claimed: vi.fn(),
    rename: vi.fn(({ containerId, name }: SandboxRecord) => engine.renameContainer(containerId, name)),
  };
  const claims = vi.fn<(result: string) => void>();
  const pool = new Pool({ ...parts, telemetry: { claim: claims } as never });
  closings.push(() => pool.close());
  await fleet.inventory.open();
  pool.start();
  await settle();
  return { ...fleet, ...parts, pool, claims, contexts };
}

/** One that other managers have had the time to make themselves a way into. */
const warm = (engine: FakeEngine, id: string, given = {}) =>
  plant(engine, id, { pool: 'k', traits: { ttlMs: POOL_LEASE_MS }, createdAt: new Date(Date.now() - 5000), ...given });
const young = (engine: FakeEngine, id: string) => warm(engine, id, { createdAt: new Date() });
const names = (engine: FakeEngine) => [...engine.containers.keys()].toSorted();

describe('a claim', () => {
  it('is written to the record, then answered, then the sandbox is renamed', async () => {
    const engine = new FakeEngine();
    const container = warm(engine, 'a');
    const { pool, rename, claimed, inventory, claims } = await open({ engine });
    const claim = claimOf();
    const given = await pool.claim('k', claim);
    const { token: _, ...visible } = claim;
    expect(given).toMatchObject({ id: 'a', warm: false, name: 'sandyard-a', ...visible });
    const { record } = container.warden;
    expect(decodeClaim(record.blob)).toEqual(claim);
    expect(record).toMatchObject({ idleMs: 60_000, renewMs: HOUR, onExpiry: 'stop', taken: true });
    expect([(record.leaseEndsAt ?? 0) - Date.now(), (record.lastEndsAt ?? 0) - Date.now()]).toEqual([HOUR, 2 * HOUR]);
    expect([rename.mock.calls.length, claimed.mock.calls, claims.mock.calls]).toEqual([0, [['a']], [['claimed']]]);
    expect(inventory.find('a')).toMatchObject({ warm: false, projectName: 'claimed' });
    expect(pool.ready).toBe(0);
    for (const ms of [5, 100]) await pass(ms);
    expect(rename).toHaveBeenCalledOnce();
    await pool.close();
    expect(rename).toHaveBeenCalledOnce();
  });

  it('is renamed when the pool is closed before that', async () => {
    const engine = new FakeEngine();
    warm(engine, 'a');
    const { pool } = await open({ engine });
    await pool.claim('k', claimOf());
    await pool.close();
    expect(names(engine)).toEqual(['sandyard-a']);
  });

  it('does without the name, which is told nobody', async () => {
    const engine = new FakeEngine();
    warm(engine, 'a');
    const { pool, rename, log } = await open({ engine });
    rename.mockRejectedValue(new SandyardError('name_conflict', 'Taken.'));
    expect(await pool.claim('k', claimOf())).toMatchObject({ id: 'a' });
    await settle();
    expect(log.warn).not.toHaveBeenCalled();
  });

  it.each([
    ['of another kind', { pool: 'other' }],
    ['that does not run', { state: 'exited' as const }],
    ['that is paused', { state: 'paused' as const }],
    ['of another owner', { owner: 'you' }],
    ['that its maker is still at', { taken: false }],
    ['that was claimed', { claim: claimOf() }],
    ['that is for a caller', { pool: undefined }],
  ])('finds none %s', async (_, given) => {
    const engine = new FakeEngine();
    warm(engine, 'a', given);
    const { pool, claims } = await open({ engine });
    expect(await pool.claim('k', claimOf())).toBeUndefined();
    expect(claims.mock.calls).toEqual([['empty']]);
  });

  it('that is more than a record holds finds none, and changes nothing', async () => {
    const engine = new FakeEngine();
    const { warden } = warm(engine, 'a');
    const { pool } = await open({ engine });
    const before = warden.record.version;
    expect(await pool.claim('k', claimOf({ env: { A: 'x'.repeat(32 * 1024) } }))).toBeUndefined();
    expect(warden.record.version).toBe(before);
    expect(await pool.claim('k', claimOf({ env: { A: 'x'.repeat(31 * 1024) } }))).toBeDefined();
  });

  it('finds none while the engine is away, and asks nobody', async () => {
    const engine = new FakeEngine();
    warm(engine, 'a');
    const { pool } = await open({ engine });
    engine.before.watchContainers = () => {
      throw new SandyardError('engine_unavailable', 'Gone.');
    };
    engine.loseEvents();
    await settle();
    const before = engine.calls.length;
    expect(await pool.claim('k', claimOf())).toBeUndefined();
    expect(engine.calls).toHaveLength(before);
  });

  it('takes its own first', async () => {
    const engine = new FakeEngine();
    warm(engine, 'a');
    const { pool } = await open({ engine, kinds: [{ key: 'k', min: 2, max: 2 }] });
    await settle();
    expect((await pool.claim('k', claimOf()))?.id).toMatch(/^made/);
    expect((await pool.claim('k', claimOf()))?.id).toBe('a');
  });
});

describe('several managers', () => {
  it('never get the same one, and each gets one while there are any', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 5 }), fc.array(fc.nat(2), { maxLength: 8 }), async (there, who) => {
        const engine = new FakeEngine();
        for (let one = 0; one < there; one += 1) warm(engine, `w${one}`);
        const pools = [await open({ engine }), await open({ engine }), await open({ engine })];
        const given = await Promise.all(
          who.map(async (one, at) => pools[one]?.pool.claim('k', claimOf({ token: `t${at}` }))),
        );
        const ids = given.filter((record) => record !== undefined).map(({ id }) => id);
        expect(new Set(ids).size).toBe(ids.length);
        expect(ids).toHaveLength(Math.min(there, who.length));
        for (const [at, record] of given.entries()) {
          if (record === undefined) continue;
          await settle();
          expect(decodeClaim(engine.find(record.containerId).warden.record.blob)?.token).toBe(`t${at}`);
        }
      }),
      { numRuns: 25, examples: [[2, [1, 0, 0]]] },
    );
  });

  it('renew what they share once, and take none of it for missing', async () => {
    const engine = new FakeEngine();
    const container = warm(engine, 'a');
    const kinds = [{ key: 'k', min: 1, max: 1 }];
    const one = await open({ engine, kinds });
    const other = await open({ engine, kinds });
    for (let seconds = 0; seconds < 20 * 60; seconds += 1) await passQuickly();
    expect((container.warden.record.leaseEndsAt ?? 0) - Date.now()).toBeGreaterThan(POOL_LEASE_MS / 2);
    expect(container.warden.record.version).toBeLessThan(12n);
    expect([one.make.mock.calls.length, other.make.mock.calls.length]).toEqual([0, 0]);
    expect([one.pool.ready, other.pool.ready]).toEqual([1, 1]);
  });

  it('help one that was claimed to its name, and to what it was claimed as', async () => {
    const engine = new FakeEngine();
    warm(engine, 'a', { claim: claimOf() });
    const { inventory, make } = await open({ engine, kinds: [{ key: 'k', min: 0, max: 1 }] });
    expect(names(engine)).toEqual([poolName('a')]); // it may be about to have it from who has claimed it
    await pass(3000);
    expect(names(engine)).toEqual(['sandyard-a']);
    expect(inventory.find('a')).toMatchObject({ warm: false, env: { A: 'b' } });
    expect(make).not.toHaveBeenCalled();
  });

  it('help it also when they have lost it to somebody who died then', async () => {
    const engine = new FakeEngine();
    const { warden } = warm(engine, 'a');
    const { pool, claims } = await open({ engine });
    warden.record.blob = Buffer.from(JSON.stringify(claimOf({ token: 'other' })));
    warden.record.version += 1n;
    expect(await pool.claim('k', claimOf())).toBeUndefined();
    expect(claims.mock.calls).toEqual([['lost'], ['empty']]);
    await pass(1000);
    await pass(3000);
    expect(names(engine)).toEqual(['sandyard-a']);
  });

  it('leave one alone that is destroyed before it has its name', async () => {
    const engine = new FakeEngine();
    warm(engine, 'a', { claim: claimOf() });
    const { rename } = await open({ engine });
    await engine.removeContainer(poolName('a'));
    await pass(3000);
    expect(rename).not.toHaveBeenCalled();
  });

  it('can claim one that was renewed since', async () => {
    const engine = new FakeEngine();
    const { warden } = warm(engine, 'a');
    const { pool } = await open({ engine });
    warden.record.version += 1n;
    expect(await pool.claim('k', claimOf())).toMatchObject({ id: 'a' });
  });
});

async function passQuickly(): Promise<void> {
  vi.advanceTimersByTime(1000);
  await settle(4);
}

describe('a warden', () => {
  const claimLate = async (act: (container: FakeContainer) => void) => {
    const engine = new FakeEngine();
    const container = warm(engine, 'a');
    const opened = await open({ engine });
    act(container);
    const claiming = opened.pool.claim('k', claimOf());
    await pass(2100);
    return { ...opened, engine, container, given: await claiming };
  };

  it('that answers late has claimed nothing for anybody: the sandbox is removed', async () => {
    const { given, engine, container, claims } = await claimLate(({ warden }) => warden.stall());
    expect(given).toBeUndefined();
    expect(claims.mock.calls).toEqual([['unfit'], ['empty']]);
    expect(names(engine)).toEqual([poolName('a')]); // who knows who has it
    container.warden.resume();
    await settle();
    expect(names(engine)).toEqual([]);
  });

  it('that was late for another reason is one that can be claimed again', async () => {
    const { given, pool, container } = await claimLate(({ warden }) => {
      warden.intercept = ({ type }) => type === FrameType.recordSet;
    });
    expect(given).toBeUndefined();
    container.warden.intercept = undefined;
    await pass(30_000); // until the channel gives up
    await pass(1000);
    expect(await pool.claim('k', claimOf())).toMatchObject({ id: 'a' });
  });

  it('that never answers again is left to its lease', async () => {
    const { given, pool, engine } = await claimLate(({ warden }) => warden.stall());
    expect(given).toBeUndefined();
    for (let step = 0; step < 40; step += 1) await pass(1000);
    expect(names(engine)).toEqual([poolName('a')]);
    expect(pool.ready).toBe(0);
  });

  it('whose answer was lost has claimed it once', async () => {
    const engine = new FakeEngine();
    const { warden } = warm(engine, 'a');
    const { pool } = await open({ engine });
    let lost = 0;
    warden.intercept = ({ type, payload }, tunnel) => {
      if (type !== FrameType.recordSet || lost > 0) return false;
      lost += 1;
      warden.intercept = () => false;
      warden.take({ type, stream: 99, payload }, Object.assign(Object.create(tunnel), { send: () => {} }));
      warden.cut();
      return true;
    };
    const claiming = pool.claim('k', claimOf());
    for (let step = 0; step < 5; step += 1) await pass(10);
    expect(await claiming).toMatchObject({ id: 'a' });
    expect(decodeClaim(warden.record.blob)?.token).toBe('token');
  });

  it('that says for ever that the version is another is given up, and another is taken', async () => {
    const engine = new FakeEngine();
    warm(engine, 'b');
    const { warden } = warm(engine, 'a'); // the newest is listed first
    const { pool, claims } = await open({ engine });
    warden.intercept = ({ type, stream }, tunnel) => {
      if (type === FrameType.recordSet) tunnel.send(answer.error(stream, { errno: 11, stage: 0, text: '' }));
      return type === FrameType.recordSet;
    };
    expect(await pool.claim('k', claimOf())).toMatchObject({ id: 'b' });
    expect(claims.mock.calls).toEqual([['unfit'], ['claimed']]);
    expect(warden.count('recordSet')).toBe(3);
  });

  it('that has gone with its container is passed over', async () => {
    const engine = new FakeEngine();
    warm(engine, 'b');
    const { warden } = warm(engine, 'a');
    const { pool } = await open({ engine });
    warden.refusal = new SandyardError('wrong_state', 'It has ended.');
    warden.cut();
    const claiming = pool.claim('k', claimOf());
    for (let step = 0; step < 5; step += 1) await pass(10);
    expect(await claiming).toMatchObject({ id: 'b' });
  });
});

describe('looking after them', () => {
  it('makes what is missing, and what a claim has taken', async () => {
    const { pool, make, engine } = await open({ kinds: [{ key: 'k', min: 2, max: 4 }] });
    await pass(1000);
    expect([pool.ready, make.mock.calls.length]).toEqual([2, 2]);
    await pool.claim('k', claimOf());
    await pass(1000);
    await pass(1000);
    expect([pool.ready, names(engine).length]).toEqual([2, 3]);
  });

  it('keeps as many as are asked for, and lets the rest end by their leases', async () => {
    const { pool, make, engine } = await open({ kinds: [{ key: 'k', min: 0, max: 2 }] });
    expect(make).not.toHaveBeenCalled();
    for (let one = 0; one < 5; one += 1) expect(await pool.claim('k', claimOf())).toBeUndefined();
    await pass(1000);
    expect(pool.ready).toBe(2);
    const ends = [...engine.containers.values()].map(({ warden }) => warden.record.leaseEndsAt);
    for (let step = 0; step < 15; step += 1) await pass(60_000);
    expect([...engine.containers.values()].map(({ warden }) => warden.record.leaseEndsAt)).toEqual(ends);
  });

  it('makes no way into what another has just made, which counts and can be claimed all the same', async () => {
    const engine = new FakeEngine();
    young(engine, 'a');
    young(engine, 'b');
    const { pool, make } = await open({ engine, kinds: [{ key: 'k', min: 2, max: 2 }] });
    await pass(1000);
    expect([engine.count('openTunnel'), make.mock.calls.length, pool.ready]).toEqual([0, 0, 0]);
    expect(await pool.claim('k', claimOf())).toBeDefined();
    expect([engine.count('openTunnel'), make.mock.calls.length]).toEqual([1, 0]);
    await pass(4000);
    expect([engine.count('openTunnel'), make.mock.calls.length, pool.ready]).toEqual([2 + 1, 1, 2]);
    await pass(1000);
    expect(engine.count('openTunnel')).toBe(2 + 1); // there is one now
  });

  it('claims first what it has made, then what it has a way into', async () => {
    const engine = new FakeEngine();
    for (const id of ['a', 'b']) young(engine, id);
    warm(engine, 'c');
    const { pool } = await open({ engine, kinds: [{ key: 'k', min: 4, max: 4 }] });
    await pass(1000);
    const own = `made${made}`;
    const given = [];
    for (let one = 0; one < 3; one += 1) given.push((await pool.claim('k', claimOf()))?.id);
    expect(given.slice(0, 2)).toEqual([own, 'c']);
    expect(['a', 'b']).toContain(given[2]);
  });

  it('tries again to make a way into one that does not answer', async () => {
    const engine = new FakeEngine();
    const { warden } = warm(engine, 'a');
    warden.refusal = new SandyardError('engine_error', 'No.');
    const { pool, log } = await open({ engine });
    await pass(1000);
    expect([pool.ready, log.debug.mock.calls.length > 0, log.warn.mock.calls.length]).toEqual([0, true, 0]);
    warden.refusal = undefined;
    await pass(1000);
    expect(pool.ready).toBe(1);
  });

  it('looks less and less often at one that its maker does not finish, and finds it when it has', async () => {
    const engine = new FakeEngine();
    const { warden } = warm(engine, 'a', { taken: false });
    const { pool, look } = await open({ engine });
    const looks = async (seconds: number) => {
      const before = look.mock.calls.length;
      for (let second = 0; second < seconds; second += 1) await pass(1000);
      return look.mock.calls.length - before;
    };
    expect([await looks(3), await looks(60)]).toEqual([2, 4]);
    warden.record.taken = true;
    await looks(64);
    expect(pool.ready).toBe(1);
  });

  it('removes its own of a kind that is no more, and leaves those of others', async () => {
    const engine = new FakeEngine();
    const kinds = [{ key: 'k', min: 2, max: 2 }];
    warm(engine, 'others');
    const { pool } = await open({ engine, kinds });
    await pass(1000);
    expect(names(engine)).toHaveLength(2);
    kinds[0] = { key: 'new', min: 0, max: 0 };
    await pass(1000);
    expect(names(engine)).toEqual([poolName('others')]);
    expect(pool.ready).toBe(0);
  });

  it('tells trouble once, and goes on', async () => {
    const opened = await open();
    opened.kinds.mockRejectedValue(new Error('no engine'));
    for (let step = 0; step < 5; step += 1) await pass(1000);
    expect(opened.log.warn).toHaveBeenCalledOnce();
    opened.kinds.mockResolvedValue([{ key: 'k', min: 1, max: 1 }]);
    await pass(1000);
    expect(opened.make).toHaveBeenCalledOnce();
  });

  it('is on nobody’s behalf', async () => {
    const { pool, contexts, make } = await open({ kinds: [{ key: 'k', min: 1, max: 1 }] });
    await pass(1000);
    const makers: CallContext[] = [];
    make.mockImplementation(() => {
      makers.push(currentContext());
      return Promise.resolve(undefined);
    });
    await withContext({ actor: 'rest', requestId: 'r' }, () => pool.claim('k', claimOf()));
    await pass(1000);
    expect(makers).not.toEqual([]);
    expect(contexts.length).toBeGreaterThan(1);
    for (const context of [...makers, ...contexts]) {
      expect(context).toMatchObject({ actor: 'pool', requestId: undefined });
    }
  });
});

describe('close', () => {
  it('removes what it has made and nobody has, and nothing else', async () => {
    const engine = new FakeEngine();
    warm(engine, 'others');
    const { pool } = await open({ engine, kinds: [{ key: 'k', min: 4, max: 4 }] });
    for (let step = 0; step < 3; step += 1) await pass(1000);
    expect(pool.ready).toBe(4);
    const given = await pool.claim('k', claimOf());
    await Promise.all([pool.close(), pool.close()]);
    expect(names(engine)).toEqual([containerName(given?.id ?? ''), poolName('others')].toSorted());
    await pass(5000);
    expect(pool.filling).toBe(0);
  });

  it('leaves what another manager has claimed meanwhile', async () => {
    const { pool, engine } = await open({ kinds: [{ key: 'k', min: 1, max: 1 }] });
    await pass(1000);
    const [container] = engine.containers.values();
    const { record } = container?.warden ?? {};
    if (record === undefined) throw new Error('None was made.');
    [record.blob, record.version] = [Buffer.from(JSON.stringify(claimOf())), record.version + 1n];
    await pool.close();
    expect(engine.containers.size).toBe(1);
    expect(DISCARDED.equals(record.blob)).toBe(false);
  });

  it('waits for what is being made, and removes it', async () => {
    const opened = await open({ kinds: [{ key: 'k', min: 1, max: 1 }] });
    const { pool, make, engine } = opened;
    await pass(1000);
    const slow = settleable<void>();
    const real = make.getMockImplementation();
    make.mockImplementation(async (kind, signal) => {
      await slow.promise;
      return real?.(kind, signal);
    });
    await pool.claim('k', claimOf());
    await pass(1000);
    expect(pool.filling).toBe(1);
    let closed = false;
    const closing = pool.close().then(() => (closed = true));
    await settle();
    expect(closed).toBe(false);
    slow.resolve(undefined);
    await closing;
    expect(names(engine)).toHaveLength(1);
  });

  it('waits for a claim that is being made, whose caller gets it', async () => {
    const { pool, engine } = await open({ kinds: [{ key: 'k', min: 1, max: 1 }] });
    await pass(1000);
    const [container] = engine.containers.values();
    container?.warden.stall();
    const claiming = pool.claim('k', claimOf());
    const closing = pool.close();
    await settle();
    container?.warden.resume();
    expect(await claiming).toMatchObject({ warm: false });
    await closing;
    expect(engine.containers.size).toBe(1);
  });

  it('ends the ticks', async () => {
    const { pool, kinds } = await open();
    await pool.close();
    const before = kinds.mock.calls.length;
    pool.start();
    for (let step = 0; step < 3; step += 1) await pass(1000);
    expect(kinds.mock.calls).toHaveLength(before);
    expect(vi.getTimerCount()).toBeLessThanOrEqual(1); // the connections' own
  });
});
