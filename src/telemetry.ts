/*
 * What a manager tells of its own work, for whoever counts it. Each method is called where the thing happens, must return
 * at once and must not throw. Times are in seconds, as Prometheus has them. No ids: what is counted must stay few.
 */

export type OperationStatus = 'ok' | 'error' | 'aborted';

/** What an engine is asked for. */
export const ENGINE_OPERATIONS = [
  'info',
  'version',
  'ping',
  'inspect_image',
  'create_container',
  'inspect_container',
  'list_containers',
  'start_container',
  'stop_container',
  'remove_container',
  'pause_container',
  'unpause_container',
  'rename_container',
  'update_container',
  'container_stats',
  'read_container_file',
  'read_container_link',
  'watch_containers',
  'list_volumes',
  'list_networks',
  'inspect_network',
  'create_network',
  'connect_network',
  'remove_volume',
  'remove_network',
  'attach_container',
  'open_tunnel',
  'inspect_exec',
  'fill_volume',
] as const;

export type EngineOperation = (typeof ENGINE_OPERATIONS)[number];

export interface Telemetry {
  /** A command or process ended; `status` is its outcome, or `error` when there is none. */
  execution(measured: {
    readonly type: 'exec' | 'spawn' | 'terminal';
    readonly status: string;
    readonly seconds: number;
  }): void;
  /** A create was answered. */
  create(measured: {
    readonly source: 'warm' | 'cold';
    readonly status: OperationStatus;
    readonly seconds: number;
  }): void;
  /** A try to claim a warm sandbox: `claimed`, `lost` to another manager, `empty`, or `unfit` where it didn't answer. */
  claim(result: 'claimed' | 'lost' | 'empty' | 'unfit'): void;
  /**
   * A create was refused before anything was made. `reason` is what the error's details say: its `ceiling` (`queue`,
   * `owner.sandboxes`), or the `resource` that the machine has too little of (`memory`, `disk`).
   */
  rejected(reason: string): void;
  /** A call of the engine ended. */
  engineCall(measured: {
    readonly operation: EngineOperation;
    readonly status: OperationStatus;
    readonly seconds: number;
  }): void;
  /** A sandbox, volume or network was removed by a reaper. */
  reaped(reason: string): void;
  /** Something happened to a sandbox; `type` is the event's. */
  event(type: string): void;
  /** A client was answered with an error: a matter of the service, which a manager leaves alone. */
  error(code: string): void;
}

function ignore(): void {}

/** The library's default: counts nothing. */
export const silentTelemetry: Telemetry = {
  execution: ignore,
  create: ignore,
  claim: ignore,
  rejected: ignore,
  engineCall: ignore,
  reaped: ignore,
  event: ignore,
  error: ignore,
};

/** What one sandbox uses: all that it has used, of which whoever asks again makes a rate. */
export interface UsageReading {
  /** Tells readings of one sandbox from those of others; is shown to nobody. */
  readonly id: string;
  readonly memoryBytes: number;
  /** Since it was last started. */
  readonly cpuSeconds: number;
}

/** How a manager is now. */
export interface ManagerGauges {
  /** How many sandboxes this owner has, by state; those of a pool that nobody has claimed are not among them. */
  readonly sandboxes: Readonly<Record<string, number>>;
  /** Warm sandboxes that could be claimed, and those on the way to it. */
  readonly pool: { readonly ready: number; readonly filling: number };
  /** Creates that wait for their turn. */
  readonly queueLength: number;
  /**
   * Of the sandboxes that run and have a tunnel: none is opened for this. One that doesn't answer before the signal
   * aborts is left out.
   */
  usage(options: { readonly signal: AbortSignal }): Promise<readonly UsageReading[]>;
}
