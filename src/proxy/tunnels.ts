import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import { Meter } from './accounts.ts';
import { readClientHello } from './client-hello.ts';
import { readHost } from './hosts.ts';
import { openTls } from './intercept.ts';
import { explain, statusOf } from './refusals.ts';
import type { Passage, Refusal, Relay } from './relay.ts';
import { secretsFor } from './secrets.ts';
import { parseAuthority } from './targets.ts';

/*
 * CONNECT: a tunnel for TLS, to the host whose name is in the request and in what the client then says. It is opened only
 * where a secret of the sandbox goes to that host over TLS.
 */

const HELLO_MS = 5000;
/** In how many pieces it may come: each is a look at all that there is. */
const MAX_PIECES = 64;
/** A stream that is joined to another both ways has half a dozen listeners for each; Node takes the eleventh for a leak. */
const MAX_LISTENERS = 20;

interface Asked {
  readonly socket: Socket;
  readonly head: Buffer;
  /** Reads the requests in a tunnel that was opened. */
  readonly serve: (passage: Passage, opened: Duplex) => void;
}

export async function tunnel(relay: Relay, request: IncomingMessage, { socket, head, serve }: Asked): Promise<void> {
  socket.on('error', () => {});
  const client = await relay.identify(socket);
  if (client === undefined) {
    socket.destroy();
    return;
  }
  const target = parseAuthority(request.url ?? '');
  if (target === undefined) {
    const asked = { method: 'CONNECT', host: request.url ?? '', port: 0 };
    refuse(socket, relay.deny(client, asked, { reason: 'bad_request', detail: 'It must name a host and a port.' }));
    return;
  }
  const passage = await relay.pass(client, { method: 'CONNECT', ...target });
  if ('reason' in passage) {
    refuse(socket, passage);
    return;
  }
  if (socket.destroyed) {
    passage.upstream.destroy();
    return;
  }
  socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
  const hello = await readHello(socket, head);
  const fault = faultOf(hello, passage.host);
  if (hello === undefined || fault !== undefined) {
    // First, so that it is there when the client sees its end.
    if (fault !== undefined) relay.deny(client, passage, fault);
    socket.destroy();
    passage.upstream.destroy();
    return;
  }
  const { secrets, shown } = await relay.secretsOf(client);
  if (shown === null || secretsFor(secrets, { ...passage, tls: true }).length === 0) {
    relay.accept(passage, socket);
    await join(relay, passage, { socket, hello });
    return;
  }
  try {
    const opened = await openTls(socket, hello, shown);
    relay.accept(passage, opened, { detail: 'Its TLS is opened, for secrets.' });
    serve(passage, opened);
  } catch (error) {
    const detail = `The TLS client did not take the proxy for the host: ${(error as Error).message}.`;
    relay.deny(client, passage, { reason: 'tls_failed', detail });
    socket.destroy();
    passage.upstream.destroy();
  }
}

async function join(relay: Relay, passage: Passage, { socket, hello }: { socket: Socket; hello: Buffer }) {
  const { upstream, account, client } = passage;
  const up = new Meter(account, client.policy);
  up.write(hello);
  for (const end of [socket, upstream]) end.setMaxListeners(MAX_LISTENERS);
  try {
    await Promise.all([pipeline(socket, up, upstream), pipeline(upstream, new Meter(account, client.policy), socket)]);
  } catch (error) {
    relay.broke(passage, error);
    socket.destroy();
    upstream.destroy();
  }
}

/** All up to the end of the first message, and what came with it; `undefined` where the client went before that. */
async function readHello(socket: Socket, head: Buffer): Promise<Buffer | undefined> {
  let bytes = head;
  const timer = setTimeout(() => socket.destroy(), HELLO_MS);
  try {
    for (let pieces = 0; pieces < MAX_PIECES && readClientHello(bytes).state === 'incomplete'; pieces += 1) {
      const chunk = await nextChunk(socket);
      if (chunk === undefined) return bytes.length === 0 ? undefined : bytes;
      bytes = Buffer.concat([bytes, chunk]);
    }
    return bytes;
  } finally {
    clearTimeout(timer);
  }
}

function nextChunk(socket: Socket): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const settle = (chunk?: Buffer) => {
      socket.off('readable', look).off('end', settle).off('close', settle);
      resolve(Buffer.isBuffer(chunk) ? chunk : undefined);
    };
    const look = () => {
      const chunk = socket.read() as Buffer | null;
      if (chunk !== null) settle(chunk);
      else if (socket.readableEnded || socket.destroyed) settle();
    };
    socket.on('readable', look).on('end', settle).on('close', settle);
    look();
  });
}

function faultOf(bytes: Buffer | undefined, host: string): Refusal | undefined {
  if (bytes === undefined) return undefined;
  const hello = readClientHello(bytes);
  if (hello.state !== 'read') return { reason: 'not_tls', detail: 'A tunnel is for TLS only.' };
  if (hello.serverName === undefined) return { reason: 'sni_mismatch', detail: 'The TLS client named no server.' };
  const name = readHost(hello.serverName);
  if ('name' in name && name.name === host) return undefined;
  const shown = JSON.stringify(hello.serverName.slice(0, 253));
  return { reason: 'sni_mismatch', detail: `The TLS client named ${shown}, not the host of the tunnel.` };
}

function refuse(socket: Socket, refusal: Refusal): void {
  const body = explain(refusal);
  const head = [
    `HTTP/1.1 ${statusOf(refusal)}`,
    'Content-Type: text/plain; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    `X-Egress-Reason: ${refusal.reason}`,
    'Connection: close',
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
  socket.setTimeout(1000, () => socket.destroy());
}
