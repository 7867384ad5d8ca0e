import type { IncomingMessage, ServerResponse } from 'node:http';
import { nanoid } from 'nanoid';
import { stdSerializers, type Logger } from 'pino';
import { pinoHttp } from 'pino-http';

import { isSandyardError } from '../errors.js';

const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;

/** One line per request. Headers and query values are left out: they may hold secrets. */
export function logRequests(log: Logger) {
  return pinoHttp({
    logger: log,
    genReqId: setRequestId,
    wrapSerializers: false,
    serializers: {
      req: (request: IncomingMessage) => ({ id: request.id, method: request.method, path: pathOf(request) }),
      res: (response: ServerResponse) => ({ status: statusOf(response) }),
      err: presentError,
    },
    customLogLevel: levelOf,
    customSuccessMessage: () => 'request completed',
    customErrorMessage: () => 'request failed',
  });
}

/** Takes the client's request id where it is harmless, and sends it back with every answer. */
function setRequestId(request: IncomingMessage, response: ServerResponse): string {
  const given = request.headers['x-request-id'];
  const id = typeof given === 'string' && REQUEST_ID.test(given) ? given : nanoid();
  response.setHeader('X-Request-Id', id);
  return id;
}

export function requestIdOf(request: IncomingMessage): string {
  return typeof request.id === 'string' ? request.id : '';
}

/** As the client sent it; routers change `url` while they work. */
export function pathOf(request: IncomingMessage): string {
  const url = 'originalUrl' in request ? String(request.originalUrl) : (request.url ?? '');
  return url.split('?', 1)[0] ?? '';
}

/** Of an answer that broke off: what broke it, or nginx's number for a client that didn't wait. */
function statusOf(response: ServerResponse): number {
  // A connection that became a WebSocket never finishes its answer.
  if (response.writableFinished || response.statusCode === 101) return response.statusCode;
  return isSandyardError(response.err) ? response.err.status : 499;
}

function levelOf(request: IncomingMessage, response: ServerResponse): 'debug' | 'info' | 'warn' | 'error' {
  const status = statusOf(response);
  if (status === 503) return 'warn';
  if (status >= 500) return 'error';
  return /^\/(healthz?|readyz)\/?$/.test(pathOf(request)) ? 'debug' : 'info';
}

/**
 * Of what a client did wrong the code alone: the message, which the client has, repeats its input. A stack only where it
 * helps: of what nobody foresaw.
 */
function presentError(error: unknown): unknown {
  if (!isSandyardError(error)) return error instanceof Error ? stdSerializers.err(error) : error;
  const { code, message, cause, status } = error;
  if (status < 500) return { code };
  if (!(cause instanceof Error)) return { code, message };
  return { code, message, cause: code === 'internal' ? stdSerializers.err(cause) : cause.message };
}
