import { isUtf8 } from 'node:buffer';
import { z } from 'zod';

import type { ProcessOutput, SandboxProcess } from '../index.js';
import { exitAnswer } from '../wire/answers.js';
import { presentExit } from '../wire/presenters.js';
import type { StreamEvent } from './event-stream.js';
import { problemAnswer } from './problem.js';

/*
 * What a process prints, as events: each piece of its output is one, under the number that the sandbox gave it, by which
 * a client can go on later. The last event says how it ended: `exit` or `error`. A stream without such a last event was
 * cut off.
 */

const startedEvent = z
  .object({ type: z.literal('started'), process_id: z.string() })
  .describe('It runs; first, and only in the answer of execute.');
const outputEvent = z
  .object({
    type: z.literal('output'),
    seq: z.int().min(1).describe('Counts the pieces of both streams from 1, without gaps.'),
    stream: z.enum(['stdout', 'stderr']),
    data: z.string().describe('Text.').optional(),
    data_base64: z.string().describe('In place of "data" where the bytes are not UTF-8.').optional(),
  })
  .describe('A piece of output.');
const heartbeatEvent = z
  .object({ type: z.literal('heartbeat') })
  .describe('Nothing was printed for 15 seconds. Server-sent events have a comment instead.');
const endEvent = z
  .object({ type: z.literal('end'), seq: z.int().min(0).describe('Where to go on, with "after".') })
  .describe('With follow=false: that was all so far, and the process still runs.');
const errorEvent = z
  .object({ type: z.literal('error'), problem: problemAnswer })
  .describe('Why the stream ended early; last.');

export const processEvent = z
  .discriminatedUnion('type', [
    startedEvent,
    outputEvent,
    heartbeatEvent,
    exitAnswer.extend({ type: z.literal('exit') }).describe('How the process ended; last.'),
    endEvent,
    errorEvent,
  ])
  .describe('One event: a line of NDJSON, or the data of a server-sent event.');

type ProcessEvent = z.output<typeof processEvent>;

/** All of a process that was just started. */
export async function* eventsOfNew(
  process: SandboxProcess,
  { signal }: { readonly signal: AbortSignal },
): AsyncGenerator<ProcessEvent & StreamEvent> {
  yield { type: 'started', process_id: process.id };
  yield* eventsAfter(process, { after: 0, signal });
}

/** What it printed after the piece of that number, until it has ended. */
export async function* eventsAfter(
  process: SandboxProcess,
  { after, signal }: { readonly after: number; readonly signal: AbortSignal },
): AsyncGenerator<ProcessEvent & StreamEvent> {
  for await (const piece of process.output({ after })) yield presentOutput(piece);
  // The output also ends when its reader was let go of; then waiting would read on for nobody.
  if (signal.aborted) return;
  yield { type: 'exit', ...presentExit(await process.wait()) };
}

/** What it has printed after the piece of that number up to the other, and no more. */
export async function* eventsBetween(
  process: SandboxProcess,
  { after, last }: { readonly after: number; readonly last: number },
): AsyncGenerator<ProcessEvent & StreamEvent> {
  if (last > after) {
    for await (const piece of process.output({ after })) {
      yield presentOutput(piece);
      if (piece.seq >= last) break;
    }
  }
  yield { type: 'end', seq: Math.max(after, last) };
}

/** As text where it is UTF-8, otherwise as base64, so that no byte is lost or changed. */
function presentOutput({ seq, stream, data }: ProcessOutput): ProcessEvent & StreamEvent {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return isUtf8(bytes)
    ? { type: 'output', seq, stream, data: bytes.toString('utf8') }
    : { type: 'output', seq, stream, data_base64: bytes.toString('base64') };
}
