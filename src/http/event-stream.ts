import { once } from 'node:events';
import type { Request, Response } from 'express';

import { abortable, within } from './calls.js';
import { toProblem, toSandyardError, type Problem } from './problem.js';
import { requestIdOf } from './request-log.js';

/*
 * A stream of events, as NDJSON or as server-sent events. What kind of events they are is the matter of the route; here
 * an event has a type, and a number or an id where a client may go on after it.
 */

export const NDJSON = 'application/x-ndjson';
export const EVENT_STREAM = 'text/event-stream';
export type StreamType = typeof NDJSON | typeof EVENT_STREAM;

/** Shorter than the minute after which what is on the way takes a connection for dead. */
const HEARTBEAT_MS = 15_000;
const HEARTBEAT = { [NDJSON]: '{"type":"heartbeat"}\n', [EVENT_STREAM]: ': still running\n\n' } as const;

export interface StreamEvent {
  readonly type: string;
  readonly seq?: number | undefined;
  readonly id?: string | undefined;
}

/** What the client asked for; `undefined` when a plain answer does. */
export function streamTypeOf(request: Request): StreamType | undefined {
  const { accept } = request.headers;
  if (accept === undefined || accept === '*/*') return undefined;
  const accepted = request.accepts(['application/json', NDJSON, EVENT_STREAM]);
  return accepted === NDJSON || accepted === EVENT_STREAM ? accepted : undefined;
}

export interface StreamTarget {
  readonly request: Request;
  readonly response: Response;
  readonly type: StreamType;
  readonly signal: AbortSignal;
  /** For how long what fails before the first event is still a plain answer. Default: not at all. */
  readonly peekMs?: number;
}

/**
 * Sends the events. What fails before the stream has begun is thrown, and becomes a plain answer; what fails later
 * becomes a last event, `error`. A client that reads slowly makes the source wait.
 */
export async function sendEvents(events: AsyncGenerator<StreamEvent>, target: StreamTarget): Promise<void> {
  const { response, signal, type, peekMs } = target;
  let pending = events.next();
  if (peekMs !== undefined) await within(peekMs, pending);
  begin(response, type);
  const stopHeartbeat = startHeartbeat(response, type);
  try {
    for (;;) {
      const next = await abortable(pending, signal);
      if (next.done === true) break;
      if (!response.write(format(next.value, type))) await once(response, 'drain', { signal });
      pending = events.next();
    }
  } catch (error) {
    if (response.destroyed) throw error;
    const known = toSandyardError(signal.aborted ? signal.reason : error);
    response.err = known;
    const last = { type: 'error', problem: problemOf(known, target) };
    response.write(format(last, type));
  } finally {
    stopHeartbeat();
    // Not waited for: a source that is asked for its next event lets go when that has come.
    events.return(undefined).catch(() => {});
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

function startHeartbeat(response: Response, type: StreamType): () => void {
  const timer = setInterval(() => {
    if (!response.writableNeedDrain) response.write(HEARTBEAT[type]);
  }, HEARTBEAT_MS).unref();
  return () => clearInterval(timer);
}

function format(event: StreamEvent, type: StreamType): string {
  const json = JSON.stringify(event);
  if (type === NDJSON) return `${json}\n`;
  const id = event.id ?? event.seq;
  return `${id === undefined ? '' : `id: ${id}\n`}event: ${event.type}\ndata: ${json}\n\n`;
}

function problemOf(error: unknown, { request }: StreamTarget): Problem {
  return toProblem(error, { instance: request.path, requestId: requestIdOf(request) });
}
