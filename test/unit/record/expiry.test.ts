import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import type { OnExpiry } from '../../../src/channel/messages.js';
import type { ContainerState } from '../../../src/engine/engine.js';
import { endedByLease, judgeExpiry, type ExpiryFacts, type ExpiryReason } from '../../../src/record/expiry.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const YEAR = 365 * 24 * HOUR;
const BORN = Date.parse('2026-01-01T00:00:00Z');
const RULES = { stoppedRetentionMs: 2 * HOUR, halfCreatedAfterMs: 5 * MINUTE };

/** A sandbox with a lifetime of four hours, that is destroyed at its end. */
const FACTS: ExpiryFacts = {
  state: 'running',
  agesFrom: new Date(BORN),
  maxLifetimeMs: 4 * HOUR,
  onExpiry: 'destroy',
  warm: false,
  finishedAt: undefined,
  exitCode: 0,
  leaseEndsAt: undefined,
  outage: undefined,
};

const at = (ms: number) => new Date(BORN + ms);
const judge = (facts: Partial<ExpiryFacts>, atMs: number) => judgeExpiry({ ...FACTS, ...facts }, RULES, at(atMs));

const OUTAGE = { from: at(HOUR), to: at(HOUR + MINUTE) };
const STOPPED = { state: 'exited', finishedAt: at(HOUR), maxLifetimeMs: 100 * HOUR } as const;

describe('judgeExpiry', () => {
  it.each<[what: string, facts: Partial<ExpiryFacts>, atMs: number, reason: ExpiryReason | undefined]>([
    ['a lifetime to its last moment', {}, 4 * HOUR, undefined],
    ['a lifetime a moment later', {}, 4 * HOUR + 1, 'max_lifetime'],
    ['a paused sandbox past its lifetime', { state: 'paused' }, 5 * HOUR, 'max_lifetime'],
    ['a stopped sandbox past its lifetime', { ...STOPPED, maxLifetimeMs: HOUR }, 90 * MINUTE, 'max_lifetime'],

    ['both, before its lifetime is looked at', { ...STOPPED, exitCode: 90, maxLifetimeMs: 1 }, HOUR, 'lease_expired'],
    ['what runs again after its lease ended', { exitCode: 90 }, HOUR, undefined],
    ['what is paused after its lease ended', { state: 'paused', exitCode: 91 }, HOUR, undefined],
    ['what ended by another code', { ...STOPPED, exitCode: 92 }, HOUR, undefined],

    ['a paused one whose lease has not ended', { state: 'paused', leaseEndsAt: at(HOUR + 1) }, HOUR, undefined],
    ['a paused one at the end of its lease', { state: 'paused', leaseEndsAt: at(HOUR) }, HOUR, 'lease_expired'],
    ['a paused one without a lease', { state: 'paused', leaseEndsAt: undefined }, HOUR, undefined],
    ['a paused one with a lease of 0', { state: 'paused', leaseEndsAt: at(0) }, 0, 'lease_expired'],
    [
      'a paused one with a lease that ended before it was made',
      { state: 'paused', leaseEndsAt: at(-HOUR) },
      0,
      'lease_expired',
    ],
    [
      'a paused one with a lease of a year',
      { state: 'paused', leaseEndsAt: at(YEAR), maxLifetimeMs: 2 * YEAR },
      YEAR - 1,
      undefined,
    ],
    ['and a year later', { state: 'paused', leaseEndsAt: at(YEAR), maxLifetimeMs: 2 * YEAR }, YEAR, 'lease_expired'],
    ['a paused one that is to stay so', { state: 'paused', leaseEndsAt: at(0), onExpiry: 'pause' }, HOUR, undefined],
    ['a paused one that is to be stopped', { state: 'paused', leaseEndsAt: at(0), onExpiry: 'stop' }, HOUR, undefined],
    ['a running one, whatever its lease', { leaseEndsAt: at(0) }, HOUR, undefined],

    ['what ended at the first moment of an outage', { ...STOPPED, outage: OUTAGE }, HOUR, 'lost'],
    ['what ended at its last moment', { ...STOPPED, finishedAt: OUTAGE.to, outage: OUTAGE }, 2 * HOUR, 'lost'],
    ['what was stopped before it', { ...STOPPED, finishedAt: at(HOUR - 1), outage: OUTAGE }, HOUR, undefined],
    [
      'what was stopped after it',
      { ...STOPPED, finishedAt: at(HOUR + MINUTE + 1), outage: OUTAGE },
      2 * HOUR,
      undefined,
    ],
    ['what ended at a time that is not known', { ...STOPPED, finishedAt: undefined, outage: OUTAGE }, HOUR, undefined],
    ['what is to be stopped, and was lost', { ...STOPPED, outage: OUTAGE, onExpiry: 'stop' }, HOUR, undefined],
    ['what is to be paused, and was lost', { ...STOPPED, outage: OUTAGE, onExpiry: 'pause' }, HOUR, undefined],
    ['what ended itself during an outage', { ...STOPPED, exitCode: 90, outage: OUTAGE }, HOUR, 'lease_expired'],
    ['what runs again after an outage', { outage: OUTAGE }, HOUR, undefined],

    ['what is created, for a while', { state: 'created' }, 5 * MINUTE, undefined],
    ['what is created for too long', { state: 'created' }, 5 * MINUTE + 1, 'half_created'],

    ['stopped to the last moment of the retention', STOPPED, 3 * HOUR, undefined],
    ['stopped a moment longer', STOPPED, 3 * HOUR + 1, 'stopped_too_long'],
    ['stopped at a time that the engine does not know', { ...STOPPED, finishedAt: undefined }, 50 * HOUR, undefined],
    ['a clock that was set back', {}, -HOUR, undefined],
    ['what is created while the clock was set back', { state: 'created' }, -HOUR, undefined],
    ['an age that is not known', { agesFrom: new Date(Number.NaN) }, 50 * HOUR, undefined],
  ])('%s', (_, facts, atMs, reason) => {
    expect(judge(facts, atMs)).toBe(reason);
  });

  const TIMES = { young: 4 * MINUTE, stopped: 2 * HOUR, 'stopped long': 3 * HOUR + 1, old: 4 * HOUR + 1 } as const;
  type Moment = keyof typeof TIMES;
  const STATES = ['created', 'running', 'paused', 'exited'] as const;
  const ON_EXPIRY = ['destroy', 'stop', 'pause'] as const;
  const EXIT_CODES = [0, 90, 91, 94, 137, 143] as const;

  interface Rule {
    readonly state?: ContainerState;
    readonly warm?: true;
    readonly exitCode?: (typeof EXIT_CODES)[number];
    readonly onExpiry?: OnExpiry;
    readonly moment?: Moment;
    readonly reason?: ExpiryReason;
  }
  /** The first that fits tells; what is left out is any. */
  const TABLE: readonly Rule[] = [
    { state: 'created', moment: 'young' },
    { state: 'created', reason: 'half_created' },
    { state: 'running', moment: 'old', reason: 'max_lifetime' },
    { state: 'running' },
    { state: 'paused', moment: 'old', reason: 'max_lifetime' },
    { state: 'paused' },
    { state: 'exited', warm: true, reason: 'half_created' },
    { state: 'exited', exitCode: 94, reason: 'half_created' },
    { state: 'exited', onExpiry: 'destroy', exitCode: 90, reason: 'lease_expired' },
    { state: 'exited', onExpiry: 'destroy', exitCode: 91, reason: 'idle' },
    { state: 'exited', moment: 'old', reason: 'max_lifetime' },
    { state: 'exited', moment: 'stopped long', reason: 'stopped_too_long' },
    { state: 'exited' },
  ];

  it.each(
    STATES.flatMap((state) =>
      ON_EXPIRY.flatMap((onExpiry) => [true, false].map((warm) => ({ state, onExpiry, warm }))),
    ),
  )('$state, $onExpiry, warm: $warm: with each exit code at each time', ({ state, onExpiry, warm }) => {
    for (const exitCode of EXIT_CODES) {
      for (const moment of Object.keys(TIMES) as Moment[]) {
        const facts = { state, onExpiry, warm, exitCode };
        const fits = Object.entries({ ...facts, moment });
        const rule = TABLE.find((wanted) =>
          fits.every(([name, is]) => [undefined, is].includes(wanted[name as keyof typeof facts])),
        );
        const finishedAt = state === 'exited' ? at(HOUR) : undefined;
        const given = judge({ ...facts, finishedAt }, TIMES[moment]);
        expect({ exitCode, moment, reason: given }).toEqual({ exitCode, moment, reason: rule?.reason });
      }
    }
  });
});

it.each([
  [90, 'lease_expired'],
  [91, 'idle'],
  [94, undefined],
  [0, undefined],
  [137, undefined],
] as const)('exit code %d says %s of how it ended', (exitCode, reason) => {
  expect(endedByLease(exitCode)).toBe(reason);
});

const duration = fc.integer({ min: 1, max: 1000 });
const moment = fc.integer({ min: 0, max: 3000 }).map((ms) => new Date(ms));
const maybe = fc.option(moment, { nil: undefined });
const facts: fc.Arbitrary<ExpiryFacts> = fc.record({
  state: fc.constantFrom<ContainerState>('created', 'running', 'paused', 'exited'),
  agesFrom: moment,
  maxLifetimeMs: duration,
  onExpiry: fc.constantFrom<OnExpiry>('destroy', 'stop', 'pause'),
  warm: fc.boolean(),
  finishedAt: maybe,
  exitCode: fc.constantFrom(0, 1, 90, 91, 94, 137, 143),
  leaseEndsAt: maybe,
  outage: fc.option(fc.record({ from: moment, to: moment }), { nil: undefined }),
});
const rules = fc.record({ stoppedRetentionMs: duration, halfCreatedAfterMs: duration });

describe('whatever the facts', () => {
  const reasonGiven = (check: (reason: ExpiryReason | undefined, facts: ExpiryFacts, now: Date) => boolean) =>
    fc.assert(
      fc.property(facts, rules, moment, (facts, rules, now) => check(judgeExpiry(facts, rules, now), facts, now)),
      { numRuns: 5000 },
    );
  const age = ({ agesFrom }: ExpiryFacts, now: Date) => now.getTime() - agesFrom.getTime();

  it('one that runs is never removed within its longest lifetime', () => {
    reasonGiven(
      (reason, facts, now) =>
        facts.state !== 'running' || (reason !== undefined) === age(facts, now) > facts.maxLifetimeMs,
    );
  });

  it('one that is paused is removed within it only when its record says that its lease has ended', () => {
    reasonGiven(
      (reason, facts, now) =>
        facts.state !== 'paused' ||
        reason === undefined ||
        age(facts, now) > facts.maxLifetimeMs ||
        (facts.onExpiry === 'destroy' && facts.leaseEndsAt !== undefined && facts.leaseEndsAt <= now),
    );
  });

  it('nothing is past its lifetime before that has passed', () => {
    reasonGiven((reason, facts, now) => reason !== 'max_lifetime' || age(facts, now) > facts.maxLifetimeMs);
  });

  it('only what is to be destroyed has a lease that ended, or was idle', () => {
    reasonGiven((reason, { onExpiry }) => !['lease_expired', 'idle'].includes(reason ?? '') || onExpiry === 'destroy');
  });

  it('only what nobody was given is half created', () => {
    reasonGiven(
      (reason, { state, warm, exitCode }) =>
        reason !== 'half_created' || state === 'created' || (state === 'exited' && (warm || exitCode === 94)),
    );
  });

  it('only what is to be destroyed, and has stopped during an outage, is lost', () => {
    reasonGiven(
      (reason, { state, onExpiry, outage, finishedAt = Number.NaN }) =>
        reason !== 'lost' ||
        (state === 'exited' &&
          onExpiry === 'destroy' &&
          outage !== undefined &&
          !(finishedAt < outage.from) &&
          !(finishedAt > outage.to)),
    );
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
