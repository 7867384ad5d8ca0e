import type { IncomingMessage } from 'node:http';
import { posix } from 'node:path';
import type { Readable } from 'node:stream';
import { extract } from 'tar-stream';
import { z } from 'zod';

import { SandyardError } from '../errors.js';
import { QUICK_MS, type EngineConnection } from './connection.js';
import { saysThat } from './engine-errors.js';
import type { CallOptions } from './engine.js';

/** What an archive may have besides its file: headers, and zeros at its end. */
const FRAMING_BYTES = 64 * 1024;

interface Wanted {
  readonly container: string;
  readonly path: string;
  readonly maxBytes: number;
}

/**
 * Reads a file by the engine, from the container's file system as it is on the host: so it needs nothing that runs in the
 * container. The engine gives an archive; of that, no more is read than the file may have.
 */
export async function readContainerFile(
  connection: EngineConnection,
  container: string,
  { path, maxBytes, ...options }: CallOptions & { path: string; maxBytes: number },
): Promise<Buffer | undefined> {
  const about = { doing: `read ${path} of`, container };
  return connection.call(
    { operation: 'read_container_file', ...about, deadlineMs: QUICK_MS, idempotent: true, ...options },
    async (docker, abortSignal) => {
      const stream = await docker
        .getContainer(container)
        .getArchive({ path, abortSignal })
        .catch((error: unknown) => {
          if (!saysThat.hasNoSuchFile(error)) throw error;
        });
      if (stream === undefined) return undefined;
      const archive = await collect(stream as Readable, { maxBytes: maxBytes + FRAMING_BYTES, signal: abortSignal });
      return fileOf(archive, { container, path, maxBytes });
    },
  );
}

/**
 * Where a symbolic link of the container's leads, as the engine finds it: followed to its end, within the container. It needs
 * nothing that runs there, nor a process of the engine's, as reading a file does. One that leads further than the headers
 * of an answer have room for counts as none.
 */
export async function readContainerLink(
  connection: EngineConnection,
  container: string,
  { path, ...options }: CallOptions & { path: string },
): Promise<string | undefined> {
  const about = { doing: `look at ${path} of`, container };
  return connection.call(
    { operation: 'read_container_link', ...about, deadlineMs: QUICK_MS, idempotent: true, ...options },
    async (docker, abortSignal) => {
      const response = await docker
        .getContainer(container)
        .infoArchive({ path, abortSignal })
        .catch((error: unknown) => {
          // A link that root has made inside may be longer than any of ours.
          if (!saysThat.hasNone(error) && !saysThat.saysTooMuch(error)) throw error;
        });
      if (response === undefined) return undefined;
      const { headers } = (response as IncomingMessage).resume();
      return linkTargetOf(headers['x-docker-container-path-stat']);
    },
  );
}

const statSchema = z.object({ linkTarget: z.string().min(1) });

function linkTargetOf(header: string | string[] | undefined): string | undefined {
  try {
    return statSchema.parse(JSON.parse(Buffer.from(String(header), 'base64').toString())).linkTarget;
  } catch {
    return undefined; // no link
  }
}

/** The beginning of a stream, or all of it. */
async function collect(
  stream: Readable,
  { maxBytes, signal }: { maxBytes: number; signal: AbortSignal },
): Promise<Buffer> {
  const hangUp = () => stream.destroy();
  signal.addEventListener('abort', hangUp, { once: true });
  stream.on('error', () => {}); // one that comes when nobody reads any more
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes > maxBytes) break;
    }
  } finally {
    signal.removeEventListener('abort', hangUp);
    stream.destroy();
  }
  return Buffer.concat(chunks);
}

/** The one file that the archive is of. */
async function fileOf(archive: Buffer, wanted: Wanted): Promise<Buffer> {
  const entries = extract();
  entries.end(archive);
  try {
    for await (const entry of entries) {
      const { name, type, size } = entry.header;
      if (type !== 'file') throw unfit(wanted, `it is no regular file but a ${type ?? 'nameless thing'}`);
      if (name !== posix.basename(wanted.path)) throw unfit(wanted, 'the engine sent another file');
      if (size > wanted.maxBytes) throw unfit(wanted, `it has ${size} bytes, and ${wanted.maxBytes} are the most`);
      const chunks: Buffer[] = [];
      for await (const chunk of entry as AsyncIterable<Buffer>) chunks.push(chunk);
      return Buffer.concat(chunks);
    }
  } catch (error) {
    if (error instanceof SandyardError) throw error;
    throw unfit(wanted, 'what the engine sent is no whole archive', error);
  }
  throw unfit(wanted, 'the engine sent an empty archive');
}

function unfit({ container, path }: Wanted, why: string, cause?: unknown): SandyardError {
  return new SandyardError('engine_error', `Could not read ${path} of the container ${container}: ${why}.`, { cause });
}
