import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';

import { isLoopback, isOpen, type ServiceConfig } from '../config.js';
import { isSandyardError, SandyardError } from '../errors.js';
import { SandboxManager } from '../index.js';
import { packageVersion } from '../version.js';
import { createApp } from './app.js';
import { formatBanner } from './banner.js';
import { Calls, within } from './calls.js';
import { answerClientErrors } from './client-errors.js';
import { Metrics } from './metrics.js';
import { WebSockets } from './web-sockets.js';
import { Webhooks } from './webhooks.js';

const HEADERS_TIMEOUT_MS = 30_000;
const MAX_HEADERS = 100;
const MAX_HEADER_BYTES = 16 * 1024;
/** Less than the 10 s after which `docker stop` and its kind use SIGKILL. */
const CLOSE_MS = 7000;
/** An engine that hangs must not keep the service. */
const MANAGER_CLOSE_MS = 2000;
/** Within `CLOSE_MS`, what is left for the answers of calls that were cut short. */
const LAST_WORDS_MS = 1000;
const SWEEP_MS = 50;
const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 30_000;
/** How long the banner waits for an engine that is slow to answer. */
const BANNER_MS = 3000;

export interface ServiceOptions {
  readonly log: Logger;
  readonly manager?: SandboxManager;
}

export interface Service {
  /** As a client on this machine would write it. */
  readonly url: string;
  /** What to tell a person about it. */
  banner(options: { showToken: boolean }): Promise<string>;
  /** Ends streams with an event, lets other requests finish, and settles within 10 s. Sandboxes live on. */
  close(): Promise<void>;
}

/** Listens, with or without an engine: that is looked for until it is there. */
export async function startService(config: ServiceConfig, options: ServiceOptions): Promise<Service> {
  const { log } = options;
  const metrics = new Metrics({ process: true });
  const manager =
    options.manager ??
    new SandboxManager({
      log,
      telemetry: metrics,
      image: config.image,
      owner: config.owner,
      limits: config.limits,
      admission: config.admission,
      pool: config.pool,
      egress: config.egress,
      socketDirectory: config.socketDirectory,
      reaper: config.reaper,
    });
  const calls = new Calls();
  const sockets = new WebSockets();
  const app = createApp({ manager, config, log, metrics, calls, sockets, version: packageVersion() });
  const listener = createServer(
    { requestTimeout: 0, headersTimeout: HEADERS_TIMEOUT_MS, maxHeaderSize: MAX_HEADER_BYTES },
    app,
  );
  sockets.serve(listener, app);
  const server = await listen(listener, config);
  server.maxHeadersCount = MAX_HEADERS;
  answerClientErrors(server, metrics);
  const url = urlOf(server, config.host);
  for (const warning of config.warnings) log.warn({}, warning);
  log.info({ url }, 'listening');
  const closing = new AbortController();
  const webhooks = config.webhooks && new Webhooks({ ...config.webhooks, log, metrics });
  void webhooks?.follow(manager);
  const opening = keepOpening(manager, { log, signal: closing.signal });
  let closed: Promise<void> | undefined;
  return {
    url,
    banner: ({ showToken }) => describeService({ manager, config, url, showToken }),
    close: () =>
      (closed ??= (async () => {
        log.info({}, 'shutting down');
        closing.abort();
        await closeServer(server, calls);
        const [done] = await Promise.all([
          within(
            MANAGER_CLOSE_MS,
            opening.then(() => manager.close()),
          ),
          webhooks?.close(),
        ]);
        if (done) log.info({}, 'closed; sandboxes live on');
        else log.warn({}, 'closed without waiting any longer for the engine; sandboxes live on');
      })()),
  };
}

async function listen(server: Server, { host, port }: ServiceConfig): Promise<Server> {
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, host.replace(/^\[(.*)\]$/, '$1'), () => {
        server.off('error', reject);
        resolve();
      });
    });
    return server;
  } catch (error) {
    throw listenError(error, { host, port });
  }
}

function listenError(error: unknown, { host, port }: { host: string; port: number }): SandyardError {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'EADDRINUSE') {
    return new SandyardError('config_invalid', `Port ${port} on ${host} is in use by another program.`, {
      hint: `Stop that program, or choose another port: PORT=${port + 1} npm start`,
      cause: error,
    });
  }
  const reason = error instanceof Error ? error.message : String(error);
  return new SandyardError('config_invalid', `Can't listen on port ${port} of ${host}: ${reason}.`, {
    hint: 'Set HOST to an address of this machine, and PORT to a port of 1024 or more.',
    cause: error,
  });
}

/** Until it succeeds once; from then on the manager finds a lost engine again by itself. */
async function keepOpening(
  manager: SandboxManager,
  { log, signal }: { log: Logger; signal: AbortSignal },
): Promise<void> {
  let said = '';
  for (let waitMs = FIRST_RETRY_MS; !signal.aborted; waitMs = Math.min(waitMs * 2, MAX_RETRY_MS)) {
    try {
      await manager.open({ signal });
      log.info({ image: manager.image }, 'connected to the engine');
      return;
    } catch (error) {
      if (signal.aborted) return;
      const message = error instanceof Error ? error.message : String(error);
      if (message !== said) {
        const { hint, code } = isSandyardError(error) ? error : { hint: undefined, code: 'internal' };
        log.warn({ code, hint }, `not ready: ${message}`);
        said = message;
      }
    }
    await sleep(waitMs, undefined, { signal, ref: false }).catch(() => {});
  }
}

async function closeServer(server: Server, calls: Calls): Promise<void> {
  const ended = new Promise<void>((resolve) => server.close(() => resolve()));
  calls.drain();
  const abandon = setTimeout(() => calls.abandon(), CLOSE_MS - LAST_WORDS_MS);
  const cut = setTimeout(() => server.closeAllConnections(), CLOSE_MS);
  // Streams have promised to keep their connection before it was known that this is the end.
  const sweep = setInterval(() => server.closeIdleConnections(), SWEEP_MS);
  await ended;
  clearInterval(sweep);
  clearTimeout(abandon);
  clearTimeout(cut);
}

async function describeService({
  manager,
  config,
  url,
  showToken,
}: {
  manager: SandboxManager;
  config: ServiceConfig;
  url: string;
  showToken: boolean;
}): Promise<string> {
  const { token, image } = config;
  const deadline = { signal: AbortSignal.timeout(BANNER_MS) };
  const engine = await manager
    .engineInfo(deadline)
    .catch((error: unknown) => (isSandyardError(error) ? (error.hint ?? error.message) : 'it can not be reached'));
  const imagePresent = typeof engine === 'string' ? undefined : await manager.hasImage(deadline).catch(() => undefined);
  return formatBanner({ url, token, isOpen: isOpen(config), showToken, image, imagePresent, engine });
}

function urlOf(server: Server, host: string): string {
  const { port } = server.address() as AddressInfo;
  const name = isLoopback(host) ? host : '127.0.0.1';
  return `http://${name.includes(':') && !name.startsWith('[') ? `[${name}]` : name}:${port}`;
}
