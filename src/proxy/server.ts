import { createServer, type Server } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { SecureContext } from 'node:tls';

import { forwardOpened } from './intercept.ts';
import type { Passage, Relay } from './relay.ts';
import { forward } from './requests.ts';
import { tunnel } from './tunnels.ts';

const HEADERS_MS = 10_000;

/** What listens: to requests, to those for tunnels, and to what comes in a tunnel whose TLS is opened. */
export function createProxyServer(relay: Relay, { trusted }: { trusted: SecureContext }): Server {
  const opened = new WeakMap<Duplex, Passage>();
  const server = createServer(
    { headersTimeout: HEADERS_MS, requestTimeout: 0, keepAliveTimeout: 1, insecureHTTPParser: false, noDelay: true },
    (request, response) => {
      const passage = opened.get(request.socket);
      const answered =
        passage === undefined
          ? forward(relay, request, response)
          : forwardOpened(relay, passage, { request, response, trusted });
      void answered.catch(() => request.socket.destroy());
    },
  );
  server.maxRequestsPerSocket = 1;
  const serve = (passage: Passage, socket: Duplex) => {
    opened.set(socket, passage);
    socket.once('close', () => passage.upstream.destroy());
    server.emit('connection', socket);
  };
  server.on('connect', (request, socket, head) => {
    // In a tunnel there is no other one.
    if (opened.has(socket)) socket.destroy();
    else void tunnel(relay, request, { socket: socket as Socket, head, serve }).catch(() => socket.destroy());
  });
  // Whoever sends what isn't HTTP gets no more than a closed connection.
  server.on('clientError', (_error, socket) => socket.destroy());
  return server;
}
