import { getMaxListeners } from 'node:events';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import { Interrupt } from '../../../src/cli/interrupt.js';
import { World } from './harness.js';

describe('a signal', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }));
  afterEach(() => void vi.useRealTimers());

  test('gives up what is being waited for; a second one ends the program', () => {
    const world = new World();
    const interrupt = new Interrupt(world.context);
    let last = 0;
    interrupt.lastWords = () => (last += 1);
    world.signal('SIGTERM');
    expect([interrupt.exitCode, interrupt.signal.aborted, world.exits, last]).toEqual([143, true, [], 0]);
    vi.advanceTimersByTime(200);
    world.signal('SIGINT');
    expect([world.exits, last]).toEqual([[143], 1]);
    interrupt.stop();
    expect(world.listeners).toBe(0);
  });

  test('that comes twice at once, from the terminal and from what started us, is one', () => {
    const world = new World();
    const interrupt = new Interrupt(world.context);
    world.signal('SIGINT');
    vi.advanceTimersByTime(5);
    world.signal('SIGINT');
    expect([interrupt.exitCode, world.exits]).toEqual([130, []]);
  });

  test('goes to the command while there is one', () => {
    const world = new World();
    const interrupt = new Interrupt(world.context);
    const got: string[] = [];
    const release = interrupt.handle((signal) => got.push(signal));
    world.signal('SIGHUP');
    expect([got, interrupt.signal.aborted, interrupt.exitCode]).toEqual([['SIGHUP'], false, 129]);
    release();
  });

  test('may end any number of things that are under way at once', () => {
    expect(getMaxListeners(new Interrupt(new World().context).signal)).toBe(Infinity);
  });
});
