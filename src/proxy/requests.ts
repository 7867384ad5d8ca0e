import type { IncomingMessage, ServerResponse } from 'node:http';

import { exchange } from './exchange.ts';
import { refuse } from './refusals.ts';
import type { Relay } from './relay.ts';
import { faultOfHead, parseAuthority } from './targets.ts';

/* Plain HTTP, asked for by a whole URL: what was checked, which is the URL's host, is what is asked for. */

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
  relay.accept(passage, socket);
  await exchange(relay, passage, { request, response, path: target.path, upstream: passage.upstream, tls: false });
}

/** What is asked for, and what is wrong with how. */
function readTarget(request: IncomingMessage) {
  const target = parseTarget(request.url ?? '');
  const fault =
    target === undefined
      ? 'It must be for a URL that begins with http://, or CONNECT, as a client of a proxy sends it.'
      : faultOfHead(request);
  return { target, fault };
}
