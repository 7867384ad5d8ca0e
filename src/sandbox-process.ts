import { Readable } from 'node:stream';

import type { Engine, EngineExec, ExecEnd, OutputChunk } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import { isSignalName, signalOfExitCode, signalTree, type SignalName } from './process-tree.js';

/** How long what gets SIGTERM may take to end before SIGKILL. */
const KILL_GRACE_MS = 2000;
/** How long the engine may take to tell of an end after everything was killed. */
const SETTLE_MS = 10_000;
/** How long output may lie unread when the command is to end. */
const UNREAD_MS = 200;
/** The signals that are meant to end a command. */
const ENDING: ReadonlySet<SignalName> = new Set(['SIGKILL', 'SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGABRT']);
/** How much of it is kept for who reads it then. */
const REST_MAX_BYTES = 4 * 1024 * 1024;
/** What Node's timers can wait for at the most: 24 days. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** How a command ended. Exactly one of them is true of every command that was started. */
export type Outcome = 'exited' | 'signaled' | 'timed_out' | 'oom_killed' | 'killed' | 'sandbox_died';

/** What a command reads: a text, bytes, or a stream of either. */
export type Stdin = string | Uint8Array | AsyncIterable<Uint8Array | string>;

/** How a process ended. */
export interface ProcessExit {
  readonly outcome: Outcome;
  /**
   * The exit code as a shell would see it, so 128 + n after signal n; `null` when there is none. The engine doesn't
   * tell an exit with such a code from a signal: a code that stands for a signal is taken for one.
   */
  readonly exitCode: number | null;
  /** The signal that ended it, by name. */
  readonly signal: string | null;
  readonly durationMs: number;
  /** Whether something it started held its output open after it had exited, so still ran. */
  readonly processesLeft: boolean;
}

export interface ProcessOutput {
  /** Counts the chunks of both streams from 1. */
  readonly seq: number;
  readonly stream: 'stdout' | 'stderr';
  readonly data: Uint8Array;
}

/** Where commands run: one container, and what it runs them as unless they say otherwise. */
export interface ProcessTarget {
  readonly engine: Engine;
  readonly container: string;
  /** A uid and gid. */
  readonly user: string;
  readonly workdir: string;
  /** How long an `exec` may take. */
  readonly execTimeoutMs: number;
  /** Where each process is kept while it runs. */
  readonly processes: RunningProcesses;
  /** Called when a process starts and when it ends. */
  readonly noteActivity: () => void;
}

/** The processes of one manager that run. */
export class RunningProcesses {
  readonly #running = new Set<SandboxProcess>();
  #closed = false;

  get closed(): boolean {
    return this.#closed;
  }

  get size(): number {
    return this.#running.size;
  }

  add(process: SandboxProcess): void {
    this.#running.add(process);
  }

  delete(process: SandboxProcess): void {
    this.#running.delete(process);
  }

  /** Takes no more, and ends all there are. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#running].map((process) => process[Symbol.asyncDispose]()));
  }
}

/** Why we end a command. */
type Reason = 'timed_out' | 'aborted' | 'killed' | 'stdin_failed';

interface Running {
  readonly id: string;
  readonly exec: EngineExec;
  readonly stdin: Stdin | undefined;
  readonly signal: AbortSignal | undefined;
  readonly timeoutMs: number | undefined;
  readonly started: number;
}

/** A command that was started. Its output is to be read, or waits: the command blocks when it prints and nobody reads. */
export class SandboxProcess implements AsyncDisposable {
  readonly id: string;
  readonly #target: ProcessTarget;
  readonly #running: Running;
  readonly #chunks: AsyncIterator<OutputChunk>;
  readonly #ended: Promise<ExecEnd>;
  #seq = 0;
  #reading = false;
  /** When somebody last waited for output; undefined while somebody does. */
  #idleSince: number | undefined = Date.now();
  /** What came after the end was decided on while nobody read, and when that is all. */
  #rest: { readonly chunks: OutputChunk[]; readonly complete: Promise<void> } | undefined;
  #watch: NodeJS.Timeout | undefined;
  #over = false;
  /** Why we end it, when we do. */
  #reason: Reason | undefined;
  #stdinError: unknown;
  readonly #sent = new Set<SignalName>();
  #terminating: Promise<void> | undefined;
  #exit: Promise<ProcessExit> | undefined;

  /** @internal Made by `spawn`. */
  constructor(target: ProcessTarget, running: Running) {
    this.id = running.id;
    this.#target = target;
    this.#running = running;
    this.#chunks = running.exec.output()[Symbol.asyncIterator]();
    this.#ended = running.exec.end();
    const { timeoutMs } = running;
    const timer = timeoutMs && setTimeout(() => this.#endBy('timed_out'), Math.min(timeoutMs, MAX_TIMER_MS));
    const onAbort = () => this.#endBy('aborted');
    if (running.signal?.aborted === true) onAbort();
    running.signal?.addEventListener('abort', onAbort, { once: true });
    target.processes.add(this);
    target.noteActivity();
    const cleanUp = () => {
      this.#over = true;
      target.processes.delete(this);
      target.noteActivity();
      clearTimeout(timer);
      clearInterval(this.#watch);
      running.signal?.removeEventListener('abort', onAbort);
    };
    this.#ended.then(cleanUp, cleanUp);
    this.#feed();
  }

  /**
   * What it prints, in order, as it comes. May be called once. Leaving the loop early discards the rest; the command
   * runs on. When the command is ended while nobody reads, 4 MiB of what it has printed are kept. Throws what kept the
   * command from being started.
   */
  output(): AsyncGenerator<ProcessOutput> {
    if (this.#reading) throw new SandyardError('wrong_state', 'The output of a process can be read only once.');
    this.#reading = true;
    return this.#read();
  }

  async *#read(): AsyncGenerator<ProcessOutput> {
    let complete = false;
    try {
      for (;;) {
        const chunk = await this.#nextChunk();
        if (chunk === undefined) break;
        this.#seq += 1;
        yield { seq: this.#seq, ...chunk };
      }
      complete = true;
    } catch (error) {
      complete = true;
      // Where we ended it, that its output broke off is no fault; wait() tells the rest.
      if (this.#reason === undefined) throw error;
    } finally {
      if (!complete) void this.#discard();
    }
  }

  /** Settles when it has ended. Discards the output unless `output()` was called before. */
  wait(): Promise<ProcessExit> {
    this.#exit ??= this.#findExit();
    return this.#exit;
  }

  /**
   * Sends a signal, SIGTERM by default, to the command and everything that it started. Returns when it was sent, not
   * when it had an effect. Does nothing to a command that has ended.
   */
  async kill(signal: string = 'SIGTERM'): Promise<void> {
    if (!isSignalName(signal)) {
      throw new SandyardError('validation_failed', `${signal.slice(0, 40)} is not a signal.`, {
        hint: 'Use a name such as SIGTERM, SIGKILL or SIGINT.',
      });
    }
    if (this.#over) return;
    this.#sent.add(signal);
    if (ENDING.has(signal)) this.#keepReading();
    await this.#signal(signal);
  }

  /** Kills it, with everything that it started, if it still runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#over) return;
    this.#endBy('killed');
    await this.wait().catch(() => {});
  }

  #endBy(reason: Reason): void {
    if (this.#over || this.#terminating !== undefined) return;
    this.#reason = reason;
    this.#terminating = this.#terminate();
    this.#terminating.catch(() => {}); // awaited, and its failure told, by wait()
  }

  /** SIGTERM, a while to end, SIGKILL to whatever is left: also when the command itself has ended by then. */
  async #terminate(): Promise<void> {
    const settled = this.#ended.then(
      () => {},
      () => {},
    );
    this.#keepReading();
    try {
      // Whatever keeps it from the chance to end by itself must not keep it from its end.
      await this.#signal('SIGTERM').catch(() => {});
      await Promise.race([settled, sleep(KILL_GRACE_MS)]);
      // Again where it fails: what ends commands is a command, too, and code in the sandbox can end it.
      const killed = await this.#signal('SIGKILL')
        .catch(() => this.#signal('SIGKILL'))
        .then(
          () => true,
          () => false,
        );
      if (killed) await Promise.race([settled, sleep(SETTLE_MS)]);
      // What can't be killed in it is ended with it: nothing that it started may go on.
      if (!this.#over) await this.#target.engine.stopContainer(this.#target.container, { graceSeconds: 0 });
      await Promise.race([settled, sleep(SETTLE_MS)]);
    } finally {
      this.#running.exec.close();
    }
  }

  /**
   * An engine that can't pass output on doesn't notice that the command has ended, and takes no other command in the
   * sandbox either, the one that kills included. So when it is to end, somebody must read until it has.
   */
  #keepReading(): void {
    this.#watch ??= setInterval(() => this.#readIfNobodyDoes(), UNREAD_MS / 2);
    this.#readIfNobodyDoes();
  }

  #readIfNobodyDoes(): void {
    if (this.#rest !== undefined || this.#idleSince === undefined || Date.now() - this.#idleSince < UNREAD_MS) return;
    const chunks: OutputChunk[] = [];
    const read = async () => {
      let bytes = 0;
      for (;;) {
        const { done, value } = await this.#chunks.next();
        if (done === true) return;
        bytes += value.data.length;
        if (bytes <= REST_MAX_BYTES) chunks.push(value);
      }
    };
    this.#rest = { chunks, complete: read().catch(() => {}) };
  }

  async #nextChunk(): Promise<OutputChunk | undefined> {
    if (this.#rest !== undefined) {
      await this.#rest.complete;
      return this.#rest.chunks.shift();
    }
    this.#idleSince = undefined;
    try {
      const next = await this.#chunks.next();
      return next.done === true ? undefined : next.value;
    } finally {
      this.#idleSince = Date.now();
    }
  }

  async #signal(signal: SignalName): Promise<void> {
    const { engine, container, user } = this.#target;
    try {
      await signalTree(engine, { container, user, processId: this.id, signal });
    } catch (error) {
      // Where the sandbox is gone or stopped, so is every process of it.
      if (!isSandyardError(error, 'sandbox_not_found') && !isSandyardError(error, 'wrong_state')) throw error;
    }
  }

  async #findExit(): Promise<ProcessExit> {
    if (!this.#reading) {
      this.#reading = true;
      void this.#discard();
    }
    const end = await this.#ended.catch(async (error: unknown) => {
      // When we end it and nobody reads, its output is never read to the end, and that is no fault.
      await this.#terminating;
      if (this.#reason === undefined) throw error;
      return undefined;
    });
    await this.#terminating;
    if (this.#reason === 'aborted') {
      throw callerGaveUp(this.#running.signal);
    }
    if (this.#reason === 'stdin_failed') throw this.#stdinError;
    return this.#judge(end);
  }

  #judge(end: ExecEnd | undefined): ProcessExit {
    const durationMs = Math.round((performance.now() - this.#running.started) * 100) / 100;
    if (end?.kind === 'container_died') {
      const outcome = this.#reason === 'timed_out' || this.#reason === 'killed' ? this.#reason : 'sandbox_died';
      return { outcome, exitCode: null, signal: null, durationMs, processesLeft: false };
    }
    const exitCode = end?.exitCode ?? null;
    const signal = exitCode === null ? null : signalOfExitCode(exitCode);
    const processesLeft = this.#reason === undefined && end?.outputHeldOpen === true;
    return { outcome: this.#outcome(end, signal), exitCode, signal, durationMs, processesLeft };
  }

  #outcome(end: Extract<ExecEnd, { kind: 'exited' }> | undefined, signal: SignalName | null): Outcome {
    if (this.#reason === 'timed_out') return 'timed_out';
    if (this.#reason === 'killed') return 'killed';
    if (signal === null) return 'exited';
    if (this.#sent.has(signal)) return 'killed';
    return end?.oomKilled === true ? 'oom_killed' : 'signaled';
  }

  /** Passes the input on. Its failure ends the command, which must not take it for the input's end. */
  #feed(): void {
    const { stdin, exec } = this.#running;
    const sink = exec.stdin;
    if (stdin === undefined || sink === undefined) return;
    const source = Readable.from(
      typeof stdin === 'string' || stdin instanceof Uint8Array ? [Buffer.from(stdin)] : stdin,
    );
    source.on('error', (error) => {
      this.#stdinError = error;
      this.#endBy('stdin_failed');
    });
    // A command may end, or close its input, before it has read everything.
    sink.on('error', () => source.destroy());
    sink.on('close', () => source.destroy());
    source.pipe(sink);
  }

  async #discard(): Promise<void> {
    try {
      while ((await this.#nextChunk()) !== undefined);
    } catch {
      // Told by wait().
    }
  }
}

export function callerGaveUp(signal: AbortSignal | undefined): SandyardError {
  return new SandyardError('aborted', 'The command was ended because the caller gave up.', { cause: signal?.reason });
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}
