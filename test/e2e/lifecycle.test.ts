import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { SandboxManager } from '../../src/index.js';
import { EventReader } from '../fixtures/event-reader.js';
import { eventually, newOwner, removeAll } from '../fixtures/run.js';
import { call, startServiceProcess, type ServiceProcess } from '../fixtures/service.js';

const owner = newOwner();
const API = '/api/sandboxes';

let service: ServiceProcess;
beforeAll(async () => {
  service = await startServiceProcess({ SANDBOX_OWNER: owner });
});
afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await removeAll(new SandboxManager({ owner, reaper: false }));
});

async function create(json: object = {}): Promise<string> {
  const { status, body } = await call(service, 'POST', { path: API, json: { memory_limit: '256m', ...json } });
  expect([status, body.code]).toEqual([201, undefined]);
  return `${API}/${body.id}`;
}

const act = (path: string, json: object = {}) => call(service, 'POST', { path, json });

describe('the life of a sandbox', () => {
  it('has the terms that it was created with', async () => {
    const terms = { timeout: 600, idle_timeout: 300, max_lifetime: 1200, on_expiry: 'stop', wake_on_use: true };
    const path = await create(terms);
    const { body } = await call(service, 'GET', { path });
    expect(body).toMatchObject(terms);
    expect(body.expires_in).toBeGreaterThan(500);
    expect(body.expires_in).toBeLessThanOrEqual(600);
    await call(service, 'DELETE', { path });
  });

  it('is paused, and what runs goes on after that', async () => {
    const path = await create();
    const started = await act(`${path}/processes`, {
      command: 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done',
    });
    expect((await act(`${path}/pause`)).body.state).toBe('paused');
    const refused = await act(`${path}/execute`, { command: 'true' });
    expect([refused.status, refused.body.code]).toEqual([409, 'wrong_state']);
    expect((await act(`${path}/unpause`)).body.state).toBe('running');
    const process = `${path}/processes/${started.body.id}`;
    const before = (await call(service, 'GET', { path: process })).body.last_seq as number;
    await eventually(async () =>
      (await call(service, 'GET', { path: process })).body.last_seq > before ? true : undefined,
    );
    expect((await act(`${path}/restart`, { grace: 0 })).body.state).toBe('running');
    expect((await call(service, 'GET', { path: `${path}/processes` })).body.processes).toEqual([]);
    await call(service, 'DELETE', { path });
  });

  it('is waited for: its lease ends it, or somebody removes it', async () => {
    const [brief, other] = [await create({ timeout: 3, on_expiry: 'stop' }), await create()];
    expect((await call(service, 'GET', { path: `${other}/wait?timeout=0.2` })).status).toBe(204);
    const ended = call(service, 'GET', { path: `${brief}/wait` });
    const removed = call(service, 'GET', { path: `${other}/wait?timeout=60` });
    expect((await ended).body).toMatchObject({ state: 'exited', exit_code: 90, reason: 'lease_expired' });
    await call(service, 'DELETE', { path: other });
    // The engine ends it before it removes it: whoever waits may see that first.
    const { state, exit_code: exitCode } = (await removed).body;
    expect([
      ['removed', null],
      ['exited', 137],
    ]).toContainEqual([state, exitCode]);
    await call(service, 'DELETE', { path: brief });
  });

  it('leaves a history of what it used', async () => {
    const path = await create();
    const samples = await eventually(
      async () => {
        const { body } = await call(service, 'GET', { path: `${path}/stats/history` });
        return body.samples.length > 0 ? (body.samples as object[]) : undefined;
      },
      { everyMs: 1000 },
    );
    expect(samples[0]).toMatchObject({ memory_bytes: expect.any(Number), cpu_seconds: expect.any(Number) });
    await call(service, 'DELETE', { path });
  });

  it('is told as events, which a client that was away goes on with', async () => {
    const reader = await EventReader.open(`${service.url}/api/events?types=created,paused,unpaused,destroyed`);
    const ready = await reader.next();
    const readyId = reader.lastId ?? '';
    expect(ready).toEqual({ type: 'ready', id: readyId });
    const path = await create({ project_name: 'told' });
    const id = path.slice(API.length + 1);
    const isOf = (type: string) => (event: object) =>
      'sandbox_id' in event && event.sandbox_id === id && 'type' in event && event.type === type;
    await reader.until(isOf('created'));
    const lastId = reader.lastId ?? '';
    reader.hangUp();
    await act(`${path}/pause`);
    await act(`${path}/unpause`);
    await using again = await EventReader.open(`${service.url}/api/events?project_name=told`, {
      headers: { 'last-event-id': lastId, accept: 'application/x-ndjson' },
    });
    await call(service, 'DELETE', { path });
    const events = await again.until(isOf('destroyed'));
    expect(events.map(({ type }) => type)).toEqual(['started', 'paused', 'unpaused', 'stopped', 'destroyed']);
    await using sinceReady = await EventReader.open(`${service.url}/api/events?project_name=told&after=${readyId}`);
    expect((await sinceReady.until(isOf('destroyed'))).map(({ type }) => type).slice(-6)).toEqual([
      'created',
      ...events.map(({ type }) => type),
    ]);
    expect(events[1]).toMatchObject({ sandbox_id: id, owner, reason: 'requested', by: 'rest' });
    const gone = await call(service, 'GET', { path: '/api/events', headers: { 'last-event-id': 'aaaaaaaa-1' } });
    expect([gone.status, gone.body.code]).toEqual([410, 'output_lost']);
  });

  it('is over when it is cleaned up', async () => {
    const path = await create({ timeout: 1 });
    const id = path.slice(API.length + 1);
    const isAmong = ({ sandboxes }: { sandboxes: { id: string }[] }) => sandboxes.find((one) => one.id === id);
    await call(service, 'GET', { path: `${path}/wait` });
    const tried = (await act('/sandbox/cleanup', { dry_run: true })).body;
    // The reaper of the service may have been there first.
    if (isAmong(tried) !== undefined) {
      expect(tried.dry_run).toBe(true);
      expect(isAmong(tried)).toMatchObject({ reason: 'lease_expired', action: 'none' });
      const done = isAmong((await act('/sandbox/cleanup')).body);
      if (done !== undefined) expect(done).toMatchObject({ reason: 'lease_expired', action: 'removed' });
    }
    expect((await call(service, 'GET', { path })).status).toBe(404);
  });
});

describe('requests that are repeated', () => {
  it('are done once, also when the service was killed between them', async () => {
    const owner = newOwner();
    const once = (on: ServiceProcess, key: string, { path, json }: { path: string; json: object }) =>
      call(on, 'POST', { path, json, headers: { 'idempotency-key': key } });
    const wanted = { path: API, json: { memory_limit: '256m', project_name: 'once' } };
    const replayed = ({ headers }: { headers: Headers }) => headers.get('idempotent-replayed');
    try {
      await using first = await startServiceProcess({ SANDBOX_OWNER: owner });
      const made = await once(first, 'a key', wanted);
      expect([made.status, replayed(made)]).toEqual([201, null]);
      const path = `${API}/${made.body.id}`;
      const command = { path: `${path}/execute`, json: { command: 'date +%N; echo x >> count; cat count' } };
      const ran = await once(first, 'run', command);
      expect(ran.body.stdout).toMatch(/^\d+\nx\n$/);
      expect((await once(first, 'run', command)).body).toEqual(ran.body);
      await first.stop('SIGKILL');

      await using second = await startServiceProcess({ SANDBOX_OWNER: owner });
      const again = await once(second, 'a key', wanted);
      expect([again.status, again.body.id, replayed(again)]).toEqual([201, made.body.id, 'true']);
      const other = await once(second, 'a key', { path: API, json: {} });
      expect([other.status, other.body.code]).toEqual([422, 'idempotency_mismatch']);
      const rerun = await once(second, 'run', command);
      expect([rerun.body, replayed(rerun)]).toEqual([ran.body, 'true']);
      const misused = await once(second, 'run', { path: `${path}/execute`, json: { command: 'true' } });
      expect(misused.body.code).toBe('idempotency_mismatch');
      const listed = await call(second, 'GET', { path: API });
      expect(listed.body.sandboxes).toHaveLength(1);
      await call(second, 'DELETE', { path });
      expect((await once(second, 'a key', wanted)).body.id).not.toBe(made.body.id);
    } finally {
      await removeAll(new SandboxManager({ owner, reaper: false }));
    }
  });
});

describe('webhooks', () => {
  const secret = `whsec_${Buffer.from('a secret of at least 24 bytes').toString('base64')}`;
  const received: { headers: Record<string, string>; body: string }[] = [];
  let listener: Server;

  beforeAll(async () => {
    listener = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        received.push({ headers: request.headers as Record<string, string>, body: Buffer.concat(chunks).toString() });
        response.writeHead(received.length === 1 ? 500 : 204).end();
      });
    }).listen(0, '127.0.0.1');
    await once(listener, 'listening');
  });
  afterAll(() => void listener?.close());

  it('are told each event, signed, and again when they failed', async () => {
    const { port } = listener.address() as AddressInfo;
    const own = newOwner();
    try {
      await using told = await startServiceProcess({
        SANDBOX_OWNER: own,
        SANDBOX_WEBHOOK_URLS: `http://127.0.0.1:${port}/hook`,
        SANDBOX_WEBHOOK_SECRET: secret,
      });
      const { body } = await call(told, 'POST', { path: API, json: { memory_limit: '256m' } });
      await call(told, 'DELETE', { path: `${API}/${body.id}` });
      const types = () => received.map(({ body }) => (JSON.parse(body) as { type: string }).type);
      await eventually(async () => (types().includes('sandbox.destroyed') ? true : undefined));
      expect(types().slice(0, 2)).toEqual(['sandbox.created', 'sandbox.created']);
      expect(received[0]?.headers['webhook-id']).toBe(received[1]?.headers['webhook-id']);
      for (const { headers, body: text } of received) {
        expect(new Webhook(secret).verify(text, headers)).toMatchObject({ data: { sandbox_id: body.id, owner: own } });
      }
      expect(await told.stop('SIGTERM')).toBe(0);
      expect(told.output()).not.toContain(secret);
    } finally {
      await removeAll(new SandboxManager({ owner: own, reaper: false }));
    }
  });
});
