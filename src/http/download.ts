import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Response } from 'express';

import { SandyardError } from '../errors.js';

/* Bodies that are sent while they are read. */

export interface Download {
  readonly type: string;
  readonly name: string;
  /** Known in advance, or not. */
  readonly size: number | undefined;
  /** Default: 200. */
  readonly status?: number;
}

export function setDownload(response: Response, { type, name, size, status = 200 }: Download): void {
  response.status(status).set({ 'Content-Type': type, 'Content-Disposition': contentDisposition(name) });
  if (size !== undefined) response.set('Content-Length', String(size));
}

/**
 * What fails before the first byte is still a proper answer; after it, the connection is broken, as a clean end would
 * pass for the whole.
 */
export async function sendBytes(
  source: Readable,
  { response, signal, ...download }: Download & { response: Response; signal: AbortSignal },
): Promise<void> {
  const chunks = exactly(source, download.size);
  const first = await chunks.next();
  setDownload(response, download);
  async function* all(): AsyncGenerator<Uint8Array> {
    try {
      if (first.done !== true) yield first.value;
      yield* chunks;
    } finally {
      await chunks.return(undefined);
    }
  }
  await pipeline(all, response, { signal });
}

/**
 * The first `size` bytes: a file that grows meanwhile must not run over the length that was announced, and one that
 * shrinks must not end as if it were whole.
 */
async function* exactly(source: Readable, size = Number.POSITIVE_INFINITY): AsyncGenerator<Uint8Array> {
  let left = size;
  for await (const chunk of source as AsyncIterable<Uint8Array>) {
    if (chunk.byteLength >= left) {
      yield chunk.subarray(0, left);
      return;
    }
    left -= chunk.byteLength;
    yield chunk;
  }
  if (left > 0 && Number.isFinite(left)) {
    throw new SandyardError('file_operation_failed', 'The file became shorter while it was read.', {
      hint: 'Read it again when nothing writes to it.',
    });
  }
}

/** RFC 6266, with the name of any file in the form of RFC 8187 and an ASCII one for clients that don't know it. */
export function contentDisposition(name: string): string {
  const ascii = name.replaceAll(/[^\x20-\x7e]|["\\%]/g, '_');
  const encoded = encodeURIComponent(name).replaceAll(
    /['()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `attachment; filename="${ascii}"; filename*=UTF-8''${encoded}`;
}
