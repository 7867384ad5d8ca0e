import express, { type ErrorRequestHandler, type Express } from 'express';
import type { Logger } from 'pino';

import { Access } from '../access/access.js';
import type { ServiceConfig } from '../config.js';
import { SandyardError } from '../errors.js';
import type { SandboxManager } from '../index.js';
import { archiveOperations } from './archive-routes.js';
import { authenticate } from './authentication.js';
import { discardUnread } from './body.js';
import { Calls } from './calls.js';
import { checkOperations } from './check-routes.js';
import { allowCrossOrigin, allowsOrigins } from './cross-origin.js';
import { docsRouter } from './docs.js';
import { cleanupOperations } from './cleanup-routes.js';
import { egressOperations } from './egress-routes.js';
import { eventOperations } from './event-routes.js';
import { executeOperations } from './execute-routes.js';
import { fileLinkOperations } from './file-link-routes.js';
import { fileOperations } from './file-routes.js';
import { healthOperations } from './health-routes.js';
import { KeptAnswers } from './kept-answers.js';
import { Metrics } from './metrics.js';
import { metricsOperations } from './metrics-routes.js';
import { toOpenApi } from './openapi.js';
import { toRouter, type Operation } from './operation.js';
import { ProcessInputs } from './process-inputs.js';
import { processIoOperations } from './process-io-routes.js';
import { processOperations } from './process-routes.js';
import { answerProblem, toSandyardError } from './problem.js';
import { enterContext, logRequests } from './request-log.js';
import { countRequests } from './request-metrics.js';
import { sandboxOperations } from './sandbox-routes.js';
import { secretOperations } from './secret-routes.js';
import { limitByAddress, limitByOwner, limitRefused } from './rate-limits.js';
import { guardOrigin, securityHeaders } from './security.js';
import { terminalOperations } from './terminal-routes.js';
import { TerminalTickets } from './terminal-tickets.js';
import { tokenOperations } from './token-routes.js';
import { treeOperations } from './tree-routes.js';
import { WebSockets } from './web-sockets.js';

/** What needs a token. In the order in which they are looked through, so what is called most comes first. */
const CLOSED: readonly Operation[] = [
  ...executeOperations,
  ...fileOperations,
  ...treeOperations,
  ...fileLinkOperations,
  ...archiveOperations,
  ...processOperations,
  ...processIoOperations,
  ...terminalOperations,
  ...sandboxOperations,
  ...egressOperations,
  ...secretOperations,
  ...eventOperations,
  ...cleanupOperations,
  ...checkOperations,
  ...tokenOperations,
  ...metricsOperations,
];

export interface AppOptions {
  readonly manager: SandboxManager;
  readonly config: ServiceConfig;
  readonly log: Logger;
  /** What counts, and answers at /metrics. */
  readonly metrics?: Metrics;
  /** The requests that are being answered; whoever ends the service ends them through it. */
  readonly calls?: Calls;
  /** What turns requests for terminals into WebSockets; the server has to be served by it. */
  readonly sockets?: WebSockets;
  readonly version?: string;
}

/** The REST service as an Express application: no listening, no signal handlers, no I/O until a request comes. */
export function createApp(options: AppOptions): Express {
  const { manager, config, log, metrics = new Metrics(), version = '0.0.0' } = options;
  const { calls = new Calls(), sockets = new WebSockets() } = options;
  const app = express();
  app.disable('x-powered-by').disable('etag').enable('case sensitive routing');
  const tickets = new TerminalTickets();
  const inputs = new ProcessInputs();
  const { access: settings, token, owner } = config;
  const access = new Access({ settings, token, owner });
  const service = { access, manager, config, calls, metrics, sockets, tickets, inputs, answers: new KeptAnswers() };
  const openApi = () => toOpenApi([...CLOSED, ...healthOperations], { version, secured: !access.isOpen });

  app.use(
    logRequests({ log, owner: config.owner }),
    enterContext,
    countRequests(metrics),
    securityHeaders,
    discardUnread,
  );
  app.use((_request, response, next) => {
    response.set('Cache-Control', 'no-store');
    if (calls.draining) response.set('Connection', 'close');
    next();
  });
  if (settings.trustedProxies.length > 0) app.set('trust proxy', settings.trustedProxies);
  app.use(guardOrigin(config, access));
  if (allowsOrigins(settings)) app.use(allowCrossOrigin(settings));
  app.use(toRouter(healthOperations, service), docsRouter(openApi));
  if (settings.ratePerAddress !== undefined) app.use(limitByAddress(settings.ratePerAddress));
  app.use(authenticate({ access, tickets, refusedOne: limitRefused() }));
  if (settings.ratePerOwner !== undefined) app.use(limitByOwner(settings.ratePerOwner));
  app.use(toRouter(CLOSED, service));
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
  // For the line in the log, also where there is no answer any more.
  response.err = known;
  if (response.headersSent || response.destroyed) {
    // A clean end would pass for the whole answer.
    if (!response.writableEnded) response.destroy();
    return;
  }
  answerProblem(known, { request, response });
};
