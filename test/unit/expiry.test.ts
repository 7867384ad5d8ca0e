import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import type { ContainerState } from '../../src/engine/engine.js';
import { judgeExpiry, type ExpiryFacts, type ExpiryReason } from '../../src/expiry.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const BORN = Date.parse('2026-01-01T00:00:00Z');
const RULES = { stoppedRetentionMs: 2 * HOUR, halfCreatedAfterMs: 5 * MINUTE };

/** A sandbox with a lifetime of four hours. */
const FACTS: ExpiryFacts = {
  state: 'running',
  createdAt: new Date(BORN),
  maxLifetimeMs: 4 * HOUR,
  finishedAt: undefined,
  exitCode: 0,
};

const judge = (facts: Partial<ExpiryFacts>, atMs: number) =>
  judgeExpiry({ ...FACTS, ...facts }, RULES, new Date(BORN + atMs));

const STOPPED = { state: 'exited', finishedAt: new Date(BORN + HOUR), maxLifetimeMs: 100 * HOUR } as const;

describe('judgeExpiry', () => {
  it.each<[what: string, facts: Partial<ExpiryFacts>, atMs: number, reason: ExpiryReason | undefined]>([
    ['a lifetime to its last moment', {}, 4 * HOUR, undefined],
    ['a lifetime a moment later', {}, 4 * HOUR + 1, 'max_lifetime'],
    ['a paused sandbox past its lifetime', { state: 'paused' }, 5 * HOUR, 'max_lifetime'],
    ['a stopped sandbox past its lifetime', { ...STOPPED, maxLifetimeMs: HOUR }, 90 * MINUTE, 'max_lifetime'],

    ['what ended itself when its lease ran out', { ...STOPPED, exitCode: 90 }, HOUR, 'lease_expired'],
    ['what ended itself being idle', { ...STOPPED, exitCode: 91 }, HOUR, 'idle'],
    ['both, before its lifetime is looked at', { ...STOPPED, exitCode: 90, maxLifetimeMs: 1 }, HOUR, 'lease_expired'],
    ['what runs again after that', { exitCode: 90 }, HOUR, undefined],
    ['what is paused after that', { state: 'paused', exitCode: 91 }, HOUR, undefined],
    ['what ended by another code', { ...STOPPED, exitCode: 92 }, HOUR, undefined],
    ['what was killed', { ...STOPPED, exitCode: 137 }, HOUR, undefined],

    ['what is created, for a while', { state: 'created' }, 5 * MINUTE, undefined],
    ['what is created for too long', { state: 'created' }, 5 * MINUTE + 1, 'half_created'],

    ['stopped to the last moment of the retention', STOPPED, 3 * HOUR, undefined],
    ['stopped a moment longer', STOPPED, 3 * HOUR + 1, 'stopped_too_long'],
    ['stopped at a time that the engine does not know', { ...STOPPED, finishedAt: undefined }, 50 * HOUR, undefined],
    ['a clock that was set back', {}, -HOUR, undefined],
  ])('%s', (_, facts, atMs, reason) => {
    expect(judge(facts, atMs)).toBe(reason);
  });
});

const duration = fc.integer({ min: 1, max: 1000 });
const moment = fc.integer({ min: 0, max: 3000 }).map((ms) => new Date(ms));
const facts: fc.Arbitrary<ExpiryFacts> = fc.record({
  state: fc.constantFrom<ContainerState>('created', 'running', 'paused', 'exited'),
  createdAt: moment,
  maxLifetimeMs: duration,
  finishedAt: fc.option(moment, { nil: undefined }),
  exitCode: fc.constantFrom(0, 1, 90, 91, 137),
});
const rules = fc.record({ stoppedRetentionMs: duration, halfCreatedAfterMs: duration });

describe('whatever the facts', () => {
  const reasonGiven = (check: (reason: ExpiryReason | undefined, facts: ExpiryFacts, now: Date) => boolean) =>
    fc.assert(
      fc.property(facts, rules, moment, (facts, rules, now) => check(judgeExpiry(facts, rules, now), facts, now)),
      { numRuns: 2000 },
    );

  it('what runs has not expired, but for its lifetime', () => {
    reasonGiven(
      (reason, { state }) =>
        (state !== 'running' && state !== 'paused') || [undefined, 'max_lifetime'].includes(reason),
    );
  });

  it('nothing is past its lifetime before that has passed', () => {
    reasonGiven(
      (reason, { createdAt, maxLifetimeMs }, now) =>
        reason !== 'max_lifetime' || now.getTime() - createdAt.getTime() > maxLifetimeMs,
    );
  });

  it('only what has ended itself has a lease that expired, or was idle', () => {
    reasonGiven(
      (reason, { state, exitCode }) =>
        (reason === 'lease_expired') === (state === 'exited' && exitCode === 90) &&
        (reason === 'idle') === (state === 'exited' && exitCode === 91),
    );
  });

  it('only what never ran is half created, and it is nothing else', () => {
    reasonGiven((reason, { state }) => reason === undefined || (reason === 'half_created') === (state === 'created'));
  });

  it('only what has stopped is stopped for too long', () => {
    reasonGiven((reason, { state }) => reason !== 'stopped_too_long' || state === 'exited');
  });

  it('what has expired stays expired while nothing changes', () => {
    fc.assert(
      fc.property(facts, rules, moment, duration, (facts, rules, now, later) => {
        const expired = (at: Date) => judgeExpiry(facts, rules, at) !== undefined;
        return !expired(now) || expired(new Date(now.getTime() + later));
      }),
      { numRuns: 2000 },
    );
  });
});
