import { CommanderError } from 'commander';

import { withContext } from '../context.js';
import { isSandyardError } from '../errors.js';
import type { SandboxManager } from '../index.js';
import type { Context } from './context.js';
import { formatError } from './error-report.js';
import { EXIT_CODES, exitCodeOfError } from './exit-codes.js';
import { Interrupt } from './interrupt.js';
import { BrokenPipe, formatJson, formatTable, write } from './output.js';

export interface Session {
  readonly manager: SandboxManager;
  readonly interrupt: Interrupt;
}

/** What a list is printed as. */
export interface ListFormat<Item> {
  readonly flags: { readonly quiet?: boolean; readonly json?: boolean };
  readonly header: readonly string[];
  readonly toRow: (item: Item) => readonly string[];
  /** For `--json`. */
  readonly present: (item: Item) => unknown;
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
      this.exitCode = (await withContext({ actor: 'cli' }, () => body({ manager, interrupt }))) ?? 0;
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

  /** Prints a table, with `--quiet` ids only, and with `--json` an array. */
  async printList<Item extends { readonly id: string }>(
    items: readonly Item[],
    { flags, header, toRow, present }: ListFormat<Item>,
  ): Promise<void> {
    if (flags.json === true) await this.printJson(items.map(present));
    else if (flags.quiet === true) await this.print(items.map(({ id }) => `${id}\n`).join(''));
    else await this.print(formatTable(header, items.map(toRow)));
  }

  /** Prints on standard error. Where nobody reads that, nothing can be said. */
  async note(text: string): Promise<void> {
    await write(this.context.stderr, text).catch(() => {});
  }

  async report(error: unknown): Promise<void> {
    await this.note(formatError(error, this));
  }

  /** Tells what failed of several things, and gives the exit code for that. What was given up needs no word. */
  async reportAll(faults: readonly unknown[]): Promise<number> {
    for (const fault of faults) if (!isSandyardError(fault, 'aborted')) await this.report(fault);
    return faults.length === 0 ? 0 : EXIT_CODES.someFailed;
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
