import { pruneAnswer } from '../wire/answers.js';
import { presentPrune } from '../wire/presenters.js';
import { operation, type Operation } from './operation.js';
import { defined } from './request-fields.js';
import { pruneBody } from './sandbox-requests.js';

/** Not below /api/sandboxes: what follows there is the id of a sandbox. The first is what clients have long called. */
const PATHS = [
  { path: '/sandbox/cleanup', operationId: 'cleanup' },
  { path: '/api/cleanup', operationId: 'cleanupSandboxes' },
] as const;

export const cleanupOperations: readonly Operation[] = PATHS.map((place) =>
  operation({
    ...place,
    method: 'post',
    tag: 'Sandboxes',
    summary: 'Remove what has expired, now',
    description:
      'The same as the reaper does by its schedule, and tells what and why. Removes sandboxes of this owner that have ' +
      'provably expired, and the volumes and networks of such that are gone; nothing else.',
    body: pruneBody,
    answers: { 200: { description: 'What was removed.', content: { 'application/json': pruneAnswer } } },
    errors: [],
    async handle({ manager, config, body, response, signal }) {
      const { dry_run: dryRun } = body;
      const pruned = await manager.prune({ ...defined({ dryRun }), signal });
      response.json(presentPrune(pruned, { dryRun: dryRun ?? config.reaper.dryRun }));
    },
  }),
);
