import { mkdtempSync, rmSync } from 'node:fs';
import { Agent, createServer, request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { Tokens } from '../../../src/access/tokens.js';
import { readConfig } from '../../../src/config.js';
import { createApp } from '../../../src/http/app.js';
import { Calls } from '../../../src/http/calls.js';
import { answerClientErrors } from '../../../src/http/client-errors.js';
import { WebSockets } from '../../../src/http/web-sockets.js';
import { SandboxManager } from '../../../src/manager.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';
import { requestsOf, type FuzzRequest, type OpenApiDocument } from './fuzz-requests.js';

/*
 * Ten thousand requests at random, from people who have a token, had one, or made one up, to a service with the real manager
 * over the fake engine. Whatever is asked, nothing but a mistake of the client's may come of it; nothing takes for ever; and
 * nobody gets at bob's sandbox, which notes whatever is done in it.
 */

const REQUESTS = Number(process.env['SANDYARD_TEST_FUZZ'] ?? 10_000);
const AT_ONCE = 25;
/** What streams, or waits for something to happen, is left after that. */
const PATIENCE_MS = 150;
const HANGS_MS = 10_000;
/** These wait by design, as long as their client likes. */
const WAITS = new Set([
  'waitForSandbox',
  'waitForProcess',
  'readEvents',
  'readOutput',
  'watchFiles',
  'execute',
  'openTerminal',
]);
const SECRET = 'secret-of-bob';
const ALICES = 'alices';

const state = mkdtempSync(join(tmpdir(), 'sandyard-fuzz-'));
const config = readConfig({
  SANDBOX_TOKEN: 'correct-horse-battery',
  SANDBOX_TOKEN_SECRET: 'a-secret-of-more-than-32-bytes-as-it-must-be',
  SANDBOX_STATE_DIR: state,
  SANDBOX_KEEP_FREE_MEMORY: '0',
  SANDBOX_KEEP_FREE_DISK: '0',
  SANDBOX_CREATE_QUEUE: '1000',
  SANDBOX_TRUSTED_PROXIES: 'loopback',
});
const engine = new FakeEngine();
const manager = new SandboxManager({ engine, owner: config.owner, reaper: false, limits: config.limits });
const tokens = new Tokens(config.access, config.owner);
const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
const calls = new Calls();
const sockets = new WebSockets();
const app = createApp({ manager, config, log: pino({ level: 'silent' }), calls, sockets });
const server = createServer({ requestTimeout: 0 }, app);
const touched: string[] = [];
const ids = { alice: '', bob: '', own: '' };
/** Who is refused too often from one address isn't listened to any more. */
let senders = 0;
let credentials: fc.Arbitrary<{ who: string; authorization: string | undefined }>;
let document: OpenApiDocument;

beforeAll(async () => {
  sockets.serve(server, app);
  answerClientErrors(server, { error: () => {} });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  await manager.open();
  const note = (what: string) => (process: { readonly argv: readonly string[] }) => {
    touched.push(`${what} ${process.argv.join(' ')}`);
    return 0;
  };
  engine.wardens = { commands: { '*': note('command'), '/bin/sh': note('command') }, builtins: { '*': note('file') } };
  const bobs = await manager.create({ metadata: { secret: SECRET }, projectName: SECRET }, { tenant: 'bob' });
  engine.wardens = { commands: { '*': (process) => process.print('hello') }, builtins: { '*': () => 2 } };
  const alices = await manager.create({ ttlMs: 3_600_000 }, { tenant: 'alice' });
  const own = await manager.create();
  Object.assign(ids, { alice: alices.id, bob: bobs.id, own: own.id });
  credentials = await credentialsFor(alices.id);
  const answer = await fetch(`http://127.0.0.1:${port()}/openapi.json`);
  document = (await answer.json()) as OpenApiDocument;
});

afterAll(async () => {
  calls.drain();
  server.closeAllConnections();
  agent.destroy();
  await new Promise((resolve) => {
    server.close(resolve);
  });
  await manager.close();
  rmSync(state, { recursive: true });
});

/** Has alice have a sandbox that runs. */
async function provide(): Promise<void> {
  const state = await manager.inspect(ids.alice).then(
    (info) => info.state,
    () => undefined,
  );
  if (state === 'running') return;
  if (state !== undefined) await manager.destroy(ids.alice);
  ids.alice = (await manager.create({ ttlMs: 3_600_000 }, { tenant: 'alice' })).id;
}

function port(): number {
  return (server.address() as AddressInfo).port;
}

/** Alice's, in several forms, and what is no good. Nobody here is an admin, and nobody is bob. */
async function credentialsFor(sandbox: string) {
  const scopes = ['read', 'exec', 'files', 'lifecycle'] as const;
  const issue = async (request: object) =>
    (await tokens.issue({ owner: 'alice', scopes, ttlMs: 3_600_000, ...request })).token;
  const whole = await issue({});
  const good = [whole, await issue({ sandbox }), await issue({ scopes: ['read'] }), await issue({ singleUse: true })];
  const [header = '', payload = '', signature = ''] = whole.split('.');
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as object;
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const forged = [
    `${header}.${part({ ...claims, sub: 'bob' })}.${signature}`,
    `${header}.${part({ ...claims, scope: 'admin' })}.${signature}`,
    `${part({ alg: 'none', typ: 'sandyard+jwt' })}.${part({ ...claims, sub: 'bob' })}.`,
    (
      await new Tokens({ ...config.access, tokenSecret: Buffer.alloc(40, 'x') }, config.owner).issue({
        owner: 'bob',
        scopes,
      })
    ).token,
    (await new Tokens(config.access, 'another').issue({ owner: 'bob', scopes })).token,
    (await tokens.issueLink({ owner: 'bob', sandbox, method: 'GET', path: '/workspace' })).token,
  ];
  const changed = fc
    .tuple(fc.constantFrom(...good), fc.nat(400), fc.constantFrom('A', 'a', '0', '.', '-', '_', '='))
    .map(([token, at, letter]) => {
      const place = at % (token.length - 1);
      return token[place] === letter ? `${token}x` : token.slice(0, place) + letter + token.slice(place + 1);
    });
  const ascii = fc.string({ maxLength: 60 });
  return fc.oneof(
    {
      weight: 9,
      arbitrary: fc.constantFrom(whole, ...good).map((token) => ({ who: 'alice', authorization: `Bearer ${token}` })),
    },
    {
      weight: 1,
      arbitrary: fc.constantFrom(...forged).map((token) => ({ who: 'nobody', authorization: `Bearer ${token}` })),
    },
    { weight: 1, arbitrary: changed.map((token) => ({ who: 'nobody', authorization: `Bearer ${token}` })) },
    { weight: 1, arbitrary: ascii.map((given) => ({ who: 'nobody', authorization: given })) },
    { weight: 1, arbitrary: fc.constant({ who: 'nobody', authorization: undefined }) },
  );
}

interface Outcome {
  /** 0 where it waited, as it may. */
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

/** Sends it, and reads what comes within a while. */
function send(request: FuzzRequest, authorization: string | undefined) {
  const { method, path, headers, body, operationId } = request;
  const mayWait = WAITS.has(operationId) && !isOthers(request);
  return new Promise<Outcome>((resolve, reject) => {
    const sent = httpRequest({
      host: '127.0.0.1',
      port: port(),
      agent,
      method,
      path,
      headers: {
        'X-Forwarded-For': `10.0.${(senders += 1) >> 8}.${senders & 255}`,
        ...headers,
        // Else the client sends a body that it doesn't announce with some methods.
        ...(body !== undefined && { 'Content-Length': String(Buffer.byteLength(body)) }),
        ...(authorization !== undefined && { Authorization: authorization }),
      },
    });
    let outcome: Outcome = { status: 0, type: '', text: '' };
    const done = (result: Outcome) => {
      clearTimeout(patience);
      clearTimeout(hangs);
      resolve(result);
    };
    const leave = () => {
      sent.destroy();
      done(outcome);
    };
    const patience = setTimeout(() => (mayWait ? leave() : undefined), PATIENCE_MS);
    const hangs = setTimeout(() => {
      sent.destroy();
      reject(new Error(`${method} ${path.slice(0, 200)} hangs.`));
    }, HANGS_MS);
    sent.once('upgrade', (response, socket) => {
      socket.destroy();
      done({ status: response.statusCode ?? 0, type: '', text: '' });
    });
    sent.once('response', (response) => {
      const type = response.headers['content-type'] ?? '';
      outcome = { status: response.statusCode ?? 0, type, text: '' };
      response.on('data', (chunk: Buffer) => (outcome = { ...outcome, text: outcome.text + chunk.toString() }));
      response.once('end', () => done(outcome));
      response.once('error', () => done(outcome));
    });
    sent.once('error', () => done(outcome));
    sent.end(body);
  });
}

const STACK = /\bat \S+ \(|\.[cm]?[jt]s:\d+|node_modules|node:internal|TypeError|ReferenceError|\/src\//;

function isOthers({ sandbox }: FuzzRequest): boolean {
  return sandbox === ids.bob || sandbox === ids.own;
}

/** What is wrong with an answer; `undefined` for one that may be. */
function faultOf(request: FuzzRequest, who: string, { status, type, text }: Outcome): string | undefined {
  // The path of a request is in the answer, whatever it is.
  const own = text.replaceAll(/"(instance|detail)":"(?:[^"\\]|\\.)*"/g, '');
  // Of those that are under way at once, one may end the sandbox, which the others are told.
  const tells = request.method === 'HEAD' ? status === 502 : text.includes('"code":"sandbox_died"');
  const isEnded = request.sandbox === ALICES && tells;
  if (status >= 500 && !isEnded) return `status ${status}`;
  if (STACK.test(own)) return 'a stack trace';
  if (text.includes(SECRET)) return "what is bob's";
  // An expectation that nobody knows is answered by Node itself.
  if (status >= 400 && status !== 417 && request.method !== 'HEAD') {
    if (!type.startsWith('application/problem+json')) return `an error of the type ${type}`;
    const { code, status: told } = JSON.parse(text) as { code?: string; status?: number };
    if (code === undefined || told !== status) return 'an error without its code';
  }
  const isOpen = /^\/(health|healthz|readyz|docs|openapi\.json)/.test(request.path);
  if (who === 'nobody' && status < 400 && status !== 0 && !isOpen) return `status ${status} for nobody`;
  if (isOthers(request) && status < 400) return `status ${status} for another's sandbox`;
  return undefined;
}

describe('whatever is asked', () => {
  test(`${REQUESTS} requests get no answer but what their senders may have`, { timeout: 120_000 }, async () => {
    // Hers is another one each time that she has destroyed it.
    const sandboxes = fc.constantFrom(ALICES, ALICES, ALICES, ids.bob, ids.own, 'gone');
    const attempts = fc.record({ request: requestsOf(document, sandboxes), credential: credentials });
    const statuses = new Map<number, number>();
    const reached = new Set<string>();
    await fc.assert(
      fc.asyncProperty(fc.array(attempts, { minLength: AT_ONCE, maxLength: AT_ONCE }), async (batch) => {
        await provide();
        // What is under way in a sandbox waits while that is paused, which one of them may have done.
        const unpause = setInterval(() => void manager.unpause(ids.alice).catch(() => {}), 300);
        const outcomes = await Promise.all(
          batch.map(async ({ request: made, credential: { who, authorization } }) => {
            const request = { ...made, path: made.path.replace(ALICES, ids.alice) };
            const outcome = await send(request, authorization);
            return { request, outcome, fault: faultOf(request, who, outcome) };
          }),
        ).finally(() => clearInterval(unpause));
        for (const { request, outcome, fault } of outcomes) {
          if (fault !== undefined) {
            throw new Error(
              `${fault}: ${JSON.stringify(request).slice(0, 2000)} got ${JSON.stringify(outcome).slice(0, 1000)}`,
            );
          }
          statuses.set(outcome.status, (statuses.get(outcome.status) ?? 0) + 1);
          if (outcome.status >= 200 && outcome.status < 300) reached.add(request.operationId);
        }
      }),
      { numRuns: Math.ceil(REQUESTS / AT_ONCE), endOnFailure: true },
    );
    expect(touched).toEqual([]);
    const { state: bobs, metadata } = await manager.inspect(ids.bob, {});
    expect([bobs, metadata]).toEqual(['running', { secret: SECRET }]);
    expect((await manager.inspect(ids.own)).state).toBe('running');
    const seen = JSON.stringify([...statuses].toSorted(([a], [b]) => a - b));
    // What is always refused at the door tests nothing behind it.
    expect(reached.size, seen).toBeGreaterThan(10);
  });
});
