import type { Channel } from '../channel/channel.js';
import type { RemoteExit, RemoteOutput, SpawnRequest } from '../channel/messages.js';
import type { RemoteProcess } from '../channel/remote-process.js';
import { SandyardError } from '../errors.js';
import { allowManyListeners } from '../many-listeners.js';
import { signalNumber } from '../signals.js';
import type { Telemetry } from '../telemetry.js';
import type { DiedOf } from './process-exit.js';
import { abandon, feed, type Stdin } from './stdin.js';

/** How long what gets SIGTERM may take to end before SIGKILL, unless a caller says otherwise. */
export const KILL_GRACE_MS = 2000;
/** How long the warden may take to say that it has killed what got SIGKILL. */
const SETTLE_MS = 10_000;
/** How much longer than the warden should take to end it at its timeout a manager waits to be told so. */
const OVERDUE_MS = 30_000;
const MAX_TIMER_MS = 2 ** 31 - 1;
/** How long what was killed may take to be read to its end. */
const READ_MS = 2000;
/** How long a manager that is closed waits for its calls to end. */
const CLOSE_MS = 5000;

/** The way to a sandbox, which stays open until it is released. */
export interface HeldChannel {
  readonly channel: Channel;
  /** Once is enough, twice no harm. */
  release(): void;
}

/** In bytes, and in files and directories; `null` where it isn't bounded. */
export interface DiskBound {
  readonly diskBytes: number | null;
  readonly inodes: number | null;
}

/** Where commands run: one sandbox, and what it runs them as unless they say otherwise. */
export interface ProcessTarget {
  /** Throws `manager_closed`. */
  readonly hold: () => HeldChannel;
  readonly user: UserIds;
  /** Whether a command may be root's. */
  readonly rootAllowed: boolean;
  readonly workdir: string;
  /** Variables over those of PID 1. */
  readonly env: Readonly<Record<string, string>>;
  readonly telemetry: Telemetry;
  /** How much may be written there. */
  readonly disk: DiskBound;
  /** Called when something was ended because more than that was written. */
  readonly diskFull?: () => void;
  /** How long an `exec` may take. */
  readonly execTimeoutMs: number;
  /** The calls that end with the manager. */
  readonly calls: PendingCalls;
  /** What the sandbox died of, once it has; `null` where that can't be told. Doesn't fail. */
  readonly whyDied: () => Promise<DiedOf | null>;
}

export interface UserIds {
  readonly uid: number;
  readonly gid: number;
}

/** The calls of one manager that wait for the end of what they run, and that mean its end by their own. */
export class PendingCalls {
  readonly #pending = new Set<RemoteRun>();
  #closed = false;

  get closed(): boolean {
    return this.#closed;
  }

  get size(): number {
    return this.#pending.size;
  }

  add(run: RemoteRun): void {
    this.#pending.add(run);
  }

  delete(run: RemoteRun): void {
    this.#pending.delete(run);
  }

  /** Ends all there are, and waits for it, but not for what can't be reached. */
  async close(): Promise<void> {
    this.#closed = true;
    const ended = [...this.#pending].map(async (run) => {
      await run.kill();
      // What has ended may be read later, or never.
      if (!run.over) await run.released;
    });
    await within(CLOSE_MS, Promise.all(ended));
  }
}

export interface RunOptions {
  readonly stdin?: Stdin | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** One process that is started for one call and doesn't outlive it. */
export class RemoteRun {
  readonly remote: RemoteProcess;
  /** When it was let go of. */
  readonly released: Promise<void>;
  readonly #held: HeldChannel;
  readonly #target: ProcessTarget;
  readonly #stopFeeding: () => void;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => this.endBecause(callerGaveUp(this.#signal));
  #started = false;
  #over = false;
  #stopped = false;
  /** Why we end it, when its caller is to be told so. */
  #reason: { readonly error: unknown } | undefined;
  #killing: Promise<void> | undefined;
  #overdue: NodeJS.Timeout | undefined;
  #giveUp: NodeJS.Timeout | undefined;
  #release = () => {};

  /** Starts it, and doesn't wait for that. Throws `aborted` and `manager_closed` before anything is started. */
  constructor(target: ProcessTarget, request: SpawnRequest, { stdin, signal }: RunOptions = {}) {
    this.#target = target;
    this.#signal = signal;
    try {
      if (signal?.aborted === true) throw callerGaveUp(signal);
      this.#held = target.hold();
    } catch (error) {
      abandon(stdin);
      throw error;
    }
    this.remote = this.#held.channel.spawn(request);
    this.remote.started.then(
      () => {
        this.#started = true;
        this.#watchTimeout(request);
      },
      () => {}, // its output and its end fail with the same
    );
    const over = () => {
      this.#over = true;
      clearTimeout(this.#overdue);
      clearTimeout(this.#giveUp);
    };
    this.remote.exit.then((exit) => {
      over();
      if (exit.outcome === 'disk_full') target.diskFull?.();
    }, over);
    this.released = new Promise((resolve) => (this.#release = resolve));
    target.calls.add(this);
    allowManyListeners(signal);
    signal?.addEventListener('abort', this.#onAbort, { once: true });
    const failed = (error: unknown) => this.endBecause(error);
    this.#stopFeeding = stdin === undefined ? () => {} : feed(this.remote, stdin, failed);
  }

  /** Whether it is known to have ended, or can't be followed any more. */
  get over(): boolean {
    return this.#over;
  }

  /** Whether it is known to have been started. */
  get started(): boolean {
    return this.#started;
  }

  /** Whether it was ended because nobody wants it any more. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** What it prints, then its end. Throws why it was ended, where its caller or its input ended it. */
  async *output(): AsyncGenerator<RemoteOutput, RemoteExit> {
    try {
      yield* this.remote.output();
      const exit = await this.remote.exit;
      await this.#killing;
      if (this.#reason === undefined) return exit;
    } catch (error) {
      await this.#killing;
      if (this.#reason === undefined) throw error;
    }
    throw this.#reason.error;
  }

  /** Kills it, and has `output()` throw this. */
  endBecause(error: unknown): void {
    if (this.#over) return;
    this.#reason ??= { error };
    void this.kill();
  }

  /** Ends it and all that it started; settles also when that can't be done. */
  kill(): Promise<void> {
    this.#killing ??= this.#over ? Promise.resolve() : this.#kill();
    return this.#killing;
  }

  /** Ends it, if it still runs and nobody reads it any more, and lets go of it. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (!this.#over) {
      this.remote.discard();
      await this.kill();
    }
    this.release();
  }

  /** Lets go of it. */
  release(): void {
    this.#signal?.removeEventListener('abort', this.#onAbort);
    this.#stopFeeding();
    this.#target.calls.delete(this);
    clearTimeout(this.#overdue);
    clearTimeout(this.#giveUp);
    this.remote.detach();
    this.#held.release();
    this.#release();
  }

  /** The warden ends it at its timeout; a sandbox that doesn't, and says nothing, is not waited for. */
  #watchTimeout({ timeoutMs, graceMs }: SpawnRequest): void {
    if (timeoutMs === undefined || this.#over) return;
    const giveUp = () => this.remote.letGo(notEnded(timeoutMs));
    this.#overdue = setTimeout(giveUp, Math.min(timeoutMs + graceMs + OVERDUE_MS, MAX_TIMER_MS));
  }

  async #kill(): Promise<void> {
    await endRemote(this.#held, this.remote.id);
    if (!this.#over) this.#giveUp = setTimeout(() => this.release(), READ_MS);
  }
}

/** Ends a process and all that it started; settles also when that can't be done. */
export async function endRemote({ channel }: HeldChannel, id: string): Promise<void> {
  const options = { signal: signalNumber('SIGTERM'), graceMs: KILL_GRACE_MS };
  // Where it is gone there is nothing to end; where it can't be reached, its output tells.
  const killed = channel.kill(id, options).catch(() => {});
  await within(KILL_GRACE_MS + SETTLE_MS, killed);
}

function notEnded(timeoutMs: number): SandyardError {
  return new SandyardError('channel_failed', `The sandbox did not end a command at its timeout of ${timeoutMs} ms.`, {
    hint: 'Stop and start the sandbox, or destroy it.',
  });
}

export function callerGaveUp(signal: AbortSignal | undefined): SandyardError {
  return new SandyardError('aborted', 'The command was ended because the caller gave up.', { cause: signal?.reason });
}

/** Waits for the promise, and no longer than that. */
async function within(ms: number, promise: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([promise, late]);
  clearTimeout(timer);
}
