import { setMaxListeners } from 'node:events';

/**
 * Says of a caller's signal that any number of calls may listen to it at once, each for as long as it lasts. Node.js 20 takes the
 * eleventh for a leak, and warns.
 */
export function mayBeShared(signal: AbortSignal | undefined): void {
  if (signal instanceof EventTarget) setMaxListeners(Infinity, signal);
}
