/** What is empty keeps no more memory than this, for what comes next. */
const MAX_SPARE_BYTES = 64 * 1024;
const NOTHING = Buffer.alloc(0);

/**
 * The bytes of a stream from one offset to another, in memory that is used over and over: new memory for each piece of a
 * large stream would have the garbage collector run all the time. It grows to the next power of two of what is kept at once.
 */
export class ByteRing {
  #memory = NOTHING;
  #from = 0;
  #to = 0;

  /** The offset of the first byte that is kept. */
  get from(): number {
    return this.#from;
  }

  /** The offset of the next byte that comes. */
  get to(): number {
    return this.#to;
  }

  /** Copied: whoever has the memory may use it again. */
  append(data: Uint8Array): void {
    this.#makeRoom(this.#to + data.length - this.#from);
    for (let done = 0; done < data.length;) {
      const room = this.#ahead(this.#to);
      const part = data.subarray(done, done + room.length);
      room.set(part);
      done += part.length;
      this.#to += part.length;
    }
  }

  /** Forgets what is before the offset. Where that is past the end, the stream goes on there. */
  dropTo(offset: number): void {
    this.#from = Math.max(this.#from, offset);
    this.#to = Math.max(this.#to, offset);
    if (this.#from === this.#to && this.#memory.length > MAX_SPARE_BYTES) this.#memory = NOTHING;
  }

  /**
   * From the offset of a kept byte on as many as lie together, `maxBytes` at the most. Not a copy: good until they are
   * dropped.
   */
  at(offset: number, maxBytes: number): Buffer {
    return this.#ahead(offset).subarray(0, Math.min(maxBytes, this.#to - offset));
  }

  /** Forgets everything. */
  clear(): void {
    this.#from = this.#to;
    this.#memory = NOTHING;
  }

  /** From where the offset lies to where the memory ends. */
  #ahead(offset: number): Buffer {
    return this.#memory.subarray(offset % this.#memory.length);
  }

  #makeRoom(bytes: number): void {
    if (bytes <= this.#memory.length) return;
    const grown = Buffer.allocUnsafe(2 ** Math.ceil(Math.log2(bytes)));
    // What lies together here does so there, too: the larger is the smaller, several times.
    for (let offset = this.#from; offset < this.#to;) {
      const part = this.at(offset, this.#to - offset);
      part.copy(grown, offset % grown.length);
      offset += part.length;
    }
    this.#memory = grown;
  }
}
