import { isUtf8 } from 'node:buffer';

/** Output as text where it is UTF-8, otherwise as base64, so that no byte is lost or changed. */
export type EncodedData = { readonly data: string } | { readonly data_base64: string };

const NONE = Buffer.alloc(0);

/**
 * Turns the chunks of one stream into text. A character that a chunk ends in the middle of waits for the next one.
 */
export class Utf8Text {
  #held: Buffer = NONE;

  /** `undefined` when all of it has to wait. */
  push(chunk: Uint8Array): EncodedData | undefined {
    const bytes = this.#held.length === 0 ? view(chunk) : Buffer.concat([this.#held, chunk]);
    const end = bytes.length - unfinishedLength(bytes);
    // A copy: the chunk's memory may be the sender's to use again.
    this.#held = end === bytes.length ? NONE : Buffer.from(bytes.subarray(end));
    return end === 0 ? undefined : encode(bytes.subarray(0, end));
  }

  /** What was still waiting when the stream ended. */
  end(): EncodedData | undefined {
    const rest = this.#held;
    this.#held = NONE;
    return rest.length === 0 ? undefined : encode(rest);
  }
}

function encode(bytes: Buffer): EncodedData {
  return isUtf8(bytes) ? { data: bytes.toString('utf8') } : { data_base64: bytes.toString('base64') };
}

function view(chunk: Uint8Array): Buffer {
  return Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
}

/** How many bytes at the end begin a character that goes on after them: 0 to 3. */
function unfinishedLength(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back] ?? 0;
    const isContinuation = (byte & 0xc0) === 0x80;
    if (!isContinuation) return sequenceLength(byte) > back ? back : 0;
  }
  return 0;
}

function sequenceLength(lead: number): number {
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  if (lead >= 0xe0) return lead <= 0xef ? 3 : 1;
  return lead >= 0xc2 ? 2 : 1;
}
