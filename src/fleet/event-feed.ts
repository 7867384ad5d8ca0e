import { setTimeout as sleep } from 'node:timers/promises';

import { anySignal } from '../any-signal.js';
import type { ContainerEvent, Engine } from '../engine/engine.js';
import { SandyardError } from '../errors.js';
import type { Log } from '../log.js';
import { ownedBy } from '../record/record.js';
import { settleable, type Settleable } from '../settleable.js';

const RETRY_MS = 250;
const MAX_RETRY_MS = 10_000;

interface EventFeedParts {
  readonly engine: Engine;
  readonly log: Log;
  readonly owner: string;
  /** Compares what is known with what there is: at the beginning, and each time that events may have been missed. */
  readonly compare: (signal: AbortSignal) => Promise<void>;
  /** Called for each event, in order; for those that came during a comparison, after it. Must not throw. */
  readonly apply: (event: ContainerEvent) => void;
  /** Called when events that were followed have broken off. */
  readonly brokeOff: () => void;
}

/** The engine's events of an owner's containers, followed for as long as it is open, through every restart of the engine. */
export class EventFeed {
  readonly #parts: EventFeedParts;
  #stop: AbortController | undefined;
  #opened: Promise<void> | undefined;
  #watching: Promise<void> | undefined;
  #live = false;

  constructor(parts: EventFeedParts) {
    this.#parts = parts;
  }

  /** Whether all is compared and followed now. */
  get live(): boolean {
    return this.#live;
  }

  /** Aborts when it is closed; `undefined` while it was never opened. */
  get signal(): AbortSignal | undefined {
    return this.#stop?.signal;
  }

  /** Resolves when all was compared for the first time; fails with what the engine fails with. */
  async open(signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    if (this.#opened !== undefined) return this.#opened;
    const stop = new AbortController();
    this.#stop = stop;
    const opened = settleable<void>();
    this.#opened = opened.promise;
    this.#watching = this.#watch(stop.signal, opened);
    const abort = () => stop.abort();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      await opened.promise;
    } catch (error) {
      this.#opened = undefined;
      throw error;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  async close(): Promise<void> {
    this.#stop?.abort();
    await this.#watching;
  }

  async #watch(signal: AbortSignal, opened: Settleable<void>): Promise<void> {
    let wait = RETRY_MS;
    let everOpen = false;
    while (!signal.aborted) {
      try {
        await this.#follow(signal, () => {
          everOpen = true;
          wait = RETRY_MS;
          opened.resolve(undefined);
        });
      } catch (error) {
        if (!everOpen) return opened.reject(error as Error);
        if (signal.aborted) return;
        this.#parts.log.warn({ error }, "lost the engine's events; will compare all when they are back");
      } finally {
        if (this.#live) this.#parts.brokeOff();
        this.#live = false;
      }
      await sleep(wait, undefined, { signal, ref: false }).catch(() => {});
      wait = Math.min(wait * 2, MAX_RETRY_MS);
    }
    opened.reject(signal.reason as Error);
  }

  /** Follows the events until they break off. */
  async #follow(signal: AbortSignal, complete: () => void): Promise<void> {
    const { engine, owner, compare, apply } = this.#parts;
    const broken = new AbortController();
    const both = anySignal([signal, broken.signal]);
    const subscribed = settleable<void>();
    const ready = () => subscribed.resolve(undefined);
    const events = engine.watchContainers(ownedBy(owner), { signal: both, ready });
    const early: ContainerEvent[] = [];
    const following = (async () => {
      for await (const event of events) {
        if (this.#live) apply(event);
        else early.push(event);
      }
    })();
    // It may break off before it is subscribed, or while all is compared.
    await Promise.race([subscribed.promise, following]);
    const comparing = compare(both).then(() => {
      throwIfAborted(both); // what was compared is the past, then
      for (const event of early) apply(event);
      this.#live = true;
      complete();
    });
    try {
      await Promise.all([following, comparing]);
    } finally {
      broken.abort();
      await Promise.allSettled([following, comparing]);
    }
  }
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return;
  throw new SandyardError('aborted', 'The caller gave up while the sandboxes were listed.', { cause: signal.reason });
}
