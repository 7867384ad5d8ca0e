import { defaultMaxListeners, getMaxListeners, setMaxListeners } from 'node:events';

/**
 * Says of a caller's signal that any number of calls may listen to it at once, each for as long as it lasts. Node.js 20 takes the
 * eleventh for a leak, and warns. A limit that the caller has set stands.
 */
export function mayBeShared(signal: AbortSignal | undefined): void {
  if (signal !== undefined && getMaxListeners(signal) === defaultMaxListeners) setMaxListeners(0, signal);
}
