import type { ContainerState } from './engine/engine.js';

/** Why a sandbox may be removed. */
export type ExpiryReason = 'lease_expired' | 'idle' | 'max_lifetime' | 'stopped_too_long' | 'half_created';

/** What the warden ends a sandbox with: see `warden/PROTOCOL.md`. */
const LEASE_EXPIRED_EXIT_CODE = 90;
const IDLE_EXIT_CODE = 91;

/** All that the rule goes by. */
export interface ExpiryFacts {
  readonly state: ContainerState;
  readonly createdAt: Date;
  readonly maxLifetimeMs: number;
  /** When it stopped; `undefined` while it runs. */
  readonly finishedAt: Date | undefined;
  /** What it stopped with; says nothing while it runs. */
  readonly exitCode: number;
}

export interface ExpiryRules {
  readonly stoppedRetentionMs: number;
  /** How long creating may take: what is still only created after that was left half-made by a manager that died. */
  readonly halfCreatedAfterMs: number;
}

/**
 * Why a sandbox has expired by `now`, or `undefined` while it hasn't. A lease is the sandbox's own: it ends itself when
 * that runs out, and says so by its exit code. So one that runs has not expired, but for its longest lifetime, which is
 * the backstop for a sandbox that doesn't end itself.
 */
export function judgeExpiry(facts: ExpiryFacts, rules: ExpiryRules, now: Date): ExpiryReason | undefined {
  const time = now.getTime();
  const age = time - facts.createdAt.getTime();
  if (facts.state === 'created') return age > rules.halfCreatedAfterMs ? 'half_created' : undefined;
  if (facts.state === 'exited') {
    if (facts.exitCode === LEASE_EXPIRED_EXIT_CODE) return 'lease_expired';
    if (facts.exitCode === IDLE_EXIT_CODE) return 'idle';
  }
  if (age > facts.maxLifetimeMs) return 'max_lifetime';
  if (facts.state !== 'exited' || facts.finishedAt === undefined) return undefined;
  return time - facts.finishedAt.getTime() > rules.stoppedRetentionMs ? 'stopped_too_long' : undefined;
}
