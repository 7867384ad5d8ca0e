import type { RequestHandler } from 'express';

import { isSandyardError } from '../errors.js';
import type { Metrics } from './metrics.js';
import { routeOf, statusOf } from './request-log.js';

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
