import type { Log } from '../log.js';
import type { SandboxRecord } from '../record/record.js';

/** How many are made at once: more would slow down what runs in sandboxes, and not be quicker on a small machine. */
const FILLERS = 2;
/** How far back demand is looked at. */
const DEMAND_MS = 10_000;
/** What was asked for is about to be used: the engine's work on the next one would slow that down. */
const QUIET_MS = 200;
/** The part of them below which there is no waiting. */
const LOW = 0.5;
const RETRY_MS = 1000;
const MAX_RETRY_MS = 30_000;

/** A kind of sandbox that is kept warm. */
export interface PoolKind {
  /** The same for all managers that keep the same kind: what can't be changed when one is claimed. */
  readonly key: string;
  /** How many are to be ready when nobody asks, and at the most. */
  readonly min: number;
  readonly max: number;
}

interface FillingParts {
  readonly log: Log;
  /** How many of a kind are ready. */
  readonly ready: (key: string) => number;
  /** Makes one, ready and with the pool's lease; `undefined` when there is no room for it now. */
  readonly make: (kind: PoolKind, signal: AbortSignal) => Promise<SandboxRecord | undefined>;
  /** Called with each that was made, before it no longer counts as being made. */
  readonly made: (record: SandboxRecord) => Promise<void>;
  /** Called when one was made or couldn't be, and when it is time to make what is missing. */
  readonly done: () => void;
}

/** What is known of one kind. */
interface Shelf {
  /** When one was asked for, lately. */
  asked: number[];
  filling: number;
  failures: number;
  retryAt: number;
}

/** How many warm sandboxes of each kind there are to be, and the making of those that are missing. */
export class Filling {
  readonly #parts: FillingParts;
  readonly #shelves = new Map<string, Shelf>();
  readonly #underWay = new Set<Promise<void>>();
  readonly #stop = new AbortController();
  #quiet: NodeJS.Timeout | undefined;

  constructor(parts: FillingParts) {
    this.#parts = parts;
  }

  /** How many are being made. */
  get size(): number {
    return this.#underWay.size;
  }

  /** Notes that one was asked for. */
  asked(key: string): void {
    this.#lately(key).push(performance.now());
  }

  /** As many as were asked for lately, within the bounds. */
  target({ key, min, max }: PoolKind): number {
    return Math.min(Math.max(min, this.#lately(key).length), max);
  }

  /** Begins to make what is missing, first of what there is least of. */
  makeMissing(kinds: readonly PoolKind[]): void {
    for (const [key, { filling }] of this.#shelves) {
      if (filling === 0 && !kinds.some((kind) => kind.key === key)) this.#shelves.delete(key);
    }
    while (this.#underWay.size < FILLERS && !this.#stop.signal.aborted) {
      const [kind] = kinds
        .filter(({ key }) => this.#shelf(key).retryAt <= performance.now())
        .map((kind) => ({ ...kind, share: this.#count(kind.key) / this.target(kind) }))
        .filter(({ key, share }) => share < (this.#wasJustAsked(key) ? LOW : 1))
        .toSorted((a, b) => a.share - b.share);
      if (kind === undefined) break;
      this.#begin(kind);
    }
    if (kinds.some(({ key }) => this.#wasJustAsked(key))) this.#lookWhenQuiet();
  }

  /** Gives up what is being made, and returns when nothing is any more. */
  async close(): Promise<void> {
    this.#stop.abort();
    clearTimeout(this.#quiet);
    await Promise.all(this.#underWay);
  }

  #lookWhenQuiet(): void {
    if (this.#stop.signal.aborted) return;
    this.#quiet ??= setTimeout(() => {
      this.#quiet = undefined;
      this.#parts.done();
    }, QUIET_MS).unref();
  }

  #begin(kind: PoolKind): void {
    const shelf = this.#shelf(kind.key);
    shelf.filling += 1;
    const making = this.#make(kind, shelf).finally(() => {
      shelf.filling -= 1;
      this.#underWay.delete(making);
      this.#parts.done();
    });
    this.#underWay.add(making);
  }

  async #make(kind: PoolKind, shelf: Shelf): Promise<void> {
    const { make, made, log } = this.#parts;
    try {
      const record = await make(kind, this.#stop.signal);
      shelf.failures = 0;
      if (record === undefined) shelf.retryAt = performance.now() + RETRY_MS;
      else await made(record);
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      shelf.failures += 1;
      shelf.retryAt = performance.now() + Math.min(RETRY_MS * 2 ** shelf.failures, MAX_RETRY_MS);
      log.warn({ error }, 'could not make a warm sandbox; will try again');
    }
  }

  #wasJustAsked(key: string): boolean {
    return performance.now() - (this.#lately(key).at(-1) ?? -Infinity) < QUIET_MS;
  }

  #count(key: string): number {
    return this.#parts.ready(key) + this.#shelf(key).filling;
  }

  #lately(key: string): number[] {
    const since = performance.now() - DEMAND_MS;
    const shelf = this.#shelf(key);
    return (shelf.asked = shelf.asked.filter((at) => at > since));
  }

  #shelf(key: string): Shelf {
    const known = this.#shelves.get(key);
    if (known !== undefined) return known;
    const shelf = { asked: [], filling: 0, failures: 0, retryAt: 0 };
    this.#shelves.set(key, shelf);
    return shelf;
  }
}
