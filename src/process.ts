import { Readable } from 'node:stream';
import { customAlphabet } from 'nanoid';

import { BoundedText } from './bounded-text.js';
import type { ExecSpec } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import { PROCESS_MARK, signalTree } from './process-tree.js';
import { callerGaveUp, SandboxProcess, type ProcessExit, type ProcessTarget, type Stdin } from './sandbox-process.js';
import { execOptionsSchema, fields, parseInput } from './schemas.js';

const DEFAULT_MAX_OUTPUT_BYTES = 1024 * 1024;

const newProcessId = customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 16);

/** A program with its arguments; a string means `["/bin/sh", "-c", string]`. */
export type Command = string | readonly string[];

export interface SpawnOptions {
  /** Working directory, absolute. Default: the sandbox's `workdir`. */
  readonly cwd?: string | undefined;
  /** Variables on top of those of the sandbox. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** `sandbox` or a numeric `uid` or `uid:gid`, never root. Default: the sandbox's `user`. */
  readonly user?: string | undefined;
  /**
   * Ends the command and all it started after this many milliseconds. Default: the manager's `execTimeoutMs` for `exec`,
   * none for `spawn`.
   */
  readonly timeoutMs?: number | undefined;
  /** Default: none, the command reads an end of file. */
  readonly stdin?: Stdin | undefined;
  /** Ends the command and all it started, and rejects with `aborted` when that is done. */
  readonly signal?: AbortSignal | undefined;
}

export interface ExecOptions extends SpawnOptions {
  /** How much of stdout and of stderr is kept, each, from the beginning. Default: 1 MiB. */
  readonly maxOutputBytes?: number | undefined;
}

export interface ExecResult extends ProcessExit {
  /** Decoded as UTF-8; never ends within a character. */
  readonly stdout: string;
  readonly stderr: string;
  /** Whether some output was dropped, being over `maxOutputBytes`. */
  readonly truncated: boolean;
  readonly droppedBytes: { readonly stdout: number; readonly stderr: number };
}

/**
 * Runs a command to its end. A command that fails, times out or is killed is a result; an error means that it could not
 * be run: `command_not_found`, `command_not_executable`, `workdir_not_found`, `wrong_state`, `validation_failed`,
 * `engine_unavailable`; and `aborted` by `signal`, or what `stdin` failed with.
 */
export async function exec(target: ProcessTarget, command: Command, options: ExecOptions = {}): Promise<ExecResult> {
  const { maxOutputBytes = DEFAULT_MAX_OUTPUT_BYTES, timeoutMs = target.execTimeoutMs, ...rest } = options;
  const process = await spawn(target, command, { ...rest, timeoutMs, maxOutputBytes });
  const stdout = new BoundedText(maxOutputBytes);
  const stderr = new BoundedText(maxOutputBytes);
  for await (const { stream, data } of process.output()) (stream === 'stdout' ? stdout : stderr).add(data);
  const exit = await process.wait();
  const [out, err] = [stdout.finish(), stderr.finish()];
  const droppedBytes = { stdout: out.dropped, stderr: err.dropped };
  return { ...exit, stdout: out.text, stderr: err.text, truncated: out.dropped + err.dropped > 0, droppedBytes };
}

/** Starts a command and gives a handle of it. Throws as `exec`, where some of it comes with the first output. */
export async function spawn(
  target: ProcessTarget,
  command: Command,
  options: ExecOptions = {},
): Promise<SandboxProcess> {
  const { stdin, signal, ...rest } = options;
  const given = parseInput(execOptionsSchema, rest, 'exec options');
  const argv = toArgv(parseInput(fields.command, command, 'command'));
  const id = newProcessId();
  const user = given.user === undefined ? target.user : toUidGid(given.user);
  if (stdin !== undefined && !isStdin(stdin)) {
    throw new SandyardError('validation_failed', 'Invalid exec options: stdin: must be a text, bytes or a stream.', {
      issues: [{ path: ['stdin'], message: 'must be a text, bytes or a stream' }],
    });
  }
  keepFailure(stdin);
  if (target.processes.closed) throw closedError();
  if (signal?.aborted === true) throw callerGaveUp(signal);
  const started = performance.now();
  // Not aborted half-way: what the engine has started by then could not be found again to be ended.
  const spec: ExecSpec = {
    command: argv,
    env: [...Object.entries(given.env ?? {}).map(([name, value]) => `${name}=${value}`), `${PROCESS_MARK}=${id}`],
    user,
    workdir: given.cwd ?? target.workdir,
    stdin: stdin !== undefined,
  };
  const engineExec = await target.engine.exec(target.container, spec).catch((error: unknown) => {
    abandon(stdin);
    // The engine may have started it after all; then nobody would end it.
    const { engine, container } = target;
    if (isSandyardError(error, 'engine_timeout')) {
      void signalTree(engine, { container, user, processId: id, signal: 'SIGKILL' }).catch(() => {});
    }
    throw error;
  });
  const { timeoutMs } = given;
  const process = new SandboxProcess({ ...target, user }, { id, exec: engineExec, stdin, signal, timeoutMs, started });
  if (!target.processes.closed) return process;
  await process[Symbol.asyncDispose]();
  throw closedError();
}

/** The uid and gid of a user by the word that callers use. */
export function toUidGid(user: string): string {
  if (user === 'sandbox') return '1000:1000';
  return user.includes(':') ? user : `${user}:${user}`;
}

/** A stream may fail before it is read: the failure is kept for the reader, and must not end the program. */
export function keepFailure(stdin: unknown): void {
  if (stdin instanceof Readable) stdin.on('error', () => {});
}

/** Lets go of a stream that nobody will read. */
export function abandon(stdin: unknown): void {
  if (stdin instanceof Readable) stdin.destroy();
}

function closedError(): SandyardError {
  return new SandyardError('manager_closed', 'The manager of this sandbox is closed.', {
    hint: 'Make a new SandboxManager, and get the sandbox from it.',
  });
}

function isStdin(stdin: unknown): stdin is Stdin {
  if (typeof stdin === 'string' || stdin instanceof Uint8Array) return true;
  return typeof stdin === 'object' && stdin !== null && Symbol.asyncIterator in stdin;
}

function toArgv(command: string | readonly string[]): readonly string[] {
  return typeof command === 'string' ? ['/bin/sh', '-c', command] : command;
}
