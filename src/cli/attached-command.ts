import type { Command, DiedOf, Outcome, ProcessExit, Sandbox, SandboxProcess } from '../index.js';
import type { Context } from './context.js';
import { exitCodeOf } from './exit-codes.js';
import type { Interrupt } from './interrupt.js';
import { write } from './output.js';
import { followSize, passKeys, sizeOf } from './terminal.js';

export interface AttachedOptions {
  readonly cwd?: string | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly user?: string | undefined;
  readonly timeoutMs?: number | undefined;
  /** Whether it reads our standard input. */
  readonly interactive?: boolean | undefined;
  /** Whether it gets a terminal. */
  readonly tty?: boolean | undefined;
}

interface Surroundings {
  readonly context: Context;
  readonly interrupt: Interrupt;
}

/**
 * Runs a command with our standard streams as its own, and gives the exit code that tells how it ended. Whatever comes
 * between, it doesn't outlive this, and a terminal is left as it was.
 */
export async function runAttached(
  sandbox: Pick<Sandbox, 'spawn'>,
  command: Command,
  { context, interrupt, ...options }: AttachedOptions & Surroundings,
): Promise<number> {
  const { interactive = false, tty = false, ...spawnOptions } = options;
  await using process = await sandbox.spawn(command, {
    ...spawnOptions,
    signal: interrupt.signal,
    ...(tty && { pty: sizeOf(context.stdout) }),
    ...(interactive && !tty && { stdin: context.stdin }),
  });
  const cleanUps = [
    // What keeps the signal from it ends its output, too, and is told there.
    interrupt.handle((signal) => void process.kill(signal).catch(() => {})),
  ];
  try {
    if (tty) cleanUps.push(followSize(process, context));
    if (tty && interactive) cleanUps.push(passKeys(process, context));
    await passOutput(process, context);
    const exit = await process.wait();
    const note = noteOn(exit);
    // The terminal is to be as it was before anything is said on it.
    for (const cleanUp of cleanUps.splice(0).toReversed()) cleanUp();
    if (note !== undefined && interrupt.exitCode === undefined) await write(context.stderr, `sandyard: ${note}\n`);
    return exitCodeOf(exit);
  } finally {
    for (const cleanUp of cleanUps.toReversed()) cleanUp();
  }
}

async function passOutput(process: Pick<SandboxProcess, 'output'>, { stdout, stderr }: Context): Promise<void> {
  for await (const { stream, data } of process.output()) await write(stream === 'stdout' ? stdout : stderr, data);
}

function noteOn({ outcome, diedOf }: ProcessExit): string | undefined {
  return (diedOf === null ? undefined : DEATHS[diedOf]) ?? NOTES[outcome];
}

const DEATHS: Readonly<Partial<Record<DiedOf, string>>> = {
  out_of_memory:
    'The sandbox ran out of memory, which ended it while the command ran.\nhint: Give it more with --memory.',
  too_many_threads:
    'The sandbox had more processes and threads than its runtime may have, which ended it.\nhint: Give it more with --pids.',
};

/** Where the exit code alone could be the command's own. */
const NOTES: Readonly<Partial<Record<Outcome, string>>> = {
  timed_out: 'The command was ended by its time limit.',
  oom_killed:
    'The command was killed because the sandbox ran out of memory.\nhint: Give the sandbox more with --memory.',
  disk_full:
    'The command was ended because the sandbox had written more than it may.\nhint: Remove files in it, or give the sandbox more with --disk or --inodes.',
  sandbox_died: 'The sandbox ended while the command ran.\nhint: It may have been removed, or its lease have run out.',
};
