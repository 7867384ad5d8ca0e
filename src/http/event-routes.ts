import { z } from 'zod';

import { confinedTo } from '../access/caller.js';
import type { LifecycleEvent } from '../index.js';
import { fields } from '../schemas.js';
import { EVENT_TYPES, lifecycleEventAnswer } from '../wire/answers.js';
import { presentLifecycleEvent } from '../wire/presenters.js';
import { EVENT_STREAM, NDJSON, sendEvents, streamTypeOf, type StreamEvent } from './event-stream.js';
import { operation, type Call, type Operation } from './operation.js';
import { problemAnswer } from './problem.js';
import { defined } from './request-fields.js';

/** What can't be gone on with is known at once: then it is still a proper answer. */
const PEEK_MS = 1;

const eventsQuery = z.strictObject({
  types: z
    .string()
    .transform((value) => value.split(','))
    .pipe(z.array(z.enum(EVENT_TYPES)).min(1))
    .describe('Only these, comma-separated, such as "created,destroyed".')
    .optional(),
  sandbox_id: fields.id.describe('Only of this sandbox.').optional(),
  project_name: fields.projectName.describe('Only of sandboxes of this project.').optional(),
  after: z
    .string()
    .max(64)
    .describe('Goes on after the event of this id; with what happens from now on unless given.')
    .optional(),
});

/** One line, or one server-sent event. */
export const sandboxEvent = z
  .discriminatedUnion('type', [
    lifecycleEventAnswer,
    z
      .object({ type: z.literal('ready'), id: z.string() })
      .describe('The first, unless the stream goes on after an event: what comes after this id is all in it.'),
    z
      .object({ type: z.literal('heartbeat') })
      .describe('Nothing happened for 15 seconds. Server-sent events have a comment instead.'),
    z
      .object({ type: z.literal('error'), problem: problemAnswer })
      .describe('Why the stream ended; last. With `output_lost`, list the sandboxes and begin anew.'),
  ])
  .describe('One event: a line of NDJSON, or the data of a server-sent event.');

export const eventOperations: readonly Operation[] = [
  operation({
    method: 'get',
    path: '/api/events',
    operationId: 'readEvents',
    tag: 'Sandboxes',
    summary: 'What happens to sandboxes',
    description:
      'As server-sent events, or NDJSON with "Accept: application/x-ndjson". Of all sandboxes of this owner, whoever does it. ' +
      'The last 2000 events of this run of the service are remembered: the header "Last-Event-ID" works as "after", and goes ' +
      'over it. When what came after that one is not remembered any more, or the service was started anew since, the answer ' +
      'is 410: then list the sandboxes, and begin anew.',
    query: eventsQuery,
    answers: {
      200: { description: 'Events.', content: { [EVENT_STREAM]: sandboxEvent, [NDJSON]: sandboxEvent } },
    },
    errors: ['output_lost'],
    handle: readEvents,
  }),
];

async function readEvents(call: Call<z.output<typeof eventsQuery>, unknown>): Promise<void> {
  const { manager, caller, query, request, response, running, signal } = call;
  // A browser that connects again repeats the query of its first request, and adds how far it came.
  const after = request.get('last-event-id') || query.after;
  const { types, sandbox_id: sandboxId, project_name: projectName } = query;
  const position = after === undefined ? manager.eventPosition : undefined;
  const tenant = confinedTo(caller);
  const events = manager.events({ ...defined({ types, sandboxId, projectName, after, tenant }), signal });
  running.streams = true;
  const type = streamTypeOf(request) ?? EVENT_STREAM;
  await sendEvents(present(events, position), { request, response, type, signal, peekMs: PEEK_MS });
}

async function* present(
  events: AsyncIterable<LifecycleEvent>,
  position: string | undefined,
): AsyncGenerator<StreamEvent> {
  if (position !== undefined) yield { type: 'ready', id: position };
  for await (const event of events) yield presentLifecycleEvent(event);
}
