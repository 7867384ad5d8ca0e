import { createHash } from 'node:crypto';
import type { Request, Response } from 'express';

import { isSandyardError, SandyardError } from '../errors.js';
import type { Sandbox } from '../index.js';
import type { RunningCall } from './calls.js';
import type { KeptAnswer, KeptAnswers, Repeat } from './kept-answers.js';
import { recordAnswer, sendAnswer } from './recorded-answer.js';

/*
 * Requests that may be sent again, because their answer was lost: a client that gives a POST an `Idempotency-Key` has it
 * done once (as draft-ietf-httpapi-idempotency-key-header has it, but for the quotes, which it needn't have). Where the
 * engine or the sandbox can tell, they do, and so also after a restart of the service: those operations are `durable`.
 * Of all others the first answer is kept in memory, and given again.
 */

const HEADER = 'idempotency-key';
const REPLAYED = 'Idempotent-Replayed';
/** Until the first request may have been answered. */
const RETRY_S = 1;

/** The key that the client sent. Throws `validation_failed` for what can't be one. */
export function readIdempotencyKey(request: Pick<Request, 'headersDistinct'>): string | undefined {
  const given = request.headersDistinct[HEADER];
  if (given === undefined) return undefined;
  const [key = '', ...more] = given;
  if (more.length === 0 && /^[\x20-\x7e]{1,255}$/.test(key)) return key;
  const message = 'must be one header of 1 to 255 printable ASCII characters';
  throw new SandyardError('validation_failed', `Invalid Idempotency-Key: ${message}.`, {
    hint: 'Such as a UUID: a new one for each request, and the same only to repeat it.',
    issues: [{ path: [HEADER], message }],
  });
}

/**
 * `place`: whose it is, and where it goes; `content`: what the client sent, as it was parsed. As there may be a secret in
 * that, nobody who hasn't the key can try what its hash is of.
 */
export function toRepeat(key: string, { place, content }: { place: readonly string[]; content: unknown }): Repeat {
  return { key: hash([...place, key]), content: hash([key, content]) };
}

interface OnceCall {
  readonly repeat: Repeat;
  readonly durable: boolean;
  readonly answers: KeptAnswers;
  readonly response: Response;
  readonly running: RunningCall;
}

/** Has it answered once: a repeated request gets the answer of the first, or what `act` finds of it. */
export async function answerOnce(call: OnceCall, act: () => Promise<void> | void): Promise<void> {
  const { repeat, durable, answers, response, running } = call;
  const known = answers.find(repeat.key);
  if (known !== undefined && known.content !== repeat.content) throw mismatch();
  if (durable) return answerAnew(call, { first: known === undefined }, act);
  if (known?.answer !== undefined) return replay(known.answer, response);
  if (known !== undefined) throw inProgress();
  answers.begin(repeat);
  const recorded = recordAnswer(response);
  let kept: KeptAnswer | undefined;
  try {
    await act();
    kept = recorded();
  } catch (error) {
    // What went wrong on our side, and what nobody waited for, is worth another try.
    const isFinal = isSandyardError(error) && error.status < 500 && !error.retryable && !running.signal.aborted;
    if (isFinal) kept = { error };
    throw error;
  } finally {
    if (kept === undefined) answers.forget(repeat.key);
    else answers.keep(repeat.key, kept);
  }
}

/** The engine or the sandbox knows what was done; here only for what the key was used. */
async function answerAnew(
  { repeat, answers, running }: OnceCall,
  { first }: { first: boolean },
  act: () => Promise<void> | void,
): Promise<void> {
  if (first) answers.note(repeat);
  try {
    await act();
  } catch (error) {
    // A client that hung up may have left something that was done.
    if (first && !running.signal.aborted) answers.forget(repeat.key);
    throw error;
  }
}

export function markReplayed(response: Response): void {
  response.set(REPLAYED, 'true');
}

/**
 * The id of the process that a request starts. It has the hash of the key and that of the content in it: so the sandbox
 * itself, for as long as it remembers the process, tells a repeated request from one that uses the key for something else.
 */
export async function processIdOf(
  { key, content }: Repeat,
  { sandbox, response }: { sandbox: Sandbox; response: Response },
): Promise<string> {
  const prefix = `idem-${key.slice(0, 28)}-`;
  const id = `${prefix}${content.slice(0, 28)}`;
  const known = (await sandbox.processes.list()).find((process) => process.id.startsWith(prefix));
  if (known !== undefined && known.id !== id) throw mismatch();
  if (known !== undefined) markReplayed(response);
  return id;
}

function replay(answer: KeptAnswer, response: Response): void {
  markReplayed(response);
  if ('error' in answer) throw answer.error;
  sendAnswer(answer, response);
}

function mismatch(): SandyardError {
  return new SandyardError('idempotency_mismatch', 'The Idempotency-Key was used for a request with another content.', {
    hint: 'Use a new key for each new request, and the same only to repeat one.',
  });
}

function inProgress(): SandyardError {
  return new SandyardError('idempotency_in_progress', 'The first request with this Idempotency-Key is under way.', {
    hint: 'Send it again in a moment, to get the answer of the first.',
    details: { retry_after_s: RETRY_S },
  });
}

function hash(value: unknown): string {
  return createHash('sha256').update(canonicalJson(value)).digest('hex');
}

/** The same text for the same value, in whatever order its names were sent. */
function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null';
  const members = Object.entries(value)
    .toSorted(([one], [other]) => (one < other ? -1 : 1))
    .map(([name, item]) => `${JSON.stringify(name)}:${canonicalJson(item)}`);
  return `{${members.join(',')}}`;
}
