import { z } from 'zod';

import { egressBody } from '../egress-schemas.js';
import { egressAnswer, egressDecisionAnswer, egressLogAnswer } from '../wire/answers.js';
import { presentEgress, presentEgressLog } from '../wire/presenters.js';
import { operation, type Operation } from './operation.js';
import { defined, queryInteger } from './request-fields.js';
import { toEgressOptions } from './sandbox-requests.js';

export const checkBody = z
  .strictObject({ url: z.string().min(1).max(2048).describe('Such as "https://pypi.org/simple/".') })
  .describe('What would be asked for.');

const logQuery = z.strictObject({
  after: queryInteger({ min: 0 }, 'The "last_seq" that was read before; from the first that is kept unless given.'),
});

const BASE = { tag: 'Sandboxes', errors: ['wrong_state'] } as const;
const EGRESS = '/api/sandboxes/{id}/egress';
const NOW = { description: 'What is in force.', content: { 'application/json': egressAnswer } };

/** What a sandbox may reach, and has. */
export const egressOperations: readonly Operation[] = [
  operation({
    ...BASE,
    method: 'get',
    path: EGRESS,
    operationId: 'getEgress',
    summary: 'What a sandbox may reach',
    answers: { 200: NOW },
    async handle({ manager, id, response, signal }) {
      const { egress } = await manager.get(id, { signal });
      response.json(presentEgress(await egress.get({ signal })));
    },
  }),
  operation({
    ...BASE,
    method: 'put',
    path: EGRESS,
    operationId: 'setEgress',
    summary: 'Change what a sandbox may reach',
    description:
      'In force from the next connection on; what is open and no longer allowed is cut within a second. What is left out stays as it is.',
    body: egressBody,
    answers: { 200: NOW },
    errors: ['wrong_state', 'limit_exceeded'],
    async handle({ manager, id, body, response, signal }) {
      const { egress } = await manager.get(id, { signal });
      response.json(presentEgress(await egress.set(toEgressOptions(body), { signal })));
    },
  }),
  operation({
    ...BASE,
    method: 'get',
    path: `${EGRESS}/log`,
    operationId: 'egressLog',
    summary: 'What a sandbox has asked for, and was allowed or denied',
    query: logQuery,
    answers: { 200: { description: 'The log.', content: { 'application/json': egressLogAnswer } } },
    async handle({ manager, id, query, response, signal }) {
      const { egress } = await manager.get(id, { signal });
      response.json(presentEgressLog(await egress.log({ ...defined({ after: query.after }), signal })));
    },
  }),
  operation({
    ...BASE,
    method: 'post',
    path: `${EGRESS}/check`,
    operationId: 'checkEgress',
    summary: 'What would be decided on a URL, and why',
    description: 'Nothing is connected to. The name is looked up where it is allowed.',
    body: checkBody,
    answers: { 200: { description: 'The decision.', content: { 'application/json': egressDecisionAnswer } } },
    async handle({ manager, id, body, response, signal }) {
      const { egress } = await manager.get(id, { signal });
      response.json(await egress.check(body.url, { signal }));
    },
  }),
];
