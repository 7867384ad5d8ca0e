import { SandyardError } from '../errors.js';
import { allowManyListeners } from '../many-listeners.js';

/** The promise, or `aborted` as soon as the caller gives up; what was begun goes on. */
export function giveUpOn<Result>(promise: Promise<Result>, signal: AbortSignal): Promise<Result> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      reject(new SandyardError('aborted', 'The caller gave up waiting.', { cause: signal.reason }));
    };
    if (signal.aborted) onAbort();
    allowManyListeners(signal);
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
