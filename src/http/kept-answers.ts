import type { SandyardError } from '../errors.js';

const KEPT_MS = 24 * 3_600_000;
const MAX_COUNT = 10_000;
const MAX_TOTAL_BYTES = 32 * 1024 * 1024;
export const MAX_ANSWER_BYTES = 64 * 1024;

/** A request that may be repeated: hashes of whose it is, where it goes and its key, and of what it asks for. */
export interface Repeat {
  readonly key: string;
  readonly content: string;
}

/** What a request was answered with: as it was sent, or the error, which is presented anew. */
export type KeptAnswer =
  | {
      readonly status: number;
      readonly headers: readonly (readonly [name: string, value: number | string | readonly string[]])[];
      readonly body: Buffer;
    }
  | { readonly error: SandyardError };

export interface KnownRepeat {
  readonly content: string;
  /** None while the first request is under way, and where none is kept. */
  readonly answer?: KeptAnswer;
  readonly underWay: boolean;
  readonly until: number;
}

export interface KeptAnswersOptions {
  readonly maxCount?: number;
  readonly maxTotalBytes?: number;
  readonly now?: () => number;
}

/**
 * What was answered to requests that may be repeated: for a day, and less when there are too many or they take too much
 * room, of which the oldest go first. What is under way is never forgotten; it is bounded by how much can be.
 */
export class KeptAnswers {
  /** By key; those that are done are in the order in which they will be forgotten. */
  readonly #known = new Map<string, KnownRepeat>();
  readonly #maxCount: number;
  readonly #maxTotalBytes: number;
  readonly #now: () => number;
  #bytes = 0;

  constructor(options: KeptAnswersOptions = {}) {
    this.#maxCount = options.maxCount ?? MAX_COUNT;
    this.#maxTotalBytes = options.maxTotalBytes ?? MAX_TOTAL_BYTES;
    this.#now = options.now ?? (() => performance.now());
  }

  get count(): number {
    return this.#known.size;
  }

  find(key: string): KnownRepeat | undefined {
    const known = this.#known.get(key);
    if (known === undefined || known.underWay || known.until > this.#now()) return known;
    this.forget(key);
    return undefined;
  }

  /** A first request is under way. */
  begin({ key, content }: Repeat): void {
    this.#known.set(key, { content, underWay: true, until: Infinity });
  }

  /** Of this one only what it asks for is to be known. */
  note({ key, content }: Repeat): void {
    this.#enter(key, { content, underWay: false, until: this.#now() + KEPT_MS });
  }

  keep(key: string, answer: KeptAnswer): void {
    const content = this.#known.get(key)?.content ?? '';
    this.#enter(key, { content, answer, underWay: false, until: this.#now() + KEPT_MS });
  }

  forget(key: string): void {
    this.#bytes -= bytesOf(this.#known.get(key));
    this.#known.delete(key);
  }

  #enter(key: string, entry: KnownRepeat): void {
    this.forget(key);
    this.#known.set(key, entry);
    this.#bytes += bytesOf(entry);
    for (const [oldest, { underWay, until }] of this.#known) {
      const isFull = this.#known.size > this.#maxCount || this.#bytes > this.#maxTotalBytes;
      if (!isFull && !underWay && until > this.#now()) return;
      if (!underWay && oldest !== key) this.forget(oldest);
    }
  }
}

function bytesOf(known: KnownRepeat | undefined): number {
  return known?.answer === undefined || 'error' in known.answer ? 0 : known.answer.body.length;
}
