import { posix } from 'node:path';
import { z } from 'zod';

import { isSandyardError, SandyardError } from '../errors.js';
import type { FileInfo, SandboxFiles } from '../index.js';
import { fields } from '../schemas.js';
import { readUpload } from './body.js';
import {
  etagOf,
  isConditional,
  isRangeCurrent,
  isUnchanged,
  rangeOf,
  requireMatch,
  writeConditions,
  type ByteRange,
} from './conditions.js';
import { sendBytes, setDownload } from './download.js';
import { BYTES, DONE, operation, type Call, type Operation } from './operation.js';
import { defined, octalMode, queryFlag } from './request-fields.js';

export const FILES = '/api/sandboxes/{id}/files';
const ETAG = { ETag: 'Stands for this version of the file; for If-Match, If-None-Match and If-Range.' };

export const pathQuery = z.strictObject({ path: fields.path });
const link = z.string().max(8192).describe('Admission in place of the Authorization header.').optional();
const readQuery = pathQuery.extend({ link });
const appendQuery = pathQuery.extend({ mode: octalMode.optional() });
const writeQuery = appendQuery.extend({ link });
const removeQuery = pathQuery.extend({
  recursive: queryFlag('Whether a directory goes with all that is in it.'),
});

export const FILE_BASE = { tag: 'Files', description: "Acts with the sandbox user's rights." } as const;
export const FILE_ERRORS = ['wrong_state', 'file_not_found', 'not_a_directory', 'permission_denied'] as const;
export const WRITE_ERRORS = [...FILE_ERRORS, 'is_a_directory', 'payload_too_large', 'out_of_disk'] as const;

/** The content of files; the tree that they are in is in `tree-routes.ts`. */
export const fileOperations: readonly Operation[] = [
  operation({
    ...FILE_BASE,
    method: 'get',
    path: FILES,
    operationId: 'readFile',
    summary: 'Read a file',
    description:
      "All of it, or the part that a Range of one range names. Acts with the sandbox user's rights, and follows links.",
    query: readQuery,
    answers: {
      200: { description: 'Its bytes.', content: { [BYTES]: 'binary' }, headers: ETAG },
      206: {
        description: 'The part that was asked for; see Content-Range.',
        content: { [BYTES]: 'binary' },
        headers: ETAG,
      },
      304: { description: 'It is as If-None-Match or If-Modified-Since says.', headers: ETAG },
    },
    errors: [...FILE_ERRORS, 'is_a_directory', 'not_a_file', 'precondition_failed', 'range_not_satisfiable'],
    handle: readFile,
  }),
  operation({
    ...FILE_BASE,
    method: 'put',
    path: FILES,
    operationId: 'writeFile',
    summary: 'Write a file',
    description:
      "All or nothing: a broken upload changes nothing. Makes missing parents. Acts with the sandbox user's rights. " +
      'With If-Match only over that version, with "If-None-Match: *" only where there is none.',
    query: writeQuery,
    upload: [BYTES],
    answers: { 204: { ...DONE, headers: ETAG } },
    errors: [...WRITE_ERRORS, 'precondition_failed', 'invalid_request'],
    handle: (call) =>
      upload(call, (files, chunks, options) =>
        files.write(call.query.path, chunks, { ...options, ...writeConditions(call.request.headers) }),
      ),
  }),
  operation({
    ...FILE_BASE,
    method: 'post',
    path: `${FILES}/append`,
    operationId: 'appendToFile',
    summary: 'Append to a file',
    description: 'Makes the file where there is none; "mode" is for that. Acts with the sandbox user\'s rights.',
    query: appendQuery,
    upload: [BYTES],
    answers: { 204: { ...DONE, headers: ETAG } },
    errors: WRITE_ERRORS,
    handle: (call) => upload(call, (files, chunks, options) => files.append(call.query.path, chunks, options)),
  }),
  operation({
    ...FILE_BASE,
    method: 'delete',
    path: FILES,
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
];

type ReadCall = Call<z.output<typeof pathQuery>, unknown>;
type WriteCall = Call<z.output<typeof appendQuery>, unknown>;

async function readFile(call: ReadCall): Promise<void> {
  const { manager, id, query, request, response, signal } = call;
  const { files } = await manager.get(id, { signal });
  const isHead = request.method === 'HEAD';
  if (isHead || isConditional(request.headers)) {
    // Nothing of the content, yet all that could keep it from being read.
    const { info, body } = await files.open(query.path, { offset: 0, length: 0, signal });
    body.destroy();
    requireMatch(request.headers, info);
    describeFile(call, info);
    if (isUnchanged(request.headers, info)) return void response.status(304).end();
    if (isHead) {
      setDownload(response, { type: BYTES, name: posix.basename(query.path), size: info.sizeBytes });
      return void response.end();
    }
  }
  const range = rangeOf(request.headers);
  if (range !== undefined && (await sendRange(call, files, range))) return;
  const { info, body } = await files.open(query.path, { signal });
  try {
    requireMatch(request.headers, info);
    describeFile(call, info);
    await sendBytes(body, { response, signal, type: BYTES, name: posix.basename(query.path), size: info.sizeBytes });
  } finally {
    body.destroy();
  }
}

/** Whether it was sent: what the client has a part of may have become another file, of which it needs all. */
async function sendRange(call: ReadCall, files: SandboxFiles, range: ByteRange): Promise<boolean> {
  const { query, request, response, signal } = call;
  const { info, start, length, body } = await openRange(call, files, range);
  try {
    if (!isRangeCurrent(request.headers, info)) return false;
    requireMatch(request.headers, info);
    describeFile(call, info);
    response.set('Content-Range', `bytes ${start}-${start + length - 1}/${info.sizeBytes}`);
    const download = { type: BYTES, name: posix.basename(query.path), size: length, status: 206 };
    await sendBytes(body, { response, signal, ...download });
    return true;
  } finally {
    body.destroy();
  }
}

async function openRange({ query, response, signal }: ReadCall, files: SandboxFiles, range: ByteRange) {
  try {
    const opened = await files.open(query.path, { ...range, signal });
    if (opened.length > 0) return opened;
    opened.body.destroy();
    throw new SandyardError('range_not_satisfiable', `${query.path} has nothing in that range.`, {
      hint: 'Its size is in Content-Range.',
      details: { sizeBytes: opened.info.sizeBytes },
    });
  } catch (error) {
    if (isSandyardError(error, 'range_not_satisfiable') && error.details['sizeBytes'] !== undefined) {
      response.set('Content-Range', `bytes */${error.details['sizeBytes']}`);
    }
    throw error;
  }
}

function describeFile({ response }: ReadCall, info: FileInfo): void {
  response.set({ ETag: etagOf(info), 'Last-Modified': info.modifiedAt.toUTCString(), 'Accept-Ranges': 'bytes' });
}

type Write = (
  files: SandboxFiles,
  chunks: AsyncIterable<Uint8Array>,
  options: { mode?: number; signal: AbortSignal },
) => Promise<FileInfo>;

async function upload({ manager, config, id, query, request, response, signal }: WriteCall, write: Write) {
  const body = readUpload(request, { maxBytes: config.maxUploadBytes });
  const { files } = await manager.get(id, { signal });
  try {
    const info = await write(files, body.chunks, { ...defined({ mode: query.mode }), signal });
    response.status(204).set('ETag', etagOf(info)).end();
  } catch (error) {
    throw body.explain(error);
  }
}
