import { createServer, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pino, type Logger } from 'pino';

import { readConfig, type ServiceConfig } from '../../../src/config.js';
import { createApp } from '../../../src/http/app.js';
import { Calls } from '../../../src/http/calls.js';
import type { Metrics } from '../../../src/http/metrics.js';
import { WebSockets } from '../../../src/http/web-sockets.js';
import { StubManager } from './stub-manager.js';

export const TOKEN = 'correct-horse-battery';

export interface RunningApp extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  readonly stub: StubManager;
  readonly calls: Calls;
}

export interface AppSettings {
  readonly env?: Record<string, string>;
  readonly config?: Partial<ServiceConfig>;
  readonly log?: Logger;
  readonly metrics?: Metrics;
}

/** The application on a free port, with one running sandbox `sb1`. */
export async function runApp({ env = {}, config = {}, log, metrics }: AppSettings = {}): Promise<RunningApp> {
  const stub = new StubManager();
  await stub.create({});
  const calls = new Calls();
  const sockets = new WebSockets();
  const app = createApp({
    manager: stub.manager,
    config: { ...readConfig(env), ...config },
    log: log ?? pino({ level: 'silent' }),
    ...(metrics && { metrics }),
    calls,
    sockets,
  });
  const server = createServer({ requestTimeout: 0 }, app);
  sockets.serve(server, app);
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    stub,
    calls,
    async [Symbol.asyncDispose]() {
      calls.drain();
      server.closeAllConnections();
      await new Promise((resolve) => {
        server.close(resolve);
      });
    },
  };
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly json: Record<string, unknown>;
}

export interface RequestOptions {
  readonly method?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string | Uint8Array;
}

/** As fetch, but with any header (Host, Origin) and any path as they are. */
export function send(app: RunningApp, path: string, options: RequestOptions = {}): Promise<Answer> {
  const { method = 'GET', headers = {}, body } = options;
  return new Promise((resolve, reject) => {
    const request = httpRequest({ host: '127.0.0.1', port: app.port, path, method, headers, agent: false });
    request.once('error', reject);
    request.once('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', reject);
      response.once('end', () => {
        const text = Buffer.concat(chunks).toString();
        const isJson = /json$|json;/.test(response.headers['content-type'] ?? '') && text !== '';
        const json = (isJson && !text.includes('}\n{') ? JSON.parse(text) : {}) as Record<string, unknown>;
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text, json });
      });
    });
    request.end(body);
  });
}

export const JSON_TYPE = { 'Content-Type': 'application/json' };

export function post(app: RunningApp, path: string, body: unknown): Promise<Answer> {
  return send(app, path, { method: 'POST', headers: JSON_TYPE, body: JSON.stringify(body) });
}

/** Waits until something holds, for at most two seconds. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 2000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('It did not come about within 2 s.');
    await new Promise((resolve) => {
      setTimeout(resolve, 5);
    });
  }
}
