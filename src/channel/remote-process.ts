import { SandyardError } from '../errors.js';
import {
  decodeError,
  decodeExit,
  decodeLost,
  decodeOutput,
  decodeStarted,
  decodeStdinAck,
  type Started,
} from './answers.js';
import { notInTime, outputLost } from './channel-errors.js';
import { InputWindow } from './input-window.js';
import type { RemoteExit, RemoteOutput, RemoteStart, TerminalSize } from './messages.js';
import type { Pending, PendingHost } from './pending.js';
import { OutputReceiver } from './output-receiver.js';
import { encodeAttach, encodeResize, type Encoded } from './requests.js';
import { settleable } from '../settleable.js';
import type { Tunnel } from './tunnel.js';
import { FrameType, ProtocolFault } from './wire.js';

export interface RemoteProcessOptions {
  readonly id: string;
  /** What starts it; `undefined` to attach to one that is there. */
  readonly spawn?: Encoded | undefined;
  /** Whether it reads what is written, as the input from its beginning or behind what others have written. */
  readonly input: 'none' | 'whole' | 'appended';
  /** The number of the last piece of output that the reader has. */
  readonly after: number;
  readonly windowBytes: number;
  /** How long the warden may take to say that it has been started, or is there. */
  readonly startMs: number;
}

/**
 * One reader of one process. Outlives the tunnels that it uses: on the next one it goes on where it was. Only `detach()`,
 * the end of the process and the end of the channel end it; the process itself runs on whatever becomes of its readers.
 */
export class RemoteProcess implements Pending {
  readonly id: string;
  readonly #host: PendingHost;
  #spawn: Encoded | undefined;
  readonly #windowBytes: number;
  readonly #startMs: number;
  readonly #started = settleable<RemoteStart>();
  readonly #exit = settleable<RemoteExit>();
  readonly #received: OutputReceiver;
  readonly #input: InputWindow;
  readonly #bulk = { pull: (send: (part: Buffer) => void) => this.#input.pull(this.#stream, send) };
  #tunnel: Tunnel | undefined;
  #stream = 0;
  /** STARTED came on this tunnel; and on any. */
  #attached = false;
  #startTimer: NodeJS.Timeout | undefined;
  #known = false;
  readonly #appends: boolean;
  #size: TerminalSize | undefined;
  #ended: RemoteExit | undefined;
  #failure: Error | undefined;
  #reading = false;
  #wake: (() => void) | undefined;
  sent = false;
  readonly endsWithSandbox = true;

  /** @internal Made by `Channel`. */
  constructor(host: PendingHost, options: RemoteProcessOptions) {
    this.id = options.id;
    this.#host = host;
    this.#spawn = options.spawn;
    this.#windowBytes = options.windowBytes;
    this.#startMs = options.startMs;
    this.#received = new OutputReceiver({
      after: options.after,
      windowBytes: options.windowBytes,
      acknowledge: (urgent) => this.#acknowledge(urgent),
    });
    this.#appends = options.input === 'appended';
    this.#input = new InputWindow({
      appends: this.#appends,
      offer: () => this.#offerInput(),
      onEndSent: () => this.#tunnel?.ping(() => this.#input.confirmEnd()),
    });
    if (options.input === 'none') this.#input.close(() => readsNoMore('has no input to write to'));
  }

  /** Rejects with a `RemoteError` where it couldn't be started, or isn't there. */
  get started(): Promise<RemoteStart> {
    return this.#started.promise;
  }

  /** Settles after the last output was consumed, or `discard()` was called. */
  get exit(): Promise<RemoteExit> {
    return this.#exit.promise;
  }

  /**
   * What it prints, in order, and acknowledged as it is consumed. There is one consumer; when it leaves early, the rest is
   * discarded. Throws `output_lost` where the next pieces are no longer kept (the rest is then discarded here, and can be read
   * by another attach), and what ended the reader before the process, after what was received until then.
   */
  output(): AsyncGenerator<RemoteOutput> {
    if (this.#reading) throw new SandyardError('wrong_state', 'The output of a process has one reader only.');
    this.#reading = true;
    return this.#read();
  }

  /** Reads and drops the rest. */
  discard(): void {
    this.#reading = true;
    this.#received.discard();
    this.#settleExit();
  }

  /**
   * Resolves when it may be followed by more. Rejects with `wrong_state` when the process reads no more. `data` is copied.
   */
  write(data: Uint8Array): Promise<void> {
    return this.#input.write(data);
  }

  /** The process reads an end of file after all that was written; or, of a terminal, its end-of-file character. */
  endInput(): Promise<void> {
    return this.#input.endInput();
  }

  resize(size: TerminalSize): void {
    this.#size = size;
    if (this.#tunnel !== undefined) this.#tunnel.send(encodeResize(this.#stream, size));
  }

  /** Lets go of it: it runs on, and what waits for it here rejects with `aborted`. */
  detach(): void {
    if (this.#over) return; // mostly so: the error, with its stack, would be made for nothing
    this.letGo(new SandyardError('aborted', `Process ${this.id} was let go of; it may run on.`));
  }

  // What follows is for the channel and the tunnel.

  letGo(error: Error): void {
    if (this.#over) return;
    this.#received.discard();
    this.#tunnel?.detach(this.#stream);
    this.fail(error);
  }

  sendOn(tunnel: Tunnel): void {
    this.sent = true;
    this.#tunnel = tunnel;
    const attach = { after: this.#received.consumedSeq, window: this.#windowBytes };
    this.#stream = tunnel.request(this.#spawn ?? encodeAttach(this.id, attach), this);
    this.#startTimer = setTimeout(() => this.#notStarted(), this.#startMs);
    this.#received.restart();
    this.#input.restart();
    if (this.#size !== undefined) tunnel.send(encodeResize(this.#stream, this.#size));
    this.#offerInput();
  }

  cut(): void {
    clearTimeout(this.#startTimer);
    this.#tunnel = undefined;
    this.#stream = 0;
    this.#attached = false;
  }

  fail(error: Error): void {
    if (this.#over) return;
    this.#failure = error;
    this.#leave();
    this.#started.reject(error);
    this.#exit.reject(error);
    this.#input.close(() => error);
    this.#wake?.();
  }

  take(type: number, payload: Buffer): void {
    if (type === FrameType.started) return this.#takeStarted(decodeStarted(payload));
    if (type === FrameType.error && !this.#attached) {
      const error = decodeError(payload);
      this.#tunnel?.release(this.#stream);
      return this.fail(error);
    }
    if (!this.#attached) throw new ProtocolFault(`a frame of type ${type} came before the process had started`);
    if (type === FrameType.output) {
      this.#received.take(decodeOutput(payload));
      this.#wake?.();
    } else if (type === FrameType.stdinAck) {
      const { offset, closed } = decodeStdinAck(payload);
      this.#input.confirm(offset);
      if (closed) this.#input.close(() => readsNoMore('reads no more input'));
    } else if (type === FrameType.exit) this.#takeExit(decodeExit(payload));
    else if (type === FrameType.lost) {
      this.#received.takeLost(decodeLost(payload));
      this.#wake?.();
    } else throw new ProtocolFault(`a frame of type ${type} came from a process`);
  }

  #takeStarted(started: Started): void {
    if (this.#attached) throw new ProtocolFault('a process started twice');
    const { lastSeq } = this.#received;
    if (started.lastSeq < lastSeq) {
      if (this.#known) throw new ProtocolFault('a process has printed less than was received from it');
      this.#tunnel?.detach(this.#stream);
      const message = `Process ${this.id} has printed ${started.lastSeq} pieces of output, so none after ${lastSeq}.`;
      return this.fail(
        new SandyardError('validation_failed', message, { hint: 'Read on from a number that you got.' }),
      );
    }
    this.#attached = true;
    clearTimeout(this.#startTimer);
    this.#spawn = undefined; // not needed again, and may be large
    this.#known = true;
    this.#input.begin(started.stdinOffset);
    this.#offerInput();
    const { existing, pid, firstSeq, startedAt } = started;
    this.#started.resolve({ existing, pid, firstSeq, lastSeq: started.lastSeq, startedAt });
  }

  #notStarted(): void {
    this.letGo(this.#host.trouble ?? notInTime(`start process ${this.id}, or find it`, this.#startMs));
  }

  #takeExit(exit: RemoteExit): void {
    if (exit.lastSeq !== this.#received.lastSeq)
      throw new ProtocolFault('a process ended and some of its output is missing');
    this.#tunnel?.detach(this.#stream);
    this.#ended = exit;
    this.#leave();
    this.#input.close(() => readsNoMore('has ended'));
    this.#settleExit();
    this.#wake?.();
  }

  get #over(): boolean {
    return this.#ended !== undefined || this.#failure !== undefined;
  }

  #leave(): void {
    this.#tunnel?.withdraw(this.#bulk);
    this.cut();
    this.#host.leave(this);
  }

  async *#read(): AsyncGenerator<RemoteOutput> {
    try {
      for (;;) {
        const next = this.#received.next();
        if (next === undefined) {
          if (this.#ended !== undefined) return;
          if (this.#failure !== undefined) throw this.#failure;
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
          this.#wake = undefined;
          continue;
        }
        this.#settleExit();
        if ('firstSeq' in next) throw outputLost(next);
        yield next;
      }
    } finally {
      this.discard();
    }
  }

  #settleExit(): void {
    if (this.#ended !== undefined && this.#received.empty) this.#exit.resolve(this.#ended);
  }

  #acknowledge(urgent: boolean): void {
    if (this.#attached) this.#tunnel?.lazily(this.#ack, { urgent });
  }

  readonly #ack = { collect: () => (this.#attached ? this.#received.collectAck(this.#stream) : undefined) };

  /** The input of a new process begins at 0, so it may go out with what starts it. */
  #offerInput(): void {
    const ready = this.#attached || (this.#spawn !== undefined && !this.#appends);
    if (ready) this.#tunnel?.offer(this.#bulk);
  }
}

function readsNoMore(what: string): SandyardError {
  return new SandyardError('wrong_state', `The process ${what}.`);
}
