import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { SandyardError } from '../../src/errors.js';
import type { Log } from '../../src/log.js';
import { Reaper } from '../../src/reaper.js';
import { containerName, toLabels } from '../../src/record.js';
import { FakeEngine, type FakeContainer } from '../fixtures/fake-engine.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const NOW = Date.parse('2026-01-02T00:00:00Z');

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: NOW });
});
afterEach(() => {
  vi.useRealTimers();
});

interface Sown extends Partial<FakeContainer> {
  readonly owner?: string;
  readonly ageMs?: number;
  readonly maxLifetimeMs?: number;
}

/** An engine with containers of sandboxes that have a lease of an hour and a lifetime of a day. */
function garden({ dryRun = false } = {}) {
  const engine = new FakeEngine();
  const logged: { level: string; fields: Record<string, unknown>; message: string }[] = [];
  const logger = (level: string) => (fields: object, message: string) =>
    void logged.push({ level, fields: { ...fields }, message });
  const log: Log = { debug: logger('debug'), info: logger('info'), warn: logger('warn'), error: logger('error') };
  const seen: (readonly string[])[] = [];
  const gone: string[] = [];
  const rules = { stoppedRetentionMs: 2 * HOUR, halfCreatedAfterMs: 5 * MINUTE };
  const reaper = new Reaper({
    engine,
    log,
    owner: 'me',
    rules,
    dryRun,
    seen: (ids) => seen.push([...ids]),
    removed: (id) => gone.push(id),
  });
  const sow = (id: string, { owner = 'me', ageMs = 0, maxLifetimeMs = 24 * HOUR, ...container }: Sown) => {
    const traits = {
      limits: { memoryBytes: 1, cpus: 1, pids: 1, nofile: 1 },
      network: 'none',
      workdir: '/workspace',
      user: 'sandbox',
      ttlMs: HOUR,
      idleTimeoutMs: null,
      runtime: null,
      metadata: {},
    } as const;
    const about = { id, owner, projectName: undefined, createdAt: new Date(NOW - ageMs), maxLifetimeMs };
    return engine.plant({ name: containerName(id), labels: toLabels(traits, about), ...container });
  };
  return { engine, reaper, seen, gone, logged, sow };
}

/** As the warden ends a sandbox whose lease has run out. */
const EXPIRED: Sown = { state: 'exited', exitCode: 90, finishedAt: new Date(NOW) };

describe('a run', () => {
  it.each<[what: string, sown: Sown, reason: string | undefined]>([
    ['a fresh one', {}, undefined],
    ['one that ended itself when its lease ran out', EXPIRED, 'lease_expired'],
    ['one that ended itself being idle', { ...EXPIRED, exitCode: 91 }, 'idle'],
    ['one that runs, past the lease that it began with', { ageMs: 20 * HOUR }, undefined],
    ['a lifetime that has run out', { ageMs: 24 * HOUR + 1 }, 'max_lifetime'],
    ['a paused one', { state: 'paused', ageMs: 20 * HOUR }, undefined],
    ['a young one that was not started', { state: 'created', ageMs: 4 * MINUTE }, undefined],
    ['an old one that was not started', { state: 'created', ageMs: 6 * MINUTE }, 'half_created'],
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
    const { engine, reaper, sow, logged } = garden();
    sow('abc', sown);
    const reaped = await reaper.run();
    expect(reaped).toEqual(reason === undefined ? [] : [{ id: 'abc', reason, removed: true }]);
    expect(engine.containers.size).toBe(reason === undefined ? 1 : 0);
    expect(logged).toEqual(
      reason === undefined
        ? []
        : [expect.objectContaining({ level: 'info', fields: expect.objectContaining({ sandbox: 'abc', reason }) })],
    );
  });

  it('leaves alone what is not ours', async () => {
    const { engine, reaper, sow } = garden();
    sow('other', { owner: 'you', ageMs: 48 * HOUR });
    engine.plant({ name: 'postgres', labels: {} });
    engine.plant({ name: 'sandyard-imitation', labels: { 'sandyard.managed': '1', 'sandyard.owner': 'me' } });
    const { labels } = sow('mine', { ageMs: 48 * HOUR });
    engine.plant({ name: 'renamed', labels });
    expect(await reaper.run()).toEqual([{ id: 'mine', reason: expect.any(String), removed: true }]);
    expect([...engine.containers.keys()]).toEqual(['sandyard-other', 'postgres', 'sandyard-imitation', 'renamed']);
  });

  it('tells which there are, and which are gone', async () => {
    const { reaper, sow, seen, gone } = garden();
    sow('a', {});
    sow('b', EXPIRED);
    sow('other', { owner: 'you' });
    await reaper.run();
    expect(seen).toEqual([['b', 'a']]);
    expect(gone).toEqual(['b']);
  });

  it('keeps what somebody has started again', async () => {
    const { engine, reaper, sow } = garden();
    const container = sow('abc', EXPIRED);
    engine.after.listContainers = () => {
      container.state = 'running';
    };
    expect(await reaper.run()).toEqual([]);
    expect(engine.containers.size).toBe(1);
  });

  it('goes by the state that is, not the one in the list', async () => {
    const { engine, reaper, sow } = garden();
    const container = sow('abc', { state: 'created', ageMs: 10 * MINUTE });
    engine.after.listContainers = () => {
      container.state = 'running'; // its create was slow, and is done now
    };
    expect(await reaper.run()).toEqual([]);
  });

  it('asks the engine about nothing but the list while all run', async () => {
    const { engine, reaper, sow } = garden();
    for (const id of ['a', 'b', 'c']) sow(id, { ageMs: 20 * HOUR });
    await reaper.run();
    expect(engine.calls.map(({ method }) => method)).toEqual(['listContainers']);
  });

  it('tells in a dry run, and removes nothing', async () => {
    const { engine, reaper, sow, logged } = garden();
    sow('abc', EXPIRED);
    expect(await reaper.run({ dryRun: true })).toEqual([{ id: 'abc', reason: 'lease_expired', removed: false }]);
    expect(engine.count('removeContainer')).toBe(0);
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
    const { engine, reaper, sow, logged } = garden();
    sow('bad', EXPIRED);
    sow('good', EXPIRED);
    engine.before.removeContainer = (name) => {
      if (name === 'sandyard-bad') throw new SandyardError('engine_error', 'Stuck.');
    };
    const reaped = await reaper.run();
    expect([...engine.containers.keys()]).toEqual(['sandyard-bad']);
    expect(reaped).toContainEqual({ id: 'good', reason: 'lease_expired', removed: true });
    expect(reaped).toContainEqual({ id: 'bad', reason: 'lease_expired', removed: false });
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

  it('rejects when the engine cannot be asked', async () => {
    const { engine, reaper } = garden();
    engine.before.listContainers = () => {
      throw new SandyardError('engine_unavailable', 'Gone.');
    };
    await expect(reaper.run()).rejects.toMatchObject({ code: 'engine_unavailable' });
  });

  it('stops where its caller gives up', async () => {
    const { engine, reaper, sow } = garden();
    sow('a', EXPIRED);
    sow('b', EXPIRED);
    const caller = new AbortController();
    engine.after.removeContainer = () => caller.abort();
    await expect(reaper.run({ signal: caller.signal })).rejects.toMatchObject({ code: 'aborted' });
    expect(engine.containers.size).toBe(1);
  });
});

describe('the schedule', () => {
  it.each(['', 'often', '* * *', '61 * * * * *', '* * * * * * *'])('refuses %j', (expression) => {
    const { reaper } = garden();
    expect(() => reaper.start(expression)).toThrow(expect.objectContaining({ code: 'config_invalid' }));
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
    await reaper.stop();
    const runs = engine.count('listContainers');
    await vi.advanceTimersByTimeAsync(10_000);
    expect(engine.count('listContainers')).toBe(runs);
  });
});
