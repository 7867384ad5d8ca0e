import type { Duplex } from 'node:stream';
import { setImmediate } from 'node:timers';

/** How many pieces of input may go out in one write, in front of a small frame. */
const PIECES_PER_WRITE = 4;
/** How long what is lazy waits for a write to go with. */
const LAZY_MS = 20;

/** Something that is sent with the next write, or soon: what it says may change until then. */
export interface Lazy {
  /** The frame, unless there is nothing to say any more. */
  collect(): Buffer | undefined;
}

/** Bulk data that is pulled as the connection takes it. */
export interface BulkSource {
  /** Hands one frame to `send`, in parts. Returns whether there is more. */
  pull(send: (part: Buffer) => void): boolean;
}

/**
 * What goes out on one connection: one write for each turn of the event loop, small frames before bulk data, and nothing
 * while the connection takes no more.
 */
export class Outbox {
  readonly #connection: Duplex;
  #frames: Buffer[] = [];
  readonly #lazy = new Set<Lazy>();
  readonly #bulk = new Set<BulkSource>();
  #scheduled = false;
  #blocked = false;
  #closed = false;
  #lazyTimer: NodeJS.Timeout | undefined;

  constructor(connection: Duplex) {
    this.#connection = connection;
    connection.on('drain', () => {
      this.#blocked = false;
      if (this.#frames.length > 0 || this.#lazy.size > 0 || this.#bulk.size > 0) this.#schedule();
    });
  }

  send(frame: Buffer): void {
    this.#frames.push(frame);
    this.#schedule();
  }

  offer(source: BulkSource): void {
    this.#bulk.add(source);
    this.#schedule();
  }

  withdraw(source: BulkSource): void {
    this.#bulk.delete(source);
  }

  /** Asks `lazy` for its frame at the next write; which is now when it is urgent. */
  lazily(lazy: Lazy, { urgent }: { urgent: boolean }): void {
    this.#lazy.add(lazy);
    if (urgent) this.#schedule();
    else this.#lazyTimer ??= setTimeout(() => this.#lazyDue(), LAZY_MS).unref();
  }

  /** Writes at once what there is, but for bulk data. */
  flush(): void {
    this.#bulk.clear();
    this.#flush();
  }

  /** Writes nothing more. */
  close(): void {
    this.#closed = true;
    this.#frames = [];
    this.#lazy.clear();
    this.#bulk.clear();
    clearTimeout(this.#lazyTimer);
  }

  #lazyDue(): void {
    this.#lazyTimer = undefined;
    if (this.#lazy.size > 0) this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#blocked || this.#closed) return;
    this.#scheduled = true;
    setImmediate(this.#flush);
  }

  readonly #flush = (): void => {
    this.#scheduled = false;
    if (this.#closed || this.#connection.destroyed) return;
    const frames: Buffer[] = [];
    for (const lazy of this.#lazy) {
      const frame = lazy.collect();
      if (frame !== undefined) frames.push(frame);
    }
    this.#lazy.clear();
    frames.push(...this.#frames.splice(0));
    if (frames.length === 0 && this.#bulk.size === 0) return;
    let free = true;
    const write = (part: Buffer) => {
      free = this.#connection.write(part);
    };
    this.#connection.cork();
    if (frames.length > 0) write(frames.length === 1 && frames[0] !== undefined ? frames[0] : Buffer.concat(frames));
    this.#writeBulk(write);
    this.#connection.uncork();
    this.#blocked = !free;
    if (this.#bulk.size > 0) this.#schedule();
  };

  /** One piece of each in turn. */
  #writeBulk(write: (part: Buffer) => void): void {
    for (let pieces = 0; pieces < PIECES_PER_WRITE; pieces++) {
      const [source] = this.#bulk;
      if (source === undefined) return;
      this.#bulk.delete(source);
      if (source.pull(write)) this.#bulk.add(source);
    }
  }
}
