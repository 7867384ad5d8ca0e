import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import {
  createServer,
  request as connectHttp,
  type ClientRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { connect as connectTcp, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { connect as connectTls, createSecureContext } from 'node:tls';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';

import { issueCertificate } from '../../../src/egress/certificates.js';
import { parseRange } from '../../../src/proxy/addresses.js';
import { Lookups } from '../../../src/proxy/decisions.js';
import { DecisionLog, logPaths, POLICIES, policyPath } from '../../../src/proxy/files.js';
import { Relay } from '../../../src/proxy/relay.js';
import { SECRETS, secretsPath, type SecretEntry } from '../../../src/proxy/secrets.js';
import { createProxyServer } from '../../../src/proxy/server.js';

/* The whole proxy, on the loopback, with servers of its own that tell what came. */

const ID = 'sb1';
const AT = '127.0.0.1';
const PLACEHOLDER = 'sandyard-secret-0123456789abcdefghijklmnopqrst';
const VALUE = 'ghp_RealValueOfTheToken';
const lifetimeMs = 3_600_000;
const FOR_SANDBOX = issueCertificate(['api.test', '*.cdn.test', 'untrusted.test'], { id: ID, lifetimeMs });
const FOR_HOSTS = issueCertificate(['api.test', '*.cdn.test', 'other.test'], { id: 'hosts', lifetimeMs });
const UNKNOWN = issueCertificate(['untrusted.test'], { id: 'unknown', lifetimeMs });

const root = mkdtempSync(join(tmpdir(), 'sandyard-secrets-'));
let proxy: Server;
let plain: Server;
let tls: Server;
const closing: (() => unknown)[] = [];
const portOf = (server: Server) => (server.address() as AddressInfo).port;

/** Answers with what came, and as it is asked to. */
async function echo(request: IncomingMessage, response: ServerResponse) {
  const body = await text(request);
  const url = new URL(request.url ?? '', 'http://any');
  const said = url.searchParams.get('say');
  if (said !== null) {
    response.writeHead(200, { 'X-Echo': said, 'Content-Length': said.length });
    for (const letter of said) response.write(letter);
    response.end();
    return;
  }
  const about = { headers: request.headers, url: request.url, body };
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(about));
}

async function listen(server: Server): Promise<Server> {
  server.listen(0, AT);
  await once(server, 'listening');
  closing.push(() => server.close());
  return server;
}

/** Every name is here. */
async function startNames(): Promise<string> {
  const names = createSocket('udp4');
  names.on('message', (query, { port, address }) => {
    const answer = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    const head = Buffer.from([0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    query.copy(head, 0, 0, 2);
    const question = query.subarray(12, query.indexOf(0, 12) + 5);
    names.send(Buffer.concat([head, question, answer]), port, address);
  });
  names.bind(0, AT);
  await once(names, 'listening');
  closing.push(() => names.close());
  return `${AT}:${names.address().port}`;
}

beforeAll(async () => {
  for (const name of [POLICIES, SECRETS]) await mkdir(`${root}/${name}`);
  const unsafe = [parseRange('127.0.0.0/8')].flatMap((found) => found ?? []);
  const lookups = new Lookups({ servers: [await startNames()], rules: { never: [], unsafe } });
  const relay = new Relay({ root, lookups, log: new DecisionLog(root) });
  const trusted = createSecureContext({ ca: [FOR_HOSTS.authority] });
  proxy = await listen(createProxyServer(relay, { trusted }));
  plain = await listen(createServer((...call) => void echo(...call)));
  tls = createTlsServer(
    {
      cert: FOR_HOSTS.certificate,
      key: FOR_HOSTS.key,
      SNICallback: (name, done) => {
        const { certificate: cert, key } = name === 'untrusted.test' ? UNKNOWN : FOR_HOSTS;
        done(null, createSecureContext({ cert, key }));
      },
    },
    (...call) => void echo(...call),
  );
  await listen(tls);
});
afterAll(() => {
  for (const close of closing) close();
  rmSync(root, { recursive: true });
});

async function give(secrets: readonly Partial<SecretEntry>[], { sandbox = ID } = {}): Promise<void> {
  const base = { name: 'TOKEN', placeholder: PLACEHOLDER, value: VALUE, interceptTls: false };
  const written = secrets.map((each) => ({ ...base, hosts: [`api.test:${portOf(plain)}`], ...each }));
  await writeFile(secretsPath(root, AT), JSON.stringify({ sandbox, secrets: written, shown: FOR_SANDBOX }));
}

beforeEach(async () => {
  const ports = [portOf(plain), portOf(tls)];
  const allow = ['*.test', '*.cdn.test'].flatMap((host) => ports.map((port) => `${host}:${port}`));
  const policy = { sandbox: ID, proxy: AT, allow, asked: allow, learn: true, maxConnections: 50 };
  await writeFile(policyPath(root, AT), JSON.stringify({ ...policy, maxBytes: null, bytesPerSecond: null }));
  await give([{}]);
});

interface Asked {
  readonly headers?: Record<string, string>;
  readonly path?: string;
  readonly body?: string;
  readonly method?: string;
}

async function answerOf(sent: ClientRequest, body = '') {
  sent.end(body);
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  return { status: answer.statusCode, headers: answer.headers, body: await text(answer) };
}

/** By plain HTTP. */
function ask(host: string, { path = '/', headers = {}, body, method = 'GET' }: Asked = {}) {
  const url = `http://${host}:${portOf(plain)}${path}`;
  return answerOf(connectHttp({ host: AT, port: portOf(proxy), path: url, method, headers, agent: false }), body);
}

async function openTunnel(
  host: string,
  { name = host, ca = FOR_SANDBOX.authority, protocols = ['http/1.1'], port = portOf(tls) } = {},
) {
  const socket = connectTcp(portOf(proxy), AT);
  socket.write(`CONNECT ${host}:${port} HTTP/1.1\r\n\r\n`);
  await once(socket, 'data');
  const secured = connectTls({ socket, servername: name, ca, ALPNProtocols: protocols });
  await once(secured, 'secureConnect');
  return secured;
}

/** By TLS in a tunnel. */
async function askTls(host: string, { path = '/', headers = {}, body, method = 'GET' }: Asked = {}, ca?: string) {
  const socket = await openTunnel(host, ca === undefined ? {} : { ca });
  const sent = connectHttp({ createConnection: () => socket, path, method, headers: { host, ...headers } });
  return { ...(await answerOf(sent, body)), issuer: socket.getPeerCertificate().issuer?.CN };
}

const cameTo = (answer: { body: string }) =>
  JSON.parse(answer.body) as { headers: Record<string, string>; url: string; body: string };

async function logged(): Promise<string> {
  const { newer, learnt } = logPaths(root, ID);
  return (await readFile(newer, 'utf8')) + (await readFile(learnt, 'utf8'));
}

describe('a secret over plain HTTP', () => {
  it('is in the headers of what its host gets', async () => {
    const basic = (password: string) => `Basic ${Buffer.from(`x:${password}`).toString('base64')}`;
    using seen = see(plain);
    await ask('api.test', { headers: { authorization: `Bearer ${PLACEHOLDER}`, 'x-key': PLACEHOLDER } });
    await ask('api.test', { headers: { authorization: basic(PLACEHOLDER) } });
    expect(seen.headers[0]).toMatchObject({ authorization: `Bearer ${VALUE}`, 'x-key': VALUE });
    expect(seen.headers[1]).toMatchObject({ authorization: basic(VALUE), 'accept-encoding': 'identity' });
  });

  it('is neither in the URL nor in the body, and not told to the sandbox that way', async () => {
    using seen = see(plain);
    const answer = await ask('api.test', { path: `/?t=${PLACEHOLDER}`, method: 'POST', body: PLACEHOLDER });
    expect(seen.urls).toEqual([`/?t=${PLACEHOLDER}`]);
    expect(cameTo(answer)).toMatchObject({ url: `/?t=${PLACEHOLDER}`, body: PLACEHOLDER });
  });

  it('is covered in what comes back, and no length changes', async () => {
    const answer = await ask('api.test', { headers: { authorization: PLACEHOLDER } });
    expect(cameTo(answer).headers['authorization']).toBe('*'.repeat(VALUE.length));
    const said = await ask('api.test', { path: `/?say=${VALUE}` });
    expect(said.headers).toMatchObject({
      'x-echo': '*'.repeat(VALUE.length),
      'content-length': String(VALUE.length),
    });
    expect(said.body).toBe('*'.repeat(VALUE.length));
  });

  it.each([
    ['another host', 'other.test', {}],
    ['another host that says that it is the one', 'other.test', { host: 'api.test' }],
    ['what ends like it', 'notapi.test', {}],
    ['what is below it', 'x.api.test', {}],
  ])('is not in what goes to %s', async (_what, host, more) => {
    using seen = see(plain);
    await ask(host, { headers: { authorization: `Bearer ${PLACEHOLDER}`, ...more } });
    expect(seen.headers[0]).toMatchObject({ authorization: `Bearer ${PLACEHOLDER}` });
    expect(seen.headers[0]?.['host']).toBe(`${host}:${portOf(plain)}`);
  });

  it('is not in a second request that came behind the first', async () => {
    using seen = see(plain);
    const socket = connectTcp(portOf(proxy), AT);
    const one = (host: string) =>
      `GET http://${host}:${portOf(plain)}/ HTTP/1.1\r\nHost: ${host}\r\nX-Key: ${PLACEHOLDER}\r\n\r\n`;
    socket.write(one('api.test') + one('other.test'));
    await text(socket);
    expect(seen.headers.map((headers) => headers['x-key'])).toEqual([VALUE]);
  });

  it('is not where it goes by TLS, nor where it was another sandbox that had the address', async () => {
    using seen = see(plain);
    await give([{ interceptTls: true }]);
    await ask('api.test', { headers: { 'x-key': PLACEHOLDER } });
    await give([{}], { sandbox: 'another' });
    await ask('api.test', { headers: { 'x-key': PLACEHOLDER } });
    expect(seen.headers.map((headers) => headers['x-key'])).toEqual([PLACEHOLDER, PLACEHOLDER]);
  });

  it('is another one from the next request on when it is changed, and none when it is removed', async () => {
    using seen = see(plain);
    const send = () => ask('api.test', { headers: { 'x-key': PLACEHOLDER } });
    await send();
    await give([{ value: 'another-value' }]);
    await send();
    await rm(secretsPath(root, AT));
    await send();
    expect(seen.headers.map((headers) => headers['x-key'])).toEqual([VALUE, 'another-value', PLACEHOLDER]);
  });

  it('refuses what it would make too large', async () => {
    await give([{ value: 'v'.repeat(4096) }]);
    const answer = await ask('api.test', { headers: { 'x-key': PLACEHOLDER.repeat(40) } });
    expect(answer).toMatchObject({ status: 400, headers: { 'x-egress-reason': 'bad_request' } });
    expect(answer.body).not.toContain('vvvv');
  });
});

describe('a secret over TLS that is opened', () => {
  const atTls = (host: string) => `${host}:${portOf(tls)}`;
  beforeEach(() => give([{ interceptTls: true, hosts: ['api.test', '*.cdn.test', 'untrusted.test'].map(atTls) }]));

  it('is in the headers of what its host gets, and covered in what comes back', async () => {
    for (const host of ['api.test', 'a.cdn.test']) {
      using seen = see(tls);
      const answer = await askTls(host, { headers: { authorization: `Bearer ${PLACEHOLDER}`, host: 'other.test' } });
      expect(answer.issuer).toBe(`Sandyard sandbox ${ID}`);
      expect(seen.headers[0]).toMatchObject({ authorization: `Bearer ${VALUE}`, host: atTls(host) });
      expect(answer.body).not.toContain(VALUE);
    }
  });

  it('passes bodies, however long', async () => {
    const body = 'x'.repeat(300_000);
    expect(cameTo(await askTls('api.test', { method: 'POST', body })).body).toBe(body);
  });

  it('leaves TLS to all other hosts untouched', async () => {
    const warned = vi.spyOn(process, 'emitWarning').mockReturnValue();
    onTestFinished(() => warned.mockRestore());
    using seen = see(tls);
    const answer = await askTls('other.test', { headers: { 'x-key': PLACEHOLDER } }, FOR_HOSTS.authority);
    expect(answer.issuer).toBe('Sandyard sandbox hosts');
    expect(seen.headers[0]).toMatchObject({ 'x-key': PLACEHOLDER });
    expect(warned).not.toHaveBeenCalled();
  });

  it('leaves it untouched, too, when the secret is removed', async () => {
    await rm(secretsPath(root, AT));
    await expect(openTunnel('api.test', { ca: FOR_SANDBOX.authority })).rejects.toThrow(/certificate/);
    await openTunnel('api.test', { ca: FOR_HOSTS.authority });
  });

  it('goes to no host that is not verified', async () => {
    using seen = see(tls);
    const answer = await askTls('untrusted.test', { headers: { 'x-key': PLACEHOLDER } });
    expect(answer).toMatchObject({ status: 502, headers: { 'x-egress-reason': 'not_trusted' } });
    expect(seen.headers).toEqual([]);
    expect(await logged()).toContain('"reason":"not_trusted"');
  });

  it.each([
    ['a whole URL', `GET https://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n`],
    ['two lengths', 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['another tunnel', `CONNECT other.test:443 HTTP/1.1\r\nHost: other.test\r\n\r\n`],
    ['no HTTP', 'garbage\r\n\r\n'],
    ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
  ])('refuses %s in it', async (_what, sent) => {
    using seen = see(tls);
    const socket = await openTunnel('api.test');
    socket.write(sent);
    expect(await text(socket)).toMatch(/^$|^HTTP\/1\.1 400 /);
    expect(seen.headers).toEqual([]);
  });

  it('goes to no host that speaks no TLS', async () => {
    using seen = see(plain);
    await give([{ interceptTls: true }]);
    const socket = await openTunnel('api.test', { port: portOf(plain) });
    socket.write(`GET / HTTP/1.1\r\nHost: api.test\r\nX-Key: ${PLACEHOLDER}\r\n\r\n`);
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 502 [\s\S]*not_trusted/);
    expect(seen.headers).toEqual([]);
  });

  it('outlives clients that go at any moment', async () => {
    const goAfter = async (ms: number) => {
      const socket = connectTcp(portOf(proxy), AT);
      socket.on('error', () => {});
      const closed = once(socket, 'close');
      setTimeout(() => socket.destroy(), ms);
      socket.write(`CONNECT ${atTls('api.test')} HTTP/1.1\r\n\r\n`);
      await Promise.race([once(socket, 'data').catch(() => {}), closed]);
      const secured = connectTls({ socket, servername: 'api.test', ca: FOR_SANDBOX.authority });
      secured.on('error', () => {});
      secured.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc');
      await closed;
    };
    await Promise.all(Array.from({ length: 30 }, (_, ms) => goAfter(ms)));
    expect((await askTls('api.test')).status).toBe(200);
  });

  it('speaks HTTP/1.1 only', async () => {
    expect((await openTunnel('api.test', { protocols: ['h2', 'http/1.1'] })).alpnProtocol).toBe('http/1.1');
    await expect(openTunnel('api.test', { protocols: ['h2'] })).rejects.toThrow();
  });

  it('says so in the log when a client does not trust it', async () => {
    await expect(openTunnel('api.test', { ca: FOR_HOSTS.authority })).rejects.toThrow(/certificate/);
    await expect.poll(logged).toContain('"reason":"tls_failed"');
  });
});

it('is never in the log, nor in what was learnt', async () => {
  expect(await logged()).not.toContain(VALUE);
});

/** What comes to a server meanwhile, before anything is covered. */
function see(server: Server) {
  const [headers, urls]: [IncomingMessage['headers'][], (string | undefined)[]] = [[], []];
  const note = (request: IncomingMessage) => {
    headers.push(request.headers);
    urls.push(request.url);
  };
  server.on('request', note);
  return { headers, urls, [Symbol.dispose]: () => void server.off('request', note) };
}
