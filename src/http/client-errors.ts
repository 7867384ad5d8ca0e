import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { nanoid } from 'nanoid';

import { SandyardError } from '../errors.js';
import type { Telemetry } from '../telemetry.js';
import { PROBLEM_TYPE, toProblem } from './problem.js';

const STATUS_LINES: Readonly<Record<string, string>> = {
  HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large',
  ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout',
};

/** What isn't even HTTP never reaches the application; it gets an answer of the same kind. */
export function answerClientErrors(server: Server, telemetry: Pick<Telemetry, 'error'>): void {
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    if (!socket.writable || error.code === 'ECONNRESET') {
      socket.destroy();
      return;
    }
    const statusLine = STATUS_LINES[error.code ?? ''] ?? '400 Bad Request';
    const requestId = nanoid();
    telemetry.error('invalid_request');
    const problem = toProblem(
      new SandyardError('invalid_request', `${statusLine.slice(4)}: not a request that can be read.`),
      {
        instance: '',
        requestId,
      },
    );
    const body = JSON.stringify({ ...problem, status: Number(statusLine.slice(0, 3)) });
    const head = [
      `HTTP/1.1 ${statusLine}`,
      `Content-Type: ${PROBLEM_TYPE}`,
      `Content-Length: ${Buffer.byteLength(body)}`,
      `X-Request-Id: ${requestId}`,
      'Connection: close',
    ];
    socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
  });
}
