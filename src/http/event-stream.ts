import { once } from 'node:events';
import type { Request, Response } from 'express';
import { z } from 'zod';

import { abortable } from './calls.js';
import { problemAnswer, toProblem, type Problem } from './problem.js';
import { requestIdOf } from './request-log.js';
import { exitEvent } from './wire.js';

/*
 * A stream of numbered events, as NDJSON or as server-sent events. The last one says how it ended: `exit` or `error`.
 * A stream without such a last event was cut off.
 */

export const NDJSON = 'application/x-ndjson';
export const EVENT_STREAM = 'text/event-stream';
export type StreamType = typeof NDJSON | typeof EVENT_STREAM;

const HEARTBEAT_MS = 15_000;
/** A command that couldn't be started says so within this time; then it is still a proper answer. */
const PEEK_MS = 1000;

const seq = z.int().min(1).describe('From 1 on, without gaps.');
const outputEvent = z
  .object({
    type: z.literal('output'),
    seq,
    stream: z.enum(['stdout', 'stderr']),
    data: z.string().describe('Text; never ends in the middle of a character.').optional(),
    data_base64: z.string().describe('In place of "data" where the bytes are not UTF-8.').optional(),
  })
  .describe('A piece of output.');
const errorEvent = z
  .object({ type: z.literal('error'), seq, problem: problemAnswer })
  .describe('Why the stream ended early.');

export const streamEvent = z
  .discriminatedUnion('type', [
    outputEvent,
    exitEvent.extend({ seq }).describe('How the command ended; always last.'),
    errorEvent,
  ])
  .describe('One event: a line of NDJSON, or the data of a server-sent event.');

type StreamEvent = z.output<typeof streamEvent>;
type WithoutSeq<Event> = Event extends unknown ? Omit<Event, 'seq'> : never;
/** An event before it is numbered. */
export type EventBody = WithoutSeq<StreamEvent>;

/** What the client asked for; `undefined` when a plain answer does. */
export function streamTypeOf(request: Request): StreamType | undefined {
  const accepted = request.accepts(['application/json', NDJSON, EVENT_STREAM]);
  return accepted === NDJSON || accepted === EVENT_STREAM ? accepted : undefined;
}

export interface StreamTarget {
  readonly request: Request;
  readonly response: Response;
  readonly type: StreamType;
  readonly signal: AbortSignal;
}

/**
 * Sends the events. What fails before the first is thrown, and becomes a plain answer; what fails later becomes the last
 * event. A client that reads slowly makes the source wait.
 */
export async function sendEvents(events: AsyncIterator<EventBody>, target: StreamTarget): Promise<void> {
  const { response, signal, type } = target;
  let pending = events.next();
  await settledWithin(pending, PEEK_MS);
  begin(response, type);
  const stopHeartbeat = type === EVENT_STREAM ? startHeartbeat(response) : () => {};
  let seq = 0;
  try {
    for (;;) {
      const next = await abortable(pending, signal);
      if (next.done === true) break;
      seq += 1;
      if (!response.write(format({ ...next.value, seq }, type))) {
        await once(response, 'drain', { signal });
      }
      pending = events.next();
    }
  } catch (error) {
    if (response.destroyed) throw error;
    const problem = problemOf(signal.aborted ? signal.reason : error, target);
    response.write(format({ type: 'error', seq: seq + 1, problem }, type));
  } finally {
    stopHeartbeat();
  }
  response.end();
}

function begin(response: Response, type: StreamType): void {
  response.status(200).set({
    'Content-Type': `${type}; charset=utf-8`,
    'Cache-Control': 'no-store, no-transform',
    // Asks nginx and its kind to pass events on at once.
    'X-Accel-Buffering': 'no',
  });
  response.flushHeaders();
}

function startHeartbeat(response: Response): () => void {
  const timer = setInterval(() => {
    if (!response.writableNeedDrain) response.write(': still running\n\n');
  }, HEARTBEAT_MS).unref();
  return () => clearInterval(timer);
}

function format(event: StreamEvent, type: StreamType): string {
  const json = JSON.stringify(event);
  return type === NDJSON ? `${json}\n` : `id: ${event.seq}\nevent: ${event.type}\ndata: ${json}\n\n`;
}

function problemOf(error: unknown, { request }: StreamTarget): Problem {
  return toProblem(error, { instance: request.path, requestId: requestIdOf(request) });
}

/** Waits for the promise, but no longer than that. Throws what it throws in that time. */
async function settledWithin(promise: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeUp = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  try {
    await Promise.race([promise, timeUp]);
  } finally {
    clearTimeout(timer);
  }
}
