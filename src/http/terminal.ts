import type { RawData, WebSocket } from 'ws';
import { z } from 'zod';

import { isSandyardError, SandyardError, type ErrorCode } from '../errors.js';
import type { SandboxProcess } from '../index.js';
import { fields } from '../schemas.js';
import { presentExit } from '../wire/presenters.js';
import type { ProcessInput } from './process-inputs.js';

/*
 * A terminal over a WebSocket. Binary messages are what the process prints and reads; text messages are JSON and steer.
 * After what was printed comes the number of its last piece, with which a client goes on after a lost connection.
 */

/** How much a client may leave unread before its process has to wait. */
const MAX_UNREAD_BYTES = 1024 * 1024;
const PING_MS = 20_000;
/** How long a client may take to close its side when the service ends. */
const CLOSE_MS = 1000;
/** How often a client that wants what there is may come too late for it. */
const MAX_CATCH_UPS = 5;

const terminalMessage = z.discriminatedUnion('type', [
  fields.terminalSize.extend({ type: z.literal('resize') }),
  z.strictObject({ type: z.literal('signal'), signal: fields.signal }),
  z.strictObject({ type: z.literal('eof') }),
]);

const EXITED = 1000;
const GOING_AWAY = 1001;
const INTERNAL = 1011;
const CLOSE_CODES: Partial<Record<ErrorCode, number>> = {
  sandbox_not_found: 4404,
  process_not_found: 4404,
  output_lost: 4410,
  wrong_state: 4409,
  sandbox_died: 4409,
  invalid_request: 4400,
  validation_failed: 4400,
  manager_closed: GOING_AWAY,
};

export interface TerminalOptions {
  readonly process: SandboxProcess;
  readonly input: ProcessInput;
  /** From where on its output is wanted; what there is of it when left out. */
  readonly after: number | undefined;
  /** Ends the connection, not the process. */
  readonly signal: AbortSignal;
}

/** Joins the WebSocket to the process, until one of them ends. */
export async function serveTerminal(webSocket: WebSocket, options: TerminalOptions): Promise<void> {
  await new Terminal(webSocket, options).run();
}

class Terminal {
  readonly #webSocket: WebSocket;
  readonly #process: SandboxProcess;
  readonly #input: ProcessInput;
  readonly #after: number | undefined;
  readonly #signal: AbortSignal;
  #lastSeq = 0;
  #announcement: NodeJS.Immediate | undefined;
  #writing: Promise<void> = Promise.resolve();
  #unwritten = 0;

  constructor(webSocket: WebSocket, { process, input, after, signal }: TerminalOptions) {
    this.#webSocket = webSocket;
    this.#process = process;
    this.#input = input;
    this.#after = after;
    this.#signal = signal;
  }

  async run(): Promise<void> {
    const webSocket = this.#webSocket;
    const closed = new Promise((resolve) => webSocket.once('close', resolve));
    webSocket.on('error', () => {}); // its close follows
    webSocket.on('message', (data, isBinary) => this.#receive(data, isBinary));
    const onAbort = () => this.#closeBecause(this.#signal.reason);
    if (this.#signal.aborted) onAbort();
    this.#signal.addEventListener('abort', onAbort, { once: true });
    const stopPinging = this.#ping();
    this.#tell({ type: 'ready', process_id: this.#process.id, seq: this.#after ?? 0 });
    void this.#sendOutput().catch((error: unknown) => this.#closeBecause(error));
    await closed;
    this.#signal.removeEventListener('abort', onAbort);
    stopPinging();
    clearImmediate(this.#announcement);
  }

  async #sendOutput(): Promise<void> {
    let after = this.#after;
    for (let catchUps = 0; ; catchUps += 1) {
      try {
        await this.#sendOutputAfter(after);
        break;
      } catch (error) {
        const firstSeq = isSandyardError(error, 'output_lost') ? error.details['firstSeq'] : undefined;
        if (typeof firstSeq !== 'number') throw error;
        this.#tell({ type: 'lost', first_seq: firstSeq });
        if (this.#after !== undefined || this.#lastSeq > 0 || catchUps === MAX_CATCH_UPS) throw error;
        after = firstSeq - 1;
      }
    }
    // Without a client nobody is told, and waiting would read on for nobody.
    if (this.#webSocket.readyState !== this.#webSocket.OPEN) return;
    const exit = await this.#process.wait();
    this.#announce();
    this.#tell({ type: 'exit', ...presentExit(exit) });
    this.#close(EXITED, 'exited');
  }

  async #sendOutputAfter(after: number | undefined): Promise<void> {
    const webSocket = this.#webSocket;
    for await (const { seq, data } of this.#process.output({ after })) {
      if (webSocket.readyState !== webSocket.OPEN) return;
      const sent = new Promise<void>((resolve) => {
        webSocket.send(data, { binary: true }, () => resolve());
      });
      this.#lastSeq = seq;
      this.#announcement ??= setImmediate(() => this.#announce());
      if (webSocket.bufferedAmount > MAX_UNREAD_BYTES) await sent;
    }
  }

  /** Once for all that was sent in one go. */
  #announce(): void {
    if (this.#announcement === undefined) return;
    clearImmediate(this.#announcement);
    this.#announcement = undefined;
    this.#tell({ type: 'seq', seq: this.#lastSeq });
  }

  #receive(data: RawData, isBinary: boolean): void {
    const bytes = data as Buffer;
    if (isBinary) this.#enqueue(() => this.#input.write(bytes));
    else this.#obey(bytes.toString('utf8'));
  }

  #obey(text: string): void {
    const message = terminalMessage.safeParse(parseJson(text));
    if (!message.success) {
      const what = message.error.issues[0]?.message ?? 'unknown fault';
      this.#closeBecause(new SandyardError('invalid_request', `Not a message of a terminal: ${what}.`));
      return;
    }
    switch (message.data.type) {
      case 'resize': {
        const { rows, columns } = message.data;
        this.#enqueue(() => this.#input.resize({ rows, columns }));
        break;
      }
      case 'eof':
        this.#enqueue(() => this.#input.end());
        break;
      case 'signal':
        this.#process.signal(message.data.signal).catch((error: unknown) => this.#closeBecause(error));
        break;
    }
  }

  /** In order, and nothing more is taken from the client until it is done. */
  #enqueue(act: () => Promise<void>): void {
    this.#unwritten += 1;
    this.#webSocket.pause();
    this.#writing = this.#writing
      .then(act)
      .catch((error: unknown) => {
        // It reads no more, mostly because it has ended; that is told in its time.
        if (!isSandyardError(error, 'wrong_state')) this.#closeBecause(error);
      })
      .then(() => {
        this.#unwritten -= 1;
        if (this.#unwritten === 0) this.#webSocket.resume();
      });
  }

  /** A client that doesn't answer until the next one is gone; one that we don't listen to can't be judged. */
  #ping(): () => void {
    const webSocket = this.#webSocket;
    let isAlive = true;
    webSocket.on('pong', () => (isAlive = true));
    const timer = setInterval(() => {
      if (!isAlive && !webSocket.isPaused) {
        webSocket.terminate();
        return;
      }
      isAlive = false;
      webSocket.ping();
    }, PING_MS).unref();
    return () => clearInterval(timer);
  }

  #tell(message: { readonly type: string } & Record<string, unknown>): void {
    if (this.#webSocket.readyState === this.#webSocket.OPEN) this.#webSocket.send(JSON.stringify(message));
  }

  #closeBecause(error: unknown): void {
    if (!isSandyardError(error)) return this.#close(INTERNAL, 'internal');
    this.#close(CLOSE_CODES[error.code] ?? INTERNAL, error.code);
  }

  #close(code: number, reason: string): void {
    const webSocket = this.#webSocket;
    if (webSocket.readyState !== webSocket.OPEN) return;
    this.#announce();
    webSocket.resume();
    webSocket.close(code, reason);
    if (code !== GOING_AWAY) return;
    const cut = setTimeout(() => webSocket.terminate(), CLOSE_MS);
    webSocket.once('close', () => clearTimeout(cut));
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
