import type { IncomingMessage } from 'node:http';

import type { Caller } from '../access/caller.js';
import { SandyardError } from '../errors.js';

/* Who asks, by request, from when that is known on. */

const callers = new WeakMap<IncomingMessage, Caller>();

export function enterCaller(request: IncomingMessage, caller: Caller): void {
  callers.set(request, caller);
}

/** `undefined` where it isn't known, or not yet. */
export function callerOf(request: IncomingMessage): Caller | undefined {
  return callers.get(request);
}

/** Throws where a route is reached by who wasn't asked for a token: that must not be answered. */
export function knownCallerOf(request: IncomingMessage): Caller {
  const caller = callers.get(request);
  if (caller === undefined) throw new SandyardError('unauthorized', 'The request carries no token.');
  return caller;
}
