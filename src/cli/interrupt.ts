import { setMaxListeners } from 'node:events';

import type { Context, InterruptSignal } from './context.js';
import { exitCodeOfSignal } from './exit-codes.js';

/** What starts us, npm for one, may pass on a Ctrl-C that we have had from the terminal already. */
const SAME_SIGNAL_MS = 50;

type Handler = (signal: InterruptSignal) => void;

/**
 * What a signal from outside does to a command: the first ends it in order, the second the program at once. Listens
 * until it is disposed of.
 */
export class Interrupt {
  /** The exit code that tells of the signal; `undefined` when there was none. */
  exitCode: number | undefined;
  /** What somebody who doesn't wait for the end is told. */
  lastWords: (() => void) | undefined;
  readonly #controller = new AbortController();
  readonly #stop: () => void;
  #handler: Handler | undefined;
  #at = 0;

  constructor(context: Pick<Context, 'onSignal' | 'exit'>) {
    setMaxListeners(Infinity, this.#controller.signal); // one for each thing that is under way
    this.#stop = context.onSignal((signal) => {
      const now = performance.now();
      if (this.exitCode !== undefined) {
        if (now - this.#at < SAME_SIGNAL_MS) return;
        this.lastWords?.();
        context.exit(this.exitCode);
        return;
      }
      this.exitCode = exitCodeOfSignal(signal) ?? 130;
      this.#at = now;
      if (this.#handler === undefined) this.#controller.abort();
      else this.#handler(signal);
    });
  }

  /** Aborted by the first signal, where nothing else was to be done about it. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Has the first signal call this instead. Gives what ends that. */
  handle(handler: Handler): () => void {
    this.#handler = handler;
    return () => {
      this.#handler = undefined;
    };
  }

  stop(): void {
    this.#stop();
  }
}
