import { pino } from 'pino';

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

/** The service's log: one JSON line per entry on standard output, with credentials blanked out. */
export function createLog({ level }: LogOptions) {
  return pino({
    level,
    base: { service: 'sandyard' },
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { error: pino.stdSerializers.err },
    redact: { paths: ['req.headers.authorization', 'req.headers.cookie', 'env', '*.env'], censor: '[redacted]' },
  });
}
