import { posix } from 'node:path';
import { Readable } from 'node:stream';
import type { z } from 'zod';

import { SandyardError } from '../errors.js';
import { readUpload } from './body.js';
import { sendBytes, setDownload } from './download.js';
import { FILE_BASE, FILE_ERRORS, pathQuery, WRITE_ERRORS } from './file-routes.js';
import { BYTES, DONE, operation, type Call, type Operation } from './operation.js';

const ARCHIVE = '/api/sandboxes/{id}/archive';
const TAR = 'application/x-tar';
/** What clients call a tar, or send when they don't know; a compressed one isn't among them. */
const TAR_TYPES: ReadonlySet<string> = new Set([TAR, 'application/tar', BYTES]);

export const archiveOperations: readonly Operation[] = [
  operation({
    ...FILE_BASE,
    method: 'get',
    path: ARCHIVE,
    operationId: 'readArchive',
    summary: 'Read a directory, or one file, as a tar',
    query: pathQuery,
    answers: { 200: { description: 'A tar of it.', content: { [TAR]: 'binary' } } },
    errors: FILE_ERRORS,
    handle: readArchive,
  }),
  operation({
    ...FILE_BASE,
    method: 'put',
    path: ARCHIVE,
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
  const upload = readUpload(request, { maxBytes: config.maxUploadBytes });
  const { files } = await manager.get(id, { signal });
  try {
    await files.writeArchive(query.path, Readable.from(upload.chunks, { objectMode: false }), { signal });
  } catch (error) {
    throw upload.explain(error);
  }
  response.status(204).end();
}
