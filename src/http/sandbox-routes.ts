import { sandboxAnswer, sandboxListAnswer, statsAnswer } from '../wire/answers.js';
import { presentSandbox, presentStats } from '../wire/presenters.js';
import { operation, type Operation } from './operation.js';
import { defined } from './request-fields.js';
import { createBody, listQuery, renewBody, stopBody, toCreateOptions, toListOptions } from './sandbox-requests.js';

const ONE = { description: 'The sandbox.', content: { 'application/json': sandboxAnswer } };

export const sandboxOperations: readonly Operation[] = [
  operation({
    method: 'post',
    path: '/api/sandboxes',
    operationId: 'createSandbox',
    tag: 'Sandboxes',
    summary: 'Create a sandbox and start it',
    description: 'Answers when commands can be run in it. A client that hangs up before that leaves nothing behind.',
    body: createBody,
    answers: { 201: { ...ONE, headers: { Location: 'The path of the sandbox.' } } },
    errors: ['limit_exceeded', 'image_not_found', 'out_of_disk'],
    async handle({ manager, body, response, signal }) {
      const sandbox = await manager.create(toCreateOptions(body), { signal });
      const info = await sandbox.inspect({ signal }).catch(async (error: unknown) => {
        // The client never learns its id, so nobody else would remove it before its lease ends.
        await sandbox.destroy();
        throw error;
      });
      response.status(201).location(`/api/sandboxes/${info.id}`).json(presentSandbox(info));
    },
  }),
  operation({
    method: 'get',
    path: '/api/sandboxes',
    operationId: 'listSandboxes',
    tag: 'Sandboxes',
    summary: 'List sandboxes',
    query: listQuery,
    answers: { 200: { description: 'A page of them.', content: { 'application/json': sandboxListAnswer } } },
    errors: ['validation_failed'],
    async handle({ manager, query, response, signal }) {
      const { sandboxes, cursor } = await manager.list(toListOptions(query), { signal });
      response.json({ sandboxes: sandboxes.map(presentSandbox), cursor });
    },
  }),
  operation({
    method: 'get',
    path: '/api/sandboxes/{id}',
    operationId: 'inspectSandbox',
    tag: 'Sandboxes',
    summary: 'Inspect a sandbox',
    answers: { 200: ONE },
    errors: [],
    async handle({ manager, id, response, signal }) {
      response.json(presentSandbox(await manager.inspect(id, { signal })));
    },
  }),
  operation({
    method: 'delete',
    path: '/api/sandboxes/{id}',
    operationId: 'destroySandbox',
    tag: 'Sandboxes',
    summary: 'Destroy a sandbox with all that is in it',
    answers: { 204: { description: 'It is gone.' } },
    errors: [],
    async handle({ manager, id, response, signal }) {
      await manager.destroy(id, { signal });
      response.status(204).end();
    },
  }),
  operation({
    method: 'post',
    path: '/api/sandboxes/{id}/start',
    operationId: 'startSandbox',
    tag: 'Sandboxes',
    summary: 'Start a stopped sandbox',
    description: 'Starting one that runs succeeds.',
    answers: { 200: ONE },
    errors: ['wrong_state'],
    async handle({ manager, id, response, signal }) {
      response.json(presentSandbox(await manager.start(id, { signal })));
    },
  }),
  operation({
    method: 'post',
    path: '/api/sandboxes/{id}/stop',
    operationId: 'stopSandbox',
    tag: 'Sandboxes',
    summary: 'Stop a sandbox; its files stay',
    description: 'Stopping one that does not run succeeds.',
    body: stopBody,
    answers: { 200: ONE },
    errors: ['wrong_state'],
    async handle({ manager, id, body, response, signal }) {
      response.json(presentSandbox(await manager.stop(id, { ...defined({ graceMs: body.grace }), signal })));
    },
  }),
  operation({
    method: 'post',
    path: '/api/sandboxes/{id}/renew',
    operationId: 'renewSandbox',
    tag: 'Sandboxes',
    summary: 'Renew the lease of a sandbox',
    body: renewBody,
    answers: { 200: ONE },
    errors: ['limit_exceeded'],
    async handle({ manager, id, body, response, signal }) {
      response.json(presentSandbox(await manager.renew(id, { ...defined({ ttlMs: body.timeout }), signal })));
    },
  }),
  operation({
    method: 'get',
    path: '/api/sandboxes/{id}/stats',
    operationId: 'sandboxStats',
    tag: 'Sandboxes',
    summary: 'What a sandbox uses',
    answers: { 200: { description: 'Usage.', content: { 'application/json': statsAnswer } } },
    errors: ['wrong_state'],
    async handle({ manager, id, response, signal }) {
      response.json(presentStats(await manager.stats(id, { signal })));
    },
  }),
];
