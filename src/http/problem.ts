import type { Request, Response } from 'express';
import { z } from 'zod';

import { describeError, ERROR_CODES, isSandyardError, SandyardError } from '../errors.js';
import { pathOf, requestIdOf } from './request-log.js';

/*
 * The one place where an error becomes what a REST client sees: a problem document (RFC 9457) with our stable code, a
 * hint and the request id. Nothing of an error that isn't ours gets out, as its message may hold anything.
 */

/** Why there was no place for a sandbox. */
const refusal = {
  ceiling: z
    .string()
    .describe('With `over_capacity`: "queue", or whose and of what, such as "owner.memory".')
    .optional(),
  limit: z.number().describe('With `over_capacity`: the ceiling, in bytes where it is memory.').optional(),
  used: z.number().describe('With `over_capacity`: how much of it is taken.').optional(),
  wanted: z.number().describe('With `over_capacity`: how much more was wanted.').optional(),
  queue_length: z.int().describe('With `over_capacity`: how many wait for their turn.').optional(),
  resource: z
    .enum(['memory', 'disk'])
    .describe('With `host_exhausted`: what the machine has too little of.')
    .optional(),
  free: z.number().describe('With `host_exhausted`: how many bytes of it are free.').optional(),
  needed: z.number().describe('With `host_exhausted`: how many must be.').optional(),
  retry_after_s: z.int().describe('The same as in Retry-After, where the error tells it.').optional(),
};

export const problemAnswer = z
  .object({
    type: z.string().describe('"urn:sandyard:error:" and the code.'),
    title: z.string(),
    status: z.int().min(400).max(599),
    code: z.enum(ERROR_CODES).describe('Stable; for programs.'),
    detail: z.string().describe('What failed, and on what.'),
    hint: z.string().describe('What to do next.').optional(),
    instance: z.string().describe('The path of the request.'),
    request_id: z.string().describe('The same as in X-Request-Id and in the log of the service.'),
    errors: z
      .array(z.object({ path: z.array(z.union([z.string(), z.number()])), message: z.string() }))
      .describe('The single faults of the input.'),
    first_seq: z.int().describe('With `output_lost`: the oldest piece of output that there still is.').optional(),
    ...refusal,
    retryable: z.boolean().describe('Whether the same request may succeed later.'),
  })
  .describe('An error (RFC 9457).');

export type Problem = z.output<typeof problemAnswer>;

export interface ProblemContext {
  /** The path of the request, without its query: that may hold more than should be repeated. */
  readonly instance: string;
  readonly requestId: string;
}

export const PROBLEM_TYPE = 'application/problem+json';

export function toProblem(error: unknown, { instance, requestId }: ProblemContext): Problem {
  const known = toSandyardError(error);
  const { status, title, retryable } = describeError(known.code);
  return {
    type: `urn:sandyard:error:${known.code}`,
    title,
    status,
    code: known.code,
    detail: known.message,
    ...(known.hint !== undefined && { hint: known.hint }),
    instance,
    request_id: requestId,
    errors: known.issues.map((issue) => ({ path: toWirePath(issue.path), message: issue.message })),
    ...toWireDetails(known),
    retryable,
  };
}

/** Answers with the problem document of the error. `status`: where HTTP has one that no code of ours has. */
export function answerProblem(
  error: unknown,
  { request, response, status }: { request: Request; response: Response; status?: number },
): void {
  const known = toSandyardError(error);
  // For the line in the log, and for who counts.
  response.err = known;
  const problem = toProblem(known, { instance: pathOf(request), requestId: requestIdOf(request) });
  if (status !== undefined) problem.status = status;
  const retryAfter = problem.retry_after_s ?? retryAfterSeconds(problem.status);
  if (retryAfter !== undefined) response.set('Retry-After', String(retryAfter));
  for (const header of ['Content-Length', 'Content-Disposition']) response.removeHeader(header);
  response.status(problem.status).type(PROBLEM_TYPE).send(JSON.stringify(problem));
}

/** Ours as it is; what Express and its body parser throw translated; anything else `internal` without details. */
export function toSandyardError(error: unknown): SandyardError {
  if (isSandyardError(error)) return error;
  return (
    fromExpress(error) ??
    new SandyardError('internal', 'The service failed unexpectedly.', {
      hint: 'Find the request id in the log of the service.',
      cause: error,
    })
  );
}

/** How long a client should wait before it asks again, in seconds; only where waiting can help. */
function retryAfterSeconds(status: number): number | undefined {
  return status === 503 ? 5 : undefined;
}

function fromExpress(error: unknown): SandyardError | undefined {
  if (!(error instanceof Error) || !('status' in error)) return undefined;
  const options = { cause: error };
  switch (error.status) {
    case 400:
      return 'type' in error && error.type === 'entity.parse.failed'
        ? new SandyardError('invalid_request', `The body is not valid JSON${position(error.message)}.`, {
            ...options,
            hint: 'Send one JSON object, with double quotes around names and strings.',
          })
        : new SandyardError('invalid_request', 'The request could not be read.', {
            ...options,
            hint: 'Percent-encode what is special in the path, and send as many bytes as Content-Length says.',
          });
    case 413:
      return new SandyardError('payload_too_large', 'The JSON body is larger than 1 MiB.', {
        ...options,
        hint: 'Send files through PUT …/files or …/archive.',
      });
    case 415:
      return new SandyardError('unsupported_media_type', 'The encoding of the body is not supported.', {
        ...options,
        hint: 'Send UTF-8, uncompressed or with Content-Encoding gzip, deflate or br.',
      });
    default:
      return undefined;
  }
}

/** The parser's own message quotes the body, which may hold secrets and ends in the log. */
function position(message: string): string {
  const match = /position (\d+)/.exec(message);
  return match === null ? '' : ` (at character ${match[1]})`;
}

/** Names that differ by more than their case between the library's options and the wire. */
const WIRE_NAMES: Readonly<Record<string, string>> = {
  cwd: 'workdir',
  ttlMs: 'timeout',
  timeoutMs: 'timeout',
  idleTimeoutMs: 'idle_timeout',
  maxLifetimeMs: 'max_lifetime',
  graceMs: 'grace',
  followLinks: 'follow',
};

/** The core names an option in its own words; only the first part is one, the rest are the caller's keys. */
function toWirePath([first, ...rest]: readonly (string | number)[]): (string | number)[] {
  if (first === undefined) return [];
  if (typeof first === 'number') return [first, ...rest];
  return [WIRE_NAMES[first] ?? first.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), ...rest];
}

/** What a program needs to go on. */
function toWireDetails({ details }: SandyardError): Partial<Problem> {
  const { firstSeq } = details;
  return {
    ...(typeof firstSeq === 'number' && { first_seq: firstSeq }),
    ...z.object(refusal).safeParse(details).data,
  };
}
