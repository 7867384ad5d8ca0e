import type { OutputPiece } from './answers.js';
import { OutputQueue, type LostPieces } from './output-queue.js';
import { encodeAck } from './requests.js';
import { MAX_PIECE_BYTES, ProtocolFault } from './wire.js';

export interface OutputReceiverOptions {
  readonly after: number;
  readonly windowBytes: number;
  /** Called when there is something to acknowledge. */
  readonly acknowledge: (urgent: boolean) => void;
}

/** The output of one process as one reader gets it: without gap or repeat, and never more than was asked for. */
export class OutputReceiver {
  readonly #queue = new OutputQueue();
  readonly #windowBytes: number;
  readonly #acknowledge: (urgent: boolean) => void;
  #lastSeq: number;
  #consumedSeq: number;
  /** What comes next on this tunnel: after a cut again what was received and not consumed. */
  #nextSeq: number;
  // Of all tunnels together.
  #receivedBytes = 0;
  #consumedBytes = 0;
  #acknowledgedBytes = 0;
  #discarding = false;
  /** What the reader has, and may still be busy with. */
  #handed: OutputPiece | undefined;

  constructor({ after, windowBytes, acknowledge }: OutputReceiverOptions) {
    this.#lastSeq = this.#consumedSeq = after;
    this.#nextSeq = after + 1;
    this.#windowBytes = windowBytes;
    this.#acknowledge = acknowledge;
  }

  get lastSeq(): number {
    return this.#lastSeq;
  }

  /** After which piece to go on when the tunnel was cut: the warden keeps what comes after it for as long. */
  get consumedSeq(): number {
    return this.#consumedSeq;
  }

  get empty(): boolean {
    return this.#queue.empty;
  }

  /** The warden begins after the last piece that was consumed, and takes that for acknowledged. */
  restart(): void {
    this.#acknowledgedBytes = this.#consumedBytes;
    this.#nextSeq = this.#consumedSeq + 1;
  }

  take(piece: OutputPiece): void {
    if (piece.seq !== this.#nextSeq) {
      throw new ProtocolFault(`piece ${piece.seq} of the output comes in the place of piece ${this.#nextSeq}`);
    }
    this.#nextSeq += 1;
    if (piece.seq <= this.#lastSeq) return;
    this.#lastSeq = piece.seq;
    this.#receivedBytes += piece.data.length;
    if (this.#receivedBytes - this.#acknowledgedBytes > this.#windowBytes + MAX_PIECE_BYTES) {
      throw new ProtocolFault('more output came than was asked for');
    }
    if (this.#discarding) this.#consumed(piece);
    else this.#queue.push(piece);
  }

  takeLost({ firstSeq, lastSeq }: LostPieces): void {
    if (firstSeq !== this.#nextSeq) {
      throw new ProtocolFault(`piece ${firstSeq} is lost, in the place of piece ${this.#nextSeq}`);
    }
    this.#nextSeq = lastSeq + 1;
    if (lastSeq <= this.#lastSeq) return;
    const lost = { firstSeq: Math.max(firstSeq, this.#lastSeq + 1), lastSeq };
    this.#lastSeq = lastSeq;
    if (!this.#discarding) this.#queue.pushLost(lost);
  }

  /**
   * Who asks for the next piece has done with the one before. Only then is that acknowledged: whoever reads on in the
   * place of a reader that was killed needs it still.
   */
  next(): OutputPiece | LostPieces | undefined {
    const handed = this.#handed;
    this.#handed = undefined;
    if (handed !== undefined) this.#consumed(handed);
    const next = this.#queue.shift();
    if (next !== undefined && 'data' in next) this.#handed = next;
    return next;
  }

  /** Drops what is there and what comes. */
  discard(): void {
    this.#discarding = true;
    this.#handed = undefined;
    this.#queue.clear();
    if (this.#consumedBytes === this.#receivedBytes) return;
    this.#consumedBytes = this.#receivedBytes;
    this.#consumedSeq = this.#lastSeq;
    this.#acknowledge(true);
  }

  /** The frame that tells what was consumed, unless that is known. */
  collectAck(stream: number): Buffer | undefined {
    if (this.#consumedBytes <= this.#acknowledgedBytes) return undefined;
    this.#acknowledgedBytes = this.#consumedBytes;
    return encodeAck(stream, this.#consumedSeq);
  }

  #consumed({ seq, data }: OutputPiece): void {
    this.#consumedSeq = seq;
    this.#consumedBytes += data.length;
    const due = this.#consumedBytes - this.#acknowledgedBytes;
    if (due > 0) this.#acknowledge(due >= this.#windowBytes / 4);
  }
}
