import type { Readable, Writable } from 'node:stream';

import type { IssuedToken, TokenRequest } from '../access/tokens.js';
import type { SandboxManager } from '../index.js';

/** Standard input: a terminal has the optional members. */
export interface Input extends Readable {
  isTTY?: boolean;
  setRawMode?(mode: boolean): unknown;
}

/** Standard output or error. A terminal has a size, and emits `resize` when that changes. */
export interface Output extends Writable {
  readonly isTTY?: boolean;
  readonly rows?: number;
  readonly columns?: number;
}

export type InterruptSignal = 'SIGHUP' | 'SIGINT' | 'SIGQUIT' | 'SIGTERM';

/** All that a command needs of the world, so that a test can be the world. */
export interface Context {
  readonly stdin: Input;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly version: string;
  /** Loads the library, which takes longer than all the rest of a `--help`. What it gives is not open yet. */
  openManager(): Promise<SandboxManager>;
  /** A variable of the caller's own environment; `undefined` where it is not set. */
  readVariable(name: string): Promise<string | undefined>;
  /** Signs a token with the secret that the environment names. Throws `config_invalid`, `forbidden`, `limit_exceeded`. */
  issueToken(request: TokenRequest): Promise<IssuedToken>;
  /** Starts the REST service, which then ends the program by itself. */
  serve(): Promise<void>;
  /** Gives what stops listening. */
  onSignal(handler: (signal: InterruptSignal) => void): () => void;
  /** Called whatever ends the program, except SIGKILL; must not wait for anything. */
  onExit(handler: () => void): () => void;
  exit(code: number): void;
}
