import { customAlphabet } from 'nanoid';

import { BoundedText } from './bounded-text.js';
import type { RemoteExit, SpawnRequest, TerminalSize } from '../channel/messages.js';
import { isSandyardError, SandyardError } from '../errors.js';
import { diedWithSandbox, toExit, type ProcessExit } from './process-exit.js';
import { translateStart } from './remote-errors.js';
import { callerGaveUp, endRemote, KILL_GRACE_MS, RemoteRun, type ProcessTarget } from './remote-run.js';
import { SandboxProcess } from './sandbox-process.js';
import { execOptionsSchema, fields, parseInput, spawnOptionsSchema } from '../schemas.js';
import { abandon, isStdin, keepFailure, type Stdin } from './stdin.js';
import { checkUser, toUserIds } from './users.js';

const DEFAULT_MAX_OUTPUT_BYTES = 1024 * 1024;
const DEFAULT_TERMINAL: TerminalSize = { rows: 24, columns: 80 };
/** What terminal programs go by: what every emulator in use understands. */
const TERMINAL_TYPE = 'xterm-256color';

export const newProcessId = customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 16);

/** A program with its arguments; a string means `["/bin/sh", "-c", string]`. */
export type Command = string | readonly string[];

interface CommandOptions {
  /** Working directory, absolute. Default: the sandbox's `workdir`. */
  readonly cwd?: string | undefined;
  /** Variables on top of those of the sandbox. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** `sandbox` or a numeric `uid` or `uid:gid`; `root` only with the profile `dev`. Default: the sandbox's `user`. */
  readonly user?: string | undefined;
  /**
   * Ends the command and all it started after this many milliseconds. Default: the manager's `execTimeoutMs` for `exec`,
   * none for `spawn`.
   */
  readonly timeoutMs?: number | undefined;
  /** Ends the command and all it started, and rejects with `aborted` when that is done. */
  readonly signal?: AbortSignal | undefined;
}

export interface ExecOptions extends CommandOptions {
  /** Default: none, the command reads an end of file. */
  readonly stdin?: Stdin | undefined;
  /** How much of stdout and of stderr is kept, each, from the beginning. Default: 1 MiB. */
  readonly maxOutputBytes?: number | undefined;
  /**
   * 1 to 64 of `A-Za-z0-9_.-`, not beginning with `.` or `-`. A command runs once per id: when it is repeated, because an answer was lost, the result is
   * that of the first. Default: none, it runs each time.
   */
  readonly execId?: string | undefined;
}

export interface SpawnOptions extends CommandOptions {
  /** Default: none, the command reads an end of file. `'pipe'` is no text here, but what `write()` of the handle sends. */
  readonly stdin?: Stdin | undefined;
  /** As an `execId`. One that is in use, or remembered, starts nothing: see `existing`. Default: a new one. */
  readonly id?: string | undefined;
  /** Gives it a terminal, of 24 rows and 80 columns unless told otherwise; all its output is then stdout. */
  readonly pty?: boolean | TerminalSize | undefined;
  /** `'run'`: goes on when nobody reads its output, and the oldest is lost. Default: `'wait'`. */
  readonly whenUnread?: 'wait' | 'run' | undefined;
  /** No piece of output ends within a UTF-8 character, unless the command pauses there. */
  readonly text?: boolean | undefined;
  /** How long after SIGTERM it gets SIGKILL, on a timeout, an abort or a kill. Default: 2000 ms. */
  readonly graceMs?: number | undefined;
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
 * `limit_exceeded`, `engine_unavailable`; and `aborted` by `signal`, `output_lost` where a repeated `execId` comes too
 * late for all the output, or what `stdin` failed with.
 */
export async function exec(target: ProcessTarget, command: Command, options: ExecOptions = {}): Promise<ExecResult> {
  const { stdin, signal, ...rest } = options;
  const given = parseInput(execOptionsSchema, rest, 'exec options');
  const { maxOutputBytes = DEFAULT_MAX_OUTPUT_BYTES, execId } = given;
  checkStdin(stdin, 'exec options');
  const request: SpawnRequest = {
    ...toRequest(target, command, { ...given, timeoutMs: given.timeoutMs ?? target.execTimeoutMs }),
    id: execId ?? newProcessId(),
    forget: execId === undefined,
    maxOutputBytes,
    stdin: stdin !== undefined,
  };
  const began = performance.now();
  const measure = (status: string) =>
    target.telemetry.execution({ type: 'exec', status, seconds: (performance.now() - began) / 1000 });
  const output = new CollectedOutput(maxOutputBytes);
  const run = new RemoteRun(target, request, { stdin, signal });
  try {
    const exit = await output.collect(run);
    measure(exit.outcome);
    return output.toResult(toExit(exit), { stdout: exit.stdoutBytes, stderr: exit.stderrBytes });
  } catch (error) {
    const died = run.started && isSandyardError(error, 'sandbox_died');
    measure(died ? 'sandbox_died' : 'error');
    if (!died) throw translateStart(error, request);
    const durationMs = performance.now() - began;
    return output.toResult(diedWithSandbox(durationMs, await target.whyDied()));
  } finally {
    run.release();
  }
}

/** Starts a command and gives a handle of it. Throws what keeps it from being started, as `exec` does. */
export async function spawn(
  target: ProcessTarget,
  command: Command,
  options: SpawnOptions = {},
): Promise<SandboxProcess> {
  const { stdin, signal, ...rest } = options;
  const given = parseInput(spawnOptionsSchema, rest, 'spawn options');
  const { id = newProcessId(), pty = false, whenUnread = 'wait', text = false, graceMs } = given;
  checkStdin(stdin, 'spawn options');
  const tty = pty === true ? DEFAULT_TERMINAL : pty === false ? undefined : pty;
  const env = tty === undefined ? given.env : { TERM: TERMINAL_TYPE, ...given.env };
  const acceptsInput = stdin === 'pipe' || tty !== undefined;
  const request: SpawnRequest = {
    ...toRequest(target, command, { ...given, env }),
    id,
    tty,
    text,
    stdin: stdin !== undefined || acceptsInput,
    runUnread: whenUnread === 'run',
  };
  const source = stdin === 'pipe' ? undefined : stdin;
  const { start, attachment } = await begin(target, request, signal).catch((error: unknown) => {
    abandon(source);
    throw error;
  });
  return new SandboxProcess(target, id, {
    start,
    attachment,
    stdin: source,
    acceptsInput: acceptsInput || start.existing,
    signal,
    graceMs,
    runsUnread: whenUnread === 'run',
  });
}

async function begin(target: ProcessTarget, request: SpawnRequest, signal: AbortSignal | undefined) {
  if (signal?.aborted === true) throw callerGaveUp(signal);
  const held = target.hold();
  try {
    const remote = held.channel.spawn(request, { signal });
    const type = request.tty === undefined ? 'spawn' : 'terminal';
    remote.exit.then(
      ({ outcome, durationMs }) => {
        target.telemetry.execution({ type, status: outcome, seconds: durationMs / 1000 });
        if (outcome === 'disk_full') target.diskFull?.();
      },
      () => {}, // told to whoever waits
    );
    return { start: await remote.started, attachment: { remote, held } };
  } catch (error) {
    // It may have been started all the same.
    if (isSandyardError(error, 'aborted')) await endRemote(held, request.id);
    held.release();
    throw translateStart(error, request);
  }
}

/** What a command prints, as far as it is kept. */
class CollectedOutput {
  readonly #kept: { readonly stdout: BoundedText; readonly stderr: BoundedText };
  readonly #bytes = { stdout: 0, stderr: 0 };

  constructor(maxBytes: number) {
    this.#kept = { stdout: new BoundedText(maxBytes), stderr: new BoundedText(maxBytes) };
  }

  async collect(run: RemoteRun): Promise<RemoteExit> {
    const output = run.output();
    for (;;) {
      const next = await output.next();
      if (next.done === true) return next.value;
      const { stream, data } = next.value;
      this.#kept[stream].add(data);
      this.#bytes[stream] += data.length;
    }
  }

  /** `total` is how much there was, also of what didn't come. */
  toResult(exit: ProcessExit, total = this.#bytes): ExecResult {
    const stdout = this.#kept.stdout.finish(total.stdout);
    const stderr = this.#kept.stderr.finish(total.stderr);
    return {
      ...exit,
      stdout: stdout.text,
      stderr: stderr.text,
      truncated: stdout.dropped + stderr.dropped > 0,
      droppedBytes: { stdout: stdout.dropped, stderr: stderr.dropped },
    };
  }
}

interface GivenOptions {
  readonly cwd?: string | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly user?: string | undefined;
  readonly timeoutMs?: number | undefined;
  readonly graceMs?: number | undefined;
}

function toRequest(target: ProcessTarget, command: Command, given: GivenOptions): Omit<SpawnRequest, 'id'> {
  const argv = parseInput(fields.command, command, 'command');
  checkUser(given.user, target);
  const ids = given.user === undefined ? target.user : toUserIds(given.user);
  // The sandbox's own belongs to its user, and root would leave there what that user can't change.
  const home = ids.uid === 0 ? { HOME: '/root' } : {};
  return {
    argv: typeof argv === 'string' ? ['/bin/sh', '-c', argv] : argv,
    cwd: given.cwd ?? target.workdir,
    env: Object.entries({ ...home, ...target.env, ...given.env }).map(([name, value]) => `${name}=${value}`),
    ...ids,
    timeoutMs: given.timeoutMs,
    graceMs: given.graceMs ?? KILL_GRACE_MS,
  };
}

/** Throws `validation_failed`. Of a stream that may fail before it is read, the failure is kept. */
export function checkStdin(stdin: unknown, what: string): void {
  if (stdin !== undefined && !isStdin(stdin)) {
    throw new SandyardError('validation_failed', `Invalid ${what}: stdin: must be a text, bytes or a stream.`, {
      issues: [{ path: ['stdin'], message: 'must be a text, bytes or a stream' }],
    });
  }
  keepFailure(stdin);
}
