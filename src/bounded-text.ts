/** Keeps the first `max` bytes, without a character that they end in the middle of, and counts the rest. */
export class BoundedText {
  readonly #max: number;
  readonly #chunks: Uint8Array[] = [];
  #kept = 0;
  #total = 0;

  constructor(max: number) {
    this.#max = max;
  }

  add(data: Uint8Array): void {
    const kept = data.subarray(0, this.#max - this.#kept);
    if (kept.length > 0) this.#chunks.push(Buffer.from(kept));
    this.#kept += kept.length;
    this.#total += data.length;
  }

  finish(): { text: string; dropped: number } {
    const bytes = Buffer.concat(this.#chunks);
    const whole = this.#total > this.#kept ? bytes.subarray(0, wholeCharacters(bytes)) : bytes;
    return { text: new TextDecoder().decode(whole), dropped: this.#total - whole.length };
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
