import { setMaxListeners } from 'node:events';

/**
 * Lets any number of calls listen to one signal at once, each for as long as it lasts: Node.js 20 takes the eleventh for a
 * leak, and warns.
 */
export function allowManyListeners(signal: AbortSignal | undefined): void {
  if (signal instanceof EventTarget) setMaxListeners(Infinity, signal);
}
