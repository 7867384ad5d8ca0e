import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { describe, expect, test, vi } from 'vitest';

import { Metrics } from '../../../src/http/metrics.js';
import { Webhooks, type WebhookTimes } from '../../../src/http/webhooks.js';
import type { LifecycleEventType } from '../../../src/index.js';
import { LifecycleEvents } from '../../../src/fleet/lifecycle.js';
import { until } from './harness.js';

const KEY = Buffer.from('0123456789abcdef0123456789abcdef');
const FAST = { firstRetryMs: 5, maxRetryMs: 20, closeMs: 200 };

interface Received {
  readonly headers: Record<string, string>;
  readonly body: string;
}

type Answerer = (response: ServerResponse, count: number) => void;

/** Who is told, and a manager that tells. */
class Scene implements AsyncDisposable {
  readonly received: Received[] = [];
  readonly lines: { fields: Record<string, unknown>; message: string }[] = [];
  readonly lifecycle = new LifecycleEvents();
  readonly metrics = new Metrics();
  readonly webhooks: Webhooks;
  readonly #server;

  static async open(answer: Answerer, times: Partial<WebhookTimes> = {}): Promise<Scene> {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new Scene(server, { answer, times });
  }

  private constructor(
    server: ReturnType<typeof createServer>,
    { answer, times }: { answer: Answerer; times: Partial<WebhookTimes> },
  ) {
    this.#server = server;
    const { port } = server.address() as AddressInfo;
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        const headers = request.headers as Record<string, string>;
        this.received.push({ headers, body: Buffer.concat(chunks).toString() });
        answer(response, this.received.length);
      });
    });
    const note = (fields: object, message: string) =>
      void this.lines.push({ fields: fields as Record<string, unknown>, message });
    const urls = [`http://127.0.0.1:${port}/hook?token=s3cret`];
    const log = { debug: note, info: note, warn: note, error: note };
    this.webhooks = new Webhooks({ urls, key: KEY, log, metrics: this.metrics, times: { ...FAST, ...times } });
    void this.webhooks.follow({ events: (options) => this.lifecycle.read(options) });
  }

  tell(type: LifecycleEventType, count = 1): void {
    const record = { id: 'sb1', owner: 'default', tenant: null, projectName: 'p' };
    for (let told = 0; told < count; told += 1) this.lifecycle.tell({ type, record, reason: 'requested' });
  }

  /** What is counted of webhooks, by name and label. */
  get counts(): Promise<Record<string, number>> {
    return countsOf(this.metrics);
  }

  get ids(): string[] {
    return this.received.map(({ headers }) => headers['webhook-id'] ?? '');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.webhooks.close();
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

async function countsOf(metrics: Metrics): Promise<Record<string, number>> {
  const text = await metrics.scrape(() => Promise.reject(new Error('no engine')));
  const samples = text.matchAll(/^sandbox_webhook_(\w+)_total(?:\{outcome="(\w+)"\})? (\d+)$/gm);
  return Object.fromEntries([...samples].map(([, name = '', outcome, count]) => [outcome ?? name, Number(count)]));
}

const ok: Answerer = (response) => void response.writeHead(204).end();

describe('webhooks', () => {
  test("are signed so that the specification's own library takes them, and nothing else", async () => {
    await using scene = await Scene.open(ok);
    scene.tell('created');
    await until(() => scene.received.length === 1);
    const { headers, body } = scene.received[0] as Received;
    expect(headers).toMatchObject({ 'content-type': 'application/json', 'webhook-id': expect.stringMatching(/-1$/) });
    const payload = new Webhook(`whsec_${KEY.toString('base64')}`).verify(body, headers);
    expect(payload).toEqual({
      type: 'sandbox.created',
      timestamp: expect.stringMatching(/Z$/) as string,
      data: expect.objectContaining({ type: 'created', sandbox_id: 'sb1', project_name: 'p' }) as object,
    });
    expect(() => new Webhook(Buffer.alloc(32).toString('base64')).verify(body, headers)).toThrow();
    expect(() => new Webhook(KEY.toString('base64')).verify(body.replace('sb1', 'sb2'), headers)).toThrow();
  });

  test('are sent again until they are taken, in order, under the same id', async () => {
    await using scene = await Scene.open((response, count) => void response.writeHead(count <= 2 ? 500 : 200).end());
    scene.tell('created');
    scene.tell('destroyed');
    await until(() => scene.received.length === 4);
    const [a, b, c, d] = scene.ids;
    expect([a, b]).toEqual([c, c]);
    expect(d).not.toBe(a);
    expect(JSON.parse(scene.received[3]?.body ?? '')).toMatchObject({ type: 'sandbox.destroyed' });
    expect(scene.lines).toEqual([]);
  });

  test('are given up after so many tries, the next goes on, and the log has no secret', async () => {
    await using scene = await Scene.open((response, count) => void response.writeHead(count <= 3 ? 503 : 200).end(), {
      tries: 3,
    });
    scene.tell('created');
    scene.tell('destroyed');
    await until(() => scene.received.length === 4);
    expect(new Set(scene.ids).size).toBe(2);
    expect(scene.lines[0]).toMatchObject({ fields: { reason: 'status 503', lost: 1 } });
    await scene.webhooks.close();
    expect(await scene.counts).toEqual({ sent: 1, refused: 3, drops: 1 });
    expect(JSON.stringify(scene.lines)).not.toMatch(/s3cret|hook\?/);
    expect(JSON.stringify(scene.lines)).not.toContain(KEY.toString('base64'));
  });

  test('do not follow a redirect', async () => {
    await using scene = await Scene.open((response) => void response.writeHead(307, { location: '/elsewhere' }).end(), {
      tries: 2,
    });
    scene.tell('created');
    await until(() => scene.lines.length === 1);
    expect(scene.received).toHaveLength(2);
    expect(scene.lines[0]?.fields).toMatchObject({ reason: 'status 307' });
  });

  test('that are gone are never sent again', async () => {
    await using scene = await Scene.open((response) => void response.writeHead(410).end());
    scene.tell('created', 3);
    await until(() => scene.lines.length > 0);
    scene.tell('destroyed');
    await scene.webhooks.close();
    expect(scene.received).toHaveLength(1);
    expect(scene.lines.at(-1)?.fields).toMatchObject({ lost: 3 });
  });

  test('have a deadline each', async () => {
    await using scene = await Scene.open((response, count) => void (count > 1 && response.end()), { deadlineMs: 50 });
    scene.tell('created');
    await until(() => scene.received.length === 2);
  });

  test('wait in a queue that is bounded: the oldest are lost, counted and told', async () => {
    await using scene = await Scene.open((response, count) => void (count > 1 && response.end()), { deadlineMs: 1000 });
    scene.tell('created');
    await until(() => scene.received.length === 1);
    scene.tell('renewed', 1050);
    await until(() => scene.lines.length > 0);
    expect(scene.lines[0]).toMatchObject({ fields: { reason: 'the queue is full', lost: 1 } });
    await until(() => scene.received.length > 1);
    await vi.waitFor(() => expect(scene.received).toHaveLength(1002), { timeout: 15_000 });
    expect(scene.ids.at(2)).toMatch(/-52$/);
  }, 20_000);

  test('closing gives each one more try, and up in time', async () => {
    await using scene = await Scene.open((response, count) => void response.writeHead(count === 1 ? 500 : 200).end(), {
      firstRetryMs: 60_000,
    });
    scene.tell('created');
    await until(() => scene.received.length === 1);
    scene.tell('destroyed');
    await new Promise((resolve) => setTimeout(resolve, 20));
    await scene.webhooks.close();
    expect(scene.received).toHaveLength(3);
    expect(scene.lines).toEqual([]);

    await using silent = await Scene.open(() => {});
    silent.tell('created', 5);
    await until(() => silent.received.length === 1);
    const began = performance.now();
    await silent.webhooks.close();
    expect(performance.now() - began).toBeLessThan(1000);
    expect(silent.lines.at(-1)?.fields).toMatchObject({ lost: 5 });
  });

  test('nobody there is a reason in the log, and no fault of the service', async () => {
    const lines: object[] = [];
    const note = (fields: object) => void lines.push(fields);
    const log = { debug: note, info: note, warn: note, error: note };
    const lifecycle = new LifecycleEvents();
    const metrics = new Metrics();
    const webhooks = new Webhooks({
      urls: ['http://127.0.0.1:9/'],
      key: KEY,
      log,
      metrics,
      times: { ...FAST, tries: 1 },
    });
    const following = webhooks.follow({ events: (options) => lifecycle.read(options) });
    lifecycle.tell({ type: 'oom', record: { id: 'a', owner: 'o', tenant: null, projectName: null }, reason: 'ended' });
    await until(() => lines.length > 0);
    lifecycle.close();
    await following;
    await webhooks.close();
    expect(lines[0]).toMatchObject({ webhook: 'http://127.0.0.1:9', lost: 1 });
    expect(await countsOf(metrics)).toEqual({ failed: 1, drops: 1 });
  });
});
