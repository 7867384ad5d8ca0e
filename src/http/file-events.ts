import { z } from 'zod';

import type { FileEvent } from '../index.js';
import type { StreamEvent } from './event-stream.js';

/* The changes of a watch as events; the first says that it has begun. */

const changeTypes = ['create', 'write', 'remove', 'rename', 'chmod', 'overflow'] as const;

/** One line, or one server-sent event, of a watch. */
export const watchEvent = z
  .object({
    type: z
      .enum(['ready', ...changeTypes, 'heartbeat', 'error'])
      .describe('First "ready". "overflow": some changes were missed, so look again. Last, if at all, "error".'),
    seq: z.int().min(1).describe('Counts the events of this watch from 1.').optional(),
    path: z.string().optional(),
    is_directory: z.boolean().optional(),
    to: z.string().describe('Where it was moved to, with "rename".').optional(),
    problem: z.record(z.string(), z.unknown()).describe('With "error": why the watch ended.').optional(),
  })
  .describe('A change below a watched path.');

export async function* eventsOf(changes: AsyncIterable<FileEvent>): AsyncGenerator<StreamEvent> {
  let seq = 1;
  yield { type: 'ready', seq };
  for await (const change of changes) yield { ...presentChange(change), seq: (seq += 1) };
}

function presentChange({ type, path, isDirectory, to }: FileEvent) {
  return { type, path, is_directory: isDirectory, ...(to !== undefined && { to }) };
}
