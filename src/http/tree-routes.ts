import { z } from 'zod';

import type { FileEvent } from '../index.js';
import { EVENT_STREAM, NDJSON, sendEvents, streamTypeOf, type StreamEvent } from './event-stream.js';
import { DONE, FILE_BASE, FILE_ERRORS, FILES, pathQuery } from './file-routes.js';
import { operation, type Call, type Operation } from './operation.js';
import { defined, flag } from './wire-fields.js';
import {
  chmodBody,
  fileAnswer,
  fileListAnswer,
  makeDirBody,
  presentChange,
  presentFile,
  renameBody,
  watchEvent,
} from './wire-files.js';

const listQuery = pathQuery.extend({
  depth: z.coerce.number().int().min(1).max(64).describe('How many levels; 1 unless given.').optional(),
});
const statQuery = pathQuery.extend({
  follow: flag.describe('Whether to describe what a link leads to, not the link; false unless given.').optional(),
});
const watchQuery = pathQuery.extend({
  recursive: flag.describe('Whether to watch all that is below, too; false unless given.').optional(),
});

/** Directories, names and modes; the content of files is in `file-routes.ts`. */
export const treeOperations: readonly Operation[] = [
  operation({
    ...FILE_BASE,
    method: 'get',
    path: `${FILES}/list`,
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
    ...FILE_BASE,
    method: 'get',
    path: `${FILES}/stat`,
    operationId: 'statFile',
    summary: 'What a path is',
    query: statQuery,
    answers: { 200: { description: 'What it is.', content: { 'application/json': fileAnswer } } },
    errors: FILE_ERRORS,
    async handle({ manager, id, query, response, signal }) {
      const { files } = await manager.get(id, { signal });
      const info = await files.stat(query.path, { ...defined({ followLinks: query.follow }), signal });
      response.json(presentFile(info));
    },
  }),
  operation({
    ...FILE_BASE,
    method: 'post',
    path: `${FILES}/mkdir`,
    operationId: 'makeDirectory',
    summary: 'Make a directory',
    body: makeDirBody,
    answers: { 204: DONE },
    errors: [...FILE_ERRORS, 'file_exists', 'out_of_disk'],
    async handle({ manager, id, body: { path, mode, parents }, response, signal }) {
      const { files } = await manager.get(id, { signal });
      await files.makeDir(path, { ...defined({ mode, parents }), signal });
      response.status(204).end();
    },
  }),
  operation({
    ...FILE_BASE,
    method: 'post',
    path: `${FILES}/rename`,
    operationId: 'renameFile',
    summary: 'Rename or move a file or directory',
    body: renameBody,
    answers: { 204: DONE },
    errors: [...FILE_ERRORS, 'file_exists', 'is_a_directory'],
    async handle({ manager, id, body: { from, to, replace }, response, signal }) {
      const { files } = await manager.get(id, { signal });
      await files.rename(from, to, { ...defined({ replace }), signal });
      response.status(204).end();
    },
  }),
  operation({
    ...FILE_BASE,
    method: 'post',
    path: `${FILES}/chmod`,
    operationId: 'setFileMode',
    summary: 'Set the permission bits of a file or directory',
    body: chmodBody,
    answers: { 204: DONE },
    errors: FILE_ERRORS,
    async handle({ manager, id, body, response, signal }) {
      const { files } = await manager.get(id, { signal });
      await files.chmod(body.path, body.mode, { signal });
      response.status(204).end();
    },
  }),
  operation({
    ...FILE_BASE,
    method: 'get',
    path: `${FILES}/watch`,
    operationId: 'watchFiles',
    summary: 'Watch a file or directory',
    description:
      'Server-sent events, or NDJSON with "Accept: application/x-ndjson". The first event is "ready": what changes from ' +
      'then on is told. Changes are not kept for a client that was away: look at the files again after each "ready".',
    query: watchQuery,
    answers: { 200: { description: 'Changes.', content: { [EVENT_STREAM]: watchEvent, [NDJSON]: watchEvent } } },
    errors: FILE_ERRORS,
    handle: watch,
  }),
];

async function watch(call: Call<z.output<typeof watchQuery>, unknown>): Promise<void> {
  const { manager, id, query, request, response, running, signal } = call;
  const { files } = await manager.get(id, { signal });
  const changes = await files.watch(query.path, { ...defined({ recursive: query.recursive }), signal });
  running.streams = true;
  const type = streamTypeOf(request) ?? EVENT_STREAM;
  await sendEvents(eventsOf(changes), { request, response, type, signal });
}

async function* eventsOf(changes: AsyncIterable<FileEvent>): AsyncGenerator<StreamEvent> {
  let seq = 1;
  yield { type: 'ready', seq };
  for await (const change of changes) yield { ...presentChange(change), seq: (seq += 1) };
}
