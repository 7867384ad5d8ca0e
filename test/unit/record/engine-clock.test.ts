import { afterEach, expect, it, vi } from 'vitest';

import { EngineClock } from '../../../src/record/engine-clock.js';

const HOUR = 3_600_000;
const NOW = Date.parse('2026-01-02T00:00:00Z');

afterEach(() => {
  vi.useRealTimers();
});

it('is ours until the engine is seen', () => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'], now: NOW });
  expect(new EngineClock().now()).toEqual(new Date(NOW));
});

it.each([
  ['an hour ahead', HOUR],
  ['an hour behind', -HOUR],
  ['as ours', 0],
])("is the engine's, which is %s, and goes on with time", (_, offset) => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'], now: NOW });
  const clock = new EngineClock();
  clock.see(new Date(NOW + offset));
  expect(clock.now()).toEqual(new Date(NOW + offset));
  vi.advanceTimersByTime(1234);
  expect(clock.now()).toEqual(new Date(NOW + offset + 1234));
});

it.each([
  ['ahead', 24 * HOUR],
  ['back', -24 * HOUR],
])('does not follow our wall clock when that jumps %s', (_, jump) => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'], now: NOW });
  const clock = new EngineClock();
  clock.see(new Date(NOW));
  vi.setSystemTime(NOW + jump);
  vi.advanceTimersByTime(5000);
  expect(clock.now()).toEqual(new Date(NOW + 5000));
});

it('is set anew each time that the engine is seen', () => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'], now: NOW });
  const clock = new EngineClock();
  clock.see(new Date(NOW + HOUR));
  clock.see(new Date(NOW - HOUR));
  expect(clock.now()).toEqual(new Date(NOW - HOUR));
});
