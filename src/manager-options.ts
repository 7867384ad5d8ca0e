import type Docker from 'dockerode';

import type { AdmissionSettings, EgressSettings, Limits } from './config.js';
import type { Engine } from './engine/engine.js';
import type { IsolationSettings } from './isolation.js';
import type { Log } from './log.js';
import type { Telemetry } from './telemetry.js';
import type { PoolOptions } from './create/warm-sandboxes.js';

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
