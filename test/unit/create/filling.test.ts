import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Filling, type PoolKind } from '../../../src/create/filling.js';
import type { SandboxRecord } from '../../../src/record/record.js';
import { settleable, type Settleable } from '../../../src/settleable.js';
import { settle } from '../../fixtures/fake-fleet.js';

beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }));
afterEach(() => void vi.useRealTimers());

const KIND: PoolKind = { key: 'a', min: 2, max: 5 };

function world() {
  const ready = new Map<string, number>();
  const begun: { key: string; signal: AbortSignal; made: Settleable<SandboxRecord | undefined> }[] = [];
  const warn = vi.fn();
  const done = vi.fn();
  const made = vi.fn((record: SandboxRecord) => {
    ready.set(record.id, (ready.get(record.id) ?? 0) + 1);
    return Promise.resolve();
  });
  const filling = new Filling({
    log: { debug: vi.fn(), info: vi.fn(), warn, error: vi.fn() },
    ready: (key) => ready.get(key) ?? 0,
    make: ({ key }, signal) => {
      const making = settleable<SandboxRecord | undefined>();
      begun.push({ key, signal, made: making });
      return making.promise;
    },
    made,
    done,
  });
  /** Has the oldest that is being made come to something. */
  const finish = async (how: 'made' | 'no room' | 'failed') => {
    const { key, made: making } = begun.shift() ?? { key: '', made: settleable<SandboxRecord | undefined>() };
    if (how === 'failed') making.reject(new Error('no'));
    else making.resolve(how === 'made' ? ({ id: key } as SandboxRecord) : undefined);
    await settle(3);
  };
  return { filling, ready, begun, warn, done, made, finish };
}

describe('how many there are to be', () => {
  it('is as many as were asked for in the last ten seconds, within the bounds', () => {
    fc.assert(
      fc.property(
        fc.nat(5),
        fc.nat(5),
        fc.array(fc.integer({ min: 0, max: 4000 }), { maxLength: 12 }),
        (min, more, gaps) => {
          const { filling } = world();
          const kind = { key: 'a', min, max: min + more };
          const times: number[] = [];
          for (const gap of gaps) {
            vi.advanceTimersByTime(gap);
            times.push(performance.now());
            filling.asked('a');
            filling.asked('b');
          }
          vi.advanceTimersByTime(1);
          const lately = times.filter((at) => at > performance.now() - 10_000).length;
          expect(filling.target(kind)).toBe(Math.min(Math.max(min, lately), kind.max));
        },
      ),
    );
  });
});

describe('filling', () => {
  it('makes two at once, and goes on until there are enough', async () => {
    const { filling, begun, finish, made } = world();
    const three = { ...KIND, min: 3 };
    filling.makeMissing([three]);
    expect([begun.length, filling.size]).toEqual([2, 2]);
    await finish('made');
    filling.makeMissing([three]);
    expect(begun).toHaveLength(2);
    await finish('made');
    filling.makeMissing([three]);
    expect(begun).toHaveLength(1);
    await finish('made');
    filling.makeMissing([three]);
    expect([begun.length, filling.size, made.mock.calls.length]).toEqual([0, 0, 3]);
  });

  it('makes none of what is there', () => {
    const { filling, ready, begun } = world();
    ready.set('a', 2);
    filling.makeMissing([KIND, { key: 'none', min: 0, max: 0 }]);
    expect(begun).toEqual([]);
  });

  it('begins with what there is least of, and one kind does not take the place of another', async () => {
    const { filling, ready, begun, finish } = world();
    ready.set('a', 1);
    const kinds = [
      { key: 'a', min: 3, max: 3 },
      { key: 'b', min: 1, max: 1 },
    ];
    filling.makeMissing(kinds);
    expect(begun.map(({ key }) => key)).toEqual(['b', 'a']);
    await finish('made');
    filling.makeMissing(kinds);
    expect(begun.map(({ key }) => key)).toEqual(['a', 'a']);
  });

  it('tells when one was made, when it no longer counts as being made', async () => {
    const { filling, finish, done, ready } = world();
    done.mockImplementation(() => expect([filling.size, ready.get('a')]).toEqual([1, 1]));
    filling.makeMissing([KIND]);
    await finish('made');
    expect(done).toHaveBeenCalledOnce();
  });

  it('waits a second when there is no room, each kind for itself', async () => {
    const { filling, begun, finish, warn } = world();
    filling.makeMissing([{ ...KIND, min: 1 }]);
    await finish('no room');
    filling.makeMissing([{ ...KIND, min: 1 }]);
    expect(begun).toEqual([]);
    filling.makeMissing([
      { ...KIND, min: 1 },
      { key: 'b', min: 1, max: 1 },
    ]);
    expect(begun.map(({ key }) => key)).toEqual(['b']);
    vi.advanceTimersByTime(1000);
    filling.makeMissing([{ ...KIND, min: 1 }]);
    expect(begun.map(({ key }) => key)).toEqual(['b', 'a']);
    expect(warn).not.toHaveBeenCalled();
  });

  it('waits longer each time that it fails, 30 s at the most, and anew after it has not', async () => {
    const { filling, begun, finish, warn } = world();
    const one = [{ ...KIND, min: 1 }];
    const waited: number[] = [];
    for (let failures = 0; failures < 8; failures += 1) {
      const since = performance.now();
      while (begun.length === 0) {
        filling.makeMissing(one);
        if (begun.length === 0) vi.advanceTimersByTime(500);
      }
      waited.push(performance.now() - since);
      await finish(failures === 6 ? 'made' : 'failed');
      if (failures === 6) one[0] = { ...KIND, min: 2 };
    }
    expect(waited).toEqual([0, 2000, 4000, 8000, 16_000, 30_000, 30_000, 0]);
    expect(warn).toHaveBeenCalledTimes(7);
  });

  it('ends what is being made, and waits for it', async () => {
    const { filling, begun, finish, warn, made } = world();
    filling.makeMissing([KIND]);
    let closed = false;
    const closing = filling.close().then(() => (closed = true));
    expect(begun.map(({ signal }) => signal.aborted)).toEqual([true, true]);
    await finish('failed');
    expect(closed).toBe(false);
    await finish('made'); // it was done already
    await closing;
    expect([warn.mock.calls.length, made.mock.calls.length]).toEqual([0, 1]);
    filling.makeMissing([{ ...KIND, min: 9, max: 9 }]);
    expect(begun).toEqual([]);
  });
});
