import { request as connectHttp, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import { Meter } from './accounts.ts';
import { refuse } from './refusals.ts';
import type { Passage, Relay } from './relay.ts';
import { secretsFor } from './secrets.ts';
import { Cover, cover, substitute } from './substitution.ts';

/*
 * One request and its answer, between a sandbox and a host that it may reach. The request is written anew: what it says of
 * the connection is left out, and its Host is the one that was checked. One request for each connection.
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

export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly path: string;
  /** What leads to the host: the connection of the passage, or TLS over it. */
  readonly upstream: Duplex;
  readonly tls: boolean;
}

export async function exchange(relay: Relay, passage: Passage, call: Exchange): Promise<void> {
  const { request, response, path, upstream, tls } = call;
  const { account, host, port, client } = passage;
  const secrets = secretsFor((await relay.secretsOf(client)).secrets, { host, port, tls });
  const put = substitute(passedOn(request.rawHeaders, dropped(secrets.length > 0)), secrets);
  if (put === undefined) {
    const detail = 'With its secrets its headers are too large.';
    refuse(response, relay.deny(client, passage, { reason: 'bad_request', detail }));
    passage.upstream.destroy();
    return;
  }
  const headers = [...put.headers, 'Host', port === (tls ? 443 : 80) ? host : `${host}:${port}`];
  // What is compressed can't be looked through.
  if (secrets.length > 0) headers.push('Accept-Encoding', 'identity');
  // Said in so many words, as a body that isn't framed would be the next request.
  if (request.headers['transfer-encoding'] !== undefined) headers.push('Transfer-Encoding', 'chunked');
  try {
    const sent = connectHttp({
      createConnection: () => upstream,
      method: request.method,
      path,
      headers: [...headers, 'Connection', 'close'],
      setHost: false,
    });
    const answered = new Promise<IncomingMessage>((resolve, reject) => {
      sent.once('response', resolve).once('error', reject);
      sent.once('upgrade', () => reject(new Error('It answered with another protocol.')));
    });
    const uploaded = pipeline(request, new Meter(account, client.policy), sent);
    uploaded.catch(() => {}); // an answer may come before all was sent
    const answer = await answered;
    const shown = coverValues(passedOn(answer.rawHeaders), put.covered);
    response.writeHead(answer.statusCode ?? 502, [...shown, 'Connection', 'close']);
    const covers = put.covered.length > 0 ? [new Cover(put.covered)] : [];
    await pipeline([answer, ...covers, new Meter(account, client.policy), response]);
  } catch (error) {
    relay.broke(passage, error);
    const detail = error instanceof Error ? error.message : String(error);
    if (!response.headersSent) refuse(response, { reason: 'connect_failed', detail });
    else request.socket.destroy();
  } finally {
    passage.upstream.destroy();
  }
}

function dropped(hasSecrets: boolean): string[] {
  return hasSecrets ? ['host', 'accept-encoding'] : ['host'];
}

/** Without what is said of the connection only. */
function passedOn(raw: readonly string[], besides: readonly string[] = []): string[] {
  const pairs = raw.flatMap((name, index) => (index % 2 === 0 ? [[name, raw[index + 1] ?? ''] as const] : []));
  const named = pairs.filter(([name]) => name.toLowerCase() === 'connection').flatMap(([, value]) => value.split(','));
  const without = new Set([...HOP_BY_HOP, ...besides, ...named.map((name) => name.trim().toLowerCase())]);
  return pairs.filter(([name]) => !without.has(name.toLowerCase())).flat();
}

function coverValues(raw: readonly string[], covered: readonly string[]): string[] {
  if (covered.length === 0) return [...raw];
  return raw.map((text, index) => (index % 2 === 0 ? text : cover(text, covered)));
}
