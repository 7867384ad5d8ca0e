import { describe, expect, it } from 'vitest';

import { withContext } from '../../../src/context.js';
import {
  LifecycleEvents,
  type EventsOptions,
  type LifecycleChange,
  type LifecycleEvent,
} from '../../../src/fleet/lifecycle.js';

const RECORD = { id: 'a', owner: 'me', tenant: null, projectName: null };

function change(about: Partial<LifecycleChange> & { id?: string; projectName?: string } = {}): LifecycleChange {
  const { id = 'a', projectName = null, ...given } = about;
  return { type: 'started', reason: 'elsewhere', record: { ...RECORD, id, projectName }, ...given };
}

/** Takes the next `count`, which are there. */
async function take(events: AsyncGenerator<LifecycleEvent>, count: number): Promise<LifecycleEvent[]> {
  const taken: LifecycleEvent[] = [];
  while (taken.length < count) {
    const { value, done } = await events.next();
    if (done === true) break;
    taken.push(value);
  }
  return taken;
}

async function collect(events: AsyncIterable<LifecycleEvent>): Promise<LifecycleEvent[]> {
  const all: LifecycleEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

/** Reads what is there, and then ends. */
async function readAll(lifecycle: LifecycleEvents, options: EventsOptions): Promise<LifecycleEvent[]> {
  return collect(lifecycle.read({ ...options, signal: AbortSignal.abort() }));
}

/** Lifecycle events with the id of one before all others. */
function begun() {
  const lifecycle = new LifecycleEvents();
  const events = lifecycle.read();
  lifecycle.tell(change({ id: 'zeroth' }));
  return take(events, 1).then(([zeroth]) => ({ lifecycle, after: (zeroth as LifecycleEvent).id }));
}

describe('what is read', () => {
  it('is what happens from now on, also before the first is asked for', async () => {
    const lifecycle = new LifecycleEvents();
    lifecycle.tell(change({ id: 'before' }));
    const events = lifecycle.read();
    lifecycle.tell(change({ id: 'b' }));
    const next = take(events, 2);
    lifecycle.tell(change({ id: 'c', type: 'stopped', exitCode: 90, reason: 'lease_expired' }));
    expect(await next).toMatchObject([
      { sandboxId: 'b', type: 'started', reason: 'elsewhere', by: null, requestId: null, exitCode: null, owner: 'me' },
      { sandboxId: 'c', type: 'stopped', reason: 'lease_expired', exitCode: 90 },
    ]);
  });

  it('goes on after an event, with no gap and no repeat', async () => {
    const { lifecycle, after } = await begun();
    for (let n = 0; n < 10; n += 1) lifecycle.tell(change({ id: `n${n}` }));
    const all = await readAll(lifecycle, { after });
    expect(all.map(({ sandboxId }) => sandboxId)).toEqual(Array.from({ length: 10 }, (_, n) => `n${n}`));
    expect(new Set(all.map(({ id }) => id)).size).toBe(10);
    const rest = await readAll(lifecycle, { after: all[6]?.id });
    expect(rest).toEqual(all.slice(7));
    expect(await readAll(lifecycle, { after: all.at(-1)?.id })).toEqual([]);
  });

  it.each([
    '',
    'x',
    '1',
    'abcdefgh',
    'abcdefgh-',
    'abcdefgh-x',
    'abcdefgh--1',
    'ABCDEFGH-1',
    'abcdefgh-1\n',
    `abcdefgh-${'9'.repeat(16)}`,
  ])('refuses to begin after %j, which is no event', (after) => {
    expect(() => new LifecycleEvents().read({ after })).toThrow(expect.objectContaining({ code: 'validation_failed' }));
  });

  it("says that those after another manager's event, or one that was not yet, are lost", async () => {
    const { lifecycle, after } = await begun();
    const { after: other } = await begun();
    const [epoch] = after.split('-');
    for (const lost of [other, `${epoch}-2`]) {
      expect(() => lifecycle.read({ after: lost })).toThrow(expect.objectContaining({ code: 'output_lost' }));
    }
    expect(await readAll(lifecycle, { after: `${epoch}-0` })).toHaveLength(1);
  });

  it('says so when those after it are no longer remembered', async () => {
    const { lifecycle, after } = await begun();
    for (let n = 0; n < 2000; n += 1) lifecycle.tell(change());
    expect(await readAll(lifecycle, { after })).toHaveLength(2000);
    lifecycle.tell(change());
    await expect(readAll(lifecycle, { after })).rejects.toMatchObject({ code: 'output_lost' });
  });

  it('says so to a reader that is too slow', async () => {
    const lifecycle = new LifecycleEvents();
    const events = lifecycle.read();
    lifecycle.tell(change());
    await take(events, 1);
    for (let n = 0; n < 2001; n += 1) lifecycle.tell(change());
    await expect(events.next()).rejects.toMatchObject({ code: 'output_lost' });
    const later = lifecycle.read();
    for (let n = 0; n < 2000; n += 1) lifecycle.tell(change({ id: 'kept' }));
    await take(later, 1000); // as slow, but not too slow
    for (let n = 0; n < 1000; n += 1) lifecycle.tell(change({ id: 'kept' }));
    expect(await take(later, 2000)).toHaveLength(2000);
  });

  it.each<[what: string, filter: EventsOptions, expected: string[]]>([
    ['nothing', {}, ['a started', 'b stopped', 'a oom', 'c destroyed']],
    ['types', { types: ['stopped', 'destroyed'] }, ['b stopped', 'c destroyed']],
    ['no type', { types: [] }, []],
    ['a sandbox', { sandboxId: 'a' }, ['a started', 'a oom']],
    ['a project', { projectName: 'p' }, ['b stopped', 'c destroyed']],
    ['all', { types: ['stopped', 'oom'], sandboxId: 'b', projectName: 'p' }, ['b stopped']],
  ])('is filtered by %s', async (_, filter, expected) => {
    const { lifecycle, after } = await begun();
    lifecycle.tell(change());
    lifecycle.tell(change({ id: 'b', type: 'stopped', projectName: 'p' }));
    lifecycle.tell(change({ type: 'oom' }));
    lifecycle.tell(change({ id: 'c', type: 'destroyed', projectName: 'p' }));
    const read = await readAll(lifecycle, { after, ...filter });
    expect(read.map(({ sandboxId, type }) => `${sandboxId} ${type}`)).toEqual(expected);
  });

  it('ends when it is closed, after what is there, and when its reader gives up', async () => {
    const lifecycle = new LifecycleEvents();
    const caller = new AbortController();
    const [given, closed] = [lifecycle.read({ signal: caller.signal }), lifecycle.read()];
    const ends = [given.next(), closed.next()];
    caller.abort();
    expect(await ends[0]).toEqual({ value: undefined, done: true });
    const late = lifecycle.read();
    lifecycle.tell(change());
    lifecycle.close();
    expect(await ends[1]).toMatchObject({ done: false });
    expect(await closed.next()).toEqual({ value: undefined, done: true });
    expect(await collect(late)).toHaveLength(1);
    expect(await collect(lifecycle.read())).toEqual([]);
  });

  it('leaves no listener on the signal of its reader', async () => {
    const lifecycle = new LifecycleEvents();
    const { signal } = new AbortController();
    let listeners = 0;
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)];
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      listeners += 1;
      add(...args);
    };
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      listeners -= 1;
      remove(...args);
    };
    const events = lifecycle.read({ signal });
    for (let n = 0; n < 100; n += 1) {
      const next = events.next();
      await Promise.resolve();
      lifecycle.tell(change());
      await next;
    }
    expect(listeners).toBe(0);
    await events.return(undefined);
  });
});

describe('who and why', () => {
  it('is who began it, where that is known', async () => {
    const { lifecycle, after } = await begun();
    withContext({ actor: 'rest', requestId: 'r1' }, () => lifecycle.intend('a', 'requested', ['stopped', 'destroyed']));
    lifecycle.tell(change({ type: 'stopped', reason: 'ended', exitCode: 143 }));
    lifecycle.tell(change({ id: 'b', type: 'stopped', reason: 'ended', exitCode: 0 }));
    lifecycle.tell(change({ type: 'destroyed' }));
    lifecycle.tell(change({ type: 'destroyed' }));
    expect((await readAll(lifecycle, { after })).map(({ reason, by, requestId }) => [reason, by, requestId])).toEqual([
      ['requested', 'rest', 'r1'],
      ['ended', null, null],
      ['requested', 'rest', 'r1'],
      ['elsewhere', null, null],
    ]);
  });

  it('is not what came to nothing', async () => {
    const { lifecycle, after } = await begun();
    const first = lifecycle.intend('a', 'requested', ['stopped']);
    const second = lifecycle.intend('a', 'max_lifetime', ['stopped']);
    first(); // something else has been begun since
    lifecycle.tell(change({ type: 'stopped', reason: 'lost' }));
    second();
    lifecycle.tell(change({ type: 'stopped', reason: 'lost' }));
    expect((await readAll(lifecycle, { after })).map(({ reason }) => reason)).toEqual(['max_lifetime', 'lost']);
  });

  it('is the end of the lease or the kernel, whatever was begun', async () => {
    const { lifecycle, after } = await begun();
    lifecycle.intend('a', 'requested', ['stopped', 'destroyed']);
    lifecycle.tell(change({ type: 'oom' }));
    lifecycle.tell(change({ type: 'stopped', reason: 'lease_expired', exitCode: 90 }));
    lifecycle.tell(change({ type: 'stopped', reason: 'idle', exitCode: 91 }));
    const read = await readAll(lifecycle, { after });
    expect(read.map(({ reason }) => reason)).toEqual(['elsewhere', 'lease_expired', 'idle']);
  });
});
