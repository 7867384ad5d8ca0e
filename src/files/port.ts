import { Duplex } from 'node:stream';
import { callbackify } from 'node:util';

import { Builtin } from './builtin.js';
import { SandyardError } from '../errors.js';
import { notRecord } from './file-entries.js';
import { ERRNO } from '../process/remote-errors.js';
import type { ProcessTarget } from '../process/remote-run.js';
import { fields, parseInput } from '../schemas.js';

/**
 * A connection to a TCP port on the sandbox's loopback, whatever network the sandbox has. Ending it ends what the other
 * side reads; it may still answer. Throws `port_not_open`.
 */
export async function connectPort(
  target: ProcessTarget,
  port: number,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<Duplex> {
  const known = parseInput(fields.port, port, 'port');
  const builtin = new Builtin(target, {
    argv: ['dial', String(known)],
    path: `port ${known}`,
    piped: true,
    signal,
    timeoutMs: null,
    explain: ({ errno }) => (errno === ERRNO.ECONNREFUSED ? notOpen(known) : undefined),
  });
  const chunks = builtin.stdout();
  const { value } = await chunks.next();
  // The first byte says that it is connected; what follows it is the server's.
  if (value?.[0] !== 0) {
    await builtin.run.stop();
    throw notRecord();
  }
  return new Connection(builtin, { chunks, first: value.subarray(1) });
}

class Connection extends Duplex {
  readonly #builtin: Builtin;
  readonly #chunks: AsyncGenerator<Uint8Array, void>;

  constructor(builtin: Builtin, { chunks, first }: { chunks: AsyncGenerator<Uint8Array, void>; first: Uint8Array }) {
    super({ allowHalfOpen: true });
    this.#builtin = builtin;
    this.#chunks = chunks;
    if (first.length > 0) this.push(first);
  }

  override _read(): void {
    this.#chunks.next().then(
      ({ done, value }) => this.push(done === true ? null : value),
      (error: unknown) => this.destroy(error as Error),
    );
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    const { remote } = this.#builtin.run;
    const passOn = async () => remote.write(chunk);
    callbackify(passOn)(done);
  }

  override _final(done: (error?: Error | null) => void): void {
    // The other side may have closed before; what it has sent is still to be read.
    const ended = () => done();
    this.#builtin.run.remote.endInput().then(ended, ended);
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    void this.#builtin.run.stop();
    callback(error);
  }
}

function notOpen(port: number): SandyardError {
  return new SandyardError('port_not_open', `Nothing in the sandbox listens on port ${port}.`, {
    hint: 'Start a server in it, on 127.0.0.1 or on all addresses, and try again when it has begun to listen.',
  });
}
