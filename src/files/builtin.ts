import { RemoteError, type RemoteExit } from '../channel/messages.js';
import { isSandyardError, SandyardError } from '../errors.js';
import { notRecord } from './file-entries.js';
import { diskFull, fileError, type FileFailure } from './file-errors.js';
import { newProcessId } from '../process/process.js';
import { quoteName } from '../quote.js';
import { ERRNO, translateStart } from '../process/remote-errors.js';
import { KILL_GRACE_MS, RemoteRun, type ProcessTarget } from '../process/remote-run.js';
import type { Stdin } from '../process/stdin.js';

/*
 * The warden's own operations. They run as the sandbox's user: what that user may not do, it can't do through us either,
 * and every link is resolved inside.
 */

/** Moving bytes may take as long as it takes; this only ends what hangs. */
const TRANSFER_TIMEOUT_MS = 6 * 3_600_000;
const STDERR_KEPT_BYTES = 8192;
/** An answer that isn't streamed is one entry. */
const ANSWER_MAX_BYTES = 64 * 1024;

export interface BuiltinCall {
  /** The operation and its arguments, as in `warden/PROTOCOL.md`. */
  readonly argv: readonly string[];
  /** What it is about, as its caller named it. */
  readonly path: string;
  readonly stdin?: Stdin | undefined;
  /** Whether its input is written by `run.remote`, not fed. */
  readonly piped?: boolean;
  readonly signal?: AbortSignal | undefined;
  /** Default: six hours. `null`: as long as it is wanted. */
  readonly timeoutMs?: number | null | undefined;
  /** What an exit code means, where it means something else with this operation. */
  readonly explain?: ((failure: FileFailure) => SandyardError | undefined) | undefined;
}

/** One operation that runs. */
export class Builtin {
  readonly run: RemoteRun;
  readonly #call: BuiltinCall;
  readonly #target: ProcessTarget;
  #said = '';

  /** Starts it, and doesn't wait for that. */
  constructor(target: ProcessTarget, call: BuiltinCall) {
    const { argv, stdin, signal, timeoutMs = TRANSFER_TIMEOUT_MS, piped = false } = call;
    this.#call = call;
    this.#target = target;
    const request = {
      id: newProcessId(),
      argv,
      builtin: true,
      cwd: '/',
      env: [],
      ...target.user,
      timeoutMs: timeoutMs ?? undefined,
      graceMs: KILL_GRACE_MS,
      stdin: stdin !== undefined || piped,
      forget: true,
    };
    this.run = new RemoteRun(target, request, { stdin, signal });
  }

  /** What it prints. Throws what it failed with. Whoever leaves early ends it. */
  async *stdout(): AsyncGenerator<Uint8Array, void> {
    let complete = false;
    try {
      const output = this.run.output();
      for (;;) {
        const next = await output.next();
        if (next.done === true) {
          complete = true;
          return this.#check(next.value);
        }
        const { stream, data } = next.value;
        if (stream === 'stdout') yield data;
        else if (this.#said.length < STDERR_KEPT_BYTES) this.#said += Buffer.from(data).toString('utf8');
      }
    } catch (error) {
      complete = true;
      throw this.#translate(error);
    } finally {
      if (complete) this.run.release();
      else await this.run.stop();
    }
  }

  #check({ outcome, exitCode }: RemoteExit): void {
    if (this.run.stopped || (outcome === 'exited' && exitCode === 0)) return;
    const { path, explain } = this.#call;
    if (outcome === 'exited' && exitCode !== null) {
      const failure = { path, errno: exitCode, said: this.#said };
      throw explain?.(failure) ?? fileError(failure);
    }
    if (outcome === 'disk_full') throw diskFull(path, this.#target.disk);
    if (this.#target.calls.closed) {
      throw new SandyardError('manager_closed', `The operation on ${quoteName(path)} was ended with its manager.`);
    }
    throw new SandyardError(
      'file_operation_failed',
      `The operation on ${quoteName(path)} did not end by itself (${outcome}).`,
      {
        hint: 'It took too long, or the sandbox ran out of memory.',
      },
    );
  }

  #translate(error: unknown): unknown {
    if (isSandyardError(error, 'sandbox_died')) {
      return new SandyardError(
        'sandbox_died',
        `The sandbox ended during an operation on ${quoteName(this.#call.path)}.`,
        {
          cause: error,
        },
      );
    }
    if (error instanceof RemoteError && error.errno === ERRNO.EDQUOT) {
      return diskFull(this.#call.path, this.#target.disk);
    }
    return translateStart(error, { argv: this.#call.argv, cwd: '/' });
  }
}

/** Runs one to its end and returns the little that it prints. */
export async function runBuiltin(target: ProcessTarget, call: BuiltinCall): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of new Builtin(target, call).stdout()) {
    bytes += chunk.length;
    if (bytes > ANSWER_MAX_BYTES) throw notRecord();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
