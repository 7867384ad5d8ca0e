import type { IncomingMessage, ServerResponse } from 'node:http';
import type { RequestHandler } from 'express';
import { nanoid } from 'nanoid';
import type { Logger } from 'pino';
import { pinoHttp } from 'pino-http';

import { parseTraceparent, withContext } from '../context.js';
import { isSandyardError, type ErrorCode } from '../errors.js';
import { errorFields, securityEvent } from '../log.js';
import { callerOf } from './callers.js';

const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;
const SANDBOX_PATH = /^\/api\/sandboxes\/([a-z0-9]{1,64})(?:\/|$)/;

/** What of errors is more than a mistake; `forbidden` tells itself what it refused. */
const SECURITY_KINDS: Partial<Record<ErrorCode, string>> = {
  unauthorized: 'token_refused',
  channel_failed: 'hostile_frames',
  unsafe_archive: 'hostile_archive',
};

export interface RequestLogOptions {
  readonly log: Logger;
  /** Whose sandboxes the service has. */
  readonly owner: string;
}

/** One line per request. Headers and query values are left out: they may hold secrets. */
export function logRequests({ log, owner }: RequestLogOptions) {
  const started = new WeakMap<ServerResponse, number>();
  const describe = (request: IncomingMessage, response: ServerResponse) => ({
    ...traceFields(request),
    owner,
    sandbox: sandboxOf(request, response),
    outcome: outcomeOf(response),
    ...auditFields(request, response),
    duration_ms: Math.round((performance.now() - (started.get(response) ?? 0)) * 100) / 100,
    ...securityFields(response),
  });
  const middleware = pinoHttp({
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
    customSuccessObject: (request, response) => ({ res: response, ...describe(request, response) }),
    customErrorObject: (request, response, error) => ({ res: response, err: error, ...describe(request, response) }),
  });
  return (request: IncomingMessage, response: ServerResponse, next: () => void) => {
    started.set(response, performance.now());
    middleware(request, response, next);
  };
}

/** Has all that is done for a request, and every line that is written meanwhile, know which request it is. */
export const enterContext: RequestHandler = (request, _response, next) => {
  const { traceparent } = request.headers;
  withContext({ requestId: requestIdOf(request), ...parseTraceparent(traceparent), actor: 'rest' }, () => next());
};

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

/** As the OpenAPI document writes it; nothing where the request met no route, or wasn't let through to it. */
export function routeOf(request: IncomingMessage): string | undefined {
  const { path } = ('route' in request ? (request.route ?? {}) : {}) as { path?: unknown };
  return typeof path === 'string' ? path.replaceAll(/:(\w+)/g, '{$1}') : undefined;
}

/** Of an answer that broke off: what broke it, or nginx's number for a client that didn't wait. */
export function statusOf(response: ServerResponse): number {
  // A connection that became a WebSocket never finishes its answer.
  if (response.writableFinished || response.statusCode === 101) return response.statusCode;
  return isSandyardError(response.err) ? response.err.status : 499;
}

/** The line is written when the answer is sent, which may be outside of the request's own context. */
function traceFields(request: IncomingMessage) {
  const { traceId, spanId } = parseTraceparent(request.headers['traceparent']);
  return { request_id: requestIdOf(request), trace_id: traceId, span_id: spanId, actor: 'rest' };
}

/** The one that the path names, or the one that was made. */
function sandboxOf(request: IncomingMessage, response: ServerResponse): string | undefined {
  const location = response.getHeader('location');
  const made = typeof location === 'string' ? SANDBOX_PATH.exec(location)?.[1] : undefined;
  return SANDBOX_PATH.exec(pathOf(request))?.[1] ?? made;
}

/**
 * Who asked, where that is known; and of what changes something, and of what was refused, that this is the line which says so.
 * `caller.name` is the name of a key or the id of a token, never what it is used by.
 */
function auditFields(request: IncomingMessage, response: ServerResponse): object {
  const caller = callerOf(request);
  const isRefused = securityKindOf(response.err) !== undefined;
  const isChange = !/^(GET|HEAD|OPTIONS)$/.test(request.method ?? '') || response.statusCode === 101;
  return {
    ...(caller !== undefined &&
      caller.via !== 'open' && { caller: { owner: caller.owner, via: caller.via, name: caller.name } }),
    ...((isChange || isRefused) && { audit: true, route: routeOf(request) }),
  };
}

/** `ok`, the code of the error, or `aborted` where nobody waited for the answer. */
function outcomeOf(response: ServerResponse): string {
  if (isSandyardError(response.err)) return response.err.code;
  const status = statusOf(response);
  if (status === 499) return 'aborted';
  return status < 400 ? 'ok' : 'error';
}

function securityFields({ err }: ServerResponse): object {
  const kind = securityKindOf(err);
  return kind === undefined ? {} : securityEvent(kind);
}

function securityKindOf(error: unknown): string | undefined {
  if (!isSandyardError(error)) return undefined;
  const { refused, reason } = error.details;
  if (reason === 'replayed') return 'replay_refused';
  // Who asks for what the service isn't set up for has tried nothing.
  if (refused === 'configuration') return undefined;
  if (typeof refused === 'string') return `${refused}_refused`;
  return SECURITY_KINDS[error.code];
}

function levelOf(request: IncomingMessage, response: ServerResponse): 'debug' | 'info' | 'warn' | 'error' {
  const status = statusOf(response);
  if (status === 503 || securityKindOf(response.err) !== undefined) return 'warn';
  if (status >= 500) return 'error';
  return /^\/(healthz?|readyz|metrics)\/?$/.test(pathOf(request)) ? 'debug' : 'info';
}

/**
 * Of what a client did wrong the code alone: the message, which the client has, repeats its input. A stack only where it
 * helps: of what nobody foresaw.
 */
function presentError(error: unknown): unknown {
  if (!isSandyardError(error)) return errorFields(error);
  const { code, message, cause, status } = error;
  if (status < 500) return { code };
  if (!(cause instanceof Error)) return { code, message };
  return { code, message, cause: code === 'internal' ? errorFields(cause) : cause.message };
}
