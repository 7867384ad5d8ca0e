import { Writable } from 'node:stream';
import { pino } from 'pino';
import { describe, expect, test } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { post, runApp, send, until } from './harness.js';

describe('sandboxes', () => {
  test.each(['/api/sandboxes', '/api/sandboxes/'])('POST %s creates', async (path) => {
    await using app = await runApp();
    const answer = await post(app, path, { project_name: 'test', memory_limit: '1g', cpu_limit: '1.0' });
    expect(answer.status).toBe(201);
    expect(answer.headers.location).toBe('/api/sandboxes/sb2');
    expect(answer.json).toEqual({
      id: 'sb2',
      name: 'sandyard-sb2',
      container_id: 'c'.repeat(64),
      project_name: 'test',
      state: 'running',
      image: 'sandyard-sandbox:latest',
      owner: 'default',
      tenant: null,
      created_at: '2026-01-01T00:00:00.000Z',
      expires_at: '2026-01-01T01:00:00.000Z',
      expires_in: 0,
      started_at: '2026-01-01T00:00:01.000Z',
      finished_at: null,
      exit_code: null,
      timeout: 3600,
      idle_timeout: null,
      max_lifetime: 86_400,
      on_expiry: 'destroy',
      wake_on_use: false,
      memory_limit: 1024 ** 3,
      cpu_limit: 1,
      pids_limit: 256,
      nofile_limit: 4096,
      disk_limit: 1792 * 1024 ** 2,
      inodes_limit: 262_144,
      disk: 'watchdog',
      network: 'none',
      secrets: {},
      workdir: '/workspace',
      user: 'sandbox',
      runtime: null,
      profile: 'standard',
      metadata: {},
    });
  });

  test('without a body the defaults are taken', async () => {
    await using app = await runApp();
    const answer = await send(app, '/api/sandboxes', { method: 'POST' });
    expect(answer.status).toBe(201);
    expect(app.stub.calls.at(-1)).toEqual({ call: 'create', args: [{}] });
  });

  test('every field of the body reaches the library, in its words', async () => {
    await using app = await runApp();
    const common = { env: { A: 'b' }, network: 'bridge', metadata: { k: 'v' }, labels: { l: 'v' }, user: '1001' };
    const answer = await post(app, '/api/sandboxes', {
      ...common,
      project_name: 'p',
      memory_limit: '512m',
      cpu_limit: 0.5,
      pids_limit: 100,
      nofile_limit: 1000,
      disk_limit: '2g',
      inodes_limit: 5000,
      image: 'debian:12',
      timeout: 90.5,
      idle_timeout: 60,
      max_lifetime: 7200,
      on_expiry: 'pause',
      wake_on_use: true,
      workdir: '/srv',
      runtime: 'runsc',
    });
    expect(answer.status).toBe(201);
    expect(app.stub.calls.at(-1)?.args[0]).toEqual({
      ...common,
      projectName: 'p',
      memoryLimit: 512 * 1024 ** 2,
      cpuLimit: 0.5,
      pidsLimit: 100,
      nofileLimit: 1000,
      diskLimit: 2 * 1024 ** 3,
      inodesLimit: 5000,
      image: 'debian:12',
      ttlMs: 90_500,
      idleTimeoutMs: 60_000,
      maxLifetimeMs: 7_200_000,
      onExpiry: 'pause',
      wakeOnUse: true,
      workdir: '/srv',
      runtime: 'runsc',
    });
  });

  test('list, inspect, stop, start, renew, stats, delete', async () => {
    await using app = await runApp();
    const list = await send(app, '/api/sandboxes/?state=running&project_name=p&limit=10&cursor=c');
    expect(list.status).toBe(200);
    expect(list.json).toMatchObject({ sandboxes: [{ id: 'sb1' }], cursor: null });
    expect(app.stub.calls.at(-1)?.args[0]).toMatchObject({
      state: 'running',
      projectName: 'p',
      limit: 10,
      cursor: 'c',
    });

    expect((await send(app, '/api/sandboxes/sb1')).json).toMatchObject({ id: 'sb1', state: 'running' });
    expect((await send(app, '/api/sandboxes/sb1/')).status).toBe(200);
    expect((await post(app, '/api/sandboxes/sb1/stop', {})).json).toMatchObject({ state: 'exited' });
    expect(app.stub.calls.at(-1)).toEqual({ call: 'stop', args: [{}] });
    expect((await post(app, '/api/sandboxes/sb1/stop', { grace: 0.5 })).status).toBe(200);
    expect(app.stub.calls.at(-1)).toEqual({ call: 'stop', args: [{ graceMs: 500 }] });
    expect((await send(app, '/api/sandboxes/sb1/start', { method: 'POST' })).json).toMatchObject({ state: 'running' });

    expect((await post(app, '/api/sandboxes/sb1/renew', { timeout: 120 })).status).toBe(200);
    expect(app.stub.calls.at(-1)?.args[0]).toMatchObject({ ttlMs: 120_000 });
    expect((await send(app, '/api/sandboxes/sb1/renew', { method: 'POST' })).status).toBe(200);

    expect((await send(app, '/api/sandboxes/sb1/stats')).json).toEqual({
      memory_bytes: 1000,
      memory_limit_bytes: 2000,
      cpu_seconds: 1.5,
      pids: 3,
      network_received_bytes: 0,
      network_sent_bytes: 0,
      oom_kills: 2,
      disk_bytes: 4096,
      disk_limit_bytes: 8192,
      inodes: 2,
      inodes_limit: 1000,
      at: '2026-01-01T00:00:00.000Z',
    });
    const gone = await send(app, '/api/sandboxes/sb1', { method: 'DELETE' });
    expect([gone.status, gone.text]).toEqual([204, '']);
    expect((await send(app, '/api/sandboxes/sb1')).status).toBe(404);
  });

  test('pause, unpause and restart', async () => {
    await using app = await runApp();
    expect((await post(app, '/api/sandboxes/sb1/pause', {})).json).toMatchObject({ state: 'paused' });
    expect((await post(app, '/api/sandboxes/sb1/unpause', {})).json).toMatchObject({ state: 'running' });
    expect((await post(app, '/api/sandboxes/sb1/restart', { grace: 3 })).json).toMatchObject({ state: 'running' });
    expect(app.stub.calls.at(-1)).toEqual({ call: 'restart', args: [{ graceMs: 3000 }] });
  });

  test('the history of what it used', async () => {
    await using app = await runApp();
    expect((await send(app, '/api/sandboxes/sb1/stats/history')).json).toEqual({
      samples: [
        {
          at: '2026-01-01T00:00:00.000Z',
          memory_bytes: 1000,
          cpu_seconds: 1.5,
          pids: 3,
          network_received_bytes: 4,
          network_sent_bytes: 5,
        },
      ],
    });
  });

  describe('waiting for the end', () => {
    const WAIT = '/api/sandboxes/sb1/wait';

    test.each([
      { exitCode: 90, reason: 'lease_expired' },
      { exitCode: 91, reason: 'idle' },
      { exitCode: 137, reason: null },
    ])('tells that it ended with $exitCode', async ({ exitCode, reason }) => {
      await using app = await runApp();
      await app.stub.stop('sb1');
      const one = app.stub.sandboxes.get('sb1');
      if (one) one.info = { ...one.info, exitCode, finishedAt: new Date('2026-01-01T00:30:00Z') };
      const { status, json } = await send(app, WAIT);
      expect(status).toBe(200);
      expect(json).toEqual({ state: 'exited', exit_code: exitCode, reason, finished_at: '2026-01-01T00:30:00.000Z' });
    });

    test('tells that it was removed', async () => {
      await using app = await runApp();
      app.stub.removed.add('sb1');
      const { json } = await send(app, WAIT);
      expect(json).toEqual({ state: 'removed', exit_code: null, reason: null, finished_at: null });
    });

    test('says when the time is up', async () => {
      await using app = await runApp();
      const answer = await send(app, `${WAIT}?timeout=0.05`);
      expect([answer.status, answer.text]).toEqual([204, '']);
      expect(app.stub.aborted).toEqual(['wait']);
      expect((await send(app, `${WAIT}?timeout=0`)).status).toBe(422);
      expect((await send(app, '/api/sandboxes/none/wait')).status).toBe(404);
    });

    test('ends when the client hangs up, and when the service ends', async () => {
      await using app = await runApp();
      const client = new AbortController();
      const pending = fetch(`${app.url}${WAIT}`, { signal: client.signal });
      setTimeout(() => client.abort(), 50);
      await expect(pending).rejects.toThrow();
      await until(() => app.stub.aborted.length === 1);
      const answer = send(app, WAIT);
      setTimeout(() => app.calls.drain(), 50);
      expect((await answer).json).toMatchObject({ code: 'manager_closed' });
    });
  });

  test.each(['/sandbox/cleanup', '/api/cleanup'])('POST %s tells what was removed', async (path) => {
    await using app = await runApp();
    app.stub.pruned = {
      sandboxes: [{ id: 'old1', reason: 'lease_expired', action: 'none', error: 'The engine failed.' }],
      volumes: [{ kind: 'volume', name: 'v1', reason: 'image_gone', removed: true }],
      networks: [{ kind: 'network', name: 'n1', reason: 'sandbox_gone', removed: true }],
    };
    expect((await post(app, path, { dry_run: true })).json).toEqual({
      dry_run: true,
      sandboxes: [{ id: 'old1', reason: 'lease_expired', action: 'none', error: 'The engine failed.' }],
      volumes: [{ name: 'v1', reason: 'image_gone', removed: true }],
      networks: [{ name: 'n1', reason: 'sandbox_gone', removed: true }],
    });
    expect(app.stub.calls.at(-1)).toEqual({ call: 'prune', args: [{ dryRun: true }] });
    expect((await send(app, path, { method: 'POST' })).json).toMatchObject({ dry_run: false });
    expect(app.stub.calls.at(-1)).toEqual({ call: 'prune', args: [{}] });
    expect((await send(app, path)).headers.allow).toBe('POST');
  });

  test('a client that hangs up aborts its create', async () => {
    await using app = await runApp();
    const client = new AbortController();
    const pending = fetch(`${app.url}/api/sandboxes`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: '{"project_name":"slow"}',
      signal: client.signal,
    });
    await until(() => app.stub.calls.at(-1)?.args[0] !== undefined && app.stub.calls.length === 2);
    client.abort();
    await expect(pending).rejects.toThrow();
    await until(() => app.stub.aborted.includes('create'));
    expect(app.stub.sandboxes.size).toBe(1);
  });

  test('a sandbox that can not be described to its client is not left behind', async () => {
    await using app = await runApp();
    app.stub.inspect = async () => {
      throw new SandyardError('engine_unavailable', 'It went away.');
    };
    expect((await post(app, '/api/sandboxes', {})).status).toBe(503);
    expect(app.stub.sandboxes.size).toBe(1);
  });
});

describe('every answer', () => {
  test('carries the request id of the client where that is harmless, otherwise one of ours', async () => {
    await using app = await runApp();
    const given = await send(app, '/healthz', { headers: { 'X-Request-Id': 'abc-1.2_3' } });
    expect(given.headers['x-request-id']).toBe('abc-1.2_3');
    for (const id of ['a b', 'x'.repeat(65), '"<script>']) {
      const replaced = await send(app, '/nope', { headers: { 'X-Request-Id': id } });
      expect(replaced.headers['x-request-id']).toMatch(/^[\w-]{21}$/);
      expect(replaced.json['request_id']).toBe(replaced.headers['x-request-id']);
    }
  });

  test('has headers that make it harmless in a browser', async () => {
    await using app = await runApp();
    const { headers } = await send(app, '/api/sandboxes');
    expect(headers).toMatchObject({
      'content-security-policy': "default-src 'none';frame-ancestors 'none'",
      'x-content-type-options': 'nosniff',
      'cross-origin-resource-policy': 'same-origin',
      'cache-control': 'no-store',
    });
    expect(headers['x-powered-by']).toBeUndefined();
    expect(headers['access-control-allow-origin']).toBeUndefined();
  });

  test('is logged in one line, without what may be secret', async () => {
    const lines: string[] = [];
    const sink = new Writable({
      write(chunk: Buffer, _encoding, done) {
        lines.push(chunk.toString());
        done();
      },
    });
    await using app = await runApp({ log: pino({ level: 'info' }, sink) });
    const headers = { Authorization: 'Bearer s3cret-token-value', Cookie: 'a=s3cret', 'X-Request-Id': 'r1' };
    await send(app, '/api/sandboxes/sb1/files?path=/s3cret', { headers });
    await send(app, '/healthz');
    await until(() => lines.length > 0);
    expect(lines).toHaveLength(1);
    expect(lines[0]).not.toContain('s3cret');
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({
      level: 30,
      req: { id: 'r1', method: 'GET', path: '/api/sandboxes/sb1/files' },
      res: { status: 404 },
      owner: 'default',
      sandbox: 'sb1',
      outcome: 'file_not_found',
      duration_ms: expect.any(Number) as number,
      err: { code: 'file_not_found' },
    });
  });
});
