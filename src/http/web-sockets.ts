import { ServerResponse, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { WebSocketServer, type WebSocket } from 'ws';

import { SandyardError } from '../errors.js';
import { terminalOf } from './terminal-tickets.js';

/** The largest message of a client: what is pasted comes in several. */
const MAX_MESSAGE_BYTES = 64 * 1024;

interface Upgrade {
  readonly socket: Socket;
  readonly head: Buffer;
}

/**
 * WebSockets go in by the same door as every other request: the application sees the request with an answer that it can
 * refuse it by, so that who may ask, the log and the form of errors are the same for all. Only the route itself turns
 * the connection into a WebSocket.
 */
export class WebSockets {
  readonly #server = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: MAX_MESSAGE_BYTES,
  });
  readonly #upgrades = new WeakMap<IncomingMessage, Upgrade>();

  /** Has the application answer the requests for WebSockets that reach the server. */
  serve(server: Server, app: RequestListener): void {
    server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
      const upgrade = { socket, head };
      if (terminalOf(request) === undefined) {
        answerWithoutUpgrade(server, request, upgrade);
        return;
      }
      socket.on('error', () => socket.destroy());
      this.#upgrades.set(request, upgrade);
      const response = new ServerResponse(request);
      response.shouldKeepAlive = false;
      response.assignSocket(socket);
      response.once('finish', () => socket.destroySoon());
      app(request, response);
    });
  }

  /** Whether the request asks for a WebSocket that it doesn't have yet. */
  isUpgrade(request: IncomingMessage): boolean {
    return this.#upgrades.has(request);
  }

  /** Throws where the handshake is malformed. */
  check(request: IncomingMessage): void {
    const { 'sec-websocket-key': key = '', 'sec-websocket-version': version } = request.headers;
    if (/^[+/0-9A-Za-z]{22}==$/.test(key) && version === '13') return;
    throw new SandyardError('invalid_request', 'The handshake of the WebSocket is malformed.', {
      hint: 'Send Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key, as RFC 6455 has it.',
    });
  }

  /** Turns the connection of the request into a WebSocket; from then on its response must not be used. */
  accept(request: IncomingMessage): WebSocket {
    this.check(request);
    const upgrade = this.#upgrades.get(request);
    this.#upgrades.delete(request);
    let accepted: WebSocket | undefined;
    if (upgrade !== undefined) {
      // Calls back at once, or not at all.
      this.#server.handleUpgrade(request, upgrade.socket, upgrade.head, (webSocket) => (accepted = webSocket));
    }
    if (accepted === undefined) throw new SandyardError('aborted', 'The client hung up.');
    return accepted;
  }
}

/**
 * Any other request may be answered as if it had not asked (RFC 9110, 7.8): curl offers HTTP/2 that way. The parser has
 * let go of the connection by now, so it gets the request once more, without the header.
 */
function answerWithoutUpgrade(server: Server, request: IncomingMessage, { socket, head }: Upgrade): void {
  const lines = [`${request.method} ${request.url} HTTP/${request.httpVersion}`];
  for (let at = 0; at < request.rawHeaders.length; at += 2) {
    const name = request.rawHeaders[at] ?? '';
    if (name.toLowerCase() !== 'upgrade') lines.push(`${name}: ${request.rawHeaders[at + 1] ?? ''}`);
  }
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), head]));
  server.emit('connection', socket);
}
