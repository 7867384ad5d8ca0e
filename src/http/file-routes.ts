import { posix } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Response } from 'express';
import { z } from 'zod';

import { SandyardError } from '../errors.js';
import { fields } from '../schemas.js';
import { readUpload } from './body.js';
import { operation, type Call, type Operation } from './operation.js';
import { defined, fileAnswer, fileListAnswer, presentFile } from './wire.js';

const TAR = 'application/x-tar';
const BYTES = 'application/octet-stream';
/** What clients call a tar, or send when they don't know; a compressed one isn't among them. */
const TAR_TYPES: ReadonlySet<string> = new Set([TAR, 'application/tar', BYTES]);

const pathQuery = z.strictObject({ path: fields.path });
const writeQuery = pathQuery.extend({
  mode: z
    .string()
    .regex(/^0?[0-7]{3}$/, 'must be octal permission bits such as "644"')
    .transform((value) => Number.parseInt(value, 8))
    .describe('Permission bits in octal: "644".')
    .optional(),
});
const removeQuery = pathQuery.extend({
  recursive: z
    .enum(['true', 'false'])
    .transform((value) => value === 'true')
    .describe('Whether a directory goes with all that is in it.')
    .optional(),
});
const listQuery = pathQuery.extend({
  depth: z.coerce.number().int().min(1).max(64).describe('How many levels; 1 unless given.').optional(),
});

const BASE = { tag: 'Files', description: "Acts with the sandbox user's rights." } as const;
const FILE_ERRORS = ['wrong_state', 'file_not_found', 'not_a_directory', 'permission_denied'] as const;
const WRITE_ERRORS = [...FILE_ERRORS, 'is_a_directory', 'payload_too_large', 'out_of_disk'] as const;
const DONE = { description: 'Done.' };

export const fileOperations: readonly Operation[] = [
  operation({
    ...BASE,
    method: 'get',
    path: '/api/sandboxes/{id}/files',
    operationId: 'readFile',
    summary: 'Read a file',
    query: pathQuery,
    answers: { 200: { description: 'Its bytes.', content: { [BYTES]: 'binary' } } },
    errors: [...FILE_ERRORS, 'is_a_directory', 'not_a_file'],
    handle: readFile,
  }),
  operation({
    ...BASE,
    method: 'put',
    path: '/api/sandboxes/{id}/files',
    operationId: 'writeFile',
    summary: 'Write a file',
    description:
      "All or nothing: a broken upload changes nothing. Makes missing parents. Acts with the sandbox user's rights.",
    query: writeQuery,
    upload: [BYTES],
    answers: { 204: DONE },
    errors: WRITE_ERRORS,
    async handle({ manager, config, id, query, request, response, signal }) {
      const upload = readUpload(request, config.maxUploadBytes);
      const { files } = await manager.get(id, { signal });
      try {
        await files.write(query.path, upload.chunks, { ...defined({ mode: query.mode }), signal });
      } catch (error) {
        throw upload.explain(error);
      }
      response.status(204).end();
    },
  }),
  operation({
    ...BASE,
    method: 'delete',
    path: '/api/sandboxes/{id}/files',
    operationId: 'removeFile',
    summary: 'Remove a file or directory',
    query: removeQuery,
    answers: { 204: DONE },
    errors: [...FILE_ERRORS, 'is_a_directory'],
    async handle({ manager, id, query, response, signal }) {
      const { files } = await manager.get(id, { signal });
      await files.remove(query.path, { ...defined({ recursive: query.recursive }), signal });
      response.status(204).end();
    },
  }),
  operation({
    ...BASE,
    method: 'get',
    path: '/api/sandboxes/{id}/files/list',
    operationId: 'listFiles',
    summary: 'List a directory',
    query: listQuery,
    answers: { 200: { description: 'What is in it.', content: { 'application/json': fileListAnswer } } },
    errors: FILE_ERRORS,
    async handle({ manager, id, query, response, signal }) {
      const { files } = await manager.get(id, { signal });
      const entries = await files.list(query.path, { ...defined({ depth: query.depth }), signal });
      response.json({ entries: entries.map(presentFile) });
    },
  }),
  operation({
    ...BASE,
    method: 'get',
    path: '/api/sandboxes/{id}/files/stat',
    operationId: 'statFile',
    summary: 'What a path is',
    query: pathQuery,
    answers: { 200: { description: 'What it is.', content: { 'application/json': fileAnswer } } },
    errors: FILE_ERRORS,
    async handle({ manager, id, query, response, signal }) {
      const { files } = await manager.get(id, { signal });
      response.json(presentFile(await files.stat(query.path, { signal })));
    },
  }),
  operation({
    ...BASE,
    method: 'get',
    path: '/api/sandboxes/{id}/archive',
    operationId: 'readArchive',
    summary: 'Read a directory, or one file, as a tar',
    query: pathQuery,
    answers: { 200: { description: 'A tar of it.', content: { [TAR]: 'binary' } } },
    errors: FILE_ERRORS,
    handle: readArchive,
  }),
  operation({
    ...BASE,
    method: 'put',
    path: '/api/sandboxes/{id}/archive',
    operationId: 'writeArchive',
    summary: 'Unpack a tar into a directory',
    query: pathQuery,
    upload: [TAR],
    answers: { 204: DONE },
    errors: [...WRITE_ERRORS, 'unsafe_archive', 'unsupported_media_type'],
    handle: writeArchive,
  }),
];

type PathCall = Call<z.output<typeof pathQuery>, unknown>;

async function readFile({ manager, id, query, request, response, signal }: PathCall): Promise<void> {
  const { files } = await manager.get(id, { signal });
  const info = await files.stat(query.path, { signal });
  if (info.type === 'directory') {
    throw new SandyardError('is_a_directory', `${query.path} is a directory.`, {
      hint: 'Read it with GET …/archive, or list it with GET …/files/list.',
    });
  }
  // The size of a link says nothing about what it leads to.
  const size = info.type === 'file' ? info.sizeBytes : undefined;
  const headers = { type: BYTES, name: posix.basename(query.path), size };
  if (request.method === 'HEAD') {
    setDownload(response, headers);
    response.end();
    return;
  }
  await sendBytes(await files.readStream(query.path, { signal }), { response, signal, ...headers });
}

async function readArchive({ manager, id, query, request, response, signal }: PathCall): Promise<void> {
  const { files } = await manager.get(id, { signal });
  const headers = { type: TAR, name: `${posix.basename(query.path) || 'root'}.tar`, size: undefined };
  // What isn't there is only noticed when the tar has begun; this way it is a proper answer.
  await files.stat(query.path, { signal });
  if (request.method === 'HEAD') {
    setDownload(response, headers);
    response.end();
    return;
  }
  await sendBytes(await files.readArchive(query.path, { signal }), { response, signal, ...headers });
}

async function writeArchive({ manager, config, id, query, request, response, signal }: PathCall): Promise<void> {
  const type = request.get('content-type')?.split(';', 1)[0]?.trim().toLowerCase() ?? TAR;
  if (!TAR_TYPES.has(type)) {
    throw new SandyardError('unsupported_media_type', `The body is ${type}, not a tar.`, {
      hint: `Send an uncompressed tar with the header "Content-Type: ${TAR}".`,
    });
  }
  const upload = readUpload(request, config.maxUploadBytes);
  const { files } = await manager.get(id, { signal });
  try {
    await files.writeArchive(query.path, Readable.from(upload.chunks, { objectMode: false }), { signal });
  } catch (error) {
    throw upload.explain(error);
  }
  response.status(204).end();
}

interface Download {
  readonly type: string;
  readonly name: string;
  /** Known in advance, or not. */
  readonly size: number | undefined;
}

function setDownload(response: Response, { type, name, size }: Download): void {
  response.status(200).set({ 'Content-Type': type, 'Content-Disposition': contentDisposition(name) });
  if (size !== undefined) response.set('Content-Length', String(size));
}

/**
 * What fails before the first byte is still a proper answer; after it, the connection is broken, as a clean end would
 * pass for the whole.
 */
async function sendBytes(
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
