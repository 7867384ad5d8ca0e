import { describe, expect, it, onTestFinished, vi } from 'vitest';

import { EngineClock } from '../../../src/record/engine-clock.js';
import { SandyardError } from '../../../src/errors.js';
import { Inventory, type InventoryChange } from '../../../src/fleet/inventory.js';
import { silentLog } from '../../../src/log.js';
import {
  claimedAs,
  containerName,
  poolName,
  toLabels,
  toRecord,
  type Claim,
  type SandboxRecord,
} from '../../../src/record/record.js';
import { settleable } from '../../../src/settleable.js';
import { FakeEngine, type EngineMethod, type FakeContainer } from '../../fixtures/fake-engine.js';
import { TRAITS } from '../../fixtures/fake-fleet.js';

const HOUR = 3_600_000;

const CLAIM: Claim = {
  limits: TRAITS.limits,
  ttlMs: 1,
  idleTimeoutMs: null,
  onExpiry: 'stop',
  wakeOnUse: true,
  metadata: {},
  projectName: 'claimed',
  env: { A: 'b' },
  maxLifetimeMs: HOUR,
  createdAt: new Date(0),
  agesFrom: new Date(0),
  madeFor: null,
  tenant: null,
  token: 't',
};

function world({ engine = new FakeEngine() } = {}) {
  const told: string[] = [];
  const changes: InventoryChange[] = [];
  const compared: string[][] = [];
  const claims = new Map<string, Claim | Error>();
  const asked: string[] = [];
  const clock = new EngineClock();
  let reading: Promise<void> | undefined;
  const inventory = new Inventory({
    engine,
    clock,
    log: silentLog,
    owner: 'me',
    readClaim: async ({ id }) => {
      asked.push(id);
      await reading;
      const found = claims.get(id);
      if (found instanceof Error) throw found;
      return found;
    },
    changed: (change) => {
      changes.push(change);
      told.push(`${change.type} ${change.record.id}${change.found ? ' found' : ''}`);
    },
    compared: (ids) => compared.push([...ids].toSorted()),
  });
  const plant = (
    id: string,
    { pool, owner = 'me', ...given }: Partial<FakeContainer> & { pool?: string; owner?: string } = {},
  ) => {
    const about = { id, owner, projectName: undefined, createdAt: new Date(), maxLifetimeMs: HOUR, pool };
    const name = pool === undefined ? containerName(id) : poolName(id);
    return engine.plant({ name, labels: toLabels(TRAITS, about), ...given });
  };
  onTestFinished(() => inventory.close());
  const holdReading = () => {
    const held = settleable<void>();
    reading = held.promise;
    return () => held.resolve(undefined);
  };
  return { engine, inventory, told, changes, compared, claims, asked, clock, plant, holdReading };
}

/** Lets all that is under way in memory come about. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await new Promise(setImmediate);
}

async function openWorld(ids: string[] = []) {
  const opened = world();
  for (const id of ids) opened.plant(id);
  await opened.inventory.open();
  opened.told.length = 0;
  return opened;
}

/** How many timers there are that keep this program alive. */
const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
/** Since there were so many; one of the test runner's own may have ended meanwhile. */
const addedTimers = (before: number) => Math.max(0, timers() - before);

/** Has the calls of a method wait until they are let go on. */
function hold(engine: FakeEngine, when: 'before' | 'after', method: EngineMethod) {
  const [reached, goOn] = [settleable<void>(), settleable<void>()];
  engine[when] = {
    [method]: async () => {
      reached.resolve(undefined);
      await goOn.promise;
    },
  };
  return { reached: reached.promise, goOn: () => goOn.resolve(undefined) };
}

const ids = (inventory: Inventory) =>
  inventory
    .now()
    .map(({ id, state }) => `${id} ${state}`)
    .toSorted();

describe('when it opens', () => {
  it('has all that there are of its owner, and nothing else', async () => {
    const { engine, inventory, plant, told, compared, clock } = world();
    engine.clockOffsetMs = HOUR;
    plant('a');
    plant('b', { state: 'exited' });
    plant('warm', { pool: 'p' });
    plant('other', { owner: 'you' });
    engine.plant({ name: 'sandyard-imitation', labels: { 'sandyard.managed': '1', 'sandyard.owner': 'me' } });
    expect(inventory.live).toBe(false);
    await inventory.open();
    expect(inventory.live).toBe(true);
    expect(ids(inventory)).toEqual(['a running', 'b exited', 'warm running']);
    expect(told.toSorted()).toEqual(['created a found', 'created b found']);
    expect(compared).toEqual([['a', 'b', 'warm']]);
    expect(Math.abs(clock.now().getTime() - engine.now().getTime())).toBeLessThan(1000);
  });

  it('is opened once, however often it is asked', async () => {
    const { engine, inventory } = world();
    const held = hold(engine, 'before', 'listContainers');
    const opening = [inventory.open(), inventory.open()];
    let done = 0;
    for (const open of opening) void open.then(() => (done += 1));
    await held.reached;
    expect(done).toBe(0);
    held.goOn();
    await Promise.all(opening);
    await inventory.open();
    expect(engine.count('watchContainers')).toBe(1);
  });

  it.each(['watchContainers', 'info', 'listContainers'] as const)(
    'fails with what the engine fails with, and can be opened again: %s',
    async (method) => {
      const { engine, inventory, plant } = world();
      plant('a');
      engine.before[method] = () => {
        throw new SandyardError('engine_unavailable', 'Gone.');
      };
      await expect(inventory.open()).rejects.toMatchObject({ code: 'engine_unavailable' });
      expect(inventory.live).toBe(false);
      expect(engine.watchers).toBe(0);
      engine.before = {};
      await inventory.open();
      expect(ids(inventory)).toEqual(['a running']);
    },
  );

  it('is given up with its caller, before and while it opens', async () => {
    const { engine, inventory } = world();
    await expect(inventory.open(AbortSignal.abort())).rejects.toMatchObject({ code: 'aborted' });
    expect(engine.calls).toEqual([]);
    const caller = new AbortController();
    engine.before.listContainers = () => caller.abort();
    await expect(inventory.open(caller.signal)).rejects.toMatchObject({ code: 'aborted' });
    expect(engine.watchers).toBe(0);
  });

  it('misses nothing that happens while it lists', async () => {
    for (const when of ['before', 'after'] as const) {
      const { engine, inventory, plant, told } = world();
      plant('goes');
      plant('stops');
      const held = hold(engine, when, 'listContainers');
      const opening = inventory.open();
      await held.reached;
      engine.after = engine.before = {};
      plant('comes');
      engine.die('sandyard-stops', { exitCode: 90 });
      await engine.removeContainer('sandyard-goes');
      held.goOn();
      await opening;
      await settle();
      expect(ids(inventory)).toEqual(['comes running', 'stops exited']);
      expect(told).toContain(`created comes${when === 'before' ? ' found' : ''}`);
      if (when === 'after') expect(told).toEqual(expect.arrayContaining(['stopped stops', 'destroyed goes']));
    }
  });
});

describe('what the engine tells', () => {
  it('is followed, and told on', async () => {
    const { engine, inventory, told, changes, plant } = await openWorld();
    const { id } = plant('a', { state: 'created' });
    await engine.startContainer(id);
    await engine.pauseContainer(id);
    await engine.unpauseContainer(id);
    engine.die(id, { exitCode: 137, oomKilled: true });
    await settle();
    expect(ids(inventory)).toEqual(['a exited']);
    await engine.removeContainer(id);
    await settle();
    expect(told).toEqual(
      ['created', 'started', 'paused', 'unpaused', 'oom', 'stopped', 'destroyed'].map((type) => `${type} a`),
    );
    expect(changes.find(({ type }) => type === 'stopped')?.exitCode).toBe(137);
    expect(changes.filter(({ type }) => type !== 'stopped').every(({ exitCode }) => exitCode === undefined)).toBe(true);
    expect(inventory.now()).toEqual([]);
    expect(engine.count('listContainers')).toBe(1);
  });

  it('is told once, where the manager has entered or removed it itself', async () => {
    const { engine, inventory, told, plant } = await openWorld();
    const container = plant('a', { state: 'running' });
    inventory.enter(toRecord(container) as SandboxRecord);
    await settle();
    expect(told.filter((line) => line.startsWith('created'))).toEqual(['created a']);
    await engine.removeContainer(container.id);
    inventory.remove('a');
    inventory.remove('a');
    await settle();
    expect(told.filter((line) => line.startsWith('destroyed'))).toEqual(['destroyed a']);
    expect(engine.count('inspectContainer')).toBe(0);
  });

  it('does not bring back what is gone', async () => {
    const { engine, inventory, plant } = await openWorld();
    const container = plant('a');
    const record = toRecord(container) as SandboxRecord;
    await engine.removeContainer(container.id);
    await settle();
    inventory.enter(record); // its create was answered before, and is entered after
    expect(inventory.find('a')).toBeUndefined();
  });

  it('of one that is unknown has it looked at', async () => {
    const { engine, inventory, plant, told } = world();
    engine.after.listContainers = () => undefined;
    const container = plant('a');
    await inventory.open();
    inventory.remove('a');
    const other = {
      ...container,
      id: 'f'.repeat(64),
      name: 'sandyard-b',
      labels: { ...container.labels, 'sandyard.id': 'b' },
    };
    engine.containers.set('sandyard-b', other);
    await engine.pauseContainer(other.id);
    await settle();
    expect(ids(inventory)).toEqual(['b paused']);
    expect(told).toContain('created b');
  });

  it('agrees on a state as soon as the engine has told of it, or a second later all the same', async () => {
    const { engine, inventory, plant } = world();
    const { id } = plant('a');
    await inventory.open();
    let agreed = false;
    const waiting = inventory.agrees('a', 'paused', {}).then(() => (agreed = true));
    await inventory.agrees('a', 'running', {});
    await inventory.agrees('gone', 'running', {});
    expect(agreed).toBe(false);
    await engine.pauseContainer(id);
    await waiting;
    expect(ids(inventory)).toEqual(['a paused']);
    await inventory.agrees('a', 'running', { signal: AbortSignal.abort() });
    vi.useFakeTimers();
    try {
      const late = inventory.agrees('a', 'running', {});
      await vi.advanceTimersByTimeAsync(1000);
      await late;
    } finally {
      vi.useRealTimers();
    }
  });

  it('of one that is unknown and gone is ignored', async () => {
    const { engine, inventory, plant, told } = await openWorld();
    const container = plant('a');
    await settle();
    told.length = 0;
    inventory.remove('a');
    engine.before.inspectContainer = () => expect.fail('is not looked at');
    await engine.pauseContainer(container.id);
    await engine.removeContainer(container.id);
    await settle();
    expect(told).toEqual(['destroyed a']);
  });

  it('of one that was given a name that is not ours means that it is ours no more', async () => {
    const { engine, inventory, told } = await openWorld(['a']);
    const { id } = engine.find('sandyard-a');
    await engine.renameContainer(id, 'mine-now');
    await settle();
    expect(inventory.now()).toEqual([]);
    await engine.renameContainer(id, 'sandyard-a');
    await settle();
    expect(ids(inventory)).toEqual(['a running']);
    expect(told).toEqual(['destroyed a', 'created a']);
  });

  it('wakes who waits for it', async () => {
    const { engine, inventory } = await openWorld(['a', 'b']);
    let woken = 0;
    const [changed, other] = [inventory.changed('a', { atMostMs: 60_000 }), new AbortController()];
    void inventory.changed('b', { atMostMs: 60_000, signal: other.signal }).then(() => (woken += 1));
    engine.die('sandyard-a');
    await changed;
    expect(woken).toBe(0);
    other.abort();
    await settle();
    expect(woken).toBe(1);
    await inventory.changed('a', { atMostMs: 5 });
  });
});

describe('when the events break off', () => {
  it('compares all again, and tells what it finds', async () => {
    const { engine, inventory, told, compared, plant } = await openWorld(['stays', 'stops', 'goes', 'pauses']);
    engine.loseEvents();
    await settle();
    expect(inventory.live).toBe(false);
    plant('comes');
    engine.die('sandyard-stops', { exitCode: 90 });
    await engine.pauseContainer('sandyard-pauses');
    await engine.removeContainer('sandyard-goes');
    await vi.waitFor(() => expect(inventory.live).toBe(true));
    expect(ids(inventory)).toEqual(['comes running', 'pauses paused', 'stays running', 'stops exited']);
    expect(told.toSorted()).toEqual(
      ['created comes found', 'destroyed goes found', 'paused pauses found', 'stopped stops found'].toSorted(),
    );
    expect(compared.at(-1)).toEqual(['comes', 'pauses', 'stays', 'stops']);
    told.length = 0;
    await engine.unpauseContainer('sandyard-pauses');
    await settle();
    expect(told).toEqual(['unpaused pauses']);
  });

  it.each([
    ['all that ran was stopped', { stopped: ['a', 'b'], liveRestore: false }, ['a', 'b']],
    ['something still runs, so that the engine was not started again', { stopped: ['a'], liveRestore: false }, []],
    ['the engine restores what runs', { stopped: ['a', 'b'], liveRestore: true }, []],
  ])('knows what may have been lost where %s', async (_, { stopped, liveRestore }, lost) => {
    const { engine, inventory, plant } = world();
    for (const id of ['a', 'b']) plant(id);
    plant('stopped', { state: 'exited' });
    engine.liveRestore = liveRestore;
    await inventory.open();
    const outages = () =>
      inventory
        .now()
        .filter((record) => inventory.outageOf(record) !== undefined)
        .toSorted((a, b) => a.id.localeCompare(b.id));
    const before = engine.now();
    engine.loseEvents();
    await settle();
    for (const id of stopped) engine.die(`sandyard-${id}`, { exitCode: 143 });
    await vi.waitFor(() => expect(inventory.live).toBe(true));
    expect(outages().map(({ id }) => id)).toEqual(lost);
    for (const record of outages()) {
      const { from, to } = inventory.outageOf(record) ?? {};
      expect(from?.getTime()).toBeGreaterThanOrEqual(before.getTime() - 5);
      expect(to?.getTime()).toBeLessThanOrEqual(engine.now().getTime() + 5);
    }
    engine.loseEvents();
    await settle();
    await vi.waitFor(() => expect(inventory.live).toBe(true), { timeout: 5000 });
    expect(outages().map(({ id }) => id)).toEqual(lost);
  });

  it('tries again, ever more rarely, for as long as the engine is away', async () => {
    const { engine, inventory } = await openWorld(['a']);
    engine.loseEvents();
    const times: number[] = [];
    engine.before.watchContainers = () => {
      times.push(performance.now());
      throw new SandyardError('engine_unavailable', 'Gone.');
    };
    await vi.waitFor(() => expect(times.length).toBe(3), { timeout: 5000 });
    const [first = 0, second = 0, third = 0] = times;
    expect(third - second).toBeGreaterThan((second - first) * 1.5);
    expect(ids(inventory)).toEqual(['a running']);
  });

  it('keeps what is entered while it lists', async () => {
    const { engine, inventory, told, plant } = await openWorld();
    engine.loseEvents();
    await settle();
    const held = hold(engine, 'after', 'listContainers'); // the list is made, and on its way
    await held.reached;
    inventory.enter(toRecord(plant('new')) as SandboxRecord);
    engine.after = {};
    held.goOn();
    await settle();
    expect(ids(inventory)).toEqual(['new running']);
    expect(told).toEqual(['created new']);
  });

  it('is not live by a list that came after they broke off', async () => {
    const { engine, inventory } = await openWorld();
    engine.loseEvents();
    await settle();
    const held = hold(engine, 'after', 'listContainers');
    await held.reached;
    engine.loseEvents();
    await settle();
    held.goOn();
    await settle();
    expect(inventory.live).toBe(false);
  });
});

describe('a warm sandbox', () => {
  it('is there, and nobody is told of it', async () => {
    const { engine, inventory, told, asked, plant } = await openWorld();
    plant('w', { pool: 'p' });
    await settle();
    expect(inventory.find('w')).toMatchObject({ warm: true, pool: 'p' });
    await engine.removeContainer('sandyard-pool-w');
    await settle();
    expect(inventory.find('w')).toBeUndefined();
    expect([...told, ...asked]).toEqual([]);
  });

  it('is what it was claimed as when it is renamed', async () => {
    const { engine, inventory, told, claims, plant } = await openWorld();
    const { id } = plant('w', { pool: 'p' });
    claims.set('w', CLAIM);
    await engine.renameContainer(id, 'sandyard-w');
    await settle();
    expect(inventory.find('w')).toMatchObject({
      warm: false,
      projectName: 'claimed',
      name: 'sandyard-w',
      state: 'running',
    });
    expect(told).toEqual(['created w']);
    engine.die(id);
    await settle();
    expect(told).toEqual(['created w', 'stopped w']);
    expect(inventory.find('w')).toMatchObject({ projectName: 'claimed', env: { A: 'b' }, state: 'exited' });
  });

  it('is not read where this manager has claimed it itself', async () => {
    const { engine, inventory, told, asked, plant } = await openWorld();
    const container = plant('w', { pool: 'p' });
    await settle();
    inventory.enter(claimedAs(inventory.find('w') as SandboxRecord, CLAIM));
    await engine.renameContainer(container.id, 'sandyard-w');
    await settle();
    expect(told).toEqual(['created w']);
    expect(asked).toEqual([]);
  });

  it('is read when it is found claimed, at the beginning and after the events broke off', async () => {
    const { engine, inventory, claims, plant } = world();
    claims.set('first', CLAIM).set('later', CLAIM);
    plant('first', { pool: 'p', name: 'sandyard-first' });
    plant('later', { pool: 'p' });
    await inventory.open();
    await settle();
    expect(inventory.now().map(({ id, warm }) => [id, warm])).toEqual(
      expect.arrayContaining([
        ['first', false],
        ['later', true],
      ]),
    );
    engine.loseEvents();
    await settle();
    await engine.renameContainer('sandyard-pool-later', 'sandyard-later');
    await vi.waitFor(() => expect(inventory.find('later')).toMatchObject({ warm: false, name: 'sandyard-later' }));
  });

  it('is read again by a list, where it could not be', async () => {
    const { inventory, claims, told, plant } = await openWorld();
    claims.set('w', new SandyardError('engine_timeout', 'Too slow.'));
    plant('w', { pool: 'p', name: 'sandyard-w' });
    await settle();
    expect((await inventory.all())[0]).toMatchObject({ warm: true });
    claims.set('w', CLAIM);
    expect((await inventory.all())[0]).toMatchObject({ warm: false });
    expect(told).toEqual(['created w']);
  });

  it('is waited for by a list', async () => {
    const { inventory, claims, plant, holdReading } = await openWorld();
    const goOn = holdReading();
    claims.set('w', CLAIM);
    plant('w', { pool: 'p', name: 'sandyard-w' });
    await settle();
    let listed: SandboxRecord[] | undefined;
    const all = inventory.all().then((found) => (listed = found));
    await settle();
    expect(listed).toBeUndefined();
    goOn();
    await all;
    expect(listed).toMatchObject([{ warm: false }]);
  });

  it('is read four at a time', async () => {
    const { inventory, asked, plant, holdReading } = await openWorld();
    const goOn = holdReading();
    for (let n = 0; n < 10; n += 1) plant(`w${n}`, { pool: 'p', name: `sandyard-w${n}` });
    await settle();
    expect(asked).toHaveLength(4);
    goOn();
    await inventory.all();
    expect(new Set(asked).size).toBe(10);
  });

  it('that is removed while it is read stays gone', async () => {
    const { engine, inventory, claims, told, plant, holdReading } = await openWorld();
    const goOn = holdReading();
    claims.set('w', CLAIM);
    plant('w', { pool: 'p', name: 'sandyard-w' });
    await settle();
    await engine.removeContainer('sandyard-w');
    await settle();
    goOn();
    await settle();
    expect(inventory.find('w')).toBeUndefined();
    expect(told).toEqual([]);
  });
});

describe('close', () => {
  it.each<[phase: string, when: 'before' | 'after', method: EngineMethod]>([
    ['while it subscribes', 'before', 'watchContainers'],
    ['while it asks for the time', 'before', 'info'],
    ['while it lists', 'before', 'listContainers'],
    ['when it has listed', 'after', 'listContainers'],
  ])('leaves nothing behind, %s', async (_, when, method) => {
    const before = timers();
    const { engine, inventory } = world();
    const held = hold(engine, when, method);
    const opening = inventory.open();
    opening.catch(() => {});
    await held.reached;
    const closing = inventory.close();
    held.goOn(); // the engine's calls settle when they are given up
    await closing;
    await expect(opening).rejects.toMatchObject({ code: 'aborted' });
    await settle();
    expect({ live: inventory.live, watchers: engine.watchers, timers: addedTimers(before) }).toEqual({
      live: false,
      watchers: 0,
      timers: 0,
    });
  });

  it.each(['open', 'waiting to try again', 'reading', 'never opened'])(
    'leaves nothing behind when it is %s',
    async (phase) => {
      const before = timers();
      const { engine, inventory, asked, plant, holdReading } = world();
      if (phase !== 'never opened') await inventory.open();
      if (phase === 'waiting to try again') engine.loseEvents();
      const goOn = holdReading();
      if (phase === 'reading') for (let n = 0; n < 8; n += 1) plant(`w${n}`, { pool: 'p', name: `sandyard-w${n}` });
      await settle();
      const closing = inventory.close();
      goOn();
      await closing;
      expect(asked.length).toBe(phase === 'reading' ? 4 : 0);
      expect({ live: inventory.live, watchers: engine.watchers, timers: addedTimers(before) }).toEqual({
        live: false,
        watchers: 0,
        timers: 0,
      });
      await inventory.close();
    },
  );
});
