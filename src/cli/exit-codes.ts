import { constants } from 'node:os';

import { isSandyardError } from '../errors.js';
import type { Outcome, ProcessExit } from '../index.js';

/** What the program exits with when it isn't the code of a command. As timeout(1), docker run and the shells have it. */
export const EXIT_CODES = {
  someFailed: 1,
  timedOut: 124,
  ours: 125,
  notExecutable: 126,
  notFound: 127,
  /** 128 + SIGKILL. */
  killed: 137,
  /** 128 + SIGPIPE, which Node ignores: what it does instead is to fail a write. */
  brokenPipe: 141,
} as const;

/** 128 + n after signal n, as in a shell; `undefined` for what is no signal here. */
export function exitCodeOfSignal(signal: string): number | undefined {
  const numbers: Readonly<Record<string, number | undefined>> = constants.signals;
  const number = numbers[signal];
  return number === undefined ? undefined : 128 + number;
}

/** The exit code that tells how a command ended. */
export function exitCodeOf(exit: Pick<ProcessExit, 'outcome' | 'exitCode' | 'signal'>): number {
  const bySignal = exit.signal === null ? undefined : exitCodeOfSignal(exit.signal);
  const codes: Readonly<Record<Outcome, number | null>> = {
    exited: exit.exitCode,
    signaled: bySignal ?? exit.exitCode,
    timed_out: EXIT_CODES.timedOut,
    oom_killed: EXIT_CODES.killed,
    killed: bySignal ?? EXIT_CODES.killed,
    disk_full: EXIT_CODES.killed,
    sandbox_died: EXIT_CODES.ours,
  };
  return codes[exit.outcome] ?? EXIT_CODES.ours;
}

/** The exit code for an error that kept us from doing what was asked. */
export function exitCodeOfError(error: unknown): number {
  if (isSandyardError(error, 'command_not_found')) return EXIT_CODES.notFound;
  if (isSandyardError(error, 'command_not_executable')) return EXIT_CODES.notExecutable;
  return EXIT_CODES.ours;
}
