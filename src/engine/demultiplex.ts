import { SandyardError } from '../errors.js';

const HEADER_BYTES = 8;
const STDERR = 2;

type OnPayload = (stream: 'stdout' | 'stderr', data: Buffer) => void;

/**
 * Takes apart the engine's multiplexed stream (Engine API, "Attach to a container", stream format): frames of an
 * eight-byte header, whose first byte is 1 for stdout or 2 for stderr and whose last four are the big-endian
 * length, and a payload. Payloads are passed on as they arrive, as slices of what was read, never joined: so it costs
 * next to nothing, and no length that a header claims makes anything be kept.
 */
export class Demultiplexer {
  readonly #onPayload: OnPayload;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerBytes = 0;
  #left = 0;

  constructor(onPayload: OnPayload) {
    this.#onPayload = onPayload;
  }

  /** Whether a frame has begun and hasn't ended. */
  get isWithinFrame(): boolean {
    return this.#left > 0 || this.#headerBytes > 0;
  }

  /** Throws `engine_error` at what is no such stream. */
  read(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#left === 0) {
        at = this.#readHeader(chunk, at);
        continue;
      }
      const end = Math.min(at + this.#left, chunk.length);
      this.#left -= end - at;
      this.#onPayload(this.#header[0] === STDERR ? 'stderr' : 'stdout', chunk.subarray(at, end));
      at = end;
    }
  }

  /** Gives where the header, or what there is of it, ends. */
  #readHeader(chunk: Buffer, at: number): number {
    const end = Math.min(at + HEADER_BYTES - this.#headerBytes, chunk.length);
    chunk.copy(this.#header, this.#headerBytes, at, end);
    this.#headerBytes += end - at;
    if (this.#headerBytes < HEADER_BYTES) return end;
    this.#headerBytes = 0;
    const header = this.#header;
    if ((header[0] ?? 0) > STDERR || header[1] !== 0 || header[2] !== 0 || header[3] !== 0) {
      throw new SandyardError('engine_error', 'The engine sent output that is not in the format of its API.');
    }
    this.#left = header.readUInt32BE(4);
    return end;
  }
}
