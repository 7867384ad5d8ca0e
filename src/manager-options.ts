import type Docker from 'dockerode';

import type { AdmissionSettings, Limits } from './config.js';
import type { EgressSettings } from './egress-settings.js';
import type { CallOptions, Engine } from './engine/engine.js';
import { checkSchedule } from './fleet/reaper.js';
import type { IsolationSettings } from './isolation.js';
import type { Log } from './log.js';
import type { MadeFor } from './record/record.js';
import type { SandboxInfo } from './sandbox-info.js';
import type { Telemetry } from './telemetry.js';
import type { PoolOptions } from './create/warm-sandboxes.js';

const DEFAULT_REAPER_SCHEDULE = '*/30 * * * * *';
/** Longer than all the deadlines of a create together. */
const HALF_CREATED_AFTER_MS = 10 * 60_000;

export interface ManagerOptions {
  /** A dockerode client. Default: the engine that DOCKER_HOST names, or one found at the usual sockets. */
  readonly docker?: Docker | undefined;
  /** Another Engine altogether; for tests. */
  readonly engine?: Engine | undefined;
  /** Default: says nothing. */
  readonly log?: Log | undefined;
  /** What counts what the manager does. Default: nothing. */
  readonly telemetry?: Telemetry | undefined;
  /** What sandboxes run unless told otherwise. Default: SANDBOX_IMAGE, or `sandyard-sandbox:latest`. */
  readonly image?: string | undefined;
  /** Whose sandboxes these are: a manager sees and removes only its own. Default: SANDBOX_OWNER, or `default`. */
  readonly owner?: string | undefined;
  /** Defaults and ceilings; what is left out comes from the SANDBOX_ variables. */
  readonly limits?: Partial<Limits> | undefined;
  /** Defaults of how sandboxes are isolated, and what may be asked for; what is left out comes from the SANDBOX_ variables. */
  readonly isolation?: Partial<IsolationSettings> | undefined;
  /** How much there may be in all, and how much at once; what is left out comes from the SANDBOX_ variables. */
  readonly admission?: Partial<AdmissionSettings> | undefined;
  /** Where sandboxes with egress may get; what is left out comes from the SANDBOX_ variables. */
  readonly egress?: Partial<EgressSettings> | undefined;
  /** What is kept warm, from `open` on: claimed in a millisecond. Default: SANDBOX_POOL_SIZE of the default kind, which is 0. */
  readonly pool?: PoolOptions | readonly PoolOptions[] | undefined;
  /**
   * Where wardens connect to managers, so that nothing goes by way of the engine: an absolute path, of at most 50 bytes, on the
   * engine's machine, where this program is root. `none`: each way into a sandbox is made by the engine. Default:
   * SANDBOX_SOCKET_DIR, or `auto`: /var/lib/sandyard/sockets, where that can be.
   */
  readonly socketDirectory?: string | undefined;
  /** When to look for expired sandboxes; `false` for never. Default: every 30 seconds. */
  readonly reaper?:
    | {
        /** A cron expression of five fields, or six with seconds first. */
        readonly schedule?: string | undefined;
        readonly dryRun?: boolean | undefined;
        /** How old what was never started must be to count as left by a manager that died. Default: 10 minutes. */
        readonly halfCreatedAfterMs?: number | undefined;
      }
    | false
    | undefined;
}

export interface CreateCallOptions extends CallOptions {
  /**
   * The request that it is made for: one with the same key gets the sandbox that there is, also from another manager, for as
   * long as that lives; and `idempotency_mismatch` where `content` isn't the same.
   */
  readonly madeFor?: MadeFor | undefined;
  /** Whose it is to be, of those that this manager's owner makes sandboxes for. Default: the owner's own. */
  readonly tenant?: string | undefined;
}

/** `tenant`: only of what is that tenant's. Default: of all that is the owner's. */
export interface TenantOptions extends CallOptions {
  readonly tenant?: string | undefined;
}

export interface SandboxList {
  readonly sandboxes: readonly SandboxInfo[];
  /** Pass it on to have the next ones; `null` at the end. */
  readonly cursor: string | null;
}

/** Those that are to have any. */
export function toPools(pool: PoolOptions | readonly PoolOptions[]): readonly PoolOptions[] {
  const pools = Array.isArray(pool) ? (pool as readonly PoolOptions[]) : [pool as PoolOptions];
  return pools.filter(({ size, max = size }) => Math.max(size, max) > 0);
}

/** Without a schedule it runs only when it is told to. Throws `config_invalid` for one that is none. */
export function toReaperSettings(given: ManagerOptions['reaper']) {
  const { schedule = DEFAULT_REAPER_SCHEDULE, dryRun = false, ...rest } = given === false ? {} : (given ?? {});
  return {
    schedule: given === false ? undefined : checkSchedule(schedule),
    dryRun,
    halfCreatedAfterMs: rest.halfCreatedAfterMs ?? HALF_CREATED_AFTER_MS,
  };
}
