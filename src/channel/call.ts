import { decodeDone, decodeError } from './answers.js';
import { gaveUp, notInTime } from './channel-errors.js';
import type { RemoteError } from './messages.js';
import type { Pending, PendingHost } from './pending.js';
import type { Encoded } from './requests.js';
import { settleable } from '../settleable.js';
import { allowManyListeners } from '../many-listeners.js';
import type { StreamOwner, Tunnel } from './tunnel.js';
import { FrameType, ProtocolFault } from './wire.js';

/** ENOENT on Linux. */
const NO_SUCH = 2;
const MAX_TIMER_MS = 2 ** 31 - 1;

export interface CallOptions<T> {
  readonly request: Encoded;
  /** What can't be done in time, for the message: "list its processes". */
  readonly doing: string;
  /** None: it may take as long as it takes. */
  readonly deadlineMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly endsWithSandbox?: boolean;
  /** Whether that what it is about isn't there means that an earlier sending of it had its effect. */
  readonly removes?: boolean;
  /** Called each time before it is sent. */
  readonly onSend?: () => void;
  /** What the answer says; `undefined` where more comes. */
  readonly answer: (type: number, payload: Buffer) => { readonly value: T } | undefined;
}

/** One request with one answer. Repeated on the next tunnel until there is one, or the deadline or the caller ends it. */
export class Call<T> implements Pending, StreamOwner {
  readonly #host: PendingHost;
  readonly #options: CallOptions<T>;
  readonly #answered = settleable<T>();
  #tunnel: Tunnel | undefined;
  #stream = 0;
  #timer: NodeJS.Timeout | undefined;
  #over = false;
  #sendings = 0;
  readonly endsWithSandbox: boolean;

  constructor(host: PendingHost, options: CallOptions<T>) {
    this.#host = host;
    this.#options = options;
    this.endsWithSandbox = options.endsWithSandbox ?? false;
    const { deadlineMs, signal, doing } = options;
    if (deadlineMs !== undefined) {
      const giveUp = () => this.#abandon(this.#host.trouble ?? notInTime(doing, deadlineMs));
      this.#timer = setTimeout(giveUp, Math.min(deadlineMs, MAX_TIMER_MS));
    }
    allowManyListeners(signal);
    signal?.addEventListener('abort', this.#onAbort, { once: true });
    if (signal?.aborted === true) this.#onAbort();
  }

  get answered(): Promise<T> {
    return this.#answered.promise;
  }

  get over(): boolean {
    return this.#over;
  }

  get sent(): boolean {
    return this.#sendings > 0;
  }

  sendOn(tunnel: Tunnel): void {
    this.#sendings += 1;
    this.#options.onSend?.();
    this.#tunnel = tunnel;
    this.#stream = tunnel.request(this.#options.request, this);
  }

  cut(): void {
    this.#tunnel = undefined;
  }

  fail(error: Error): void {
    if (this.#finish()) this.#answered.reject(error);
  }

  take(type: number, payload: Buffer): void {
    if (type === FrameType.error) {
      const error = decodeError(payload);
      this.#tunnel?.release(this.#stream);
      if (this.#wasDone(error)) this.#resolve(undefined as T);
      else this.fail(error);
      return;
    }
    const answer = this.#options.answer(type, payload);
    if (answer === undefined) return;
    this.#tunnel?.release(this.#stream);
    this.#resolve(answer.value);
  }

  #resolve(value: T): void {
    if (this.#finish()) this.#answered.resolve(value);
  }

  #wasDone({ errno, stage }: RemoteError): boolean {
    return this.#options.removes === true && this.#sendings > 1 && errno === NO_SUCH && stage === 0;
  }

  #abandon(error: Error): void {
    const tunnel = this.#tunnel;
    const stream = this.#stream;
    this.fail(error);
    tunnel?.abandon(stream);
  }

  readonly #onAbort = (): void => {
    if (this.#options.signal !== undefined) this.#abandon(gaveUp(this.#options.signal));
  };

  #finish(): boolean {
    if (this.#over) return false;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#options.signal?.removeEventListener('abort', this.#onAbort);
    this.#host.leave(this);
    this.#tunnel = undefined;
    return true;
  }
}

/** For what is answered by DONE. */
export function done(type: number, payload: Buffer): { value: void } {
  if (type !== FrameType.done) throw notAnAnswer(type);
  decodeDone(payload);
  return { value: undefined };
}

function notAnAnswer(type: number): ProtocolFault {
  return new ProtocolFault(`a frame of type ${type} is no answer to what was asked`);
}

/** For what is answered by one frame. */
export function one<T>(expected: number, decode: (payload: Buffer) => T) {
  return (type: number, payload: Buffer): { value: T } => {
    if (type !== expected) throw notAnAnswer(type);
    return { value: decode(payload) };
  };
}
