import { Readable } from 'node:stream';

import type { RemoteProcess } from '../channel/remote-process.js';

/** What a command reads: a text, bytes, or a stream of either. */
export type Stdin = string | Uint8Array | AsyncIterable<Uint8Array | string>;

export function isStdin(stdin: unknown): stdin is Stdin {
  if (typeof stdin === 'string' || stdin instanceof Uint8Array) return true;
  return typeof stdin === 'object' && stdin !== null && Symbol.asyncIterator in stdin;
}

/** A stream may fail before it is read: the failure is kept for the reader, and must not end the program. */
export function keepFailure(stdin: unknown): void {
  if (stdin instanceof Readable) stdin.on('error', () => {});
}

/** Lets go of a stream that nobody will read. */
export function abandon(stdin: unknown): void {
  if (stdin instanceof Readable) stdin.destroy();
}

/**
 * Passes the input on, no faster than the process reads it. `failed` is called when the input itself fails, which the
 * process must not take for its end. A process may end, or close its input, before it has read everything: then the rest
 * isn't asked for. Returns what stops it, and lets go of the input.
 */
export function feed(remote: RemoteProcess, stdin: Stdin, failed: (error: unknown) => void): () => void {
  if (typeof stdin === 'string' || stdin instanceof Uint8Array) {
    const bytes = toBytes(stdin);
    const written = bytes.length === 0 ? Promise.resolve() : remote.write(bytes);
    written.then(() => remote.endInput()).catch(ignore);
    return ignore;
  }
  const source = Readable.from(stdin);
  let stopped = false;
  const stop = () => {
    stopped = true;
    source.destroy();
    abandon(stdin);
  };
  const run = async () => {
    for await (const chunk of source) {
      const bytes = toBytes(chunk as Uint8Array | string);
      if (bytes.length > 0 && !(await accepts(remote, bytes))) return stop();
    }
    await remote.endInput().catch(ignore);
  };
  source.on('error', ignore); // thrown by the loop
  run().catch((error: unknown) => {
    if (!stopped) failed(error);
    stop();
  });
  return stop;
}

async function accepts(remote: RemoteProcess, bytes: Uint8Array): Promise<boolean> {
  try {
    await remote.write(bytes);
    return true;
  } catch {
    return false; // why, its output and its end tell
  }
}

function toBytes(data: Uint8Array | string): Uint8Array {
  return data instanceof Uint8Array ? data : Buffer.from(data);
}

function ignore(): void {}
