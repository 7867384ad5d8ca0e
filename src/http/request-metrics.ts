import type { Request, RequestHandler } from 'express';

import { isSandyardError } from '../errors.js';
import type { Metrics } from './metrics.js';
import { statusOf } from './request-log.js';

/** Counts each request when its answer is sent or given up, and the error that it was answered with. */
export function countRequests(metrics: Metrics): RequestHandler {
  return (request, response, next) => {
    const started = performance.now();
    response.once('close', () => {
      const seconds = (performance.now() - started) / 1000;
      metrics.request({ route: routeOf(request), method: request.method, status: statusOf(response), seconds });
      if (isSandyardError(response.err)) metrics.error(response.err.code);
    });
    next();
  };
}

/** As the OpenAPI document writes it; nothing where the request met no route, or wasn't let through to it. */
function routeOf(request: Request): string | undefined {
  const { path } = (request.route ?? {}) as { path?: unknown };
  return typeof path === 'string' ? path.replaceAll(/:(\w+)/g, '{$1}') : undefined;
}
