import type { ContainerState } from './engine/engine.js';

/** Why a sandbox may be removed. */
export type ExpiryReason = 'lease_expired' | 'idle' | 'max_lifetime' | 'stopped_too_long' | 'half_created';

/** All that the rule goes by. */
export interface ExpiryFacts {
  readonly state: ContainerState;
  readonly createdAt: Date;
  readonly maxLifetimeMs: number;
  readonly expiresAt: Date;
  readonly idleTimeoutMs: number | null;
  readonly lastActiveAt: Date;
  /** Whether a command runs in it. */
  readonly busy: boolean;
  /** When it stopped; `undefined` while it runs. */
  readonly finishedAt: Date | undefined;
}

export interface ExpiryRules {
  readonly stoppedRetentionMs: number;
  /** How long creating may take: what is still only created after that was left half-made by a manager that died. */
  readonly halfCreatedAfterMs: number;
}

/**
 * How much older than the truth a recorded last activity may be, as a part of the idle timeout: activity is recorded no
 * more often than that. The rule waits as much longer.
 */
export const ACTIVITY_RESOLUTION = 0.25;

/** Why a sandbox has expired by `now`, or `undefined` while it hasn't. */
export function judgeExpiry(facts: ExpiryFacts, rules: ExpiryRules, now: Date): ExpiryReason | undefined {
  const time = now.getTime();
  const age = time - facts.createdAt.getTime();
  if (facts.state === 'created') return age > rules.halfCreatedAfterMs ? 'half_created' : undefined;
  if (age > facts.maxLifetimeMs) return 'max_lifetime';
  if (time > facts.expiresAt.getTime()) return 'lease_expired';
  if (facts.state === 'exited' && facts.finishedAt !== undefined) {
    return time - facts.finishedAt.getTime() > rules.stoppedRetentionMs ? 'stopped_too_long' : undefined;
  }
  if (facts.idleTimeoutMs === null || facts.busy) return undefined;
  const quiet = time - facts.lastActiveAt.getTime();
  return quiet > facts.idleTimeoutMs * (1 + ACTIVITY_RESOLUTION) ? 'idle' : undefined;
}
