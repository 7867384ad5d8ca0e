import type { Writable } from 'node:stream';
import { pino, type DestinationStream, type Logger, type LoggerOptions } from 'pino';

import { currentContext } from './context.js';

/** What Sandyard logs to. pino fits, and so does any object with these four methods. */
export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

function ignore(): void {}

/** The library's default: says nothing. */
export const silentLog: Log = { debug: ignore, info: ignore, warn: ignore, error: ignore };

export interface LogOptions {
  readonly level: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';
}

/** What a line has whose matter is that somebody tries what they may not. `kind` is one of few words. */
export function securityEvent(kind: string): { readonly event: 'security'; readonly kind: string } {
  return { event: 'security', kind };
}

/** The service's log: one JSON line per entry, with the request that it belongs to, and without credentials. */
export function createLog({ level }: LogOptions, output: DestinationStream): Logger {
  const options: LoggerOptions = {
    level,
    base: { service: 'sandyard' },
    timestamp: pino.stdTimeFunctions.isoTime,
    mixin: contextFields,
    formatters: { log: (fields) => withoutSecrets(fields) as Record<string, unknown> },
    serializers: { error: errorFields, err: errorFields },
  };
  return pino(options, output);
}

/** What is logged of an error that nobody foresaw, its stack among it. Anything else stays as it is. */
export function errorFields(error: unknown): unknown {
  return error instanceof Error ? withoutSecrets({ ...pino.stdSerializers.err(error) }) : error;
}

/** Where the lines of a program go. */
export interface LogOutput extends DestinationStream {
  /** Waits until they are written, but no longer than a second: a program has to be able to end. */
  flush(): Promise<void>;
}

/** More than a reader who is only slow leaves unread; lines beyond it are lost. */
const MAX_UNREAD_BYTES = 8 * 1024 * 1024;
const FLUSH_MS = 1000;

/**
 * Lines that go to standard output, at once while somebody takes them. Where nobody does they wait in memory: pino's own
 * destination would stop the whole program with a full pipe, at the latest at its end.
 */
export function openLogOutput(stream: Writable): LogOutput {
  let isBroken = false;
  // Whoever read it is gone; that is no reason to end.
  stream.on('error', () => (isBroken = true));
  return {
    write(line) {
      if (!isBroken && stream.writableLength + line.length <= MAX_UNREAD_BYTES) stream.write(line);
    },
    flush: () =>
      new Promise((resolve) => {
        if (isBroken || stream.writableLength === 0) {
          resolve();
          return;
        }
        const timer = setTimeout(resolve, FLUSH_MS);
        stream.write('', () => {
          clearTimeout(timer);
          resolve();
        });
      }),
  };
}

/** Names under which there may be a credential, without regard to case, "-" and "_". */
const SECRET_NAME = /^(env|environment|cookie|setcookie|ticket|secrets?|.*(authorization|token|password|apikey))$/;
const REDACTED = '[redacted]';
/** Nothing that is logged on purpose is deeper; what is may not end. */
const MAX_DEPTH = 6;

/** A copy in which what is called like a credential has no value, at any depth of plain objects and lists. */
function withoutSecrets(value: unknown, depth = 0): unknown {
  if (Array.isArray(value)) return depth > MAX_DEPTH ? REDACTED : value.map((item) => withoutSecrets(item, depth + 1));
  if (!isPlain(value)) return value;
  if (depth > MAX_DEPTH) return REDACTED;
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [
      name,
      isSecret(name, item) ? REDACTED : withoutSecrets(item, depth + 1),
    ]),
  );
}

function isSecret(name: string, value: unknown): boolean {
  return value !== undefined && SECRET_NAME.test(name.toLowerCase().replaceAll(/[-_]/g, ''));
}

/** Others have their own form in JSON, or a serializer. */
function isPlain(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function contextFields(): object {
  const { requestId, traceId, spanId, actor } = currentContext();
  return { request_id: requestId, trace_id: traceId, span_id: spanId, actor };
}
