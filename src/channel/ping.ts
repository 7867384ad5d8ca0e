import { notInTime } from './channel-errors.js';
import type { Pending, PendingHost } from './pending.js';
import { settleable } from '../settleable.js';
import type { Tunnel } from './tunnel.js';

/** Waits for a tunnel, and for its answer where one is asked for. */
export class Ping implements Pending {
  readonly #host: PendingHost;
  readonly #asks: boolean;
  readonly #answered = settleable<void>();
  readonly #timer: NodeJS.Timeout;
  #over = false;
  sent = false;
  readonly endsWithSandbox = false;

  constructor(host: PendingHost, { doing, asks, deadlineMs }: { doing: string; asks: boolean; deadlineMs: number }) {
    this.#host = host;
    this.#asks = asks;
    this.#timer = setTimeout(() => this.fail(host.trouble ?? notInTime(doing, deadlineMs)), deadlineMs);
  }

  get answered(): Promise<void> {
    return this.#answered.promise;
  }

  sendOn(tunnel: Tunnel): void {
    this.sent = true;
    if (this.#asks) tunnel.ping(() => this.#resolve());
    else this.#resolve();
  }

  cut(): void {
    // The next tunnel asks again.
  }

  fail(error: Error): void {
    if (this.#finish()) this.#answered.reject(error);
  }

  #resolve(): void {
    if (this.#finish()) this.#answered.resolve();
  }

  #finish(): boolean {
    if (this.#over) return false;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#host.leave(this);
    return true;
  }
}
