import { HEADER_BYTES, MAX_PAYLOAD_BYTES, ProtocolFault } from './wire.js';

export interface Frame {
  readonly type: number;
  readonly stream: number;
  readonly payload: Buffer;
}

/**
 * Cuts what arrives into frames. A payload is a slice of the chunk that it came in; only one that spans chunks is
 * assembled, so never more than one frame is kept.
 */
export class FrameReader {
  readonly #take: (frame: Frame) => void;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerHas = 0;
  /** The payload that is being assembled. */
  #payload: Buffer | undefined;
  #payloadHas = 0;

  constructor(take: (frame: Frame) => void) {
    this.#take = take;
  }

  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#payload !== undefined) at = this.#assemble(chunk, at);
      else if (this.#headerHas === 0 && chunk.length - at >= HEADER_BYTES) at = this.#read(chunk, at);
      else at = this.#assembleHeader(chunk, at);
    }
  }

  /** Whether a frame has begun that has not ended. */
  get within(): boolean {
    return this.#headerHas > 0 || this.#payload !== undefined;
  }

  #read(chunk: Buffer, at: number): number {
    const length = lengthOf(chunk, at);
    const start = at + HEADER_BYTES;
    if (chunk.length - start < length) {
      chunk.copy(this.#header, 0, at, start);
      this.#begin(length);
      return start;
    }
    const type = chunk.readUInt8(at + 4);
    const stream = chunk.readUInt32LE(at + 5);
    this.#take({ type, stream, payload: chunk.subarray(start, start + length) });
    return start + length;
  }

  #assembleHeader(chunk: Buffer, at: number): number {
    const copied = chunk.copy(this.#header, this.#headerHas, at);
    this.#headerHas += copied;
    if (this.#headerHas === HEADER_BYTES) {
      this.#headerHas = 0;
      const length = lengthOf(this.#header, 0);
      this.#begin(length);
      if (length === 0) this.#finish();
    }
    return at + copied;
  }

  #begin(length: number): void {
    this.#payload = Buffer.allocUnsafe(length);
    this.#payloadHas = 0;
  }

  #assemble(chunk: Buffer, at: number): number {
    const payload = this.#payload ?? Buffer.alloc(0);
    const copied = chunk.copy(payload, this.#payloadHas, at);
    this.#payloadHas += copied;
    if (this.#payloadHas === payload.length) this.#finish();
    return at + copied;
  }

  #finish(): void {
    const payload = this.#payload ?? Buffer.alloc(0);
    this.#payload = undefined;
    this.#take({ type: this.#header.readUInt8(4), stream: this.#header.readUInt32LE(5), payload });
  }
}

function lengthOf(header: Buffer, at: number): number {
  const length = header.readUInt32LE(at);
  if (length > MAX_PAYLOAD_BYTES) throw new ProtocolFault(`a frame claims to have ${length} bytes`);
  return length;
}
