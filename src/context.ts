import { AsyncLocalStorage } from 'node:async_hooks';

/** On whose behalf something is done: goes along with the call, through all that it waits for. */
export interface CallContext {
  readonly requestId?: string | undefined;
  /** Of the caller's trace, where there is one: 32 and 16 hexadecimal digits (W3C Trace Context). */
  readonly traceId?: string | undefined;
  readonly spanId?: string | undefined;
  /** Who asked: such as `rest`, `cli`, `reaper`, `pool`. */
  readonly actor?: string | undefined;
}

const storage = new AsyncLocalStorage<CallContext>();

/** Runs `act` in a context: what is given here goes over what it is called in. */
export function withContext<T>(context: CallContext, act: () => T): T {
  return storage.run({ ...storage.getStore(), ...context }, act);
}

export function currentContext(): CallContext {
  return storage.getStore() ?? {};
}

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?$/;
const ZEROS = /^0+$/;

/**
 * The ids in a `traceparent` header (W3C Trace Context, 3.2). Nothing where it is malformed: then there is no trace, which
 * is no fault of the request. A later version may have more fields at its end.
 */
export function parseTraceparent(header: unknown): Pick<CallContext, 'traceId' | 'spanId'> {
  const match = typeof header === 'string' ? TRACEPARENT.exec(header) : null;
  if (match === null) return {};
  const [, version = '', traceId = '', spanId = '', more] = match;
  if (version === 'ff' || (version === '00' && more !== undefined)) return {};
  if (ZEROS.test(traceId) || ZEROS.test(spanId)) return {};
  return { traceId, spanId };
}
