import { SandyardError } from '../errors.js';
import type { SandboxProcess } from '../index.js';
import type { Context, Output } from './context.js';

/** What a terminal has where nobody says. */
const DEFAULT_SIZE = { rows: 24, columns: 80 };

export interface TerminalSize {
  readonly rows: number;
  readonly columns: number;
}

export function sizeOf({ rows, columns }: Output): TerminalSize {
  // A terminal that doesn't know its size says that it is 0 by 0.
  return rows && columns ? { rows, columns } : DEFAULT_SIZE;
}

/** A terminal for the command needs one here: its keys would otherwise be read as lines, and its end never come. */
export function checkTerminal({ stdin }: Pick<Context, 'stdin'>): void {
  if (stdin.isTTY === true) return;
  throw new SandyardError('validation_failed', 'The input device is not a TTY.', {
    hint: 'Leave out -t where input comes from a pipe, a file or nowhere.',
  });
}

type TerminalProcess = Pick<SandboxProcess, 'resize' | 'write' | 'closeStdin'>;

/** Passes changes of size on. Gives what ends that. */
export function followSize(process: TerminalProcess, { stdout }: Pick<Context, 'stdout'>): () => void {
  const onResize = () => process.resize(sizeOf(stdout));
  stdout.on('resize', onResize);
  return () => stdout.off('resize', onResize);
}

/**
 * Every key goes to the process, Ctrl-C too. Gives what makes the terminal again what it was; that happens by itself,
 * too, when the program ends some other way.
 */
export function passKeys(process: TerminalProcess, context: Pick<Context, 'stdin' | 'onExit'>): () => void {
  const { stdin } = context;
  const leave = enterRawMode(context);
  void pump(stdin, process);
  return () => {
    leave();
    stdin.pause();
  };
}

function enterRawMode({ stdin, onExit }: Pick<Context, 'stdin' | 'onExit'>): () => void {
  let raw = true;
  const leave = () => {
    if (!raw) return;
    raw = false;
    try {
      stdin.setRawMode?.(false);
    } catch {
      // The terminal is gone, and with it what was to be restored.
    }
  };
  const forget = onExit(leave);
  stdin.setRawMode?.(true);
  return () => {
    leave();
    forget();
  };
}

async function pump(stdin: AsyncIterable<Uint8Array>, process: TerminalProcess): Promise<void> {
  try {
    for await (const keys of stdin) await process.write(keys);
    await process.closeStdin();
  } catch {
    // It reads no more, or has ended. What ended it is told with its output.
  }
}
