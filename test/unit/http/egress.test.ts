import { expect, test, vi } from 'vitest';

import type { EgressInfo } from '../../../src/index.js';
import { post, runApp, send, type RunningApp } from './harness.js';

const INFO: EgressInfo = {
  allow: ['pypi.org'],
  learn: false,
  learnt: ['a.example'],
  maxBytes: null,
  bytesPerSecond: 1024,
  maxConnections: 64,
};

/** Gives every sandbox this egress. */
function withEgress(app: RunningApp) {
  const egress = { get: vi.fn(), set: vi.fn(), log: vi.fn(), check: vi.fn() };
  egress.get.mockResolvedValue(INFO);
  egress.set.mockResolvedValue(INFO);
  vi.spyOn(app.stub, 'get').mockResolvedValue({ egress } as never);
  return egress;
}

const ANSWER = {
  allow: ['pypi.org'],
  learn: false,
  learnt: ['a.example'],
  max_bytes: null,
  bytes_per_second: 1024,
  max_connections: 64,
};

test('a sandbox can be made with egress, in the words of the wire', async () => {
  await using app = await runApp();
  const answer = await post(app, '/api/sandboxes', { network: { egress: { allow: ['PyPI.org'], max_bytes: 5000 } } });
  expect(answer.status).toBe(201);
  const network = { egress: { allow: ['pypi.org'], maxBytes: 5000 } };
  expect(app.stub.calls.at(-1)).toMatchObject({ call: 'create', args: [{ network }] });
  expect(answer.json['network']).toEqual({
    egress: { allow: ['pypi.org'], learn: false, max_bytes: 5000, bytes_per_second: null, max_connections: 64 },
  });
});

test.each([[{ egress: { allow: ['10.0.0.1'] } }], [{ egress: { allow: ['a.example'], more: 1 } }], ['host']])(
  'not with %j',
  async (network) => {
    await using app = await runApp();
    expect(await post(app, '/api/sandboxes', { network })).toMatchObject({ status: 422 });
  },
);

test('it is told and changed', async () => {
  await using app = await runApp();
  const egress = withEgress(app);
  expect(await send(app, '/api/sandboxes/sb1/egress')).toMatchObject({ status: 200, json: ANSWER });
  const headers = { 'content-type': 'application/json' };
  const body = JSON.stringify({ allow: ['*.npmjs.org:443'], max_connections: 8, max_bytes: null });
  expect(await send(app, '/api/sandboxes/sb1/egress', { method: 'PUT', headers, body })).toMatchObject({
    json: ANSWER,
  });
  expect(egress.set).toHaveBeenCalledWith(
    { allow: ['*.npmjs.org:443'], maxConnections: 8, maxBytes: null },
    expect.anything(),
  );
});

test('its log is read on from where it was', async () => {
  await using app = await runApp();
  const egress = withEgress(app);
  const about = { method: 'CONNECT', host: 'a.example', port: 443, rule: null, address: null, detail: 'No.' };
  const entry = { seq: 8, at: new Date(0), ...about, decision: 'denied', reason: 'host_not_allowed' };
  egress.log.mockResolvedValue({ entries: [entry], lastSeq: 8, lost: false });
  const answer = await send(app, '/api/sandboxes/sb1/egress/log?after=7');
  expect(answer.json).toEqual({
    entries: [{ ...entry, at: '1970-01-01T00:00:00.000Z' }],
    last_seq: 8,
    lost: false,
  });
  expect(egress.log).toHaveBeenCalledWith(expect.objectContaining({ after: 7 }));
});

test('a decision is explained', async () => {
  await using app = await runApp();
  const egress = withEgress(app);
  const decision = { allowed: true, host: 'a.example', port: 443, rule: '*', address: '203.0.113.1' };
  egress.check.mockResolvedValue({ ...decision, reason: null, detail: null });
  const answer = await post(app, '/api/sandboxes/sb1/egress/check', { url: 'https://a.example/' });
  expect(answer.json).toEqual({ ...decision, reason: null, detail: null });
  expect(egress.check).toHaveBeenCalledWith('https://a.example/', expect.anything());
  expect(await post(app, '/api/sandboxes/sb1/egress/check', {})).toMatchObject({ status: 422 });
});
