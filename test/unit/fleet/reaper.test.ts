import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';

import { EngineClock } from '../../../src/record/engine-clock.js';
import { SandyardError } from '../../../src/errors.js';
import { SandboxSockets } from '../../../src/sandbox-sockets.js';
import type { Log } from '../../../src/log.js';
import type { Outage } from '../../../src/fleet/lost.js';
import { Reaper } from '../../../src/fleet/reaper.js';
import {
  containerName,
  ownedBy,
  poolName,
  toLabels,
  toRecord,
  type Claim,
  type SandboxTraits,
} from '../../../src/record/record.js';
import { silentTelemetry } from '../../../src/telemetry.js';
import { FakeEngine, type FakeContainer } from '../../fixtures/fake-engine.js';
import { TRAITS } from '../../fixtures/fake-fleet.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const YEAR = 365 * 24 * HOUR;
const NOW = Date.parse('2026-01-02T00:00:00Z');

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: NOW });
});
afterEach(() => {
  vi.useRealTimers();
});

interface Sown extends Partial<Omit<FakeContainer, 'createdAt'>>, Partial<Pick<SandboxTraits, 'onExpiry'>> {
  readonly owner?: string;
  /** By the engine's clock. */
  readonly ageMs?: number;
  readonly maxLifetimeMs?: number;
  readonly pool?: string;
}

function claim(about: Partial<Claim> = {}): Claim {
  const { limits, ttlMs, idleTimeoutMs, metadata } = TRAITS;
  return {
    limits,
    ttlMs,
    idleTimeoutMs,
    metadata,
    projectName: null,
    env: {},
    wakeOnUse: false,
    madeFor: null,
    tenant: null,
    token: 't',
    onExpiry: 'stop',
    maxLifetimeMs: 24 * HOUR,
    createdAt: new Date(NOW),
    agesFrom: new Date(NOW),
    ...about,
  };
}

/** An engine with containers of sandboxes that have a lease of an hour and a lifetime of a day. */
function garden({ dryRun = false, clockOffsetMs = 0, engine = new FakeEngine(), owner = 'me', listed = 'me' } = {}) {
  engine.clockOffsetMs = clockOffsetMs;
  const logged: { level: string; fields: Record<string, unknown>; message: string }[] = [];
  const logger = (level: string) => (fields: object, message: string) =>
    void logged.push({ level, fields: { ...fields }, message });
  const log: Log = { debug: logger('debug'), info: logger('info'), warn: logger('warn'), error: logger('error') };
  const going: string[] = [];
  const gone: [id: string, reason: string][] = [];
  const counted: string[] = [];
  /** What records say, by id. */
  const leases = new Map<string, Date | Error>();
  const claims = new Map<string, Claim | Error>();
  const ended = new Set<string>();
  const outages = new Map<string, Outage>();
  const asked: string[] = [];
  const clock = new EngineClock();
  const reaper = new Reaper({
    engine,
    sockets: SandboxSockets.none,
    clock,
    log,
    telemetry: { ...silentTelemetry, reaped: (reason) => counted.push(reason) },
    owner,
    rules: { stoppedRetentionMs: 2 * HOUR, halfCreatedAfterMs: 5 * MINUTE },
    dryRun,
    candidates: async (options) =>
      (await engine.listContainers(ownedBy(listed), options)).map(toRecord).filter((found) => found !== undefined),
    readLeaseEnd: async ({ id }) => {
      asked.push(`lease ${id}`);
      const found = leases.get(id);
      if (found instanceof Error) throw found;
      return found;
    },
    readClaim: async ({ id }) => {
      asked.push(`claim ${id}`);
      const found = claims.get(id);
      if (found instanceof Error) throw found;
      return found;
    },
    outageOf: ({ id }) => outages.get(id),
    pauseExpired: async ({ id, containerId }) => {
      asked.push(`pause ${id}`);
      if (!ended.has(id)) return false;
      await engine.pauseContainer(containerId);
      return true;
    },
    removing: ({ id }) => going.push(id),
    removed: ({ id }, reason) => gone.push([id, reason]),
  });
  const sow = (id: string, sown: Sown = {}) => {
    const { owner = 'me', ageMs = 0, maxLifetimeMs = 24 * HOUR, onExpiry = 'destroy', pool, ...container } = sown;
    const about = { id, owner, projectName: undefined, createdAt: new Date(NOW), maxLifetimeMs, pool };
    const labels = toLabels({ ...TRAITS, onExpiry }, about);
    const name = pool === undefined ? containerName(id) : poolName(id);
    return engine.plant({ name, labels, createdAt: new Date(engine.now().getTime() - ageMs), ...container });
  };
  return { engine, clock, reaper, going, gone, counted, leases, claims, outages, ended, asked, logged, sow };
}

const HALF = { state: 'created', ageMs: 6 * MINUTE } as const satisfies Sown;
/** As the warden ends a sandbox whose lease has run out. */
const EXPIRED = { state: 'exited', exitCode: 90, finishedAt: new Date(NOW) } as const satisfies Sown;

describe('a run', () => {
  it('removes what an engine that was started again has stopped, and nothing that was stopped before or is to be kept', async () => {
    const { engine, reaper, outages, gone, sow } = garden();
    const outage = { from: new Date(NOW - MINUTE), to: new Date(NOW) };
    const stopped = { state: 'exited', exitCode: 143, finishedAt: new Date(NOW - 1000) } as const;
    sow('lost', stopped);
    sow('before', { ...stopped, finishedAt: new Date(NOW - 2 * MINUTE) });
    sow('kept', { ...stopped, onExpiry: 'stop' });
    sow('again', { state: 'running' });
    for (const id of ['lost', 'before', 'kept', 'again']) outages.set(id, outage);
    sow('unknown', stopped);
    expect(await reaper.run()).toEqual([{ id: 'lost', reason: 'lost', action: 'removed' }]);
    expect(gone).toEqual([['lost', 'lost']]);
    expect(engine.calls.filter(({ method }) => method === 'removeContainer')).toHaveLength(1);
  });

  it.each<[what: string, sown: Sown, reason: string | undefined]>([
    ['a fresh one', {}, undefined],
    ['one that ended itself when its lease ran out', EXPIRED, 'lease_expired'],
    ['one that ended itself being idle', { ...EXPIRED, exitCode: 91 }, 'idle'],
    ['one that did so and is to be kept', { ...EXPIRED, onExpiry: 'stop' }, undefined],
    ['one that nobody was ever given', { ...EXPIRED, exitCode: 94 }, 'half_created'],
    ['one that runs, past the lease that it began with', { ageMs: 20 * HOUR }, undefined],
    ['a lifetime that has run out', { ageMs: 24 * HOUR + 1000 }, 'max_lifetime'],
    ['a paused one without a lease', { state: 'paused', ageMs: 20 * HOUR }, undefined],
    ['a young one that was not started', { state: 'created', ageMs: 4 * MINUTE }, undefined],
    ['an old one that was not started', HALF, 'half_created'],
    [
      'one that stopped lately',
      { state: 'exited', exitCode: 0, ageMs: 3 * HOUR, finishedAt: new Date(NOW - HOUR) },
      undefined,
    ],
    [
      'one that stopped long ago',
      { state: 'exited', exitCode: 137, ageMs: 4 * HOUR, finishedAt: new Date(NOW - 3 * HOUR) },
      'stopped_too_long',
    ],
  ])('on %s', async (_, sown, reason) => {
    const { engine, reaper, sow, logged, counted, gone } = garden();
    sow('abc', sown);
    const reaped = await reaper.run();
    expect(reaped).toEqual(reason === undefined ? [] : [{ id: 'abc', reason, action: 'removed' }]);
    expect(engine.containers.size).toBe(reason === undefined ? 1 : 0);
    expect(gone).toEqual(reason === undefined ? [] : [['abc', reason]]);
    expect(counted).toEqual(reason === undefined ? [] : [reason]);
    expect(logged.map(({ level, fields }) => [level, fields['sandbox'], fields['reason']])).toEqual(
      reason === undefined ? [] : [['info', 'abc', reason]],
    );
  });

  it('says in the log why', async () => {
    const { reaper, sow, leases, logged } = garden();
    sow('ended', { ...EXPIRED, ageMs: HOUR });
    sow('paused', { state: 'paused', ageMs: 2 * HOUR });
    leases.set('paused', new Date(NOW - MINUTE));
    await reaper.run();
    const fields = Object.fromEntries(logged.map(({ fields }) => [fields['sandbox'], fields]));
    expect(fields['ended']).toMatchObject({ owner: 'me', reason: 'lease_expired', state: 'exited', exitCode: 90 });
    expect(fields['ended']?.['ageMs']).toBeCloseTo(HOUR, -4);
    expect(fields['paused']).toMatchObject({ reason: 'lease_expired', leaseEndsAt: new Date(NOW - MINUTE) });
  });

  it('leaves alone what is not ours', async () => {
    const { engine, reaper, sow } = garden();
    sow('other', { owner: 'you', ageMs: 48 * HOUR });
    engine.plant({ name: 'postgres', labels: {} });
    engine.plant({ name: 'sandyard-imitation', labels: { 'sandyard.managed': '1', 'sandyard.owner': 'me' } });
    const { labels } = sow('mine', { ageMs: 48 * HOUR });
    engine.plant({ name: 'renamed', labels });
    expect(await reaper.run()).toEqual([{ id: 'mine', reason: 'max_lifetime', action: 'removed' }]);
    expect([...engine.containers.keys()]).toEqual(['sandyard-other', 'postgres', 'sandyard-imitation', 'renamed']);
  });

  it("leaves alone what it is given that isn't its owner's", async () => {
    const engine = new FakeEngine();
    const { reaper, sow } = garden({ engine, listed: 'you' });
    sow('other', { owner: 'you', ...EXPIRED });
    expect(await reaper.run()).toEqual([]);
    expect(engine.containers.size).toBe(1);
  });

  it('asks the engine about none of them while all run', async () => {
    const { engine, reaper, sow, asked } = garden();
    for (const id of ['a', 'b', 'c']) sow(id, { ageMs: 20 * HOUR });
    await reaper.run();
    expect(engine.calls.map(({ method }) => method)).toEqual(['info', 'listContainers']);
    expect(asked).toEqual([]);
  });

  it('removes by the id of the container, which is never another', async () => {
    const { engine, reaper, sow } = garden();
    const { id } = sow('abc', EXPIRED);
    await reaper.run();
    expect(engine.calls.filter(({ method }) => method === 'removeContainer').map(({ args }) => args[0])).toEqual([id]);
  });

  it('tells in a dry run, and removes nothing', async () => {
    const { engine, reaper, sow, logged, gone } = garden();
    sow('abc', EXPIRED);
    expect(await reaper.run({ dryRun: true })).toEqual([{ id: 'abc', reason: 'lease_expired', action: 'none' }]);
    expect(engine.count('removeContainer')).toBe(0);
    expect(gone).toEqual([]);
    expect(logged[0]).toMatchObject({ level: 'info', message: expect.stringContaining('dry run') });
  });

  it('is dry where the reaper is, unless told otherwise', async () => {
    const { engine, reaper, sow } = garden({ dryRun: true });
    sow('abc', EXPIRED);
    await reaper.run();
    expect(engine.containers.size).toBe(1);
    await reaper.run({ dryRun: false });
    expect(engine.containers.size).toBe(0);
  });

  it('goes on when one cannot be removed, says so, and tries it again', async () => {
    const { engine, reaper, sow, logged, going, gone } = garden();
    const { id } = sow('bad', EXPIRED);
    sow('good', EXPIRED);
    engine.before.removeContainer = (reference) => {
      if (reference === id) throw new SandyardError('engine_error', 'Stuck.');
    };
    const reaped = await reaper.run();
    expect([...engine.containers.keys()]).toEqual(['sandyard-bad']);
    expect(reaped).toContainEqual({ id: 'good', reason: 'lease_expired', action: 'removed' });
    expect(reaped).toContainEqual({ id: 'bad', reason: 'lease_expired', action: 'none', error: 'Stuck.' });
    expect(gone).toEqual([['good', 'lease_expired']]);
    expect(going.toSorted()).toEqual(['bad', 'good']);
    expect(logged).toContainEqual(expect.objectContaining({ level: 'warn' }));
    engine.before = {};
    await reaper.run();
    expect(engine.containers.size).toBe(0);
  });

  it('removes nothing when it cannot look at it', async () => {
    const { engine, reaper, sow, logged } = garden();
    sow('abc', EXPIRED);
    engine.before.inspectContainer = () => {
      throw new SandyardError('engine_timeout', 'Too slow.');
    };
    expect(await reaper.run()).toEqual([]);
    expect(engine.containers.size).toBe(1);
    expect(logged).toMatchObject([{ level: 'warn' }]);
  });

  it('is silent about what was removed meanwhile', async () => {
    const { engine, reaper, sow, logged } = garden();
    sow('abc', EXPIRED);
    engine.after.listContainers = () => engine.containers.clear();
    expect(await reaper.run()).toEqual([]);
    expect(logged).toEqual([]);
  });

  it.each(['info', 'listContainers'] as const)('rejects when the engine cannot be asked: %s', async (method) => {
    const { engine, reaper } = garden();
    engine.before[method] = () => {
      throw new SandyardError('engine_unavailable', 'Gone.');
    };
    await expect(reaper.run()).rejects.toMatchObject({ code: 'engine_unavailable' });
  });

  it('removes three at once at the most', async () => {
    const { engine, reaper, sow } = garden();
    for (let n = 0; n < 10; n += 1) sow(`n${n}`, EXPIRED);
    let [atOnce, most] = [0, 0];
    engine.before.removeContainer = async () => {
      most = Math.max(most, (atOnce += 1));
      await new Promise(setImmediate);
    };
    engine.after.removeContainer = () => void (atOnce -= 1);
    expect(await reaper.run()).toHaveLength(10);
    expect(most).toBe(3);
  });

  it('begins no other where its caller gives up', async () => {
    const { engine, reaper, sow } = garden();
    for (let n = 0; n < 10; n += 1) sow(`n${n}`, EXPIRED);
    const caller = new AbortController();
    engine.before.removeContainer = () => caller.abort();
    await expect(reaper.run({ signal: caller.signal })).rejects.toMatchObject({ code: 'aborted' });
    expect(engine.containers.size).toBe(7);
    await expect(reaper.run({ signal: caller.signal })).rejects.toMatchObject({ code: 'aborted' });
  });
});

describe('a sandbox that changes while it is judged', () => {
  it.each<[what: string, sown: Sown, change: (container: FakeContainer) => void]>([
    ['is started again', EXPIRED, (container) => Object.assign(container, { state: 'running', finishedAt: undefined })],
    ['is started by a slow create', HALF, (container) => Object.assign(container, { state: 'running' })],
    ['is unpaused', { state: 'paused' }, (container) => Object.assign(container, { state: 'running' })],
    [
      'is started, and has ended anew',
      EXPIRED,
      (container) => Object.assign(container, { startedAt: new Date(NOW + 1000), finishedAt: new Date(NOW + 2000) }),
    ],
    ['is no longer ours', EXPIRED, (container) => Object.assign(container, { name: 'mine-now' })],
  ])('%s: is kept', async (_, sown, change) => {
    const { engine, reaper, sow, leases } = garden();
    leases.set('abc', new Date(NOW - 1));
    const container = sow('abc', sown);
    let looks = 0;
    engine.after.inspectContainer = () => {
      looks += 1;
      if (looks === 1) change(container); // so that the first look doesn't tell
    };
    expect(await reaper.run()).toEqual([]);
    expect(looks).toBe(2);
    expect(engine.containers.size).toBe(1);
  });

  it.each<[what: string, sown: Sown]>([
    ['had ended', EXPIRED],
    ['was not started', HALF],
    ['was paused', { state: 'paused' }],
  ])('goes by what it is, not by the list, where it %s', async (_, sown) => {
    const { engine, reaper, sow, leases } = garden();
    leases.set('abc', new Date(NOW - 1));
    const container = sow('abc', sown);
    engine.after.listContainers = () => Object.assign(container, { state: 'running', finishedAt: undefined });
    expect(await reaper.run()).toEqual([]);
    expect(engine.containers.size).toBe(1);
  });

  it('is removed once, however many look', async () => {
    const { engine, reaper, sow, gone } = garden();
    const other = garden({ engine });
    for (let n = 0; n < 20; n += 1) sow(`n${n}`, EXPIRED);
    await Promise.all([reaper.run(), other.reaper.run(), reaper.run()]);
    expect(engine.containers.size).toBe(0);
    expect(new Set([...gone, ...other.gone].map(([id]) => id)).size).toBe(20);
  });

  it("is not another owner's", async () => {
    const { engine, reaper, sow } = garden();
    const other = garden({ engine, owner: 'you', listed: 'you' });
    sow('mine', EXPIRED);
    sow('yours', { ...EXPIRED, owner: 'you' });
    expect((await other.reaper.run()).map(({ id }) => id)).toEqual(['yours']);
    expect((await reaper.run()).map(({ id }) => id)).toEqual(['mine']);
  });
});

describe('one that is paused', () => {
  it.each<[what: string, onExpiry: 'destroy' | 'stop' | 'pause', endsIn: number | undefined, removed: boolean]>([
    ['past its lease', 'destroy', -1, true],
    ['within its lease', 'destroy', MINUTE, false],
    ['with a lease of a year', 'destroy', YEAR, false],
    ['with none that can be read', 'destroy', undefined, false],
    ['past its lease, to be stopped', 'stop', -1, false],
    ['past its lease, to stay paused', 'pause', -1, false],
  ])('%s', async (_, onExpiry, endsIn, removed) => {
    const { reaper, sow, leases, asked } = garden();
    sow('abc', { state: 'paused', onExpiry, ageMs: 2 * HOUR });
    if (endsIn !== undefined) leases.set('abc', new Date(NOW + endsIn));
    const expected = removed ? [{ id: 'abc', reason: 'lease_expired', action: 'removed' }] : [];
    expect(await reaper.run()).toEqual(expected);
    expect(asked).toEqual(onExpiry === 'destroy' ? ['lease abc'] : []);
  });

  it('whose record is spoilt has its longest lifetime all the same, and no more', async () => {
    const { reaper, sow, leases } = garden();
    for (const [id, ageMs] of [
      ['young', 23 * HOUR],
      ['old', 25 * HOUR],
    ] as const) {
      sow(id, { state: 'paused', ageMs });
      leases.set(id, new SandyardError('engine_error', 'It is no record.'));
    }
    expect(await reaper.run()).toEqual([{ id: 'old', reason: 'max_lifetime', action: 'removed' }]);
  });

  it('is left alone while the engine is away', async () => {
    const { reaper, sow, leases } = garden();
    sow('old', { state: 'paused', ageMs: 25 * HOUR });
    leases.set('old', new SandyardError('engine_unavailable', 'It is away.'));
    expect(await reaper.run()).toEqual([]);
  });
});

describe('one that is to be paused when its lease ends', () => {
  it('is, and is counted', async () => {
    const { engine, reaper, sow, ended, asked, logged } = garden();
    const [over, on] = [sow('over', { onExpiry: 'pause' }), sow('on', { onExpiry: 'pause' })];
    sow('other', { onExpiry: 'stop' });
    sow('stopped', { onExpiry: 'pause', state: 'exited', finishedAt: new Date(NOW) });
    ended.add('over');
    expect(await reaper.run()).toEqual([{ id: 'over', reason: 'lease_expired', action: 'paused' }]);
    expect([over.state, on.state]).toEqual(['paused', 'running']);
    expect(asked.toSorted()).toEqual(['pause on', 'pause over']);
    expect(logged).toMatchObject([{ level: 'info', fields: { sandbox: 'over' } }]);
    expect(await reaper.run()).toEqual([]);
    expect(engine.containers.size).toBe(4);
  });

  it('is not in a dry run, which says that it would be', async () => {
    const { reaper, sow, ended, leases } = garden();
    const container = sow('over', { onExpiry: 'pause' });
    sow('on', { onExpiry: 'pause' });
    ended.add('over');
    leases.set('over', new Date(NOW - 1)).set('on', new Date(NOW + MINUTE));
    expect(await reaper.run({ dryRun: true })).toEqual([{ id: 'over', reason: 'lease_expired', action: 'none' }]);
    expect(container.state).toBe('running');
  });

  it('is removed after its longest lifetime', async () => {
    const { reaper, sow } = garden();
    sow('abc', { onExpiry: 'pause', ageMs: 25 * HOUR });
    expect(await reaper.run()).toEqual([{ id: 'abc', reason: 'max_lifetime', action: 'removed' }]);
  });
});

describe('a warm one', () => {
  const WARM: Sown = { pool: 'p', ageMs: HOUR };

  it('that runs is left alone', async () => {
    const { reaper, sow, asked } = garden();
    sow('abc', WARM);
    expect(await reaper.run({ dryRun: true })).toEqual([]);
    expect(asked).toEqual([]);
    expect(await reaper.run()).toEqual([]);
    expect(asked).toEqual(['claim abc']); // it may have been claimed by a manager that has died
  });

  it('that ended and that nobody has claimed is removed', async () => {
    const { reaper, sow } = garden();
    sow('abc', { ...WARM, ...EXPIRED });
    expect(await reaper.run()).toEqual([{ id: 'abc', reason: 'half_created', action: 'removed' }]);
  });

  it.each<[what: string, sown: Sown, reason: string | undefined]>([
    ['that ended, to be kept', EXPIRED, undefined],
    ['past the lifetime of what it was made as', { ageMs: 30 * HOUR }, undefined],
    ['that stopped too long ago', { state: 'exited', finishedAt: new Date(NOW - 3 * HOUR) }, 'stopped_too_long'],
  ])('is judged as what it was claimed as: %s', async (_, sown, reason) => {
    for (const renamed of [true, false]) {
      const { reaper, sow, claims } = garden();
      claims.set('abc', claim({ onExpiry: 'stop' }));
      sow('abc', { ...WARM, ...sown, ...(renamed ? { name: 'sandyard-abc' } : {}) });
      expect(await reaper.run()).toEqual(reason === undefined ? [] : [{ id: 'abc', reason, action: 'removed' }]);
    }
  });

  it('that was claimed just now, as its name says, is left alone', async () => {
    const { engine, reaper, sow } = garden();
    sow('abc', { ...WARM, ...EXPIRED, name: 'sandyard-abc' }); // its record was read before the claim
    expect(await reaper.run()).toEqual([]);
    expect(engine.containers.size).toBe(1);
  });

  it('whose record cannot be read is left alone', async () => {
    const { engine, reaper, sow, claims, logged } = garden();
    sow('abc', { ...WARM, ...EXPIRED });
    claims.set('abc', new SandyardError('engine_error', 'No.'));
    expect(await reaper.run()).toEqual([]);
    expect(engine.containers.size).toBe(1);
    expect(logged).toMatchObject([{ level: 'warn', fields: { sandbox: 'abc' } }]);
  });

  it('is given a minute to end itself at its longest lifetime', async () => {
    const { reaper, sow } = garden();
    sow('late', { ...WARM, ageMs: 24 * HOUR + 59_000 });
    sow('over', { ...WARM, ageMs: 24 * HOUR + 61_000 });
    expect(await reaper.run()).toEqual([{ id: 'over', reason: 'max_lifetime', action: 'removed' }]);
  });
});

describe('the time', () => {
  const young: [string, Sown][] = [
    ['made', { state: 'created', ageMs: 4 * MINUTE }],
    ['runs', { ageMs: 23 * HOUR }],
    ['year', { ageMs: 364 * 24 * HOUR, maxLifetimeMs: YEAR }],
  ];
  const old: [string, Sown][] = [
    ['half', HALF],
    ['over', { ageMs: 25 * HOUR }],
    ['years', { ageMs: 366 * 24 * HOUR, maxLifetimeMs: YEAR }],
  ];
  it.each([
    ['an hour ahead of ours', HOUR],
    ['an hour behind ours', -HOUR],
    ['a year behind ours', -YEAR],
  ])("is the engine's, which is %s", async (_, clockOffsetMs) => {
    const { engine, reaper, sow, leases } = garden({ clockOffsetMs });
    for (const [id, sown] of [...young, ...old]) sow(id, sown);
    sow('paused', { state: 'paused' });
    sow('asleep', { state: 'paused' });
    leases.set('paused', new Date(engine.now().getTime() - 1)).set('asleep', new Date(engine.now().getTime() + MINUTE));
    const ids = (await reaper.run()).map(({ id }) => id);
    expect(ids.toSorted()).toEqual([...old.map(([id]) => id), 'paused'].toSorted());
  });

  it.each([
    ['ahead', 48 * HOUR],
    ['back', -48 * HOUR],
  ])('is not our wall clock, which jumps %s', async (_, jump) => {
    const { engine, reaper, sow } = garden();
    for (const [id, sown] of [...young, ...old]) sow(id, sown);
    engine.clockOffsetMs = -jump;
    vi.setSystemTime(NOW + jump);
    expect((await reaper.run()).map(({ id }) => id).toSorted()).toEqual(old.map(([id]) => id).toSorted());
  });

  it("is read anew: an engine's clock that was set back makes nothing look old", async () => {
    const { engine, reaper, sow } = garden({ clockOffsetMs: 48 * HOUR });
    await reaper.run();
    engine.clockOffsetMs = 0;
    for (const [id, sown] of young) sow(id, sown);
    expect(await reaper.run()).toEqual([]);
  });
});

describe('prune', () => {
  const day = { createdAt: new Date(NOW - 24 * HOUR) };

  it('removes sandboxes, volumes and networks, and tells of each', async () => {
    const { engine, reaper, sow } = garden();
    sow('abc', EXPIRED);
    const labels = { 'sandyard.managed': '1', 'sandyard.owner': 'me', 'sandyard.id': 'abc' };
    engine.volumes.set('v', { name: 'v', labels, ...day });
    engine.networks.set('n', { name: 'n', labels, ...day });
    expect(await reaper.prune({ dryRun: true })).toEqual({
      sandboxes: [{ id: 'abc', reason: 'lease_expired', action: 'none' }],
      volumes: [],
      networks: [],
    });
    expect(await reaper.prune()).toEqual({
      sandboxes: [{ id: 'abc', reason: 'lease_expired', action: 'removed' }],
      volumes: [{ kind: 'volume', name: 'v', reason: 'sandbox_gone', removed: true }],
      networks: [{ kind: 'network', name: 'n', reason: 'sandbox_gone', removed: true }],
    });
    expect(await reaper.prune()).toEqual({ sandboxes: [], volumes: [], networks: [] });
  });
});

describe('the schedule', () => {
  it.each(['', 'often', '* * *', '61 * * * * *', '* * * * * * *'])('refuses %j', (expression) => {
    const { reaper } = garden();
    expect(() => reaper.start(expression)).toThrow(expect.objectContaining({ code: 'config_invalid' }));
  });

  it('runs up to a second after its time, so that managers do not all run at once', async () => {
    vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'], now: NOW });
    const random = vi.spyOn(Math, 'random').mockReturnValue(0.7);
    onTestFinished(() => random.mockRestore());
    const { engine, reaper } = garden();
    reaper.start('*/5 * * * * *');
    await vi.advanceTimersByTimeAsync(5600);
    expect(engine.count('listContainers')).toBe(0);
    await vi.advanceTimersByTimeAsync(200);
    const lists = engine.count('listContainers');
    expect(lists).toBeGreaterThan(0);
    await vi.advanceTimersByTimeAsync(4500);
    await reaper.stop(); // with the next one put off
    await vi.advanceTimersByTimeAsync(10_000);
    expect(engine.count('listContainers')).toBe(lists);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('runs on time, never twice at once, goes on after a failure, and stops', async () => {
    vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'], now: NOW });
    const { engine, reaper, logged } = garden();
    let [atOnce, most] = [0, 0];
    engine.before.listContainers = async () => {
      most = Math.max(most, (atOnce += 1));
      await new Promise((resolve) => {
        setTimeout(resolve, 2500);
      });
      atOnce -= 1;
      throw new SandyardError('engine_unavailable', 'Gone.');
    };
    reaper.start('* * * * * *');
    reaper.start('* * * * * *');
    await vi.advanceTimersByTimeAsync(10_000);
    expect(most).toBe(1);
    expect(engine.count('listContainers')).toBeGreaterThanOrEqual(3);
    expect(logged.filter(({ level }) => level === 'warn').length).toBeGreaterThanOrEqual(2);
    const stopped = reaper.stop();
    await vi.advanceTimersByTimeAsync(3000);
    await stopped;
    const runs = engine.count('listContainers');
    await vi.advanceTimersByTimeAsync(10_000);
    expect(engine.count('listContainers')).toBe(runs);
    expect(vi.getTimerCount()).toBe(0);
  });
});
