import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { connect, createSecureContext, TLSSocket, type SecureContext } from 'node:tls';

import { exchange } from './exchange.ts';
import { refuse } from './refusals.ts';
import type { Passage, Refusal, Relay } from './relay.ts';
import type { Certificate } from './secrets.ts';
import { faultOfHead } from './targets.ts';

/*
 * TLS that is opened, because secrets go into the requests in it: two connections, of which the sandbox's ends here and the
 * other one begins. HTTP/1.1 only: that is all that is spoken here.
 */

const HANDSHAKE_MS = 10_000;
const PROTOCOLS = ['http/1.1'];

/** The sandbox's end, as the server that it wanted. Throws where the client wants none of it. */
export async function openTls(socket: Socket, hello: Buffer, { certificate, key }: Certificate): Promise<TLSSocket> {
  socket.unshift(hello);
  const secureContext = createSecureContext({ cert: certificate, key });
  const opened = new TLSSocket(socket, { isServer: true, secureContext, ALPNProtocols: PROTOCOLS });
  await handshake(opened, 'secure');
  return opened;
}

/** A request that came over it. */
export async function forwardOpened(
  relay: Relay,
  passage: Passage,
  { request, response, trusted }: { request: IncomingMessage; response: ServerResponse; trusted: SecureContext },
): Promise<void> {
  response.on('error', () => {});
  const path = request.url ?? '';
  const fault = path.startsWith('/') || path === '*' ? faultOfHead(request) : 'It must be for a path.';
  const about = { ...passage, method: request.method ?? '' };
  const deny = (refusal: Refusal) => {
    refuse(response, relay.deny(passage.client, about, refusal));
    passage.upstream.destroy();
  };
  if (fault !== undefined) {
    deny({ reason: 'bad_request', detail: fault });
    return;
  }
  let upstream: TLSSocket;
  try {
    upstream = await connectTls(passage, trusted);
  } catch (error) {
    deny({ reason: 'not_trusted', detail: `The host could not be verified: ${(error as Error).message}.` });
    return;
  }
  await exchange(relay, about, { request, response, path, upstream, tls: true });
}

/** To the host that was checked, if it is that host: by its certificate, and the authorities that are trusted here. */
async function connectTls({ upstream, host }: Passage, trusted: SecureContext): Promise<TLSSocket> {
  const secured = connect({ socket: upstream, servername: host, secureContext: trusted, ALPNProtocols: PROTOCOLS });
  await handshake(secured, 'secureConnect');
  return secured;
}

async function handshake(socket: TLSSocket, event: string): Promise<void> {
  socket.on('error', () => {}); // whoever waits for it, reads or writes is told
  const timer = setTimeout(() => socket.destroy(new Error('the TLS handshake took too long')), HANDSHAKE_MS);
  const closed = new AbortController();
  const close = () => closed.abort(new Error('the connection was closed'));
  socket.once('close', close);
  try {
    await once(socket, event, { signal: closed.signal });
  } catch (error) {
    socket.destroy();
    throw closed.signal.aborted ? closed.signal.reason : error;
  } finally {
    clearTimeout(timer);
    socket.off('close', close);
  }
}
