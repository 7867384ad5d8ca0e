import { CommanderError } from 'commander';

import { isSandyardError } from '../errors.js';
import type { SandboxManager } from '../index.js';
import type { Context } from './context.js';
import { formatError } from './error-report.js';
import { EXIT_CODES, exitCodeOfError } from './exit-codes.js';
import { Interrupt } from './interrupt.js';
import { BrokenPipe, formatJson, write } from './output.js';

export interface Session {
  readonly manager: SandboxManager;
  readonly interrupt: Interrupt;
}

/** One run of the program: what its commands print to, and what it exits with. */
export class Cli {
  readonly context: Context;
  readonly args: readonly string[];
  /** `undefined` when the program goes on. */
  exitCode: number | undefined = 0;
  /** The command's name, when it is known. */
  command: string | undefined;
  json = false;
  debug = false;

  /** `args`: without program and script. */
  constructor(context: Context, args: readonly string[]) {
    this.context = context;
    this.args = args;
    // A failed write is told to who wrote; unheard, the event would end the program with a stack trace.
    for (const stream of [context.stdout, context.stderr]) stream.on('error', () => {});
  }

  /** Runs a command's body with a manager that is closed after it. Its value is the exit code, 0 when it gives none. */
  async run(body: (session: Session) => Promise<number | void>): Promise<void> {
    const interrupt = new Interrupt(this.context);
    try {
      await using manager = await this.context.openManager();
      this.exitCode = (await body({ manager, interrupt })) ?? 0;
    } catch (error) {
      if (interrupt.exitCode === undefined || !isSandyardError(error, 'aborted')) await this.fail(error);
    } finally {
      interrupt.stop();
      this.exitCode = interrupt.exitCode ?? this.exitCode;
    }
  }

  async print(text: string): Promise<void> {
    await write(this.context.stdout, text);
  }

  async printJson(value: unknown): Promise<void> {
    await this.print(formatJson(value, { indent: 2 }));
  }

  /** Prints on standard error. Where nobody reads that, nothing can be said. */
  async note(text: string): Promise<void> {
    await write(this.context.stderr, text).catch(() => {});
  }

  async report(error: unknown): Promise<void> {
    await this.note(formatError(error, this));
  }

  /** Ends the program with an error. */
  async fail(error: unknown): Promise<void> {
    if (error instanceof BrokenPipe) {
      this.exitCode = EXIT_CODES.brokenPipe;
      return;
    }
    // Commander has printed what was asked for.
    if (error instanceof CommanderError && error.exitCode === 0) return;
    this.exitCode = exitCodeOfError(error);
    // `help` without a command, on standard error.
    if (error instanceof CommanderError && error.code === 'commander.help') return;
    await this.report(error);
  }
}
