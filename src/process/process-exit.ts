import type { RemoteExit } from '../channel/messages.js';
import { signalName } from '../signals.js';

/** How a command ended. Exactly one of them is true of every command that was started. */
export type Outcome = 'exited' | 'signaled' | 'timed_out' | 'oom_killed' | 'killed' | 'disk_full' | 'sandbox_died';

/**
 * What ended the sandbox under a command. `out_of_memory` and `too_many_threads`: under gVisor, where what goes over a limit
 * takes the whole sandbox with it. `killed`: by somebody on the engine's machine. `ended`: by itself, for none of these reasons.
 */
export type DiedOf =
  | 'out_of_memory'
  | 'too_many_threads'
  | 'killed'
  | 'stopped'
  | 'restarted'
  | 'removed'
  | 'lease_expired'
  | 'idle'
  | 'ended';

/** How a process ended. */
export interface ProcessExit {
  readonly outcome: Outcome;
  /** The exit code as a shell would see it, so 128 + n after signal n; `null` when the sandbox died first. */
  readonly exitCode: number | null;
  /** The signal that ended it, by name. */
  readonly signal: string | null;
  readonly durationMs: number;
  /** Whether something it started still ran when it had ended. */
  readonly processesLeft: boolean;
  /** What it used, with what it waited for; `null` when the sandbox died first. */
  readonly usage: ProcessUsage | null;
  /** What the sandbox died of, with `sandbox_died`, as far as its container tells; otherwise `null`. */
  readonly diedOf: DiedOf | null;
}

export interface ProcessUsage {
  readonly userMs: number;
  readonly systemMs: number;
  /** The most memory that it had resident at once. */
  readonly maxRssBytes: number;
}

/** What the warden tells of an end, as callers see it. */
export function toExit(exit: RemoteExit): ProcessExit {
  const { outcome, signal, durationMs, processesLeft, userMs, systemMs, maxRssBytes } = exit;
  return {
    outcome,
    exitCode: processExitCode(exit),
    signal: signal === null ? null : signalName(signal),
    durationMs,
    processesLeft,
    usage: { userMs, systemMs, maxRssBytes },
    diedOf: null,
  };
}

/** The end of what ran when its sandbox ended. */
export function diedWithSandbox(durationMs: number, diedOf: DiedOf | null): ProcessExit {
  const nothing = { exitCode: null, signal: null, processesLeft: false, usage: null } as const;
  return { ...nothing, outcome: 'sandbox_died', durationMs: Math.max(0, durationMs), diedOf };
}

/** As a shell would see it. */
export function processExitCode({ exitCode, signal }: Pick<RemoteExit, 'exitCode' | 'signal'>): number | null {
  return exitCode ?? (signal === null ? null : 128 + signal);
}
