import { settleable } from '../settleable.js';

/** Who waits for something to happen to a sandbox. */
export class Waiters {
  readonly #waiting = new Map<string, Set<() => void>>();

  /** Resolves when something has happened to it, after `atMostMs`, or when the signal aborts. */
  async wait(id: string, { atMostMs, signal }: { atMostMs: number; signal?: AbortSignal | undefined }): Promise<void> {
    if (signal?.aborted === true) return;
    const told = settleable<void>();
    const wake = () => told.resolve(undefined);
    const timer = setTimeout(wake, atMostMs);
    const waiting = this.#waiting.get(id) ?? new Set();
    this.#waiting.set(id, waiting.add(wake));
    signal?.addEventListener('abort', wake, { once: true });
    await told.promise;
    clearTimeout(timer);
    signal?.removeEventListener('abort', wake);
    waiting.delete(wake);
    if (waiting.size === 0) this.#waiting.delete(id);
  }

  wake(id: string): void {
    for (const wake of this.#waiting.get(id) ?? []) wake();
  }
}
