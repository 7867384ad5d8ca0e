import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';

import { Queues } from '../../../src/engine/queues.js';
import type { EngineOperation } from '../../../src/telemetry.js';

/** Runs so many calls that don't end before `finish`; tells which have begun. */
function occupy(queues: Queues, operation: EngineOperation, count: number) {
  const begun: number[] = [];
  let finish = () => {};
  const done = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const calls = Array.from({ length: count }, (_, index) =>
    queues.run({ operation, doing: 'work' }, async () => {
      begun.push(index);
      await done;
      return index;
    }),
  );
  return { begun, finish, calls };
}

describe('a queue', () => {
  it.each<[EngineOperation, number]>([
    ['create_container', 8],
    ['remove_container', 16],
    ['rename_container', 8],
    ['open_tunnel', 16],
  ])('has %s run %d at once, in order, and gives what each gave', async (operation, width) => {
    const { begun, finish, calls } = occupy(new Queues(), operation, width + 5);
    await sleep(10);
    expect(begun).toEqual(Array.from({ length: width }, (_, index) => index));
    finish();
    expect(await Promise.all(calls)).toEqual(Array.from({ length: width + 5 }, (_, index) => index));
    expect(begun).toHaveLength(width + 5);
  });

  it('is not waited in for what changes nothing, nor for what is in another', async () => {
    const queues = new Queues();
    const { finish, calls } = occupy(queues, 'create_container', 50);
    for (const operation of ['list_containers', 'rename_container', 'open_tunnel', 'remove_container'] as const) {
      expect(await queues.run({ operation, doing: 'work' }, async () => operation)).toBe(operation);
    }
    finish();
    await Promise.all(calls);
  });

  it('is shared by creating and starting', async () => {
    const queues = new Queues();
    const { begun, finish, calls } = occupy(queues, 'create_container', 8);
    const other = occupy(queues, 'start_container', 1);
    await sleep(10);
    expect([begun.length, other.begun.length]).toEqual([8, 0]);
    finish();
    other.finish();
    await Promise.all([...calls, ...other.calls]);
  });

  it('goes on after a call that failed', async () => {
    const queues = new Queues();
    const failing = Array.from({ length: 20 }, () =>
      queues.run({ operation: 'rename_container', doing: 'work' }, () => Promise.reject(new Error('no'))),
    );
    const results = await Promise.allSettled(failing);
    expect(results.every(({ status }) => status === 'rejected')).toBe(true);
    expect(await queues.run({ operation: 'rename_container', doing: 'work' }, async () => 7)).toBe(7);
  });
});

describe('a call that waits', () => {
  it('is given up at once with its caller, and never runs', async () => {
    const queues = new Queues();
    const { finish, calls } = occupy(queues, 'create_container', 8);
    const caller = new AbortController();
    let ran = false;
    const waiting = queues.run({ operation: 'create_container', doing: 'work', signal: caller.signal }, async () => {
      ran = true;
    });
    const reason = new Error('changed my mind');
    caller.abort(reason);
    await expect(waiting).rejects.toMatchObject({ code: 'aborted', cause: reason });
    finish();
    await Promise.all(calls);
    expect(await queues.run({ operation: 'create_container', doing: 'work' }, async () => 7)).toBe(7);
    expect(ran).toBe(false);
  });

  it('does not begin for a caller that has given up before', async () => {
    const signal = AbortSignal.abort();
    const call = new Queues().run({ operation: 'create_container', doing: 'work', signal }, () => {
      throw new Error('it ran');
    });
    await expect(call).rejects.toMatchObject({ code: 'aborted' });
  });

  it('ends where the queue stands still', async () => {
    const queues = new Queues({ waitMs: 20 });
    const { begun, finish, calls } = occupy(queues, 'create_container', 9);
    await expect(calls[8]).rejects.toMatchObject({
      code: 'engine_timeout',
      message: expect.stringContaining('0.02 s'),
      retryable: true,
    });
    finish();
    await Promise.all(calls.slice(0, 8));
    expect(begun).toHaveLength(8);
  });

  it('is left alone by its caller once it runs: that is for the call itself', async () => {
    const caller = new AbortController();
    const call = new Queues().run({ operation: 'create_container', doing: 'work', signal: caller.signal }, async () => {
      await sleep(20);
      return 7;
    });
    await sleep(5);
    caller.abort();
    expect(await call).toBe(7);
  });
});
