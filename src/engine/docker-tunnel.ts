import type Docker from 'dockerode';
import { Socket } from 'node:net';
import { Duplex } from 'node:stream';

import { anySignal } from '../any-signal.js';
import { SandyardError } from '../errors.js';
import type { EngineConnection } from './connection.js';
import { Demultiplexer } from './demultiplex.js';
import { explainEnd, hasStopped } from './docker-tunnel-end.js';
import { engineUnavailable, translateEngineError } from './engine-errors.js';
import type { CallOptions } from './engine.js';

const OPEN_DEADLINE_MS = 60_000;
/** How much is kept for a reader, and for the socket, that is slow. */
const BUFFER_BYTES = 1024 * 1024;
/** How long output may still be on its way when the container has stopped. */
const LAST_CALL_MS = 500;
/** How much is kept of what the command prints on standard error. */
const SAID_BYTES = 4096;
const SAID_CHARACTERS = 500;

/** Has the engine run a command in the container, as root, and joins its standard streams to the Duplex that it gives. */
export async function openTunnel(
  connection: EngineConnection,
  container: string,
  { command, signal }: { command: readonly string[] } & CallOptions,
): Promise<Duplex> {
  const program = command[0] ?? '';
  const settings = { doing: 'open a tunnel', container, signal, deadlineMs: OPEN_DEADLINE_MS, idempotent: true };
  return connection.call({ operation: 'open_tunnel', ...settings }, async (docker, abortSignal) => {
    const exec = await docker.getContainer(container).exec({
      Cmd: [...command],
      User: '0:0',
      AttachStdin: true,
      AttachStdout: true,
      AttachStderr: true,
      Tty: false,
      abortSignal,
    });
    const socket = await hijack((hangUp) => start(exec, hangUp), abortSignal);
    const end = { container, exec, program };
    const tunnel = new Tunnel(socket, (said) => explainEnd(connection, end, said));
    const hangUp = new AbortController();
    tunnel.once('close', () => hangUp.abort());
    hasStopped(connection, end, hangUp.signal).then(
      (stopped) => stopped && tunnel.endSoon(),
      () => {}, // whether there is still somebody at the other end, the protocol of the tunnel finds out by itself
    );
    return tunnel;
  });
}

/**
 * Joins the standard streams of PID 1 of a container that has been created. What comes before it is started waits for it.
 * What comes to nothing with it, the end of a tunnel that is opened after it tells.
 */
export async function attachTunnel(
  connection: EngineConnection,
  container: string,
  { signal }: CallOptions,
): Promise<Duplex> {
  const settings = { doing: 'attach to', container, signal, deadlineMs: OPEN_DEADLINE_MS, idempotent: true };
  return connection.call({ operation: 'attach_container', ...settings }, async (docker, abortSignal) => {
    const streams = { stream: true, stdin: true, stdout: true, stderr: true };
    const socket = await hijack(
      (hangUp) => docker.getContainer(container).attach({ ...streams, hijack: true, abortSignal: hangUp }),
      abortSignal,
    );
    return new Tunnel(socket, () => Promise.resolve(undefined));
  });
}

async function start(exec: Docker.Exec, abortSignal: AbortSignal): Promise<NodeJS.ReadWriteStream> {
  try {
    return await exec.start({ hijack: true, stdin: true, Tty: false, abortSignal });
  } catch (error) {
    // A restart forgets what was to be started; whether the container is still there, the next call says.
    if ((error as { statusCode?: number }).statusCode !== 404) throw error;
    throw engineUnavailable('it no longer knows the tunnel that it was about to open', error);
  }
}

/** Has the connection of a request for its streams. */
async function hijack(
  request: (hangUp: AbortSignal) => Promise<NodeJS.ReadWriteStream>,
  abortSignal: AbortSignal,
): Promise<Socket> {
  // The client never ends the request of a hijack; where it fails, its connection would stay.
  const hangUp = new AbortController();
  try {
    const stream = await request(anySignal([abortSignal, hangUp.signal]));
    if (!(stream instanceof Socket)) {
      throw new SandyardError('engine_error', 'The engine did not hand over the connection for a tunnel.', {
        hint: 'A proxy between Sandyard and the engine must let the upgrade of a connection pass.',
      });
    }
    if (abortSignal.aborted) {
      stream.destroy(); // nobody waits for it any more
      throw abortSignal.reason;
    }
    return stream;
  } catch (error) {
    hangUp.abort();
    throw error;
  }
}

/**
 * The standard streams of one command. A reader that doesn't read stops the command by way of the socket, and a command
 * that doesn't read stops the writer.
 */
class Tunnel extends Duplex {
  readonly #socket: Socket;
  readonly #explain: (said: string) => Promise<SandyardError | undefined>;
  readonly #demultiplexer = new Demultiplexer((stream, data) => {
    if (stream === 'stderr') this.#hear(data);
    else this.#take(data);
  });
  readonly #said: Buffer[] = [];
  #saidBytes = 0;
  #hasBegun = false;
  #isFull = false;
  #hasEnded = false;
  #lastCall: NodeJS.Timeout | undefined;
  /** A first line that may be the engine's and not the command's. */
  #held: Buffer | undefined;

  constructor(socket: Socket, explain: (said: string) => Promise<SandyardError | undefined>) {
    // A command that has ended reads no more either.
    super({ readableHighWaterMark: BUFFER_BYTES, writableHighWaterMark: BUFFER_BYTES, allowHalfOpen: false });
    this.#socket = socket.setNoDelay(true);
    this.#explain = explain;
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.destroy(translateEngineError(error, { doing: 'keep a tunnel open' })));
    socket.once('end', () => this.#finish());
    socket.once('close', () => this.#finish());
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#socket.write(chunk, () => done()); // what goes wrong with it, the socket's end tells
  }

  /** What has gathered while the socket was full goes in one write. */
  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    const last = chunks.pop();
    this.#socket.cork();
    for (const { chunk } of chunks) this.#socket.write(chunk);
    this.#socket.write(last?.chunk ?? '', () => done());
    this.#socket.uncork();
  }

  override _final(done: () => void): void {
    if (this.#socket.destroyed) return done();
    this.#socket.end(done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#hasEnded = true;
    clearTimeout(this.#lastCall);
    this.#socket.destroy();
    done(error);
  }

  /** Has it keep the program from ending, as a socket does. */
  ref(): void {
    this.#socket.ref();
  }

  unref(): void {
    this.#socket.unref();
  }

  /** Ends it if it doesn't by itself, for a container that has stopped. */
  endSoon(): void {
    this.#lastCall ??= setTimeout(() => this.#finish(), LAST_CALL_MS).unref();
  }

  #receive(chunk: Buffer): void {
    if (this.destroyed) return;
    this.#isFull = false;
    try {
      this.#demultiplexer.read(chunk);
    } catch (error) {
      this.destroy(error as SandyardError);
      return;
    }
    if (this.#isFull) this.#socket.pause();
  }

  #take(data: Buffer): void {
    if (!this.#hasBegun && this.#held === undefined && mayBeTheEngines(data)) {
      this.#held = Buffer.from(data);
      return;
    }
    this.#hasBegun = true;
    const held = this.#held;
    this.#held = undefined;
    if (held !== undefined) this.push(held);
    if (!this.push(data)) this.#isFull = true;
  }

  #hear(data: Buffer): void {
    const kept = data.subarray(0, SAID_BYTES - this.#saidBytes);
    if (kept.length > 0) this.#said.push(Buffer.from(kept)); // a slice would keep all that was read with it
    this.#saidBytes += kept.length;
  }

  #finish(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    const said = asOneLine(Buffer.concat(this.#held === undefined ? this.#said : [...this.#said, this.#held]));
    if (this.#demultiplexer.isWithinFrame) {
      this.destroy(engineUnavailable('it closed the connection of a tunnel'));
    } else if (!this.#hasBegun) void this.#finishUnheard(said);
    else if (said === '') this.push(null);
    // A runtime tells of the end of its container so. Whether it is that, another tunnel finds out.
    else this.destroy(new SandyardError('engine_unavailable', `A tunnel to the sandbox ended: ${said}`));
  }

  async #finishUnheard(said: string): Promise<void> {
    const error = await this.#explain(said).catch((failure: unknown) =>
      translateEngineError(failure, { doing: 'tell why a tunnel ended' }),
    );
    if (this.destroyed) return;
    if (error === undefined) this.push(null);
    else this.destroy(error);
  }
}

/**
 * Why the engine couldn't start a command comes as if that had printed it: one piece of text that ends with CR LF. No
 * frame of the warden's is without a zero byte.
 */
function mayBeTheEngines(data: Buffer): boolean {
  return data.length <= SAID_BYTES && data.at(-1) === 0x0a && data.at(-2) === 0x0d && !data.includes(0);
}

/** What comes from a sandbox or quotes it: without control characters, and bounded. */
function asOneLine(bytes: Buffer): string {
  return bytes
    .subarray(0, SAID_BYTES)
    .toString('utf8')
    .replaceAll(/[\p{C}\s]+/gu, ' ')
    .trim()
    .slice(0, SAID_CHARACTERS);
}
