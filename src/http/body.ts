import express, { type Request, type RequestHandler, type Response } from 'express';

import { SandyardError } from '../errors.js';
import { formatSize } from '../schemas.js';

/*
 * Request bodies: JSON, small and parsed at once, and uploads, large and streamed. Both are bounded in size, and a
 * client that sends nothing for too long is cut off: the server itself has no limit on how long a request may take.
 */

const MAX_JSON_BYTES = 1024 * 1024;
const JSON_DEADLINE_MS = 30_000;
const UPLOAD_IDLE_MS = 60_000;
const DISCARD_MS = 10_000;
const JSON_TYPES = ['json', '+json'];

const parseJson = express.json({ limit: MAX_JSON_BYTES, type: JSON_TYPES });

/** The JSON body; an empty object when there is none. */
export async function readJson(request: Request, response: Response): Promise<unknown> {
  if (!hasBody(request)) return {};
  if (request.is(JSON_TYPES) === false) {
    throw new SandyardError(
      'unsupported_media_type',
      `The body is ${request.get('content-type') ?? 'of no type'}, not JSON.`,
      { hint: 'Send it with the header "Content-Type: application/json".' },
    );
  }
  refuseLarger(declaredLength(request), MAX_JSON_BYTES);
  const deadline = setTimeout(() => request.destroy(), JSON_DEADLINE_MS);
  try {
    await new Promise<void>((resolve, reject) => {
      parseJson(request, response, (error?: unknown) => (error === undefined ? resolve() : reject(error)));
    });
  } finally {
    clearTimeout(deadline);
  }
  return request.body as unknown;
}

/** A streamed body, and whether it turned out to be larger than allowed: the reader may report that in its own way. */
export interface Upload {
  readonly chunks: AsyncIterable<Uint8Array>;
  /** The upload's own fault, if it had one, in place of what the reader made of it. */
  explain(error: unknown): unknown;
}

export interface UploadOptions {
  readonly maxBytes: number;
  /** How long the client may send nothing. Default: a minute. */
  readonly idleMs?: number;
}

export function readUpload(request: Request, { maxBytes, idleMs = UPLOAD_IDLE_MS }: UploadOptions): Upload {
  const encoding = request.get('content-encoding') ?? 'identity';
  if (encoding !== 'identity') {
    throw new SandyardError('unsupported_media_type', `The body is encoded with ${encoding}.`, {
      hint: 'Send it without Content-Encoding.',
    });
  }
  refuseLarger(declaredLength(request), maxBytes);
  let fault: unknown;
  async function* chunks(): AsyncGenerator<Uint8Array> {
    let bytes = 0;
    // The connection must outlive a refused body: the answer goes over it.
    const source = request.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
    const startIdle = () => setTimeout(() => request.destroy(), idleMs);
    let idle = startIdle();
    try {
      for await (const chunk of source) {
        bytes += chunk.byteLength;
        refuseLarger(bytes, maxBytes);
        // While the reader is slow, the client can't send.
        clearTimeout(idle);
        yield chunk;
        idle = startIdle();
      }
    } catch (error) {
      fault = error;
      throw error;
    } finally {
      clearTimeout(idle);
    }
  }
  return { chunks: chunks(), explain: (error) => fault ?? error };
}

/**
 * Takes what is left of a body after the answer, for a while: closing with unread bytes makes the kernel reset the
 * connection, and the client would lose the answer that says why.
 */
export const discardUnread: RequestHandler = (request, response, next) => {
  response.once('finish', () => {
    if (request.complete) return;
    request.resume();
    const timer = setTimeout(() => request.socket.destroy(), DISCARD_MS).unref();
    request.once('close', () => clearTimeout(timer));
  });
  next();
};

function hasBody(request: Request): boolean {
  return request.headers['transfer-encoding'] !== undefined || declaredLength(request) > 0;
}

function declaredLength(request: Request): number {
  return Number(request.headers['content-length'] ?? 0);
}

function refuseLarger(bytes: number, maxBytes: number): void {
  if (bytes <= maxBytes) return;
  throw new SandyardError('payload_too_large', `The body is larger than ${formatSize(maxBytes)}.`, {
    hint:
      maxBytes === MAX_JSON_BYTES
        ? 'Send files through PUT …/files or …/archive.'
        : 'Send it in parts, or raise SANDBOX_MAX_UPLOAD.',
  });
}
