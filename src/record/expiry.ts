import type { OnExpiry } from '../channel/messages.js';
import type { ContainerState } from '../engine/engine.js';

/** Why a sandbox may be removed. */
export type ExpiryReason =
  | 'lease_expired'
  | 'idle'
  | 'max_lifetime'
  | 'stopped_too_long'
  /** It was stopped by an engine that was started again. */
  | 'lost'
  /** It was never given to anybody: whoever made it died before that. */
  | 'half_created';

/** What the warden ends a sandbox with: see `warden/PROTOCOL.md`. */
const LEASE_EXPIRED_EXIT_CODE = 90;
const IDLE_EXIT_CODE = 91;
const NEVER_HANDED_OUT_EXIT_CODE = 94;

/** All that the rule goes by. All times are the engine's: its clock made them, and needn't be ours. */
export interface ExpiryFacts {
  readonly state: ContainerState;
  readonly agesFrom: Date;
  readonly maxLifetimeMs: number;
  readonly onExpiry: OnExpiry;
  /** Whether it is of a pool, and nobody has claimed it. */
  readonly warm: boolean;
  /** When it stopped; `undefined` while it runs. */
  readonly finishedAt: Date | undefined;
  /** What it stopped with; says nothing while it runs. */
  readonly exitCode: number;
  /** When its lease ends, by its own record, of one that is paused; `undefined` where that isn't known. */
  readonly leaseEndsAt: Date | undefined;
  /** When the engine was away, of one that ran before that and was found stopped after it. */
  readonly outage: { readonly from: Date; readonly to: Date } | undefined;
}

export interface ExpiryRules {
  readonly stoppedRetentionMs: number;
  /** How long creating may take: what is still only created after that was left half-made by a manager that died. */
  readonly halfCreatedAfterMs: number;
}

/** How a sandbox came to its end, where its lease or idle timeout was the reason. */
export function endedByLease(exitCode: number): 'lease_expired' | 'idle' | undefined {
  if (exitCode === LEASE_EXPIRED_EXIT_CODE) return 'lease_expired';
  return exitCode === IDLE_EXIT_CODE ? 'idle' : undefined;
}

/**
 * Why a sandbox has expired by `now`, the engine's time, or `undefined` while it hasn't. A lease is the sandbox's own: it ends itself when
 * that runs out, and says so by its exit code. So one that runs has not expired, but for its longest lifetime, which is
 * the backstop for a sandbox that doesn't end itself. One that is paused can't end itself: its record tells.
 */
export function judgeExpiry(facts: ExpiryFacts, rules: ExpiryRules, now: Date): ExpiryReason | undefined {
  const age = now.getTime() - facts.agesFrom.getTime();
  if (facts.state === 'created') return age > rules.halfCreatedAfterMs ? 'half_created' : undefined;
  if (facts.state === 'exited') {
    if (facts.warm || facts.exitCode === NEVER_HANDED_OUT_EXIT_CODE) return 'half_created';
    const ended = endedByLease(facts.exitCode);
    if (ended !== undefined && facts.onExpiry === 'destroy') return ended;
    if (facts.onExpiry === 'destroy' && endedDuring(facts)) return 'lost';
  }
  if (age > facts.maxLifetimeMs) return 'max_lifetime';
  if (facts.state === 'paused' && facts.onExpiry === 'destroy' && facts.leaseEndsAt !== undefined) {
    return facts.leaseEndsAt <= now ? 'lease_expired' : undefined;
  }
  if (facts.state !== 'exited' || facts.finishedAt === undefined) return undefined;
  return now.getTime() - facts.finishedAt.getTime() > rules.stoppedRetentionMs ? 'stopped_too_long' : undefined;
}

function endedDuring({ finishedAt, outage }: ExpiryFacts): boolean {
  return finishedAt !== undefined && outage !== undefined && outage.from <= finishedAt && finishedAt <= outage.to;
}
