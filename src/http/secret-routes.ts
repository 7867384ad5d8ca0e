import { z } from 'zod';

import { secretBody } from '../secret-schemas.js';
import { secretsAnswer } from '../wire/secret-answers.js';
import { presentSecrets } from '../wire/presenters.js';
import { DONE, operation, type Operation } from './operation.js';

const nameQuery = z.strictObject({ name: z.string().min(1).max(128).describe('The name of the secret.') });

const BASE = { tag: 'Sandboxes', path: '/api/sandboxes/{id}/secrets' } as const;

/** What a sandbox has the use of, and never has. */
export const secretOperations: readonly Operation[] = [
  operation({
    ...BASE,
    method: 'get',
    operationId: 'listSecrets',
    summary: 'Where the secrets of a sandbox go',
    description: 'What they are is never told.',
    answers: { 200: { description: 'Those that it has now.', content: { 'application/json': secretsAnswer } } },
    errors: [],
    async handle({ manager, id, response, signal }) {
      const { secrets } = await manager.get(id, { signal });
      response.json({ secrets: presentSecrets(await secrets.list({ signal })) });
    },
  }),
  operation({
    ...BASE,
    method: 'put',
    operationId: 'setSecret',
    summary: 'Give a secret another value',
    description: 'In force from the next request on. What stands for it in the sandbox stays.',
    body: secretBody,
    answers: { 204: DONE },
    errors: [],
    async handle({ manager, id, body, response, signal }) {
      const { secrets } = await manager.get(id, { signal });
      await secrets.set(body.name, { value: body.value, signal });
      response.status(204).end();
    },
  }),
  operation({
    ...BASE,
    method: 'delete',
    operationId: 'removeSecret',
    summary: 'Take a secret away',
    description: 'From the next request on its hosts get what stands for it. Succeeds where there is none.',
    query: nameQuery,
    answers: { 204: DONE },
    errors: [],
    async handle({ manager, id, query, response, signal }) {
      const { secrets } = await manager.get(id, { signal });
      await secrets.remove(query.name, { signal });
      response.status(204).end();
    },
  }),
];
