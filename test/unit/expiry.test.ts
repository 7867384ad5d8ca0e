import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import type { ContainerState } from '../../src/engine/engine.js';
import { ACTIVITY_RESOLUTION, judgeExpiry, type ExpiryFacts, type ExpiryReason } from '../../src/expiry.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const BORN = Date.parse('2026-01-01T00:00:00Z');
const RULES = { stoppedRetentionMs: 2 * HOUR, halfCreatedAfterMs: 5 * MINUTE };

/** A sandbox with a lease of one hour and a lifetime of four. */
const FACTS: ExpiryFacts = {
  state: 'running',
  createdAt: new Date(BORN),
  maxLifetimeMs: 4 * HOUR,
  expiresAt: new Date(BORN + HOUR),
  idleTimeoutMs: null,
  lastActiveAt: new Date(BORN),
  busy: false,
  finishedAt: undefined,
};

const judge = (facts: Partial<ExpiryFacts>, atMs: number) =>
  judgeExpiry({ ...FACTS, ...facts }, RULES, new Date(BORN + atMs));

const LONG_LEASE = { expiresAt: new Date(BORN + 100 * HOUR), maxLifetimeMs: 100 * HOUR };
const IDLE = { ...LONG_LEASE, idleTimeoutMs: 4 * MINUTE };
const IDLE_ENDS = 4 * MINUTE * (1 + ACTIVITY_RESOLUTION);
const STOPPED = { ...LONG_LEASE, state: 'exited', finishedAt: new Date(BORN + HOUR) } as const;

describe('judgeExpiry', () => {
  it.each<[what: string, facts: Partial<ExpiryFacts>, atMs: number, reason: ExpiryReason | undefined]>([
    ['a lease to its last moment', {}, HOUR, undefined],
    ['a lease a moment later', {}, HOUR + 1, 'lease_expired'],
    ['a paused sandbox past its lease', { state: 'paused' }, HOUR + 1, 'lease_expired'],
    ['a stopped sandbox past its lease', { state: 'exited', finishedAt: new Date(BORN) }, HOUR + 1, 'lease_expired'],
    ['a busy sandbox past its lease', { busy: true }, HOUR + 1, 'lease_expired'],
    ['a renewed lease', { expiresAt: new Date(BORN + 3 * HOUR) }, 2 * HOUR, undefined],

    ['a lifetime to its last moment', LONG_LEASE, 100 * HOUR, undefined],
    ['a lifetime a moment later', { ...LONG_LEASE, maxLifetimeMs: 4 * HOUR }, 4 * HOUR + 1, 'max_lifetime'],
    ['a lifetime that ends with the lease', { maxLifetimeMs: HOUR }, HOUR + 1, 'max_lifetime'],
    ['a busy sandbox past its lifetime', { ...LONG_LEASE, maxLifetimeMs: HOUR, busy: true }, 2 * HOUR, 'max_lifetime'],

    ['what is created, for a while', { state: 'created' }, 5 * MINUTE, undefined],
    ['what is created for too long', { state: 'created' }, 5 * MINUTE + 1, 'half_created'],
    ['what was just created with a past lease', { state: 'created', expiresAt: new Date(0) }, MINUTE, undefined],

    ['quiet, without an idle timeout', LONG_LEASE, 50 * HOUR, undefined],
    ['quiet for the timeout, as activity is recorded late', IDLE, 4 * MINUTE + 1, undefined],
    ['quiet to the last moment', IDLE, IDLE_ENDS, undefined],
    ['quiet a moment longer', IDLE, IDLE_ENDS + 1, 'idle'],
    ['quiet but busy', { ...IDLE, busy: true }, 10 * HOUR, undefined],
    ['active lately', { ...IDLE, lastActiveAt: new Date(BORN + HOUR) }, HOUR + MINUTE, undefined],
    ['stopped, so not idle', { ...IDLE, ...STOPPED, idleTimeoutMs: MINUTE }, 2 * HOUR, undefined],

    ['stopped to the last moment of the retention', STOPPED, 3 * HOUR, undefined],
    ['stopped a moment longer', STOPPED, 3 * HOUR + 1, 'stopped_too_long'],
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
  expiresAt: moment,
  idleTimeoutMs: fc.option(duration),
  lastActiveAt: moment,
  busy: fc.boolean(),
  finishedAt: fc.option(moment, { nil: undefined }),
});
const rules = fc.record({ stoppedRetentionMs: duration, halfCreatedAfterMs: duration });

describe('whatever the facts', () => {
  const reasonGiven = (check: (reason: ExpiryReason | undefined, facts: ExpiryFacts, now: Date) => boolean) =>
    fc.assert(
      fc.property(facts, rules, moment, (facts, rules, now) => check(judgeExpiry(facts, rules, now), facts, now)),
      { numRuns: 2000 },
    );

  it('no lease has expired before its end', () => {
    reasonGiven((reason, { expiresAt }, now) => reason !== 'lease_expired' || now > expiresAt);
  });

  it('nothing is past its lifetime before that has passed', () => {
    reasonGiven(
      (reason, { createdAt, maxLifetimeMs }, now) =>
        reason !== 'max_lifetime' || now.getTime() - createdAt.getTime() > maxLifetimeMs,
    );
  });

  it('nothing busy, and nothing without a timeout, is idle', () => {
    reasonGiven((reason, { busy, idleTimeoutMs }) => reason !== 'idle' || (!busy && idleTimeoutMs !== null));
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
