import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Admission, type Admitted, type AdmissionParts, type Wanted } from '../../../src/create/admission.js';
import type { Usage } from '../../../src/create/ceilings.js';
import type { Ceilings } from '../../../src/config.js';
import { SandyardError } from '../../../src/errors.js';
import type { HostRoom } from '../../../src/create/host-room.js';
import { settleable, type Settleable } from '../../../src/settleable.js';

const MIB = 1024 ** 2;
const NONE: Ceilings = { sandboxes: Infinity, memoryBytes: Infinity, cpus: Infinity, pids: Infinity };
const EMPTY: Usage = { sandboxes: 0, memoryBytes: 0, cpus: 0, pids: 0 };
const WANTED: Wanted = { memoryBytes: 100 * MIB, cpus: 0.1, pids: 10 };
const PLENTY: HostRoom = { memoryBytes: 1e12, diskBytes: 1e12 };

interface World {
  readonly admission: Admission;
  /** What is there, of the owner; the manager's own is the same unless `manager` says otherwise. */
  owner: Usage;
  manager: Usage | undefined;
  room: () => Promise<HostRoom>;
}

interface Settings extends Partial<Omit<AdmissionParts, 'ceilings'>> {
  readonly owner?: Partial<Ceilings>;
  readonly manager?: Partial<Ceilings>;
}

function makeWorld({ owner, manager, ...parts }: Settings = {}): World {
  const world = { owner: EMPTY, manager: undefined as Usage | undefined, room: () => Promise.resolve(PLENTY) };
  const admission = new Admission({
    ceilings: { owner: { ...NONE, ...owner }, manager: { ...NONE, ...manager } },
    atOnce: 4,
    queue: 64,
    floor: { memoryBytes: 512 * MIB, diskBytes: 1024 * MIB },
    used: () => ({ owner: world.owner, manager: world.manager ?? world.owner }),
    room: () => world.room(),
    ...parts,
  });
  return Object.assign(world, { admission });
}

/** What it rejects with, or what it is admitted with, so that nothing is left unhandled. */
const outcome = (entering: Promise<Admitted | undefined>) =>
  entering.then(
    (admitted) => admitted ?? null,
    (error: unknown) => {
      if (error instanceof SandyardError) return error;
      throw error;
    },
  );

const settled = () => new Promise((resolve) => setImmediate(resolve));

async function refusal(entering: Promise<Admitted | undefined>): Promise<SandyardError> {
  const result = await outcome(entering);
  if (result instanceof SandyardError) return result;
  throw new Error('It was not refused.');
}

function thrownBy(act: () => unknown): SandyardError {
  try {
    act();
  } catch (error) {
    if (error instanceof SandyardError) return error;
    throw error;
  }
  throw new Error('Nothing was thrown.');
}

describe('ceilings', () => {
  it.each<[scope: 'owner' | 'manager', measure: keyof Ceilings, limit: number, ceiling: string, says: RegExp]>([
    ['owner', 'sandboxes', 3, 'owner.sandboxes', /ceiling of 3 sandboxes for all .* this owner .*: 3 taken, 1 more/],
    ['owner', 'memoryBytes', 350 * MIB, 'owner.memory', /350m of memory for all .*: 300m taken, 100m more/],
    ['owner', 'cpus', 0.3, 'owner.cpus', /ceiling of 0\.3 CPUs for all .*: 0\.3 taken, 0\.1 more/],
    ['owner', 'pids', 39, 'owner.pids', /ceiling of 39 processes/],
    ['manager', 'sandboxes', 3, 'manager.sandboxes', /this manager/],
    ['manager', 'memoryBytes', 350 * MIB, 'manager.memory', /this manager/],
    ['manager', 'cpus', 0.3, 'manager.cpus', /this manager/],
    ['manager', 'pids', 39, 'manager.pids', /this manager/],
  ])('refuses above %s %s at once, and says so', async (scope, measure, limit, ceiling, says) => {
    const { admission } = makeWorld({ [scope]: { [measure]: limit } });
    for (let taken = 0; taken < 3; taken++) await admission.enter(WANTED);
    const error = await refusal(admission.enter(WANTED));
    expect(error.code).toBe('over_capacity');
    expect(error.message).toMatch(says);
    expect(error.hint).toMatch(scope === 'owner' ? /SANDBOX_MAX_/ : /manager a higher/);
    expect(error.details).toMatchObject({ ceiling, limit, queue_length: 0, retry_after_s: 10 });
    expect(thrownBy(() => admission.admitClaim(WANTED)).details).toMatchObject({ ceiling, limit });
    expect(await admission.tryEnter(WANTED)).toBeUndefined();
  });

  it('count what is there and what is promised, each once', async () => {
    const world = makeWorld({ owner: { sandboxes: 3 } });
    world.owner = { ...EMPTY, sandboxes: 1 };
    const first = await world.admission.enter(WANTED);
    const second = world.admission.admitClaim(WANTED);
    expect((await refusal(world.admission.enter(WANTED))).details).toMatchObject({ used: 3, wanted: 1, limit: 3 });
    world.owner = { ...EMPTY, sandboxes: 2 };
    first.release();
    first.release();
    expect((await refusal(world.admission.enter(WANTED))).details).toMatchObject({ used: 3 });
    second.release();
    expect(await outcome(world.admission.enter(WANTED))).toHaveProperty('release');
  });

  it('tell whoever counts what is there which ones are counted already', async () => {
    const used = vi.fn<AdmissionParts['used']>(() => ({ owner: EMPTY, manager: EMPTY }));
    const { admission } = makeWorld({ owner: { sandboxes: 9 }, used });
    const admitted = await admission.enter({ ...WANTED, id: 'early' });
    admission.admitClaim(WANTED);
    expect(used).toHaveBeenLastCalledWith(new Set(['early']), undefined);
    admitted.release();
    admission.admitClaim(WANTED);
    expect(used).toHaveBeenLastCalledWith(new Set(), undefined);
  });

  it('count for those that wait too, so that none waits for nothing', async () => {
    const { admission } = makeWorld({ owner: { sandboxes: 2 }, atOnce: 1 });
    await admission.enter(WANTED);
    void outcome(admission.enter(WANTED));
    expect((await refusal(admission.enter(WANTED))).details).toMatchObject({ used: 2, queue_length: 1 });
  });

  it('are looked at again when it is its turn, without those that come later', async () => {
    const world = makeWorld({ owner: { sandboxes: 4 }, atOnce: 1 });
    const first = await world.admission.enter(WANTED);
    const [second, third] = [1, 2, 3].map(() => outcome(world.admission.enter(WANTED)));
    world.owner = { ...EMPTY, sandboxes: 3 }; // the first, and two of another manager
    first.release();
    const admitted = await second;
    expect(admitted).toHaveProperty('release');
    world.owner = { ...EMPTY, sandboxes: 4 };
    (admitted as Admitted).release();
    expect(await third).toMatchObject({ code: 'over_capacity', details: { used: 4, limit: 4 } });
  });

  it('refuse one whose turn comes too late', async () => {
    const world = makeWorld({ owner: { sandboxes: 2 }, atOnce: 1 });
    const first = await world.admission.enter(WANTED);
    const second = refusal(world.admission.enter(WANTED));
    world.owner = { ...EMPTY, sandboxes: 2 };
    first.release();
    expect(await second).toMatchObject({ code: 'over_capacity', details: { used: 2 } });
    expect(world.admission).toMatchObject({ running: 0, waiting: 0 });
  });

  it.each<[Partial<Wanted>, Partial<Ceilings>, string]>([
    [{ memoryBytes: 2 * MIB }, { memoryBytes: MIB }, 'memoryLimit'],
    [{ cpus: 2 }, { cpus: 1 }, 'cpuLimit'],
    [{ pids: 2 }, { pids: 1 }, 'pidsLimit'],
  ])('refuse for good what alone is above one: %j of %j', async (wanted, owner, field) => {
    const { admission } = makeWorld({ owner });
    const error = await refusal(admission.enter({ ...WANTED, ...wanted }));
    expect(error).toMatchObject({ code: 'limit_exceeded', retryable: false, issues: [{ path: [field] }] });
  });

  it('need no count where there are none', async () => {
    const used = vi.fn<AdmissionParts['used']>();
    await makeWorld({ used }).admission.enter(WANTED);
    expect(used).not.toHaveBeenCalled();
  });
});

describe('the queue', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }));
  afterEach(() => void vi.useRealTimers());

  it('lets as many begin at once as it may, and the others in their order', async () => {
    const { admission } = makeWorld({ atOnce: 2 });
    const order: number[] = [];
    const begun: Admitted[] = [];
    for (let one = 0; one < 6; one++) {
      void admission.enter(WANTED).then((admitted) => {
        order.push(one);
        begun.push(admitted);
      });
    }
    for (let done = 0; done < 6; done++) {
      await settled();
      expect(order).toEqual([0, 1, 2, 3, 4, 5].slice(0, done + 2));
      expect(admission).toMatchObject({ running: Math.min(2, 6 - done), waiting: Math.max(0, 4 - done) });
      begun[done]?.release();
    }
    expect(admission).toMatchObject({ running: 0, waiting: 0 });
  });

  it('is full at its length, and says for how long by what creates took', async () => {
    const { admission } = makeWorld({ atOnce: 2, queue: 3 });
    const full = () => {
      const held = [1, 2, 3, 4, 5].map(() => outcome(admission.enter(WANTED)));
      return { held, error: refusal(admission.enter(WANTED)) };
    };
    const first = full();
    expect((await first.error).details).toEqual({
      ceiling: 'queue',
      limit: 3,
      used: 3,
      wanted: 1,
      queue_length: 3,
      retry_after_s: 2,
    });
    for (const one of first.held) {
      const admitted = (await one) as Admitted;
      vi.advanceTimersByTime(20_000);
      admitted.release();
    }
    const { retry_after_s: seconds } = (await full().error).details;
    expect(seconds).toBeGreaterThan(10);
    expect(seconds).toBeLessThanOrEqual(60);
  });

  it.each([
    [0, 1],
    [3_600_000, 60],
  ])('with creates of %i ms says %i s', async (ms, seconds) => {
    const { admission } = makeWorld({ atOnce: 1, queue: 0 });
    for (let made = 0; made < 100; made++) {
      const admitted = await admission.enter(WANTED);
      vi.advanceTimersByTime(ms);
      admitted.release();
    }
    await admission.enter(WANTED);
    expect((await refusal(admission.enter(WANTED))).details).toMatchObject({ retry_after_s: seconds, queue_length: 0 });
  });

  it('is left by who gives up, and the others move up', async () => {
    const { admission } = makeWorld({ atOnce: 1, queue: 2 });
    const first = await admission.enter(WANTED);
    const abort = new AbortController();
    const reason = new Error('enough');
    const second = refusal(admission.enter(WANTED, { signal: abort.signal }));
    const third = outcome(admission.enter(WANTED));
    abort.abort(reason);
    expect(await second).toMatchObject({ code: 'aborted', cause: reason });
    expect(admission.waiting).toBe(1);
    first.release();
    expect(await third).toHaveProperty('release');
  });

  it('is not entered by who gave up before', async () => {
    const { admission } = makeWorld();
    expect(await refusal(admission.enter(WANTED, { signal: AbortSignal.abort() }))).toMatchObject({ code: 'aborted' });
    expect(admission).toMatchObject({ running: 0, waiting: 0 });
  });

  it('is nothing to a claim', async () => {
    const { admission } = makeWorld({ atOnce: 1, queue: 0 });
    await admission.enter(WANTED);
    admission.admitClaim(WANTED).release();
    expect(admission.running).toBe(1);
  });

  it('ends when it is closed', async () => {
    const world = makeWorld({ atOnce: 1 });
    const first = await world.admission.enter(WANTED);
    const second = refusal(world.admission.enter(WANTED));
    world.admission.close();
    world.admission.close();
    const closed = { code: 'manager_closed' };
    expect(await second).toMatchObject(closed);
    expect(await refusal(world.admission.enter(WANTED))).toMatchObject(closed);
    expect(thrownBy(() => world.admission.admitClaim(WANTED))).toMatchObject(closed);
    expect(await world.admission.tryEnter(WANTED)).toBeUndefined();
    first.release();
    expect(world.admission).toMatchObject({ running: 0, waiting: 0 });
  });
});

describe("the machine's room", () => {
  const FLOOR = { memoryBytes: 512 * MIB, diskBytes: 1024 * MIB };
  const free = (memory: number | null, disk: number | null) => () =>
    Promise.resolve({ memoryBytes: memory, diskBytes: disk });

  it.each([
    ['memory', 575.5 * MIB, 1e12, 576 * MIB, /575m of memory free, and 576m/, /SANDBOX_KEEP_FREE_MEMORY/],
    ['disk', 1e12, 1000 * MIB, 1088 * MIB, /1000m of disk free, and 1088m/, /SANDBOX_KEEP_FREE_DISK/],
  ])('is too small: %s', async (resource, memory, disk, needed, says, hint) => {
    const { admission } = makeWorld({ room: free(memory, disk) });
    const error = await refusal(admission.enter(WANTED));
    expect(error.code).toBe('host_exhausted');
    expect(error.message).toMatch(says);
    expect(error.hint).toMatch(hint);
    expect(error.details).toMatchObject({ resource, needed, free: resource === 'memory' ? memory : disk });
    expect(error.details['retry_after_s']).toBeGreaterThan(0);
    expect(admission.running).toBe(0);
    expect(await admission.tryEnter(WANTED)).toBeUndefined();
    expect(admission.running).toBe(0);
    admission.admitClaim(WANTED);
  });

  it('is shared by all that are being made, not by their limits', async () => {
    const { admission } = makeWorld({ room: free(FLOOR.memoryBytes + 2 * 64 * MIB, null) });
    const greedy = { ...WANTED, memoryBytes: 1e12 };
    await admission.enter(greedy);
    const second = await admission.enter(greedy);
    expect((await refusal(admission.enter(greedy))).details).toMatchObject({ needed: FLOOR.memoryBytes + 192 * MIB });
    second.release();
    await admission.enter(greedy);
  });

  it.each<[string, () => Promise<HostRoom>]>([
    ['is not known', free(null, null)],
    ['is what fails to be asked for', () => Promise.reject(new Error('no engine'))],
    [
      'throws',
      () => {
        throw new Error('at once');
      },
    ],
  ])('does not refuse when it %s', async (_, room) => {
    const { admission } = makeWorld({ room });
    (await admission.enter(WANTED)).release();
    (await admission.tryEnter(WANTED))?.release();
    expect(admission.running).toBe(0);
  });

  it.each([
    ['the caller', (_: Admission, abort: AbortController) => abort.abort(), 'aborted'],
    ['the manager', (admission: Admission) => admission.close(), 'manager_closed'],
  ])('is not waited for when %s gives up', async (_, giveUp, code) => {
    const { admission } = makeWorld({ room: () => new Promise(() => {}) });
    const abort = new AbortController();
    const entering = refusal(admission.enter(WANTED, { signal: abort.signal }));
    await settled();
    giveUp(admission, abort);
    expect(await entering).toMatchObject({ code });
    expect(admission).toMatchObject({ running: 0, waiting: 0 });
  });
});

describe('filling a pool', () => {
  it('leaves a place for who comes', async () => {
    const { admission } = makeWorld({ atOnce: 3 });
    const [first, second, third] = await Promise.all([1, 2, 3].map(() => admission.tryEnter(WANTED)));
    expect([first, second, third].map((one) => one !== undefined)).toEqual([true, true, false]);
    expect(await outcome(admission.enter(WANTED))).toHaveProperty('release');
    first?.release();
    expect(admission.running).toBe(2);
  });

  it('goes on with one place, and lets nobody wait behind it that was there before', async () => {
    const { admission } = makeWorld({ atOnce: 1 });
    const filling = await admission.tryEnter(WANTED);
    const caller = outcome(admission.enter(WANTED));
    expect(await admission.tryEnter(WANTED)).toBeUndefined();
    filling?.release();
    expect(await caller).toHaveProperty('release');
  });

  it('gives way to a caller that came while the room was asked for', async () => {
    const room = settleable<HostRoom>();
    const { admission } = makeWorld({ atOnce: 1, room: () => room.promise });
    const filling = admission.tryEnter(WANTED);
    const caller = outcome(admission.enter(WANTED));
    room.resolve(PLENTY);
    expect(await filling).toBeUndefined();
    expect(await caller).toHaveProperty('release');
    expect(admission).toMatchObject({ running: 1, waiting: 0 });
  });

  it('promises nothing of what has a ceiling', async () => {
    const { admission } = makeWorld({ owner: { sandboxes: 1 } });
    expect(await admission.tryEnter(WANTED)).toBeDefined();
    admission.admitClaim(WANTED);
  });
});

/** A run of the world with what may happen in it, in any order. */
type Step =
  | { readonly do: 'enter' | 'claim' | 'fill'; readonly cpus: number }
  | { readonly do: 'release' | 'drop' | 'abort' | 'answer' | 'fail' | 'remove'; readonly nth: number }
  | { readonly do: 'settle' | 'close' };

const stepArbitrary: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('enter' as const), cpus: fc.integer({ min: 1, max: 40 }) }) },
  fc.record({ do: fc.constantFrom('claim' as const, 'fill' as const), cpus: fc.integer({ min: 1, max: 40 }) }),
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom(
        'release' as const,
        'drop' as const,
        'abort' as const,
        'answer' as const,
        'fail' as const,
        'remove' as const,
      ),
      nth: fc.nat(20),
    }),
  },
  { weight: 4, arbitrary: fc.constant({ do: 'settle' as const }) },
  { weight: 1, arbitrary: fc.constantFrom({ do: 'settle' as const }, { do: 'close' as const }) },
);

/** Sandboxes are known by id; each takes hundredths of CPUs, as fractions don't add up. */
class Run {
  readonly limits = { sandboxes: 6, cpus: 1 };
  readonly atOnce = 2;
  readonly index = new Map<string, Wanted>();
  readonly rooms: Settleable<HostRoom>[] = [];
  readonly aborts: AbortController[] = [];
  readonly held: { admitted: Admitted; wanted: Wanted & { id: string }; slot: boolean; warm: boolean }[] = [];
  readonly released: Admitted[] = [];
  readonly entered: number[] = [];
  /** Admitted, refused or given up. */
  readonly answers: Promise<unknown>[] = [];
  readonly admission: Admission;
  #next = 0;

  constructor() {
    this.admission = makeWorld({
      owner: this.limits,
      atOnce: this.atOnce,
      queue: 5,
      used: (except) => {
        const counted = [...this.index].filter(([id]) => !except.has(id)).map(([, wanted]) => wanted);
        const usage = { ...EMPTY, sandboxes: counted.length, cpus: counted.reduce((sum, { cpus }) => sum + cpus, 0) };
        return { owner: usage, manager: usage };
      },
      room: () => {
        const room = settleable<HostRoom>();
        this.rooms.push(room);
        return room.promise;
      },
    }).admission;
  }

  async take(step: Step): Promise<void> {
    switch (step.do) {
      case 'enter':
        return this.#enter(step.cpus);
      case 'fill':
        return this.#fill(step.cpus);
      case 'claim': {
        const wanted = this.#wanted(step.cpus);
        try {
          this.held.push({ admitted: this.admission.admitClaim(wanted), wanted, slot: false, warm: false });
        } catch {
          return;
        }
        return;
      }
      case 'release':
      case 'drop':
        return this.#release(step.nth, step.do === 'release');
      case 'abort':
        return this.aborts[step.nth % this.aborts.length]?.abort();
      case 'answer':
        return this.rooms[step.nth % this.rooms.length]?.resolve(PLENTY);
      case 'fail':
        return step.nth % 2 === 0
          ? this.rooms.at(-1)?.reject(new Error('no engine'))
          : this.rooms.at(-1)?.resolve({ memoryBytes: 0, diskBytes: 0 });
      case 'remove':
        this.index.delete([...this.index.keys()][step.nth % this.index.size] ?? '');
        return;
      case 'settle':
        await settled();
        return;
      case 'close':
        return this.admission.close();
    }
  }

  check(): void {
    const there = new Map(this.index);
    for (const { wanted, warm } of this.held) if (!warm) there.set(wanted.id, wanted);
    expect(there.size).toBeLessThanOrEqual(this.limits.sandboxes);
    const cpus = [...there.values()].reduce((sum, wanted) => sum + Math.round(wanted.cpus * 100), 0);
    expect(cpus).toBeLessThanOrEqual(this.limits.cpus * 100);
    expect(this.held.filter(({ slot }) => slot).length).toBeLessThanOrEqual(this.admission.running);
    expect(this.admission.running).toBeLessThanOrEqual(this.atOnce);
    expect(this.admission.waiting).toBeLessThanOrEqual(5);
  }

  /** Lets all that waits be answered, and gives back all that is held. */
  async end(): Promise<void> {
    const state = { open: true };
    void Promise.all(this.answers).then(() => (state.open = false));
    for (let round = 0; state.open && round < 1000; round++) {
      for (const room of this.rooms) room.resolve(PLENTY);
      for (const { admitted } of this.held.splice(0)) admitted.release();
      await settled();
    }
    for (const { admitted } of this.held.splice(0)) admitted.release();
    expect(state.open).toBe(false);
    expect(this.admission).toMatchObject({ running: 0, waiting: 0 });
  }

  #wanted(hundredths: number): Wanted & { id: string; order: number } {
    this.#next += 1;
    return { id: `sb${this.#next}`, order: this.#next, memoryBytes: 0, cpus: hundredths / 100, pids: 0 };
  }

  #enter(cpus: number): void {
    const wanted = this.#wanted(cpus);
    const abort = new AbortController();
    this.aborts.push(abort);
    const answer = outcome(this.admission.enter(wanted, { signal: abort.signal })).then((result) => {
      if (result === null || result instanceof SandyardError) return;
      this.entered.push(wanted.order);
      this.held.push({ admitted: result, wanted, slot: true, warm: false });
    });
    this.answers.push(answer);
  }

  #fill(cpus: number): void {
    const wanted = this.#wanted(cpus);
    const answer = this.admission.tryEnter(wanted).then((admitted) => {
      if (admitted !== undefined) this.held.push({ admitted, wanted, slot: true, warm: true });
    });
    this.answers.push(answer);
  }

  /** In the index first, where it was made; and once more, of one that is released already. */
  #release(nth: number, made: boolean): void {
    const [one] = this.held.splice(nth % (this.held.length || 1), 1);
    if (one === undefined) return;
    if (made && !one.warm) this.index.set(one.wanted.id, one.wanted);
    one.admitted.release();
    this.released.push(one.admitted);
    this.released[nth % this.released.length]?.release();
  }
}

describe('whatever happens, in any order', () => {
  it('no ceiling is passed, and nothing stays reserved', async () => {
    const steps = fc.array(stepArbitrary, { minLength: 5, maxLength: 60 });
    await fc.assert(
      fc.asyncProperty(steps, async (steps) => {
        const run = new Run();
        for (const step of steps) {
          await run.take(step);
          run.check();
        }
        await run.end();
        // All that was promised is free again.
        run.index.clear();
        if (steps.some((step) => step.do === 'close')) return;
        for (let one = 0; one < 6; one++) run.admission.admitClaim({ memoryBytes: 0, cpus: 1 / 6, pids: 0 });
      }),
      { numRuns: 300 },
    );
  });

  it('those that wait begin in the order in which they came', async () => {
    const lives = fc.array(fc.record({ releaseNth: fc.nat(3), abort: fc.boolean() }), { minLength: 1, maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(lives, fc.integer({ min: 1, max: 3 }), async (lives, atOnce) => {
        const { admission } = makeWorld({ atOnce });
        const begun: number[] = [];
        const held: Admitted[] = [];
        const ends = lives.map((_, order) => {
          const abort = new AbortController();
          const end = outcome(admission.enter(WANTED, { signal: abort.signal })).then((result) => {
            if (result === null || result instanceof SandyardError) return;
            begun.push(order);
            held.push(result);
          });
          return { abort, end };
        });
        for (const [order, { releaseNth, abort }] of lives.entries()) {
          if (abort) ends[order]?.abort.abort();
          held.splice(releaseNth % (held.length || 1), 1)[0]?.release();
          await settled();
        }
        while (held.length > 0) {
          held.pop()?.release();
          await settled();
        }
        await Promise.all(ends.map(({ end }) => end));
        expect(begun).toEqual(begun.toSorted((a, b) => a - b));
        expect(admission).toMatchObject({ running: 0, waiting: 0 });
        const aborted = lives.filter(({ abort }) => abort).length;
        expect(begun.length).toBeGreaterThanOrEqual(lives.length - aborted);
      }),
      { numRuns: 200 },
    );
  });
});
