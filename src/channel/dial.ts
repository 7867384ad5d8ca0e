import type { Duplex } from 'node:stream';

import type { Hello } from './answers.js';
import { channelClosed, connectFailed, notInTime, type TunnelEnd } from './channel-errors.js';
import { Tunnel } from './tunnel.js';

export type Connect = (options: { signal?: AbortSignal }) => Promise<Duplex>;

export interface DialEvents {
  readonly onOpen: (tunnel: Tunnel, hello: Hello) => void;
  /** It came to nothing. */
  readonly onFailure: (end: TunnelEnd) => void;
  /** It was open. */
  readonly onEnd: (end: TunnelEnd) => void;
}

/** Makes one connection and waits for the warden's greeting. Calls back once, in time, whatever `connect` does. */
export class Dial {
  readonly #events: DialEvents;
  readonly #abort = new AbortController();
  readonly #deadline: NodeJS.Timeout;
  #tunnel: Tunnel | undefined;
  #over = false;

  constructor(connect: Connect, { deadlineMs, events }: { deadlineMs: number; events: DialEvents }) {
    this.#events = events;
    this.#deadline = setTimeout(() => this.#late(deadlineMs), deadlineMs);
    Promise.resolve()
      .then(() => connect({ signal: this.#abort.signal }))
      .then(
        (connection) => this.#connected(connection),
        (error: unknown) => this.#fail({ kind: 'cut', error: connectFailed(error) }),
      );
  }

  /** Calls back no more. */
  close(): void {
    if (!this.#settle()) return;
    this.#abort.abort(channelClosed());
    this.#tunnel?.close();
  }

  #connected(connection: Duplex): void {
    if (this.#over) {
      connection.on('error', () => {}); // nobody wants it any more
      connection.destroy();
      return;
    }
    const tunnel = new Tunnel(connection, {
      onHello: (hello) => {
        if (this.#settle()) this.#events.onOpen(tunnel, hello);
      },
      onEnd: (end) => {
        if (this.#over) this.#events.onEnd(end);
        else this.#fail(end);
      },
    });
    this.#tunnel = tunnel;
  }

  #late(deadlineMs: number): void {
    const error = notInTime('connect to the sandbox', deadlineMs);
    this.#fail({ kind: 'cut', error });
    this.#abort.abort(error);
    this.#tunnel?.close();
  }

  #fail(end: TunnelEnd): void {
    if (this.#settle()) this.#events.onFailure(end);
  }

  #settle(): boolean {
    if (this.#over) return false;
    this.#over = true;
    clearTimeout(this.#deadline);
    return true;
  }
}
