import type { Request, RequestHandler, Response } from 'express';
import { ipKeyGenerator, rateLimit } from 'express-rate-limit';

import { SandyardError } from '../errors.js';
import { callerOf } from './callers.js';

const MINUTE_MS = 60_000;
/** Guessing isn't what this keeps from succeeding, as nothing that is guessed is short; it keeps it from filling the log. */
const MAX_REFUSED = 100;

type Measure = 'address' | 'owner' | 'refused';

/** So many requests a minute of one address; of an IPv6 network of 56 bits, as whoever has one has all of it. */
export function limitByAddress(perMinute: number): RequestHandler {
  return limit('address', perMinute, addressOf);
}

/** So many of one owner, whichever of its keys and tokens they come with. */
export function limitByOwner(perMinute: number): RequestHandler {
  return limit('owner', perMinute, (request) => callerOf(request)?.owner ?? '');
}

/** Counts those that were refused for want of a good token, and throws `rate_limited` when they are too many. */
export function limitRefused(): (request: Request, response: Response) => Promise<void> {
  const count = limit('refused', MAX_REFUSED, addressOf);
  return (request, response) =>
    new Promise((resolve, reject) => {
      void count(request, response, (error?: unknown) => (error === undefined ? resolve() : reject(error)));
    });
}

function limit(measure: Measure, perMinute: number, keyGenerator: (request: Request) => string): RequestHandler {
  return rateLimit({
    windowMs: MINUTE_MS,
    limit: perMinute,
    identifier: measure,
    // Whoever is refused for want of a token needn't be told how often it may go on.
    standardHeaders: measure === 'refused' ? false : 'draft-8',
    legacyHeaders: false,
    keyGenerator,
    // What is believed of X-Forwarded-For is configured.
    validate: false,
    handler: (request, _response, next) => next(tooMany(measure, perMinute, secondsLeft(request))),
  });
}

function addressOf({ ip, socket }: Request): string {
  return ipKeyGenerator(ip ?? socket.remoteAddress ?? '');
}

function secondsLeft(request: Request): number {
  const { resetTime } = (request as { rateLimit?: { resetTime?: Date } }).rateLimit ?? {};
  return Math.max(1, Math.ceil(((resetTime?.getTime() ?? Date.now() + MINUTE_MS) - Date.now()) / 1000));
}

function tooMany(measure: Measure, perMinute: number, seconds: number): SandyardError {
  const whose = measure === 'owner' ? 'owner' : 'address';
  const what = measure === 'refused' ? 'requests without a valid token' : 'requests';
  return new SandyardError('rate_limited', `This ${whose} has sent more than ${perMinute} ${what} within a minute.`, {
    hint: 'Send it again after the time in "retry_after_s".',
    details: { refused: 'rate', retry_after_s: seconds },
  });
}
