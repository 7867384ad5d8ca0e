/** By the signal that was made of them. */
const sources = new WeakMap<AbortSignal, readonly AbortSignal[]>();

/**
 * AbortSignal.any, but for as long as anybody listens. That of Node.js 20 and 22 refers weakly to what it is made of: a time
 * limit that nothing else refers to is collected, and never aborts anything (https://github.com/nodejs/node/issues/57736).
 */
export function anySignal(signals: readonly AbortSignal[]): AbortSignal {
  const any = AbortSignal.any([...signals]);
  sources.set(any, signals);
  return any;
}
