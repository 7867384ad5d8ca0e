import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

import { SandyardError } from '../errors.js';

/**
 * The requests that are being answered. Each has a signal that goes to every call of the library, so that the work of
 * a client that hung up is ended in the sandbox, too. When the service drains, streams are ended at once, as they may
 * last forever, and the rest gets until `abandon`.
 */
export class Calls {
  readonly #running = new Set<RunningCall>();
  #draining = false;

  get draining(): boolean {
    return this.#draining;
  }

  begin(response: ServerResponse): RunningCall {
    const call = new RunningCall(response);
    this.#running.add(call);
    response.once('close', () => {
      this.#running.delete(call);
      if (!response.writableFinished) call.abort(new SandyardError('aborted', 'The client hung up.'));
    });
    return call;
  }

  /** Takes no more calls, and ends the streams. */
  drain(): void {
    this.#draining = true;
    for (const call of this.#running) {
      if (call.streams) call.abort(shuttingDown());
      call.closeConnection();
    }
  }

  /** Ends all that is left. */
  abandon(): void {
    for (const call of this.#running) call.abort(shuttingDown());
  }
}

export class RunningCall {
  readonly #controller = new AbortController();
  readonly #response: ServerResponse;
  /** Whether it may last for as long as the client likes, and has a way to be told why it ends. */
  streams = false;

  constructor(response: ServerResponse) {
    this.#response = response;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  abort(reason: SandyardError): void {
    this.#controller.abort(reason);
  }

  /** The client may not send more over this connection: a server that closes would wait for it to be given up. */
  closeConnection(): void {
    if (!this.#response.headersSent) this.#response.setHeader('Connection', 'close');
  }

  /** Why the call was aborted, where it was: what failed then failed because of that. */
  explain(error: unknown): unknown {
    return this.signal.aborted ? this.signal.reason : error;
  }
}

export function shuttingDown(): SandyardError {
  return new SandyardError('manager_closed', 'The service is shutting down.', {
    hint: 'Send the request again when the service is back; sandboxes live on.',
  });
}

/** Settles as the promise does, or rejects as soon as the signal aborts. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    const settle = () => signal.removeEventListener('abort', onAbort);
    promise.then(
      (value) => {
        settle();
        resolve(value);
      },
      (error: unknown) => {
        settle();
        reject(error);
      },
    );
  });
}

/** Whether it settled within that time. Throws what it throws in that time. */
export async function within(ms: number, promise: Promise<unknown>): Promise<boolean> {
  const timeUp = new AbortController();
  const { signal } = timeUp;
  try {
    return await Promise.race([promise.then(() => true), sleep(ms, false, { signal })]);
  } finally {
    timeUp.abort();
  }
}

/**
 * Starts what is to outlive the request. Only until it runs does the request's end end it: the library would hold on to
 * a signal for as long as the process lives.
 */
export async function startDetached<T>(signal: AbortSignal, start: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const starting = new AbortController();
  const abort = () => starting.abort(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await start(starting.signal);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
