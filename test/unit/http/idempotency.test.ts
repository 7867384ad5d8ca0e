import { request as httpRequest } from 'node:http';
import { assert, asyncProperty, object, property, string, stringMatching } from 'fast-check';
import { describe, expect, test } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { readIdempotencyKey, toRepeat } from '../../../src/http/idempotency.js';
import { KeptAnswers } from '../../../src/http/kept-answers.js';
import { settleable } from '../../../src/settleable.js';
import { JSON_TYPE, runApp, send, until, type Answer, type RunningApp } from './harness.js';

const SB = '/api/sandboxes/sb1';

function postAs(app: RunningApp, key: string, { path, body = {} }: { path: string; body?: unknown }): Promise<Answer> {
  const headers = { ...JSON_TYPE, 'Idempotency-Key': key };
  return send(app, path, { method: 'POST', headers, body: JSON.stringify(body) });
}

const replayed = ({ headers }: Answer) => headers['idempotent-replayed'];
const callsOf = (app: RunningApp, call: string) => app.stub.calls.filter((made) => made.call === call).length;

describe('a POST whose answer is kept', () => {
  test('is done once, and answered twice', async () => {
    await using app = await runApp();
    const first = await postAs(app, 'k1', { path: `${SB}/renew`, body: { timeout: 60 } });
    await app.stub.pause('sb1');
    const second = await postAs(app, 'k1', { path: `${SB}/renew/`, body: { timeout: 60 } });
    expect([first.status, replayed(first)]).toEqual([200, undefined]);
    expect([second.status, replayed(second), second.text]).toEqual([200, 'true', first.text]);
    expect(second.headers['content-type']).toBe(first.headers['content-type']);
    expect(second.headers['x-request-id']).not.toBe(first.headers['x-request-id']);
    expect(callsOf(app, 'renew')).toBe(1);
  });

  test('has keys of its own: another route, sandbox or key is another request', async () => {
    await using app = await runApp();
    await app.stub.create({});
    for (const path of [`${SB}/stop`, `${SB}/restart`, '/api/sandboxes/sb2/stop']) {
      expect(replayed(await postAs(app, 'k', { path }))).toBeUndefined();
    }
    expect(replayed(await postAs(app, 'K', { path: `${SB}/stop` }))).toBeUndefined();
    expect(callsOf(app, 'stop')).toBe(3);
  });

  test('with another content is refused', async () => {
    await using app = await runApp();
    await postAs(app, 'k', { path: `${SB}/stop`, body: { grace: 1 } });
    const answer = await postAs(app, 'k', { path: `${SB}/stop`, body: { grace: 2 } });
    expect([answer.status, answer.json['code']]).toEqual([422, 'idempotency_mismatch']);
    expect(callsOf(app, 'stop')).toBe(1);
  });

  test('is refused while the first is under way, and answered after it', async () => {
    await using app = await runApp();
    const gate = settleable<void>();
    app.stub.stateGate = gate.promise;
    const first = postAs(app, 'k', { path: `${SB}/stop` });
    await until(() => callsOf(app, 'stop') === 1);
    const second = await postAs(app, 'k', { path: `${SB}/stop` });
    expect([second.status, second.json['code']]).toEqual([409, 'idempotency_in_progress']);
    expect(second.headers['retry-after']).toBe('1');
    gate.resolve(undefined);
    expect((await first).status).toBe(200);
    expect(replayed(await postAs(app, 'k', { path: `${SB}/stop` }))).toBe('true');
    expect(callsOf(app, 'stop')).toBe(1);
  });

  test('is answered with the first error, unless trying again can help', async () => {
    await using app = await runApp();
    app.stub.fault = new SandyardError('wrong_state', 'It does not run.', { hint: 'Start it.' });
    const first = await postAs(app, 'a', { path: `${SB}/pause` });
    app.stub.fault = undefined;
    const second = await postAs(app, 'a', { path: `${SB}/pause` });
    expect([first.status, second.status, replayed(second)]).toEqual([409, 409, 'true']);
    expect(second.json['request_id']).toBe(second.headers['x-request-id']);
    for (const code of ['engine_unavailable', 'internal', 'over_capacity'] as const) {
      app.stub.fault = new SandyardError(code, 'It failed.');
      expect((await postAs(app, code, { path: `${SB}/pause` })).status).toBeGreaterThanOrEqual(429);
      app.stub.fault = undefined;
      const again = await postAs(app, code, { path: `${SB}/pause` });
      expect([again.status, replayed(again)]).toEqual([200, undefined]);
    }
  });

  test('that was not valid leaves its key free', async () => {
    await using app = await runApp();
    expect((await postAs(app, 'k', { path: `${SB}/stop`, body: { grace: -1 } })).status).toBe(422);
    expect((await postAs(app, 'k', { path: `${SB}/stop`, body: { grace: 1 } })).status).toBe(200);
  });

  test('whose client hung up is answered to who asks again', async () => {
    await using app = await runApp();
    const gate = settleable<void>();
    app.stub.stateGate = gate.promise;
    const client = new AbortController();
    const init = { method: 'POST', headers: { 'Idempotency-Key': 'k' }, signal: client.signal };
    const pending = fetch(`${app.url}${SB}/stop`, init);
    await until(() => callsOf(app, 'stop') === 1);
    client.abort();
    await expect(pending).rejects.toThrow();
    gate.resolve(undefined);
    await until(() => app.stub.sandboxes.get('sb1')?.info.state === 'exited');
    const again = await postAs(app, 'k', { path: `${SB}/stop` });
    expect([again.status, replayed(again), callsOf(app, 'stop')]).toEqual([200, 'true', 1]);
  });

  test('with a large answer says that it is not kept', async () => {
    await using app = await runApp();
    const name = 'n'.repeat(300);
    const volumes = Array.from(
      { length: 300 },
      () => ({ kind: 'volume', name, reason: 'unused', removed: true }) as const,
    );
    app.stub.pruned = { sandboxes: [], volumes, networks: [] };
    const first = await postAs(app, 'k', { path: '/api/cleanup' });
    expect(first.headers['idempotent-kept']).toBe('false');
    expect(replayed(await postAs(app, 'k', { path: '/api/cleanup' }))).toBeUndefined();
    expect(callsOf(app, 'prune')).toBe(2);
  });

  test('without a body of an answer, and with a body of bytes', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [], hangs: true };
    await postAs(app, 'p', { path: `${SB}/processes`, body: { command: ['cat'], id: 'p', stdin_open: true } });
    const write = (body: string) => {
      const headers = { 'Idempotency-Key': 'w', 'Content-Type': 'application/octet-stream' };
      return send(app, `${SB}/processes/p/stdin`, { method: 'POST', headers, body });
    };
    expect([(await write('once')).status, (await write('once')).status]).toEqual([204, 204]);
    expect(app.stub.latest.input).toBe('once');
    expect((await write('longer')).json['code']).toBe('idempotency_mismatch');
  });
});

describe('a create', () => {
  const path = '/api/sandboxes';

  test('that is repeated is answered with the same sandbox', async () => {
    await using app = await runApp();
    const first = await postAs(app, 'k', { path, body: { project_name: 'p', memory_limit: '1g' } });
    const second = await postAs(app, 'k', { path: `${path}/`, body: { memory_limit: '1g', project_name: 'p' } });
    expect([first.status, second.status, second.json['id']]).toEqual([201, 201, first.json['id']]);
    expect(second.headers.location).toBe(first.headers.location);
    expect(replayed(second)).toBe('true');
    expect((await postAs(app, 'k', { path, body: {} })).json['code']).toBe('idempotency_mismatch');
    expect((await postAs(app, 'other', { path, body: {} })).json['id']).not.toBe(first.json['id']);
  });

  test('whose client hung up is made all the same', async () => {
    await using app = await runApp();
    const gate = settleable<void>();
    app.stub.stateGate = gate.promise;
    const client = new AbortController();
    const init = { method: 'POST', headers: { 'Idempotency-Key': 'k' }, signal: client.signal };
    const pending = fetch(`${app.url}${path}`, init);
    await until(() => callsOf(app, 'create') === 2);
    client.abort();
    await expect(pending).rejects.toThrow();
    gate.resolve(undefined);
    await until(() => app.stub.sandboxes.size === 2);
    const again = await postAs(app, 'k', { path });
    expect([again.status, app.stub.sandboxes.size]).toEqual([201, 2]);
  });

  test('that failed leaves its key free', async () => {
    await using app = await runApp();
    expect((await postAs(app, 'k', { path, body: { image: 'missing:latest' } })).status).toBe(404);
    expect((await postAs(app, 'k', { path, body: {} })).status).toBe(201);
  });
});

describe('a command', () => {
  test.each(['application/json', 'application/x-ndjson'])('runs under an id that its key gives: %s', async (accept) => {
    await using app = await runApp();
    const run = async (body: object) => {
      const headers = { ...JSON_TYPE, accept, 'Idempotency-Key': 'k' };
      return send(app, `${SB}/execute`, { method: 'POST', headers, body: JSON.stringify(body) });
    };
    expect((await run({ command: ['node'] })).status).toBe(200);
    const given = app.stub.calls.at(-1)?.args[1] as { execId?: string; id?: string };
    const id = given.execId ?? given.id ?? '';
    expect(id).toMatch(/^idem-[0-9a-f]{28}-[0-9a-f]{28}$/);
    expect(given).not.toHaveProperty('signal');
    await run({ command: ['node'] });
    expect(app.stub.calls.at(-1)?.args[1]).toMatchObject(given);
    expect((await run({ command: ['rm'] })).json['code']).toBe('idempotency_mismatch');
  });

  test('with an id of its own keeps that', async () => {
    await using app = await runApp();
    await postAs(app, 'k', { path: `${SB}/execute`, body: { command: 'true', exec_id: 'mine' } });
    expect(app.stub.calls.at(-1)?.args[1]).toEqual({ execId: 'mine' });
  });

  test('is told from another of the same key by the sandbox, when the service has forgotten', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [], hangs: true };
    const start = (on: RunningApp, command: string) =>
      postAs(on, 'k', { path: `${SB}/processes`, body: { command: [command], stdin: 'in' } });
    const first = await start(app, 'cat');
    expect([first.status, replayed(first)]).toEqual([201, undefined]);

    await using restarted = await runApp();
    restarted.stub.sandboxes.set('sb1', app.stub.sandboxes.get('sb1') as never);
    const second = await start(restarted, 'cat');
    expect([second.status, replayed(second), second.json['id']]).toEqual([201, 'true', first.json['id']]);
    expect(app.stub.latest.input).toBe('in');

    await using again = await runApp();
    again.stub.sandboxes.set('sb1', app.stub.sandboxes.get('sb1') as never);
    expect((await start(again, 'rm')).json['code']).toBe('idempotency_mismatch');
  });
});

describe('the key', () => {
  const read = (...keys: string[]) => readIdempotencyKey({ headersDistinct: { 'idempotency-key': keys } });

  test('is any printable ASCII, and nothing else', () => {
    assert(property(stringMatching(/^[\x20-\x7e]{1,255}$/), (key) => read(key) === key));
    const fits = (key: string) => /^[\x20-\x7e]{1,255}$/.test(key);
    assert(
      property(
        string({ unit: 'binary', maxLength: 300 }).filter((key) => !fits(key)),
        (key) => {
          expect(() => read(key)).toThrow('Invalid Idempotency-Key');
        },
      ),
    );
    expect(() => read('a', 'b')).toThrow('one header');
    expect(readIdempotencyKey({ headersDistinct: {} })).toBeUndefined();
  });

  test('is refused on the wire where it is none: empty, too long, twice', async () => {
    await using app = await runApp();
    for (const key of ['', 'x'.repeat(256), ['a', 'b'], 'caf\u00e9']) {
      const status = await new Promise<number | undefined>((resolve, reject) => {
        const headers = { 'Idempotency-Key': key };
        const options = { host: '127.0.0.1', port: app.port, path: `${SB}/stop`, method: 'POST', headers };
        const request = httpRequest(options, (response) => resolve(response.resume().statusCode));
        request.once('error', reject).end();
      });
      expect(status).toBe(422);
    }
    expect(callsOf(app, 'stop')).toBe(0);
  });

  test('of any printable text never fails on the wire', async () => {
    await using app = await runApp();
    const keys = stringMatching(/^[\x21-\x7e]([\x20-\x7e]{0,40}[\x21-\x7e])?$/);
    const isDone = asyncProperty(keys, async (key) => {
      const answers = [await postAs(app, key, { path: `${SB}/stop` }), await postAs(app, key, { path: `${SB}/stop` })];
      expect(answers.map(({ status }) => status)).toEqual([200, 200]);
      expect(answers.map(replayed).at(-1)).toBe('true');
    });
    await assert(isDone, { numRuns: 30 });
  });

  test('a content has one hash, in whatever order its names come', () => {
    const reversed = (value: unknown): unknown => {
      if (Array.isArray(value)) return value.map(reversed);
      if (typeof value !== 'object' || value === null) return value;
      return Object.fromEntries(
        Object.entries(value)
          .toReversed()
          .map(([name, item]) => [name, reversed(item)]),
      );
    };
    const hash = (content: unknown) => toRepeat('k', { place: ['o'], content }).content;
    assert(property(object(), (value) => hash(value) === hash(reversed(value))));
    expect(new Set([hash({}), hash([]), hash({ a: 1 }), hash({ a: '1' }), hash([1, 2]), hash([2, 1])]).size).toBe(6);
  });
});

describe('kept answers', () => {
  const repeat = (key: string) => ({ key, content: 'c' });
  const answer = (bytes: number) => ({ status: 200, headers: [], body: Buffer.alloc(bytes) });

  test('are forgotten after a day', () => {
    let time = 0;
    const answers = new KeptAnswers({ now: () => time });
    answers.begin(repeat('a'));
    time = 2 * 86_400_000;
    expect(answers.find('a')?.underWay).toBe(true);
    answers.keep('a', answer(1));
    time += 86_399_999;
    expect(answers.find('a')?.content).toBe('c');
    time += 1;
    expect(answers.find('a')).toBeUndefined();
  });

  test('are bounded in number and size, the oldest go first, and none that is under way', () => {
    const answers = new KeptAnswers({ maxCount: 3, maxTotalBytes: 100 });
    answers.begin(repeat('running'));
    for (const key of ['a', 'b', 'c']) {
      answers.begin(repeat(key));
      answers.keep(key, answer(10));
    }
    expect(['running', 'a', 'b', 'c'].map((key) => answers.find(key) !== undefined)).toEqual([true, false, true, true]);
    answers.keep('c', answer(95));
    expect(answers.find('b')).toBeUndefined();
    expect(answers.find('c')).toBeDefined();
    for (let count = 0; count < 100; count += 1) answers.note(repeat(`n${count}`));
    expect(answers.count).toBe(3);
  });
});
