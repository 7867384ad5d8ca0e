import type { OnExpiry } from './channel/messages.js';
import type { ContainerDetails, ContainerState } from './engine/engine.js';
import type { DiskMode, Profile } from './isolation.js';
import { endedByLease } from './record/expiry.js';
import type { SandboxRecord } from './record/record.js';
import type { EgressPolicy } from './egress-schemas.js';
import type { SecretTraits } from './secret-schemas.js';

export interface SandboxInfo {
  readonly id: string;
  /** The container's name, `sandyard-ID`. */
  readonly name: string;
  readonly containerId: string;
  readonly projectName: string | null;
  readonly state: ContainerState;
  readonly image: string;
  readonly owner: string;
  /** Whose it is among those that the owner makes sandboxes for; `null` where it is the owner's own. */
  readonly tenant: string | null;
  readonly createdAt: Date;
  /** When its lease runs out, unless it is renewed. In a list: as this manager has last seen it. */
  readonly expiresAt: Date;
  /** `null` where it never ran, and in a list, which doesn't inspect each; as the two that follow. */
  readonly startedAt: Date | null;
  readonly finishedAt: Date | null;
  readonly exitCode: number | null;
  /** Whether it was its lease or its idle timeout that ended it; `null` where it was neither, as far as is known. */
  readonly endedBy: 'lease_expired' | 'idle' | null;
  readonly ttlMs: number;
  readonly idleTimeoutMs: number | null;
  readonly maxLifetimeMs: number;
  readonly onExpiry: OnExpiry;
  readonly wakeOnUse: boolean;
  readonly limits: {
    readonly memoryBytes: number;
    readonly cpus: number;
    readonly pids: number;
    readonly nofile: number;
    /** How much it may write, and how many files that may be; `null` where it isn't bounded, or by its memory. */
    readonly diskBytes: number | null;
    readonly inodes: number | null;
  };
  /** How that is bounded. */
  readonly disk: DiskMode;
  /** With `egress` as it was made; `sandbox.egress.get()` tells what is in force now. */
  readonly network: 'none' | 'bridge' | { readonly egress: EgressPolicy };
  /** Where the secrets go that it was made with; `sandbox.secrets.list()` tells of those that it has now. */
  readonly secrets: SecretTraits;
  readonly workdir: string;
  readonly user: string;
  /** The engine's runtime that was asked for; `null` for its default. */
  readonly runtime: string | null;
  readonly profile: Profile;
  readonly metadata: Readonly<Record<string, string>>;
}

/** What is shown of a sandbox; without `details`, as a list knows it. */
export function toInfo(
  record: SandboxRecord,
  { expiresAt, details }: { expiresAt: Date; details?: ContainerDetails },
): SandboxInfo {
  const {
    agesFrom: _age,
    pool: _pool,
    warm: _warm,
    env: _env,
    madeFor: _request,
    quotaBytes: _quota,
    ...shown
  } = record;
  const exitCode = details?.state === 'exited' ? details.exitCode : null;
  return {
    ...shown,
    state: details?.state ?? record.state,
    expiresAt,
    startedAt: details?.startedAt ?? null,
    finishedAt: details?.finishedAt ?? null,
    exitCode,
    endedBy: exitCode === null ? null : (endedByLease(exitCode) ?? null),
  };
}
