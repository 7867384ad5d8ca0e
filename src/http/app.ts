import express, { type ErrorRequestHandler, type Express } from 'express';
import type { Logger } from 'pino';

import type { ServiceConfig } from '../config.js';
import { SandyardError } from '../errors.js';
import type { SandboxManager } from '../index.js';
import { discardUnread } from './body.js';
import { Calls } from './calls.js';
import { docsRouter } from './docs.js';
import { executeOperations } from './execute-routes.js';
import { fileOperations } from './file-routes.js';
import { healthOperations } from './health-routes.js';
import { toOpenApi } from './openapi.js';
import { toRouter } from './operation.js';
import { PROBLEM_TYPE, retryAfterSeconds, toProblem, toSandyardError } from './problem.js';
import { logRequests, requestIdOf } from './request-log.js';
import { sandboxOperations } from './sandbox-routes.js';
import { guardOrigin, requireToken, securityHeaders } from './security.js';

export interface AppOptions {
  readonly manager: SandboxManager;
  readonly config: ServiceConfig;
  readonly log: Logger;
  /** The requests that are being answered; whoever ends the service ends them through it. */
  readonly calls?: Calls;
  readonly version?: string;
}

/** The REST service as an Express application: no listening, no signal handlers, no I/O until a request comes. */
export function createApp({ manager, config, log, calls = new Calls(), version = '0.0.0' }: AppOptions): Express {
  const app = express();
  app.disable('x-powered-by').disable('etag').enable('case sensitive routing');
  const service = { manager, config, calls };
  const closed = [...sandboxOperations, ...executeOperations, ...fileOperations];
  const openApi = toOpenApi([...closed, ...healthOperations], { version, secured: config.token !== undefined });

  app.use(logRequests(log), securityHeaders, discardUnread);
  app.use((_request, response, next) => {
    response.set('Cache-Control', 'no-store');
    if (calls.draining) response.set('Connection', 'close');
    next();
  });
  app.use(guardOrigin(config));
  app.use(toRouter(healthOperations, service), docsRouter(openApi));
  app.use(requireToken(config));
  app.use(toRouter(closed, service));
  app.use((request) => {
    throw new SandyardError('route_not_found', `There is no route ${request.path}.`, {
      hint: 'The routes are listed at /docs and in /openapi.json.',
    });
  });
  app.use(sendProblem);
  return app;
}

/** Express knows an error handler by its four parameters. */
// oxlint-disable-next-line max-params
const sendProblem: ErrorRequestHandler = (error: unknown, request, response, _next) => {
  const known = toSandyardError(error);
  // For the line in the log.
  response.err = known;
  if (response.headersSent || response.destroyed) {
    // A clean end would pass for the whole answer.
    if (!response.writableEnded) response.destroy();
    return;
  }
  const problem = toProblem(known, {
    instance: request.originalUrl.split('?', 1)[0] ?? '/',
    requestId: requestIdOf(request),
  });
  const retryAfter = retryAfterSeconds(problem.status);
  if (retryAfter !== undefined) response.set('Retry-After', String(retryAfter));
  for (const header of ['Content-Length', 'Content-Disposition']) response.removeHeader(header);
  response.status(problem.status).type(PROBLEM_TYPE).send(JSON.stringify(problem));
};
