const FIRST_BYTES = 4096;

/** Keeps nothing between two texts; making one takes longer than decoding a line. */
const decoder = new TextDecoder();

/**
 * Keeps the first `max` bytes, without a character that they end in the middle of. In one piece of memory, of twice their
 * size at the most: output may come byte by byte, and each piece apart would take a hundred times that.
 */
export class BoundedText {
  readonly #max: number;
  #bytes = Buffer.alloc(0);
  #kept = 0;

  constructor(max: number) {
    this.#max = max;
  }

  add(data: Uint8Array): void {
    const kept = data.subarray(0, this.#max - this.#kept);
    const needed = this.#kept + kept.length;
    if (needed > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(
        Math.max(needed, Math.min(this.#max, Math.max(FIRST_BYTES, 2 * this.#bytes.length))),
      );
      larger.set(this.#bytes.subarray(0, this.#kept));
      this.#bytes = larger;
    }
    this.#bytes.set(kept, this.#kept);
    this.#kept = needed;
  }

  /** What was kept of `total` bytes, and how many that leaves out. */
  finish(total: number): { text: string; dropped: number } {
    const bytes = this.#bytes.subarray(0, this.#kept);
    const whole = total > this.#kept ? bytes.subarray(0, wholeCharacters(bytes)) : bytes;
    return { text: decoder.decode(whole), dropped: Math.max(0, total - whole.length) };
  }
}

/** How many of the bytes are before a UTF-8 character that is cut off at their end (RFC 3629, section 3). */
function wholeCharacters(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes.at(-back) ?? 0;
    if ((byte & 0xc0) === 0x80) continue; // in the middle of a character
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}
