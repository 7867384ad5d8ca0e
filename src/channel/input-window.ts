import { isSandyardError, SandyardError } from '../errors.js';
import { ByteRing } from './byte-ring.js';
import { APPENDED, encodeStdinEnd, encodeStdinHead } from './requests.js';
import { MAX_PIECE_BYTES } from './wire.js';

const WINDOW_BYTES = 1024 * 1024;
/** Of a stream that appends. */
const APPEND_WINDOW_BYTES = 64 * 1024;

export interface InputWindowOptions {
  /**
   * Whether what is written goes behind whatever others have written, as for a terminal that several type into. Otherwise it
   * is the input from its first byte on, which the process gets once, whoever sends it how often.
   */
  readonly appends: boolean;
  /** Called when there is something to pull. */
  readonly offer: () => void;
  /** Called when the end of the input was pulled. */
  readonly onEndSent: () => void;
}

interface WaitingWrite {
  data: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/**
 * The input of one process. Keeps what the warden may not have, a window at the most, so that it can be sent again on
 * another tunnel. All offsets here count what is written here; only where nothing is appended are they the warden's, too.
 */
export class InputWindow {
  readonly #options: InputWindowOptions;
  readonly #windowBytes: number;
  /** From where the warden may not have it up to all that was written. */
  readonly #kept = new ByteRing();
  /** Up to where it has passed it on to the process, as far as it has told. */
  #confirmed = 0;
  /** On this tunnel; and where this tunnel began. */
  #sentTo = 0;
  #sentFrom = 0;
  /** Where the warden's count of all input is when ours is 0; only where it is appended. */
  #base: number | undefined;
  /** How many of the next bytes the process has already, from somebody who wrote the same before. */
  #skip = 0;
  #begun = false;
  #waiting: WaitingWrite[] = [];
  /** `endInput` was called, so nothing comes after what is waiting. */
  #ending = false;
  #endSent = false;
  #endKnown = false;
  /** Why nothing is read any more; the error itself is made only when somebody is to be told. */
  #why: (() => Error) | undefined;
  #told: Error | undefined;

  constructor(options: InputWindowOptions) {
    this.#options = options;
    this.#windowBytes = options.appends ? APPEND_WINDOW_BYTES : WINDOW_BYTES;
  }

  write(data: Uint8Array): Promise<void> {
    if (this.#fault !== undefined) return Promise.reject(this.#fault);
    if (this.#ending) {
      return Promise.reject(new SandyardError('wrong_state', 'The input of the process was ended before.'));
    }
    if (this.#waiting.length === 0 && data.length <= this.#room()) {
      this.#keep(data);
      this.#options.offer();
      return Promise.resolve();
    }
    return this.#wait(data);
  }

  endInput(): Promise<void> {
    // Where nothing is read any more, there is nothing to end.
    if (isSandyardError(this.#fault, 'wrong_state')) return Promise.resolve();
    if (this.#fault !== undefined) return Promise.reject(this.#fault);
    this.#ending = true;
    if (this.#waiting.length > 0) return this.#wait(new Uint8Array());
    this.#options.offer();
    return Promise.resolve();
  }

  /** The tunnel is another one: what the warden may not have is to be sent again, once it has told what it has. */
  restart(): void {
    if (!this.#options.appends) this.#sentTo = this.#kept.from;
    this.#endSent = this.#endKnown;
  }

  /** STARTED told up to where the warden has input, of all that was ever sent to the process. */
  begin(offset: number): void {
    if (this.#options.appends) this.#beginAppending(offset);
    else {
      // A process that somebody spawned before, with the same id and so with the same input, may have some of it.
      if (!this.#begun) this.#skip = Math.max(0, offset - this.#kept.to);
      this.#kept.dropTo(offset);
      // How much of it the process has taken is told next.
      this.#confirmed = Math.max(this.#confirmed, offset - WINDOW_BYTES);
      this.#sentTo = Math.max(this.#sentTo, offset);
    }
    this.#begun = true;
    this.#admit();
  }

  /** STDIN_ACK told what the process has taken. */
  confirm(offset: number): void {
    if (this.#options.appends) {
      // Until something is appended, it is told how much there is of all input.
      if (this.#sentTo === this.#sentFrom) return;
      offset = Math.min(this.#sentFrom + offset, this.#sentTo);
    } else {
      this.#sentTo = Math.max(this.#sentTo, offset);
    }
    this.#confirmed = Math.max(this.#confirmed, offset);
    this.#kept.dropTo(offset);
    this.#admit();
  }

  /** The end of the input has come to the warden, which need not be told again. */
  confirmEnd(): void {
    this.#endKnown = true;
  }

  /** Nothing more is read: what waits is told so, and what comes later. */
  close(why: () => Error): void {
    if (this.#why !== undefined) return;
    this.#why = why;
    this.#kept.clear();
    for (const { reject } of this.#waiting.splice(0)) reject(this.#fault ?? why());
  }

  /** Hands one frame to `send`, in one or two parts. Returns whether there is more. */
  pull(stream: number, send: (part: Buffer) => void): boolean {
    if (!this.#sendable()) return false;
    const { appends } = this.#options;
    if (this.#sentTo === this.#kept.to) {
      send(encodeStdinEnd(stream, appends ? APPENDED : this.#sentTo));
      this.#endSent = true;
      this.#options.onEndSent();
      return false;
    }
    // Its memory is used again when the warden has these bytes, and then it skips them, should they come once more.
    const piece = this.#kept.at(this.#sentTo, MAX_PIECE_BYTES);
    send(encodeStdinHead(stream, { offset: appends ? APPENDED : this.#sentTo, length: piece.length }));
    send(piece);
    this.#sentTo += piece.length;
    return this.#sendable();
  }

  /**
   * How much of what was appended on the tunnel before has come follows from how much all input has grown. Where several append
   * and the tunnel was cut, some may be lost, yet nothing comes twice.
   */
  #beginAppending(offset: number): void {
    const base = this.#base ?? offset - this.#sentTo;
    const received = Math.min(this.#sentTo, Math.max(this.#kept.from, offset - base));
    this.#base = offset - received;
    this.#sentTo = this.#sentFrom = received;
    this.#confirmed = received;
    this.#kept.dropTo(received);
  }

  get #fault(): Error | undefined {
    return (this.#told ??= this.#why?.());
  }

  #sendable(): boolean {
    if (this.#why !== undefined) return false;
    return this.#sentTo < this.#kept.to || (this.#ending && !this.#endSent && this.#waiting.length === 0);
  }

  #room(): number {
    return Math.max(0, this.#windowBytes - (this.#kept.to - this.#confirmed));
  }

  #keep(data: Uint8Array): void {
    const fresh = data.subarray(this.#skip);
    this.#skip -= data.length - fresh.length;
    this.#kept.append(fresh);
  }

  #wait(data: Uint8Array): Promise<void> {
    const written = new Promise<void>((resolve, reject) => {
      this.#waiting.push({ data, resolve, reject });
    });
    written.catch(() => {}); // told to whoever awaits it
    this.#admit();
    return written;
  }

  /** Takes in what waits as far as there is room, and has sent what can be. */
  #admit(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      const room = this.#room() + this.#skip;
      if (room === 0 && first.data.length > 0) break;
      const taken = first.data.subarray(0, room);
      first.data = first.data.subarray(room);
      this.#keep(taken);
      if (first.data.length > 0) break;
      this.#waiting.shift();
      first.resolve();
    }
    if (this.#sendable()) this.#options.offer();
  }
}
