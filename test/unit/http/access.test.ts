import { createHash, createHmac } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { WebSocket } from 'ws';

import { Tokens, type TokenRequest } from '../../../src/access/tokens.js';
import { readConfig } from '../../../src/config.js';
import { isInTable, scopeOf } from '../../../src/http/access-table.js';
import { createLog } from '../../../src/log.js';
import { JSON_TYPE, runApp, send, TOKEN, until, type Answer, type RequestOptions } from './harness.js';

const SECRET = 'a-secret-of-more-than-32-bytes-as-it-must-be';
const KEY = 'key-of-the-ci-of-bob';
const directory = mkdtempSync(join(tmpdir(), 'sandyard-access-'));
const KEYS = join(directory, 'keys');
writeFileSync(KEYS, `ci bob read,lifecycle sha256:${createHash('sha256').update(KEY).digest('hex')}\n`);
afterAll(() => rmSync(directory, { recursive: true }));
afterEach(() => vi.useRealTimers());

const ENV = {
  SANDBOX_TOKEN: TOKEN,
  SANDBOX_TOKEN_SECRET: SECRET,
  SANDBOX_API_KEYS_FILE: KEYS,
  SANDBOX_STATE_DIR: directory,
};
const tokens = new Tokens(readConfig(ENV).access, 'default');
const tokenFor = async (request: Partial<TokenRequest> = {}) =>
  (await tokens.issue({ owner: 'alice', scopes: ['read', 'exec', 'files', 'lifecycle'], ...request })).token;

type Line = Record<string, unknown>;

/** The service with sandboxes of alice (`sb2`) and bob (`sb3`); `sb1` is the service's own. */
async function serve(env: Record<string, string> = {}) {
  const lines: string[] = [];
  const log = createLog({ level: 'info' }, { write: (line) => lines.push(line) });
  const app = await runApp({ env: { ...ENV, ...env }, log });
  await app.stub.create({}, { tenant: 'alice' });
  await app.stub.create({}, { tenant: 'bob' });
  return {
    app,
    lines,
    ask: (path: string, token: string | undefined, { headers, ...options }: RequestOptions = {}): Promise<Answer> =>
      send(app, path, {
        ...options,
        headers: { ...headers, ...(token !== undefined && { Authorization: `Bearer ${token}` }) },
      }),
    post: (path: string, token: string | undefined, body: object = {}): Promise<Answer> =>
      send(app, path, {
        method: 'POST',
        headers: { ...JSON_TYPE, ...(token !== undefined && { Authorization: `Bearer ${token}` }) },
        body: JSON.stringify(body),
      }),
    /** The line of the request with that id. */
    async lineOf({ headers }: Answer): Promise<Line> {
      const id = `"request_id":"${String(headers['x-request-id'])}"`;
      await until(() => lines.some((line) => line.includes(id)));
      return JSON.parse(lines.find((line) => line.includes(id)) ?? '') as Line;
    },
    [Symbol.asyncDispose]: () => app[Symbol.asyncDispose](),
  };
}

const idsOf = ({ json }: Answer) => (json['sandboxes'] as { id: string }[]).map(({ id }) => id);
const RUN = { command: ['true'] };

describe('who has no good token', () => {
  const byHand = (header: object, payload: object) => {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const input = `${part(header)}.${part(payload)}`;
    return `${input}.${createHmac('sha256', SECRET).update(input).digest('base64url')}`;
  };

  test.each<[string, () => string | Promise<string>]>([
    ['forged', async () => `${(await tokenFor()).slice(0, -8)}AAAAAAAA`],
    ['alg none', () => byHand({ alg: 'none', typ: 'sandyard+jwt' }, { sub: 'alice', scope: 'admin' })],
    [
      'a link',
      async () => (await tokens.issueLink({ owner: 'alice', sandbox: 'sb2', method: 'GET', path: '/a' })).token,
    ],
    ['much too long', () => 'x'.repeat(9000)],
    ['the hash of a key', () => createHash('sha256').update(KEY).digest('hex')],
  ])('is refused and audited: %s', async (_, make) => {
    await using service = await serve();
    const token = await make();
    const answer = await service.ask('/api/sandboxes', token);
    expect(answer.status).toBe(401);
    expect(answer.headers['www-authenticate']).toMatch(/^Bearer realm="sandyard", error="invalid_token", error_desc/);
    const line = await service.lineOf(answer);
    expect(line).toMatchObject({ level: 40, audit: true, event: 'security', kind: 'token_refused' });
    expect(JSON.stringify(line)).not.toContain(token.slice(0, 60));
  });

  test('is told no more than that it needs one where it has none', async () => {
    await using service = await serve();
    const answer = await service.ask('/api/sandboxes', undefined);
    expect([answer.status, answer.headers['www-authenticate']]).toEqual([401, 'Bearer realm="sandyard"']);
  });

  test('is told why when its token has expired', async () => {
    await using service = await serve();
    const token = await tokenFor({ ttlMs: 5000 });
    vi.useFakeTimers({ now: Date.now() + 6000, toFake: ['Date'] });
    const answer = await service.ask('/api/sandboxes', token);
    expect([answer.status, answer.json['detail']]).toEqual([401, 'The token has expired.']);
  });

  test('is put off when it tries too often; who has one is not', async () => {
    await using service = await serve();
    for (let tried = 0; tried < 100; tried += 1) expect((await service.ask('/api/events', 'wrong')).status).toBe(401);
    const answer = await service.ask('/api/events', 'wrong');
    expect([answer.status, answer.json['code']]).toEqual([429, 'rate_limited']);
    expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
    expect((await service.ask('/api/sandboxes', TOKEN)).status).toBe(200);
  });
});

describe('the scopes', () => {
  test('are said of every route, each once', async () => {
    await using service = await serve();
    const { json } = await service.ask('/openapi.json', undefined);
    const operations = Object.values(json['paths'] as object).flatMap((methods: object) => Object.values(methods)) as {
      operationId: string;
      security: object[];
    }[];
    const closed = operations.filter(({ security }) => security.length > 0).map(({ operationId }) => operationId);
    expect(closed.filter((id) => !isInTable(id))).toEqual([]);
    expect(closed.length).toBeGreaterThan(40);
    expect(scopeOf('something-new')).toBe('admin');
  });

  test.each<[scope: TokenRequest['scopes'][number], method: string, path: string, status: number]>([
    ['read', 'GET', '/api/sandboxes/sb2', 200],
    ['exec', 'POST', '/api/sandboxes/sb2/execute', 200],
    ['files', 'GET', '/api/sandboxes/sb2/files/list?path=/workspace', 200],
    ['lifecycle', 'POST', '/api/sandboxes/sb2/pause', 200],
    ['admin', 'GET', '/metrics', 200],
  ])('%s is what %s %s needs; it does without the others, and not without it', async (scope, method, path, status) => {
    await using service = await serve();
    const options = { method, headers: JSON_TYPE, ...(path.endsWith('execute') && { body: JSON.stringify(RUN) }) };
    expect((await service.ask(path, await tokenFor({ scopes: [scope] }), options)).status).toBe(status);
    const others = (['read', 'exec', 'files', 'lifecycle'] as const).filter((other) => other !== scope);
    const answer = await service.ask(path, await tokenFor({ scopes: others }), options);
    expect([answer.status, answer.json['code']]).toEqual([403, 'forbidden']);
    expect(answer.json['detail']).toContain(`"${scope}"`);
    expect(answer.headers['www-authenticate']).toBe(
      `Bearer realm="sandyard", error="insufficient_scope", scope="${scope}"`,
    );
    expect(await service.lineOf(answer)).toMatchObject({
      kind: 'scope_refused',
      audit: true,
      caller: { owner: 'alice', via: 'token' },
    });
  });
});

describe('an owner', () => {
  test("has its own sandboxes, and sees nobody else's", async () => {
    await using service = await serve();
    const alice = await tokenFor();
    const made = await service.post('/api/sandboxes', alice);
    expect([made.status, made.json['tenant'], made.json['owner']]).toEqual([201, 'alice', 'default']);
    expect(idsOf(await service.ask('/api/sandboxes', alice))).toEqual(['sb2', 'sb4']);
    expect(idsOf(await service.ask('/api/sandboxes', KEY))).toEqual(['sb3']);
    expect(idsOf(await service.ask('/api/sandboxes', TOKEN))).toEqual(['sb1', 'sb2', 'sb3', 'sb4']);
    const [theirs, nobodys] = [
      await service.ask('/api/sandboxes/sb3', alice),
      await service.ask('/api/sandboxes/x', alice),
    ];
    expect(theirs.status).toBe(404);
    const same = ({ json }: Answer) => JSON.stringify({ ...json, request_id: '' }).replaceAll(/sb3|x\b/g, 'ID');
    expect(same(theirs)).toBe(same(nobodys));
    expect(await service.lineOf(theirs)).toMatchObject({ kind: 'owner_refused', audit: true, sandbox: 'sb3' });
    expect(await service.lineOf(nobodys)).not.toHaveProperty('kind');
  });

  test('with the same idempotency key as another gets its own answer', async () => {
    await using service = await serve();
    const ask = async (token: string) =>
      service.ask('/api/sandboxes', token, {
        method: 'POST',
        headers: { ...JSON_TYPE, 'Idempotency-Key': 'k' },
        body: '{}',
      });
    const [alices, bobs] = [await ask(await tokenFor()), await ask(KEY)];
    expect([alices.json['id'], bobs.json['id']]).toEqual(['sb4', 'sb5']);
    expect((await ask(await tokenFor())).json['id']).toBe('sb4');
  });

  test('is told of its own events only', async () => {
    await using service = await serve();
    const headers = { Authorization: `Bearer ${await tokenFor()}`, Accept: 'application/x-ndjson' };
    const stream = await fetch(`${service.app.url}/api/events`, { headers });
    const reader = stream.body?.getReader();
    for (const tenant of ['bob', 'alice']) {
      const record = { id: `of-${tenant}`, owner: 'default', tenant, projectName: null };
      service.app.stub.lifecycle.tell({ type: 'started', record, reason: 'requested' });
    }
    let text = '';
    while (!text.includes('of-alice')) text += Buffer.from((await reader?.read())?.value ?? []).toString();
    expect(text).not.toContain('bob');
    await reader?.cancel();
  });
});

describe('a token for one sandbox', () => {
  test('is good for that one, and for nothing that concerns others', async () => {
    await using service = await serve();
    await service.app.stub.create({}, { tenant: 'alice' });
    const token = await tokenFor({ sandbox: 'sb2' });
    expect((await service.ask('/api/sandboxes/sb2', token)).status).toBe(200);
    expect((await service.ask('/api/sandboxes/sb4', token)).status).toBe(404);
    expect((await service.ask('/api/sandboxes', token)).status).toBe(403);
    expect((await service.post('/api/sandboxes', token)).status).toBe(403);
    expect((await service.ask('/api/events', token)).status).toBe(403);
    const admin = await tokenFor({ sandbox: 'sb2', scopes: ['admin'] });
    expect((await service.ask('/api/sandboxes/sb4', admin)).status).toBe(404);
    expect((await service.post('/api/tokens', admin, { scopes: ['admin'] })).status).toBe(403);
    const bobs = await tokenFor({ sandbox: 'sb3' });
    expect((await service.ask('/api/sandboxes/sb3', bobs)).status).toBe(404);
  });
});

describe('a token for a single use', () => {
  test('is good for one request, also after a restart; what it is not good for does not use it up', async () => {
    const token = await tokenFor({ scopes: ['exec'], singleUse: true });
    {
      await using service = await serve();
      expect((await service.ask('/api/sandboxes/sb2', token)).status).toBe(403);
      expect((await service.post('/api/sandboxes/sb3/execute', token, RUN)).status).toBe(404);
      expect((await service.post('/api/sandboxes/sb2/execute', token, RUN)).status).toBe(200);
    }
    await using restarted = await serve();
    const answer = await restarted.post('/api/sandboxes/sb2/execute', token, RUN);
    expect([answer.status, answer.json['detail']]).toEqual([
      401,
      'The token was good for one request, and has been used.',
    ]);
    expect(restarted.app.stub.calls.filter(({ call }) => call === 'exec')).toEqual([]);
    expect(await restarted.lineOf(answer)).toMatchObject({ kind: 'replay_refused', audit: true });
  });

  test('lets one of many at once through', async () => {
    await using service = await serve();
    const token = await tokenFor({ scopes: ['exec'], singleUse: true });
    const answers = await Promise.all(
      Array.from({ length: 12 }, () => service.post('/api/sandboxes/sb2/execute', token, RUN)),
    );
    expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([
      200,
      ...Array.from({ length: 11 }, () => 401),
    ]);
  });
});

describe('POST /api/tokens', () => {
  test('issues what was asked for', async () => {
    await using service = await serve();
    const body = { owner: 'carol', scopes: ['read'], expires: 60 };
    const answer = await service.post('/api/tokens', TOKEN, body);
    expect(answer.status).toBe(201);
    expect(answer.json).toMatchObject({ owner: 'carol', scopes: ['read'], sandbox: null, single_use: false });
    expect(idsOf(await service.ask('/api/sandboxes', String(answer.json['token'])))).toEqual([]);
    const line = await service.lineOf(answer);
    expect(line).toMatchObject({ audit: true, route: '/api/tokens', caller: { via: 'key', name: 'SANDBOX_TOKEN' } });
    expect(service.lines.join('')).not.toContain(String(answer.json['token']));
    const bound = await service.post('/api/tokens', TOKEN, { scopes: ['read'], sandbox: 'sb3' });
    expect(bound.json).toMatchObject({ owner: 'bob', sandbox: 'sb3' });
  });

  test.each<[body: object, status: number]>([
    [{ scopes: [] }, 422],
    [{ scopes: ['root'] }, 422],
    [{ scopes: ['read'], owner: 'Not One' }, 422],
    [{ scopes: ['read'], expires: 0 }, 422],
    [{ scopes: ['read'], expires: 86_401 }, 422],
    [{ scopes: ['read'], sandbox: 'gone' }, 404],
    [{ scopes: ['read'], owner: 'alice', sandbox: 'sb3' }, 404],
    [{ scopes: ['read'], more: 1 }, 422],
  ])('refuses %j', async (body, status) => {
    await using service = await serve();
    expect((await service.post('/api/tokens', TOKEN, body)).status).toBe(status);
  });

  test.each<[missing: keyof typeof ENV, body: object]>([
    ['SANDBOX_TOKEN_SECRET', { scopes: ['read'] }],
    ['SANDBOX_STATE_DIR', { scopes: ['exec'], single_use: true }],
  ])('without %s says so', async (missing, body) => {
    await using service = await serve({ [missing]: '' });
    const answer = await service.post('/api/tokens', TOKEN, body);
    expect([answer.status, answer.json['hint']]).toEqual([403, expect.stringContaining(missing)]);
  });
});

describe('a link to a file', () => {
  test('admits to that file by that method, without a token, until it expires', async () => {
    await using service = await serve();
    const alice = await tokenFor({ scopes: ['files'] });
    const path = '/workspace/über a+b%.txt';
    const put = await service.post('/api/sandboxes/sb2/files/links', alice, { path, method: 'PUT' });
    const get = await service.post('/api/sandboxes/sb2/files/links', alice, { path, expires: 60 });
    expect([put.status, get.status, get.json['method'], get.json['path']]).toEqual([201, 201, 'GET', path]);
    const [putUrl, getUrl] = [String(put.json['url']), String(get.json['url'])];
    const written = await service.ask(putUrl, undefined, { method: 'PUT', body: 'by a link' });
    expect(written.status).toBe(204);
    expect(await service.lineOf(written)).toMatchObject({
      audit: true,
      caller: { owner: 'alice', via: 'link', name: put.json['link_id'] },
    });
    expect((await service.ask(getUrl, undefined)).text).toBe('by a link');
    expect((await service.ask(getUrl, undefined, { method: 'HEAD' })).status).toBe(200);

    const changed = (url: string, change: (query: URLSearchParams) => void, place = '/api/sandboxes/sb2/files') => {
      const query = new URLSearchParams(url.split('?')[1]);
      change(query);
      return `${place}?${query.toString()}`;
    };
    const same = () => {};
    for (const [method, url] of [
      ['PUT', getUrl],
      ['DELETE', getUrl],
      ['GET', putUrl],
      ['GET', changed(getUrl, (query) => query.set('path', '/etc/passwd'))],
      ['GET', changed(getUrl, (query) => query.append('path', '/etc/passwd'))],
      ['GET', changed(getUrl, (query) => query.append('link', String(query.get('link'))))],
      ['GET', changed(getUrl, (query) => query.set('link', `${String(query.get('link')).slice(0, -6)}AAAAAA`))],
      ['GET', changed(getUrl, (query) => query.set('link', alice))],
      ['PUT', changed(putUrl, (query) => query.set('mode', '777'))],
      ['GET', changed(getUrl, same, '/api/sandboxes/sb3/files')],
      ['GET', changed(getUrl, same, '/api/sandboxes/sb2/files/stat')],
      ['GET', changed(getUrl, same, '/api/sandboxes/sb2/archive')],
      ['POST', changed(putUrl, same, '/api/sandboxes/sb2/files/append')],
    ] as const) {
      const answer = await service.ask(url, undefined, { method });
      expect([answer.status, url]).toEqual([401, url]);
      expect(await service.lineOf(answer)).toMatchObject({ audit: true, event: 'security' });
    }
    vi.useFakeTimers({ now: Date.now() + 61_000, toFake: ['Date'] });
    expect((await service.ask(getUrl, undefined)).status).toBe(401);
    expect(service.lines.join('')).not.toContain(new URLSearchParams(getUrl.split('?')[1]).get('link'));
  });

  test("is issued for one's own sandboxes only; one by an admin is good for the owner's", async () => {
    await using service = await serve();
    const body = { path: '/workspace/a' };
    expect((await service.post('/api/sandboxes/sb3/files/links', await tokenFor(), body)).status).toBe(404);
    const link = await service.post('/api/sandboxes/sb3/files/links', TOKEN, { ...body, method: 'PUT' });
    const used = await service.ask(String(link.json['url']), undefined, { method: 'PUT', body: 'x' });
    expect(used.status).toBe(204);
    expect(await service.lineOf(used)).toMatchObject({ caller: { owner: 'bob', via: 'link' } });
  });
});

describe('a terminal', () => {
  const open = (url: string, headers: Record<string, string> = {}) =>
    new Promise<number>((resolve) => {
      const socket = new WebSocket(url, { headers });
      socket.once('open', () => {
        socket.terminate();
        resolve(101);
      });
      socket.once('unexpected-response', (_request, response) => resolve(response.statusCode ?? 0));
      socket.once('error', () => {});
    });

  test('needs the scope, and the sandbox of the owner; a ticket is worth what its owner may', async () => {
    await using service = await serve();
    service.app.stub.script = { chunks: [], hangs: true };
    const base = service.app.url.replace('http', 'ws');
    const [alice, reader] = [await tokenFor(), await tokenFor({ scopes: ['read', 'files'] })];
    const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });
    expect(await open(`${base}/api/sandboxes/sb2/terminal`, bearer(alice))).toBe(101);
    expect(await open(`${base}/api/sandboxes/sb2/terminal`, bearer(reader))).toBe(403);
    expect(await open(`${base}/api/sandboxes/sb3/terminal`, bearer(alice))).toBe(404);
    expect(await open(`${base}/api/sandboxes/sb2/terminal`)).toBe(401);
    const { json } = await service.post('/api/sandboxes/sb2/terminal/ticket', alice);
    expect(await open(`${base}${String(json['url'])}`)).toBe(101);
    expect(await open(`${base}${String(json['url'])}`)).toBe(401);
    expect((await service.post('/api/sandboxes/sb3/terminal/ticket', alice)).status).toBe(404);
    expect((await service.post('/api/sandboxes/sb2/terminal/ticket', reader)).status).toBe(403);
    const admins = await service.post('/api/sandboxes/sb3/terminal/ticket', TOKEN);
    expect(await open(`${base}${String(admins.json['url'])}`)).toBe(101);
  });
});

describe('a limit of requests', () => {
  test('is per owner, by whichever token', async () => {
    await using service = await serve({ SANDBOX_RATE_LIMIT_OWNER: '3' });
    for (const token of [await tokenFor(), await tokenFor(), await tokenFor()]) {
      const answer = await service.ask('/api/sandboxes', token);
      expect([answer.status, answer.headers['ratelimit-policy']]).toEqual([
        200,
        expect.stringMatching(/"owner"; q=3; w=60/),
      ]);
    }
    const answer = await service.ask('/api/sandboxes', await tokenFor());
    expect([answer.status, answer.json['code'], answer.json['retryable']]).toEqual([429, 'rate_limited', true]);
    expect(answer.headers['retry-after']).toMatch(/^\d+$/);
    expect(await service.lineOf(answer)).toMatchObject({ kind: 'rate_refused', caller: { owner: 'alice' } });
    expect((await service.ask('/api/sandboxes', KEY)).status).toBe(200);
    expect((await service.ask('/healthz', undefined)).status).toBe(200);
  });

  test('is per address, which is what a proxy says only where that is trusted', async () => {
    const from = (address: string) => ({ headers: { 'X-Forwarded-For': address } });
    await using plain = await serve({ SANDBOX_RATE_LIMIT_ADDRESS: '2' });
    for (const status of [200, 200, 429]) {
      expect((await plain.ask('/api/sandboxes', TOKEN, from(`10.0.0.${status}${Math.random()}`))).status).toBe(status);
    }
    await using proxied = await serve({ SANDBOX_RATE_LIMIT_ADDRESS: '2', SANDBOX_TRUSTED_PROXIES: 'loopback' });
    for (const status of [200, 200, 429]) {
      expect((await proxied.ask('/api/sandboxes', TOKEN, from('10.0.0.1'))).status).toBe(status);
    }
    expect((await proxied.ask('/api/sandboxes', TOKEN, from('10.0.0.2'))).status).toBe(200);
  });
});

describe('pages of other sites', () => {
  const env = {
    SANDBOX_ALLOW_ORIGINS: 'https://app.example',
    SANDBOX_ALLOW_ORIGIN_REGEX: 'https://[a-z0-9-]+[.]dev[.]example',
  };
  const asks = { 'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'authorization' };

  test.each(['https://app.example', 'https://x-1.dev.example'])('%s may use the service', async (Origin) => {
    await using service = await serve(env);
    const before = await service.ask('/api/sandboxes', undefined, { method: 'OPTIONS', headers: { Origin, ...asks } });
    expect(before.status).toBe(204);
    expect(before.headers['access-control-allow-origin']).toBe(Origin);
    expect(before.headers['access-control-allow-headers']).toContain('Authorization');
    expect(before.headers).not.toHaveProperty('access-control-allow-credentials');
    const answer = await service.ask('/api/sandboxes', TOKEN, { headers: { Origin } });
    expect([answer.status, answer.headers['access-control-allow-origin']]).toEqual([200, Origin]);
    expect(answer.headers.vary).toContain('Origin');
  });

  test.each(['https://evil.example', 'null', 'https://x.dev.example.evil.example', `https://${'a'.repeat(5000)}`])(
    '%.50s may not, not even with a token',
    async (Origin) => {
      await using service = await serve(env);
      for (const options of [{ headers: { Origin } }, { method: 'OPTIONS', headers: { Origin, ...asks } }]) {
        const answer = await service.ask('/api/sandboxes', TOKEN, options);
        expect(answer.status).toBe(403);
        expect(answer.headers).not.toHaveProperty('access-control-allow-origin');
      }
    },
  );
});

describe('the audit', () => {
  test('has a line for each change and each refusal, with who it was, and none for who only looks', async () => {
    await using service = await serve();
    const changed = await service.lineOf(await service.post('/api/sandboxes/sb3/stop', KEY));
    expect(changed).toMatchObject({
      level: 30,
      audit: true,
      route: '/api/sandboxes/{id}/stop',
      caller: { owner: 'bob', via: 'key', name: 'ci' },
      sandbox: 'sb3',
      outcome: 'ok',
    });
    const looked = await service.lineOf(await service.ask('/api/sandboxes/sb3', KEY));
    expect(looked).toMatchObject({ caller: { name: 'ci' }, outcome: 'ok' });
    expect(looked).not.toHaveProperty('audit');
    expect(service.lines.join('')).not.toContain(KEY);
  });
});
