import { isSandyardError } from '../errors.js';
import type { Hello } from './answers.js';
import { channelClosed, channelFailed, sandboxDestroyed, sandboxDied, type TunnelEnd } from './channel-errors.js';
import { Dial, type Connect } from './dial.js';
import type { Pending, PendingHost } from './pending.js';
import type { KeepAlive, Tunnel } from './tunnel.js';

export interface LinkTimes extends KeepAlive {
  /** How long connecting may take, the warden's greeting included. */
  readonly connectMs: number;
  /** How long a connection that is lost is tried to be had again, since anything last came. */
  readonly patienceMs: number;
  /** The same for one that nothing was sent on yet, when it is opened and ends before the warden has said anything. */
  readonly shortPatienceMs: number;
  readonly retryFirstMs: number;
  readonly retryMostMs: number;
  /** One that lasts shorter than that counts as a failure, too. */
  readonly steadyMs: number;
}

const TIMES: LinkTimes = {
  pingMs: 15_000,
  pongMs: 20_000,
  connectMs: 60_000,
  patienceMs: 30_000,
  shortPatienceMs: 5000,
  retryFirstMs: 50,
  retryMostMs: 2000,
  steadyMs: 1000,
};

export interface LinkOptions {
  readonly connect: Connect;
  readonly onRestart?: (() => void) | undefined;
  readonly times?: Partial<LinkTimes> | undefined;
}

/** Keeps one tunnel for all that waits for something, opens another when it is cut, and decides when to give up. */
export class Link implements PendingHost {
  readonly #connect: Connect;
  readonly #onRestart: (() => void) | undefined;
  readonly #times: LinkTimes;
  readonly #pending = new Set<Pending>();
  #tunnel: Tunnel | undefined;
  #dial: Dial | undefined;
  #retry: NodeJS.Timeout | undefined;
  #bootId: string | undefined;
  /** Since when nothing comes; `undefined` while all is well. */
  #troubleSince: number | undefined;
  #trouble: Error | undefined;
  #failures = 0;
  #closed = false;

  constructor({ connect, onRestart, times }: LinkOptions) {
    this.#connect = connect;
    this.#onRestart = onRestart;
    this.#times = { ...TIMES, ...times };
  }

  get trouble(): Error | undefined {
    return this.#trouble;
  }

  /** Keeps it until it leaves, and sends it as soon as there is a tunnel. */
  enter(pending: Pending): void {
    this.#pending.add(pending);
    if (this.#closed) return pending.fail(channelClosed());
    if (this.#tunnel === undefined) return this.#open();
    this.#tunnel.busy = true;
    pending.sendOn(this.#tunnel);
  }

  leave(pending: Pending): void {
    this.#pending.delete(pending);
    if (this.#pending.size > 0) return;
    if (this.#tunnel !== undefined) this.#tunnel.busy = false;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#troubleSince = undefined;
    this.#trouble = undefined;
    this.#failures = 0;
  }

  /** Gives up the tunnel there is: what waits is asked again through another. */
  cut(): void {
    const tunnel = this.#tunnel;
    if (tunnel === undefined) return;
    tunnel.close();
    this.#ended({ kind: 'cut', error: channelFailed('its connection was given up') });
  }

  /** `destroyed`: because there is nothing any more at its other end. */
  close({ destroyed = false } = {}): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#dial?.close();
    const tunnel = this.#tunnel;
    this.#lose();
    this.#failAll(({ sent, endsWithSandbox }) => {
      if (!destroyed) return channelClosed();
      return sent && endsWithSandbox ? sandboxDied() : sandboxDestroyed();
    });
    tunnel?.close();
  }

  #open(): void {
    if (this.#dial !== undefined || this.#retry !== undefined || this.#closed) return;
    this.#dial = new Dial(this.#connect, {
      deadlineMs: this.#times.connectMs,
      events: {
        onOpen: (tunnel, hello) => this.#opened(tunnel, hello),
        onFailure: (end) => {
          this.#dial = undefined;
          this.#failed(end);
        },
        onEnd: (end) => this.#ended(end),
      },
    });
  }

  #opened(tunnel: Tunnel, { bootId }: Hello): void {
    this.#dial = undefined;
    this.#trouble = undefined;
    this.#tunnel = tunnel;
    tunnel.keepAlive(this.#times);
    const restarted = this.#bootId !== undefined && this.#bootId !== bootId;
    this.#bootId = bootId;
    if (restarted) {
      for (const pending of this.#all()) if (pending.sent && pending.endsWithSandbox) pending.fail(sandboxDied());
      this.#onRestart?.();
    }
    tunnel.busy = this.#pending.size > 0;
    for (const pending of this.#all()) if (this.#pending.has(pending)) pending.sendOn(tunnel);
  }

  #ended(end: TunnelEnd): void {
    const tunnel = this.#tunnel;
    if (tunnel === undefined) return;
    this.#lose();
    if (tunnel.progressed) this.#troubleSince = undefined;
    if (performance.now() - tunnel.openedAt >= this.#times.steadyMs) this.#failures = 0;
    this.#failed(end);
  }

  /** Tries again, or tells all that waits. */
  #failed({ kind, error }: TunnelEnd): void {
    if (isPaused(error)) return this.#waitUntilUnpaused(error);
    this.#trouble = error;
    const now = performance.now();
    this.#troubleSince ??= now;
    const waitedMs = now - this.#troubleSince;
    const patienceMs = kind === 'fault' ? 0 : this.#patienceFor(error);
    if (this.#pending.size > 0 && waitedMs < patienceMs) return this.#retryLater();
    this.#troubleSince = undefined;
    this.#failures = 0;
    const gone = isSandyardError(error, 'wrong_state') || isSandyardError(error, 'sandbox_not_found');
    this.#failAll(({ sent, endsWithSandbox }) => (gone && sent && endsWithSandbox ? sandboxDied(error) : error));
  }

  #retryLater(): void {
    const { retryFirstMs, retryMostMs } = this.#times;
    const delayMs = this.#failures === 0 ? 0 : Math.min(retryMostMs, retryFirstMs * 2 ** (this.#failures - 1));
    this.#failures += 1;
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      this.#open();
    }, delayMs);
  }

  /** What runs in a paused sandbox stands still, and goes on some time; nothing else can be had of it. */
  #waitUntilUnpaused(error: Error): void {
    this.#troubleSince = undefined;
    for (const pending of this.#all()) if (!pending.sent || !pending.endsWithSandbox) pending.fail(error);
    if (this.#pending.size > 0) this.#retryLater();
  }

  /** A caller that nothing was sent for is told at once that the engine is away; what runs is worth waiting for. */
  #patienceFor(error: Error): number {
    const lasting = isSandyardError(error) && !error.retryable && error.code !== 'channel_failed';
    if (lasting) return 0;
    if (this.#all().some(({ sent }) => sent)) return this.#times.patienceMs;
    return isSandyardError(error, 'channel_failed') ? this.#times.shortPatienceMs : 0;
  }

  #lose(): void {
    this.#tunnel = undefined;
    this.#dial = undefined;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    for (const pending of this.#all()) pending.cut();
  }

  #failAll(errorFor: (pending: Pending) => Error): void {
    for (const pending of this.#all()) pending.fail(errorFor(pending));
  }

  /** A copy: it changes as they are called. */
  #all(): Pending[] {
    return [...this.#pending];
  }
}

function isPaused(error: Error): boolean {
  return isSandyardError(error, 'wrong_state') && error.details['state'] === 'paused';
}
