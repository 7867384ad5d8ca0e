import type { z } from 'zod';

import { anySignal } from '../any-signal.js';
import { confinedTo } from '../access/caller.js';
import { endAnswer, sandboxAnswer, sandboxListAnswer, statsAnswer, statsHistoryAnswer } from '../wire/answers.js';
import { presentEnd, presentSandbox, presentStats, presentStatsHistory } from '../wire/presenters.js';
import { abortable } from './calls.js';
import { markReplayed } from './idempotency.js';
import { operation, type Call, type Operation } from './operation.js';
import { defined, waitQuery } from './request-fields.js';
import { createBody, listQuery, renewBody, stopBody, toCreateOptions, toListOptions } from './sandbox-requests.js';

const ONE = { description: 'The sandbox.', content: { 'application/json': sandboxAnswer } };

export const sandboxOperations: readonly Operation[] = [
  operation({
    method: 'post',
    path: '/api/sandboxes',
    operationId: 'createSandbox',
    tag: 'Sandboxes',
    summary: 'Create a sandbox and start it',
    description:
      'Answers when commands can be run in it. A client that hangs up before that leaves nothing behind, unless it has sent ' +
      'an Idempotency-Key: then it is made all the same, and a repeated request is answered with it, as it is then, for as ' +
      'long as it is there; also by another service of the same owner.',
    durable: true,
    body: createBody,
    answers: { 201: { ...ONE, headers: { Location: 'The path of the sandbox.' } } },
    errors: ['forbidden', 'limit_exceeded', 'image_not_found', 'out_of_disk', 'over_capacity', 'host_exhausted'],
    handle: create,
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
    async handle({ manager, caller, query, response, signal }) {
      const options = { signal, tenant: confinedTo(caller) };
      const { sandboxes, cursor } = await manager.list(toListOptions(query), options);
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
    path: '/api/sandboxes/{id}/restart',
    operationId: 'restartSandbox',
    tag: 'Sandboxes',
    summary: 'Stop a sandbox and start it',
    body: stopBody,
    answers: { 200: ONE },
    errors: ['wrong_state'],
    async handle({ manager, id, body, response, signal }) {
      response.json(presentSandbox(await manager.restart(id, { ...defined({ graceMs: body.grace }), signal })));
    },
  }),
  operation({
    method: 'post',
    path: '/api/sandboxes/{id}/pause',
    operationId: 'pauseSandbox',
    tag: 'Sandboxes',
    summary: 'Pause a sandbox; what runs in it is halted, and stays in memory',
    description: 'Its lease goes on.',
    answers: { 200: ONE },
    errors: ['wrong_state'],
    async handle({ manager, id, response, signal }) {
      response.json(presentSandbox(await manager.pause(id, { signal })));
    },
  }),
  operation({
    method: 'post',
    path: '/api/sandboxes/{id}/unpause',
    operationId: 'unpauseSandbox',
    tag: 'Sandboxes',
    summary: 'Have a paused sandbox go on',
    description: 'With a new lease where the end of the old one had paused it.',
    answers: { 200: ONE },
    errors: ['wrong_state'],
    async handle({ manager, id, response, signal }) {
      response.json(presentSandbox(await manager.unpause(id, { signal })));
    },
  }),
  operation({
    method: 'get',
    path: '/api/sandboxes/{id}/wait',
    operationId: 'waitForSandbox',
    tag: 'Sandboxes',
    summary: 'Wait until a sandbox has ended',
    description:
      'Answers at once when it has. One that is paused has not. One that is removed while it runs may be seen to have exited ' +
      'with 137 first.',
    query: waitQuery,
    answers: {
      200: { description: 'How it ended.', content: { 'application/json': endAnswer } },
      204: { description: 'It has not ended within that time.' },
    },
    errors: [],
    handle: wait,
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
  operation({
    method: 'get',
    path: '/api/sandboxes/{id}/stats/history',
    operationId: 'sandboxStatsHistory',
    tag: 'Sandboxes',
    summary: 'What a sandbox used in the last hour',
    answers: { 200: { description: 'Usage.', content: { 'application/json': statsHistoryAnswer } } },
    errors: ['wrong_state'],
    async handle({ manager, id, response, signal }) {
      const sandbox = await manager.get(id, { signal });
      response.json(presentStatsHistory(await sandbox.statsHistory({ signal })));
    },
  }),
];

async function create(call: Call<unknown, z.output<typeof createBody>>): Promise<void> {
  const { manager, config, caller, body, repeat, response, signal } = call;
  const began = Date.now();
  // With a key the client can ask for it again when the connection is lost: it is made all the same then.
  const tenant = caller.owner === config.owner ? undefined : caller.owner;
  const options = repeat === undefined ? { signal, tenant } : { madeFor: repeat, tenant };
  const sandbox = await abortable(manager.create(toCreateOptions(body), options), signal);
  const info = await sandbox.inspect({ signal }).catch(async (error: unknown) => {
    // The client never learns its id, so nobody else would remove it before its lease ends.
    if (repeat === undefined) await sandbox.destroy();
    throw error;
  });
  if (repeat !== undefined && info.createdAt.getTime() < began) markReplayed(response);
  response.status(201).location(`/api/sandboxes/${info.id}`).json(presentSandbox(info));
}

async function wait({ manager, id, query, response, running, signal }: Call<z.output<typeof waitQuery>, unknown>) {
  const timeUp = query.timeout === undefined ? undefined : AbortSignal.timeout(query.timeout);
  running.streams = true;
  try {
    const ended = await manager.wait(id, { signal: timeUp === undefined ? signal : anySignal([signal, timeUp]) });
    response.json(presentEnd(ended));
  } catch (error) {
    if (timeUp?.aborted !== true || signal.aborted) throw error;
    response.status(204).end();
  }
}
