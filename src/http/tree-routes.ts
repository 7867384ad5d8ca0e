import type { z } from 'zod';

import { fileAnswer, fileListAnswer } from '../wire/answers.js';
import { presentFile } from '../wire/presenters.js';
import { EVENT_STREAM, NDJSON, sendEvents, streamTypeOf } from './event-stream.js';
import { eventsOf, watchEvent } from './file-events.js';
import { chmodBody, makeDirBody, renameBody } from './file-requests.js';
import { FILE_BASE, FILE_ERRORS, FILES, pathQuery } from './file-routes.js';
import { DONE, operation, type Call, type Operation } from './operation.js';
import { defined, queryFlag, queryInteger } from './request-fields.js';

const listQuery = pathQuery.extend({
  depth: queryInteger({ min: 1, max: 64 }, 'How many levels; 1 unless given.'),
});
const statQuery = pathQuery.extend({
  follow: queryFlag('Whether to describe what a link leads to, not the link; false unless given.'),
});
const watchQuery = pathQuery.extend({
  recursive: queryFlag('Whether to watch all that is below, too; false unless given.'),
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
