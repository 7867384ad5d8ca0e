import { request as connectHttp, type IncomingMessage, type ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';

import { Meter } from './accounts.ts';
import type { Refusal, Relay } from './relay.ts';
import { explain, parseAuthority, statusOf } from './tunnels.ts';

/*
 * Plain HTTP, asked for by a whole URL. The request is written anew: what it says of the connection is left out, and its
 * Host is the URL's, so that what was checked is what is asked for. One request for each connection.
 */

/** Said of a connection, and not to be passed on (RFC 9110, 7.6.1). */
const HOP_BY_HOP = [
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
];

/** `http://HOST[:PORT]/PATH`, in parts; `undefined` for all else. */
function parseTarget(text: string): { host: string; port: number; authority: string; path: string } | undefined {
  const [, authority, path = '/'] = /^http:\/\/([^/?#\s\\]+)([/?][^#\s\\]*)?$/i.exec(text) ?? [];
  if (authority === undefined) return undefined;
  const target = parseAuthority(/:\d+$/.test(authority) ? authority : `${authority}:80`);
  return target && { ...target, authority, path: path.startsWith('?') ? `/${path}` : path };
}

export async function forward(relay: Relay, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { socket } = request;
  response.on('error', () => {});
  const client = await relay.identify(socket);
  if (client === undefined) {
    socket.destroy();
    return;
  }
  const method = request.method ?? '';
  const { target, fault } = readTarget(request);
  if (target === undefined || fault !== undefined) {
    const asked = { method, host: target?.host ?? request.url ?? '', port: target?.port ?? 0 };
    refuse(response, relay.deny(client, asked, { reason: 'bad_request', detail: fault ?? 'It names no host.' }));
    return;
  }
  const passage = await relay.pass(client, { method, host: target.host, port: target.port });
  if ('reason' in passage) {
    refuse(response, passage);
    return;
  }
  const { upstream, account, host, port } = passage;
  relay.accept(passage, socket);
  const headers = [...passedOn(request.rawHeaders, ['host']), 'Host', port === 80 ? host : `${host}:${port}`];
  // Said in so many words, as a body that isn't framed would be the next request.
  if (request.headers['transfer-encoding'] !== undefined) headers.push('Transfer-Encoding', 'chunked');
  const sent = connectHttp({
    createConnection: () => upstream,
    method,
    path: target.path,
    headers: [...headers, 'Connection', 'close'],
    setHost: false,
  });
  try {
    const answered = new Promise<IncomingMessage>((resolve, reject) => {
      sent.once('response', resolve).once('error', reject);
      sent.once('upgrade', () => reject(new Error('It answered with another protocol.')));
    });
    const uploaded = pipeline(request, new Meter(account, client.policy), sent);
    uploaded.catch(() => {}); // an answer may come before all was sent
    const answer = await answered;
    response.writeHead(answer.statusCode ?? 502, [...passedOn(answer.rawHeaders), 'Connection', 'close']);
    await pipeline(answer, new Meter(account, client.policy), response);
  } catch (error) {
    relay.broke(passage, error);
    const detail = error instanceof Error ? error.message : String(error);
    if (!response.headersSent) refuse(response, { reason: 'connect_failed', detail });
    else socket.destroy();
  } finally {
    upstream.destroy();
  }
}

/** What is asked for, and what is wrong with how. */
function readTarget(request: IncomingMessage) {
  const target = parseTarget(request.url ?? '');
  if (target === undefined) {
    return {
      target,
      fault: 'It must be for a URL that begins with http://, or CONNECT, as a client of a proxy sends it.',
    };
  }
  const { headers, httpVersion, rawHeaders } = request;
  const count = (name: string) =>
    rawHeaders.filter((each, index) => index % 2 === 0 && each.toLowerCase() === name).length;
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return { target, fault: 'It must be HTTP/1.1.' };
  if (headers['transfer-encoding'] !== undefined && headers['content-length'] !== undefined) {
    return { target, fault: 'It has two lengths.' };
  }
  if (!/^(chunked)?$/i.test(headers['transfer-encoding'] ?? '')) return { target, fault: 'Its encoding is not known.' };
  if (count('host') > 1 || count('content-length') > 1) return { target, fault: 'It has a header twice.' };
  return { target, fault: undefined };
}

/** Without what is said of the connection only. */
function passedOn(raw: readonly string[], besides: readonly string[] = []): string[] {
  const pairs = raw.flatMap((name, index) => (index % 2 === 0 ? [[name, raw[index + 1] ?? ''] as const] : []));
  const named = pairs.filter(([name]) => name.toLowerCase() === 'connection').flatMap(([, value]) => value.split(','));
  const dropped = new Set([...HOP_BY_HOP, ...besides, ...named.map((name) => name.trim().toLowerCase())]);
  return pairs.filter(([name]) => !dropped.has(name.toLowerCase())).flat();
}

function refuse(response: ServerResponse, refusal: Refusal): void {
  const [status = '403', ...phrase] = statusOf(refusal).split(' ');
  const body = explain(refusal);
  const headers = {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    'X-Egress-Reason': refusal.reason,
    Connection: 'close',
  };
  response.writeHead(Number(status), phrase.join(' '), headers).end(body);
}
