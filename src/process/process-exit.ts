import type { RemoteExit } from '../channel/messages.js';
import { signalName } from '../signals.js';

/** How a command ended. Exactly one of them is true of every command that was started. */
export type Outcome = 'exited' | 'signaled' | 'timed_out' | 'oom_killed' | 'killed' | 'sandbox_died';

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
  };
}

/** The end of what ran when its sandbox ended. */
export function diedWithSandbox(durationMs: number): ProcessExit {
  const nothing = { exitCode: null, signal: null, processesLeft: false, usage: null } as const;
  return { ...nothing, outcome: 'sandbox_died', durationMs: Math.max(0, durationMs) };
}

/** As a shell would see it. */
export function processExitCode({ exitCode, signal }: Pick<RemoteExit, 'exitCode' | 'signal'>): number | null {
  return exitCode ?? (signal === null ? null : 128 + signal);
}
