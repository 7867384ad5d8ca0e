import { describe, expect, test } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { createLog } from '../../../src/log.js';
import { post, runApp, send, TOKEN, until, type AppSettings, type RequestOptions } from './harness.js';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const SPAN = 'b7ad6b7169203331';

async function logged(settings: AppSettings = {}) {
  const lines: string[] = [];
  const log = createLog({ level: 'debug' }, { write: (line) => lines.push(line) });
  const app = await runApp({ ...settings, log });
  return {
    app,
    lines,
    log,
    /** The line of one request. */
    async lineOf(path: string, options?: RequestOptions): Promise<Record<string, unknown>> {
      const before = lines.length;
      await send(app, path, options);
      await until(() => lines.length > before);
      expect(lines).toHaveLength(before + 1);
      return JSON.parse(lines.at(-1) ?? '') as Record<string, unknown>;
    },
    [Symbol.asyncDispose]: () => app[Symbol.asyncDispose](),
  };
}

describe('the line of a request', () => {
  test('says what, for whom, how it ended and how long it took', async () => {
    await using service = await logged({ env: { SANDBOX_OWNER: 'team-a' } });
    const line = await service.lineOf('/api/sandboxes/sb1/stats', { headers: { 'X-Request-Id': 'r1' } });
    expect(line).toEqual({
      level: 30,
      time: expect.any(String) as string,
      service: 'sandyard',
      req: { id: 'r1', method: 'GET', path: '/api/sandboxes/sb1/stats' },
      res: { status: 200 },
      request_id: 'r1',
      actor: 'rest',
      owner: 'team-a',
      sandbox: 'sb1',
      outcome: 'ok',
      duration_ms: expect.any(Number) as number,
      msg: 'request completed',
    });
    expect(line['duration_ms']).toBeGreaterThan(0);
  });

  test('names the sandbox that was made', async () => {
    await using service = await logged();
    await post(service.app, '/api/sandboxes', {});
    await until(() => service.lines.length > 0);
    expect(JSON.parse(service.lines[0] ?? '')).toMatchObject({ sandbox: 'sb2', outcome: 'ok', res: { status: 201 } });
  });

  test('names no sandbox where there is none, and the error', async () => {
    await using service = await logged();
    const line = await service.lineOf('/api/nothing');
    expect(line).toMatchObject({ outcome: 'route_not_found', err: { code: 'route_not_found' } });
    expect(line).not.toHaveProperty('sandbox');
    expect(await service.lineOf('/api/sandboxes/gone')).toMatchObject({
      sandbox: 'gone',
      outcome: 'sandbox_not_found',
    });
  });

  test('says of a stream how it ended', async () => {
    await using service = await logged();
    service.app.stub.script = { chunks: [], fault: new SandyardError('sandbox_died', 'It ended.') };
    const options = {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Accept: 'application/x-ndjson' },
      body: '{"command":["node"]}',
    };
    expect(await service.lineOf('/api/sandboxes/sb1/execute', options)).toMatchObject({
      outcome: 'sandbox_died',
      res: { status: 200 },
    });
  });

  test('is below the level of others where it is a probe or a scrape', async () => {
    await using service = await logged();
    for (const path of ['/healthz', '/metrics']) expect(await service.lineOf(path)).toMatchObject({ level: 20 });
  });

  test('never has a query, a token or a cookie', async () => {
    await using service = await logged({ env: { SANDBOX_TOKEN: TOKEN } });
    const headers = { Authorization: `Bearer ${TOKEN}`, Cookie: `session=${TOKEN}` };
    for (const path of [`/api/sandboxes/sb1/terminal?ticket=${TOKEN}`, `/api/sandboxes?token=${TOKEN}`]) {
      await service.lineOf(path, { headers });
      await service.lineOf(path);
    }
    expect(service.lines.join('')).not.toContain(TOKEN);
  });
});

describe('the trace of a caller', () => {
  test('is in every line', async () => {
    await using service = await logged();
    const { stub } = service.app;
    const stats = stub.stats.bind(stub);
    stub.stats = async (id) => {
      service.log.info({ sandbox: id }, 'from inside');
      return stats(id);
    };
    const headers = { traceparent: `00-${TRACE}-${SPAN}-01`, 'X-Request-Id': 'r1' };
    await send(service.app, '/api/sandboxes/sb1/stats', { headers });
    await until(() => service.lines.length === 2);
    const ids = { trace_id: TRACE, span_id: SPAN, request_id: 'r1', actor: 'rest' };
    expect(service.lines.map((line) => JSON.parse(line) as object)).toMatchObject([
      { msg: 'from inside', ...ids },
      { msg: 'request completed', ...ids },
    ]);
  });

  test('is left out where it is malformed', async () => {
    await using service = await logged();
    const line = await service.lineOf('/healthz', { headers: { traceparent: `00-${TRACE}-${SPAN}` } });
    expect(line).toMatchObject({ outcome: 'ok', res: { status: 200 } });
    expect(line).not.toHaveProperty('trace_id');
  });
});

describe('a security event', () => {
  const event = (kind: string) => ({ level: 40, event: 'security', kind });

  test('is a token that is missing or wrong', async () => {
    await using service = await logged({ env: { SANDBOX_TOKEN: TOKEN } });
    const headers = { Authorization: 'Bearer wrong' };
    expect(await service.lineOf('/api/sandboxes', { headers })).toMatchObject(event('token_refused'));
    expect(await service.lineOf('/metrics')).toMatchObject(event('token_refused'));
  });

  test('is a host or an origin that may not', async () => {
    await using service = await logged();
    const host = await service.lineOf('/healthz', { headers: { Host: 'evil.example' } });
    expect(host).toMatchObject(event('host_refused'));
    const headers = { Host: 'localhost', Origin: 'https://evil.example' };
    expect(await service.lineOf('/healthz', { headers })).toMatchObject(event('origin_refused'));
  });

  test.each([
    ['channel_failed', 'hostile_frames'],
    ['unsafe_archive', 'hostile_archive'],
  ] as const)('is %s', async (code, kind) => {
    await using service = await logged();
    service.app.stub.fault = new SandyardError(code, 'It is hostile.');
    expect(await service.lineOf('/api/sandboxes/sb1')).toMatchObject({ ...event(kind), sandbox: 'sb1', outcome: code });
  });

  test('is not what merely failed', async () => {
    await using service = await logged();
    expect(await service.lineOf('/api/sandboxes/gone')).not.toHaveProperty('event');
  });
});
