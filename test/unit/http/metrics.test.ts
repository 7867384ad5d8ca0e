import { describe, expect, test } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { Metrics } from '../../../src/http/metrics.js';
import type { ManagerGauges } from '../../../src/telemetry.js';
import { runApp, send, TOKEN, type RunningApp } from './harness.js';

const IDLE: ManagerGauges = {
  sandboxes: {},
  pool: { ready: 0, filling: 0 },
  queueLength: 0,
  usage: () => Promise.resolve([]),
};

/** The samples of a text, by name and labels as they are written. */
function samplesOf(text: string): Map<string, number> {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const at = line.lastIndexOf(' ');
      return [line.slice(0, at), Number(line.slice(at + 1))];
    }),
  );
}

async function read(metrics: Metrics, gauges: ManagerGauges = IDLE): Promise<Map<string, number>> {
  return samplesOf(await metrics.scrape(() => Promise.resolve(gauges)));
}

async function scrape(app: RunningApp): Promise<Map<string, number>> {
  return samplesOf((await send(app, '/metrics')).text);
}

describe('what is counted', () => {
  test('executions, by type and outcome, and how long they took', async () => {
    const metrics = new Metrics();
    metrics.execution({ type: 'exec', status: 'exited', seconds: 0.0004 });
    metrics.execution({ type: 'exec', status: 'timed_out', seconds: 3 });
    const samples = await read(metrics);
    expect(samples.get('sandbox_executions_total{type="exec",status="exited"}')).toBe(1);
    expect(samples.get('sandbox_executions_total{type="exec",status="timed_out"}')).toBe(1);
    expect(samples.get('sandbox_execution_duration_seconds_bucket{le="0.0005",type="exec"}')).toBe(1);
    expect(samples.get('sandbox_execution_duration_seconds_bucket{le="5",type="exec"}')).toBe(2);
    expect(samples.get('sandbox_execution_duration_seconds_sum{type="exec"}')).toBeCloseTo(3.0004);
  });

  test('creates, claims, refusals, calls of the engine, what was reaped, events', async () => {
    const metrics = new Metrics();
    metrics.create({ source: 'warm', status: 'ok', seconds: 0.004 });
    metrics.claim('lost');
    metrics.rejected('queue');
    metrics.rejected('owner.memory');
    metrics.engineCall({ operation: 'start_container', status: 'ok', seconds: 0.1 });
    metrics.reaped('lease_expired');
    metrics.event('created');
    metrics.error('wrong_state');
    const samples = await read(metrics);
    for (const name of [
      'sandbox_creates_total{source="warm",status="ok"}',
      'sandbox_create_duration_seconds_count{source="warm"}',
      'sandbox_pool_claims_total{result="lost"}',
      'sandbox_create_rejections_total{reason="queue"}',
      'sandbox_create_rejections_total{reason="owner.memory"}',
      'sandbox_engine_calls_total{operation="start_container",status="ok"}',
      'sandbox_engine_call_duration_seconds_count{operation="start_container"}',
      'sandbox_reaped_total{reason="lease_expired"}',
      'sandbox_events_total{type="created"}',
      'sandbox_errors_total{code="wrong_state"}',
    ]) {
      expect(samples.get(name), name).toBe(1);
    }
  });

  test('what nobody foresaw is one value of a label, however much there is of it', async () => {
    const metrics = new Metrics();
    for (let count = 0; count < 50; count += 1) {
      const id = `x${count}`;
      metrics.execution({ type: 'spawn', status: id, seconds: 1 });
      metrics.reaped(id);
      metrics.rejected(id);
      metrics.event(id);
      metrics.error(id);
      metrics.request({ route: undefined, method: id, status: 404, seconds: 1 });
    }
    const samples = await read(metrics);
    expect([...samples.keys()].filter((name) => /x\d/.test(name))).toEqual([]);
    for (const name of [
      'sandbox_executions_total{type="spawn",status="other"}',
      'sandbox_reaped_total{reason="other"}',
      'sandbox_create_rejections_total{reason="other"}',
      'sandbox_events_total{type="other"}',
      'sandbox_errors_total{code="other"}',
      'sandbox_http_requests_total{route="other",method="other",status="4xx"}',
    ]) {
      expect(samples.get(name), name).toBe(50);
    }
  });
});

describe('what there is now', () => {
  const usage = (seconds: Record<string, number>) => async () =>
    Object.entries(seconds).map(([id, cpuSeconds]) => ({ id, cpuSeconds, memoryBytes: 100 }));

  test('is read when it is asked for', async () => {
    const samples = await read(new Metrics(), {
      sandboxes: { running: 2, exited: 1, odd: 9 },
      pool: { ready: 3, filling: 1 },
      queueLength: 4,
      usage: usage({ a: 1, b: 2 }),
    });
    expect(Object.fromEntries(samples)).toMatchObject({
      sandbox_active_sessions: 2,
      'sandbox_sandboxes{state="running"}': 2,
      'sandbox_sandboxes{state="exited"}': 1,
      'sandbox_sandboxes{state="paused"}': 0,
      'sandbox_pool_sandboxes{state="ready"}': 3,
      'sandbox_pool_sandboxes{state="filling"}': 1,
      sandbox_create_queue_length: 4,
      sandbox_memory_usage_bytes: 200,
      sandbox_cpu_usage_percent: 0,
    });
    expect([...samples.keys()].some((name) => name.includes('odd'))).toBe(false);
  });

  test('CPU is that of the time since the scrape before', async () => {
    const metrics = new Metrics();
    await read(metrics, { ...IDLE, usage: usage({ stays: 10, restarts: 50 }) });
    const before = performance.now();
    await new Promise((resolve) => {
      setTimeout(resolve, 1100);
    });
    const samples = await read(metrics, { ...IDLE, usage: usage({ stays: 10.5, restarts: 0.25, isNew: 99 }) });
    const expected = (0.75 / ((performance.now() - before) / 1000)) * 100;
    expect(samples.get('sandbox_cpu_usage_percent')).toBeGreaterThan(expected * 0.8);
    expect(samples.get('sandbox_cpu_usage_percent')).toBeLessThan(expected * 1.2);
  });

  test('scrapes at the same time share one reading', async () => {
    const metrics = new Metrics();
    let reads = 0;
    const gauges = async () => {
      reads += 1;
      return IDLE;
    };
    await Promise.all([metrics.scrape(gauges), metrics.scrape(gauges)]);
    await metrics.scrape(gauges);
    expect(reads).toBe(1);
  });

  test.each([
    ['hangs', () => new Promise<never>(() => {})],
    ['fails', () => Promise.reject(new Error('no engine'))],
  ])('is left out where the manager %s, and the rest comes in time', async (_what, gauges) => {
    const metrics = new Metrics();
    metrics.error('wrong_state');
    const started = performance.now();
    const samples = samplesOf(await metrics.scrape(gauges));
    expect(performance.now() - started).toBeLessThan(2000);
    expect(samples.get('sandbox_errors_total{code="wrong_state"}')).toBe(1);
    expect([...samples.keys()].filter((name) => /active_sessions|memory_usage|_sandboxes|queue/.test(name))).toEqual(
      [],
    );
  });

  test('sandboxes that do not tell what they use are still counted', async () => {
    const samples = await read(new Metrics(), {
      ...IDLE,
      sandboxes: { running: 1 },
      usage: () => new Promise(() => {}),
    });
    expect(samples.get('sandbox_active_sessions')).toBe(1);
    expect(samples.has('sandbox_memory_usage_bytes')).toBe(false);
    expect(samples.has('sandbox_cpu_usage_percent')).toBe(false);
  });
});

describe('GET /metrics', () => {
  test('is text that Prometheus reads, with the process itself', async () => {
    await using app = await runApp({ metrics: new Metrics({ process: true }) });
    const answer = await send(app, '/metrics');
    expect(answer.status).toBe(200);
    expect(answer.headers['content-type']).toBe('text/plain; version=0.0.4; charset=utf-8');
    const samples = samplesOf(answer.text);
    expect(samples.get('sandbox_active_sessions')).toBe(1);
    expect(samples.get('process_resident_memory_bytes')).toBeGreaterThan(0);
    expect(answer.text).not.toMatch(/nodejs_active_\w+_total/);
  });

  test('counts requests by route, method and class of status', async () => {
    await using app = await runApp();
    for (const path of ['/api/sandboxes/sb1', '/api/sandboxes/sb1/', '/api/sandboxes/gone', '/healthz', '/x/y/z']) {
      await send(app, path);
    }
    await send(app, '/api/sandboxes/sb1/execute', { method: 'PUT' });
    await send(app, '/api/sandboxes/sb1', { method: 'PROPFIND' });
    const samples = await scrape(app);
    const requests = [...samples].filter(([name]) => name.startsWith('sandbox_http_requests_total'));
    expect(Object.fromEntries(requests)).toEqual({
      'sandbox_http_requests_total{route="/api/sandboxes/{id}",method="GET",status="2xx"}': 2,
      'sandbox_http_requests_total{route="/api/sandboxes/{id}",method="GET",status="4xx"}': 1,
      'sandbox_http_requests_total{route="/healthz",method="GET",status="2xx"}': 1,
      'sandbox_http_requests_total{route="other",method="GET",status="4xx"}': 1,
      'sandbox_http_requests_total{route="/api/sandboxes/{id}/execute",method="PUT",status="4xx"}': 1,
      'sandbox_http_requests_total{route="/api/sandboxes/{id}",method="other",status="4xx"}': 1,
    });
    const seconds = 'sandbox_http_request_duration_seconds_count{route="/api/sandboxes/{id}",method="GET"}';
    expect(samples.get(seconds)).toBe(3);
  });

  test('counts each error that was answered once', async () => {
    await using app = await runApp();
    await send(app, '/api/sandboxes/gone');
    await send(app, '/api/sandboxes/sb1/terminal');
    app.stub.fault = new Error('unforeseen');
    await send(app, '/api/sandboxes/sb1');
    app.stub.script = { chunks: [], fault: new SandyardError('sandbox_died', 'It ended.') };
    await send(app, '/api/sandboxes/sb1/execute', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Accept: 'application/x-ndjson' },
      body: '{"command":["node"]}',
    });
    const errors = [...(await scrape(app))].filter(([name]) => name.startsWith('sandbox_errors_total'));
    expect(Object.fromEntries(errors)).toEqual({
      'sandbox_errors_total{code="sandbox_not_found"}': 1,
      'sandbox_errors_total{code="invalid_request"}': 1,
      'sandbox_errors_total{code="internal"}': 1,
      'sandbox_errors_total{code="sandbox_died"}': 1,
    });
  });

  test('needs the token where there is one', async () => {
    await using app = await runApp({ env: { SANDBOX_TOKEN: TOKEN } });
    const refused = await send(app, '/metrics');
    expect(refused.status).toBe(401);
    expect(refused.text).not.toContain('sandbox_active_sessions');
    expect((await send(app, '/metrics', { headers: { Authorization: `Bearer ${TOKEN}` } })).status).toBe(200);
    const openApi = (await send(app, '/openapi.json')).json as { paths: Record<string, { get: unknown }> };
    expect(openApi.paths['/metrics']?.get).toMatchObject({ tags: ['Service'], security: [{ bearer: ['admin'] }] });
    expect(openApi.paths['/healthz']?.get).toMatchObject({ tags: ['Service'], security: [] });
  });
});
