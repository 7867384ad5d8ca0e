import { Attachments, type Attachment } from './attachments.js';
import type { RemoteExit, RemoteStart, TerminalSize } from '../channel/messages.js';
import { isSandyardError, SandyardError } from '../errors.js';
import { giveUpOn } from './giving-up.js';
import { diedWithSandbox, toExit, type ProcessExit } from './process-exit.js';
import { saysGone, saysSandboxGone, translateProcess } from './remote-errors.js';
import { callerGaveUp, KILL_GRACE_MS, type HeldChannel, type ProcessTarget } from './remote-run.js';
import { fields, parseInput } from '../schemas.js';
import { signalNumber } from '../signals.js';
import { feed, type Stdin } from './stdin.js';

export interface ProcessOutput {
  /** Counts the pieces of both streams from 1. */
  readonly seq: number;
  readonly stream: 'stdout' | 'stderr';
  readonly data: Uint8Array;
}

export interface HandleOptions {
  readonly start: RemoteStart;
  /** What `spawn` is attached with, unread. */
  readonly attachment?: Attachment | undefined;
  readonly stdin?: Stdin | undefined;
  readonly acceptsInput?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly graceMs?: number | undefined;
  /** Whether it goes on when nobody reads its output: a reader that reads nothing would hold it up. */
  readonly runsUnread?: boolean | undefined;
}

/**
 * A handle of a process in a sandbox. A process whose output nobody reads waits when it has printed about a megabyte,
 * unless it was spawned with `whenUnread: 'run'`.
 */
export class SandboxProcess implements AsyncDisposable {
  readonly id: string;
  /** As the sandbox sees it; `null` when it had ended before there was this handle. */
  readonly pid: number | null;
  readonly startedAt: Date;
  /** Whether the id was in use already: then nothing was started, and this is what runs, or ran, under it. */
  readonly existing: boolean;
  readonly #target: ProcessTarget;
  readonly #lastSeq: number;
  readonly #acceptsInput: boolean;
  readonly #graceMs: number;
  readonly #attached: Attachments;
  /** The attachment whose output nobody has asked for. */
  #unread: Attachment | undefined;
  /** The attachment that input goes through. */
  #input: Attachment | undefined;
  #letGo: () => void = () => {};
  #known: RemoteExit | undefined;
  /** Whether its sandbox has ended, or was started anew. */
  #died = false;
  #exit: Promise<ProcessExit> | undefined;
  /** Why we end it, when whoever waits is to be told so. */
  #reason: { readonly error: unknown } | undefined;
  #ending: Promise<void> | undefined;
  #disposed: Promise<void> | undefined;

  /** @internal Made by `spawn` and `processes.get`. */
  constructor(target: ProcessTarget, id: string, options: HandleOptions) {
    const { start, attachment, stdin, signal } = options;
    this.id = id;
    this.pid = start.pid === 0 ? null : start.pid;
    this.startedAt = start.startedAt;
    this.existing = start.existing;
    this.#target = target;
    const events = { ended: (exit: RemoteExit) => this.#end(exit), failed: (error: unknown) => this.#fail(error) };
    this.#attached = new Attachments(target.hold, { id, events });
    this.#lastSeq = start.lastSeq;
    this.#acceptsInput = options.acceptsInput ?? true;
    this.#graceMs = options.graceMs ?? KILL_GRACE_MS;
    if (attachment !== undefined) {
      this.#unread = this.#input = attachment;
      this.#attached.keep(attachment);
    }
    this.#watch(signal, stdin);
    if (attachment === undefined || options.runsUnread !== true) return;
    this.#unread = undefined;
    if (stdin === undefined) this.#attached.drop(attachment);
    else attachment.remote.discard();
  }

  /**
   * What it prints, in order, from the piece after `after` on, or from the first. May be called again, each time for
   * another reader. Leaving the loop early discards the rest; the command runs on. Throws `output_lost`, with the first
   * piece that there still is in `details.firstSeq`, when the wanted ones are no longer kept.
   */
  output(options: { after?: number | undefined } = {}): AsyncGenerator<ProcessOutput> {
    const after = parseInput(fields.seq, options.after ?? 0, 'after');
    const unread = this.#unread;
    this.#unread = undefined;
    if (unread !== undefined && after === 0) return this.#read(unread);
    const attachment = this.#attached.attach(after);
    if (this.#input === unread) this.#input = attachment;
    if (unread !== undefined) this.#attached.drop(unread);
    return this.#read(attachment);
  }

  async *#read(attachment: Attachment): AsyncGenerator<ProcessOutput> {
    let complete = false;
    try {
      yield* attachment.remote.output();
      complete = true;
    } catch (error) {
      complete = true;
      // Where we ended it, or the sandbox did, that its output broke off is no fault; wait() tells the rest.
      if (this.#reason === undefined && !isSandyardError(error, 'sandbox_died')) {
        throw translateProcess(error, this.id);
      }
    } finally {
      if (!complete) attachment.remote.discard();
    }
  }

  /**
   * Settles when it has ended, whoever has read what. Discards the output unless `output()` was called before. `signal`
   * gives up the waiting only. Rejects with `aborted` when the signal that it was spawned with ended it, and with what
   * its input failed with.
   */
  async wait({ signal }: { signal?: AbortSignal | undefined } = {}): Promise<ProcessExit> {
    if (this.#exit === undefined) {
      const exit = (this.#exit = this.#findExit());
      exit.catch(() => {
        if (this.#reason === undefined) this.#exit = undefined; // may be asked again
      });
    }
    return signal === undefined ? this.#exit : giveUpOn(this.#exit, signal);
  }

  /**
   * Sends a signal, SIGTERM by default, to the command and everything that it started, and SIGKILL to what is left of
   * them after `graceMs` (2000). Settles when nothing is left. What has ended has what it left behind killed.
   */
  async kill(signal: string = 'SIGTERM', options: { graceMs?: number | undefined } = {}): Promise<void> {
    const number = signalNumber(parseInput(fields.signal, signal, 'signal'));
    const graceMs = parseInput(fields.graceMs, options.graceMs ?? this.#graceMs, 'grace period');
    await this.#send((held) => held.channel.kill(this.id, { signal: number, graceMs }));
  }

  /** Sends a signal, such as SIGUSR1, to the command and everything that it started, and does no more than that. */
  async signal(name: string): Promise<void> {
    const number = signalNumber(parseInput(fields.signal, name, 'signal'));
    await this.#send((held) => held.channel.signal(this.id, number, { tree: true }));
  }

  /**
   * Writes to its standard input, which needs `stdin: 'pipe'` or `pty`. Settles when it may be followed by more. Throws
   * `wrong_state` when the process reads no more.
   */
  async write(data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    const { remote } = this.#inputWay();
    if (bytes.length === 0) return;
    await remote.write(bytes).catch((error: unknown) => {
      throw translateProcess(error, this.id);
    });
  }

  /** Ends its standard input; to a terminal it sends what ends a file there. No harm where nothing reads it any more. */
  async closeStdin(): Promise<void> {
    if (this.#known !== undefined && this.#acceptsInput) return;
    try {
      await this.#inputWay().remote.endInput();
    } catch (error) {
      if (!this.#acceptsInput || !isSandyardError(error, 'wrong_state')) throw translateProcess(error, this.id);
    }
  }

  /** Sets the size of its terminal. */
  resize(size: TerminalSize): void {
    this.#inputWay().remote.resize(parseInput(fields.terminalSize, size, 'terminal size'));
  }

  /** Lets go of it: nothing reads its output or feeds its input any more, and no signal ends it. It runs on. */
  detach(): void {
    this.#letGo();
    this.#unread = this.#input = undefined;
    this.#attached.dropAll();
  }

  /** Kills it, if it still runs, with everything that it started and left behind, and lets go of it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose();
    await this.#disposed;
  }

  async #dispose(): Promise<void> {
    try {
      if (this.#known === undefined || this.#known.processesLeft) await this.kill();
    } catch (error) {
      if (!isSandyardError(error, 'manager_closed')) throw error;
    } finally {
      this.detach();
    }
  }

  /** Has the abort signal and a failure of the input end it, and feeds the input. */
  #watch(signal: AbortSignal | undefined, stdin: Stdin | undefined): void {
    const onAbort = () => this.#endBecause(callerGaveUp(signal));
    const failed = (error: unknown) => this.#endBecause(error);
    const stopFeeding =
      stdin === undefined || this.#input === undefined ? () => {} : feed(this.#input.remote, stdin, failed);
    this.#letGo = () => {
      signal?.removeEventListener('abort', onAbort);
      stopFeeding();
    };
    if (signal?.aborted === true) onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
  }

  #endBecause(why: unknown): void {
    if (this.#known !== undefined || this.#reason !== undefined) return;
    this.#reason = { error: why };
    this.#ending = this.kill().catch(() => {}); // where it can't be reached, wait() still tells why
  }

  async #findExit(): Promise<ProcessExit> {
    this.#readForNobody();
    try {
      this.#known ??= await this.#waitForExit();
      await this.#ending;
      if (this.#reason !== undefined) throw this.#reason.error;
      this.#letGo();
      return toExit(this.#known);
    } catch (error) {
      await this.#ending;
      if (this.#reason !== undefined) throw this.#reason.error;
      if (!this.#died && !saysSandboxGone(error)) throw translateProcess(error, this.id);
      this.#letGo();
      const durationMs = Date.now() - this.startedAt.getTime();
      return diedWithSandbox(durationMs, await this.#target.whyDied());
    }
  }

  /** What nobody reads may wait for somebody to, and then never ends. */
  #readForNobody(): void {
    const unread =
      this.#unread ??
      (this.#attached.size === 0 && this.#known === undefined ? this.#attached.attach(this.#lastSeq) : undefined);
    this.#unread = undefined;
    unread?.remote.discard();
  }

  async #waitForExit(): Promise<RemoteExit> {
    const held = this.#target.hold();
    try {
      return await held.channel.wait(this.id);
    } catch (error) {
      if (this.#known !== undefined) return this.#known; // it was read to its end meanwhile
      throw error;
    } finally {
      held.release();
    }
  }

  /** Sends what ends it; takes for done what is gone anyway. */
  async #send(act: (held: HeldChannel) => Promise<void>): Promise<void> {
    const held = this.#target.hold();
    try {
      await act(held);
    } catch (error) {
      if (!saysGone(error)) throw translateProcess(error, this.id);
    } finally {
      held.release();
    }
  }

  #inputWay(): Attachment {
    if (!this.#acceptsInput) {
      throw new SandyardError('wrong_state', `The process ${this.id} has no input that can be written to.`, {
        hint: "Spawn it with stdin: 'pipe', or with pty.",
      });
    }
    if (this.#known !== undefined) throw new SandyardError('wrong_state', `The process ${this.id} has ended.`);
    if (this.#input !== undefined && this.#attached.has(this.#input)) return this.#input;
    // From where it is now, and read for nobody: whoever only writes must not hold it up.
    this.#input = this.#attached.attach(this.#lastSeq);
    this.#input.remote.discard();
    return this.#input;
  }

  #end(exit: RemoteExit): void {
    this.#known ??= exit;
    this.#letGo();
  }

  #fail(error: unknown): void {
    if (isSandyardError(error, 'sandbox_died')) this.#died = true;
  }
}
