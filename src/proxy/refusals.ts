import type { ServerResponse } from 'node:http';

import type { Refusal } from './relay.ts';

/* What is answered to what is refused. */

const STATUS: Partial<Record<Refusal['reason'], string>> = {
  bad_request: '400 Bad Request',
  name_not_found: '502 Bad Gateway',
  connect_failed: '502 Bad Gateway',
  not_trusted: '502 Bad Gateway',
  too_many_connections: '429 Too Many Requests',
};

export function statusOf({ reason }: Refusal): string {
  return STATUS[reason] ?? '403 Forbidden';
}

export function explain({ reason, detail }: Refusal): string {
  return `egress refused: ${reason}. ${detail}\n`;
}

export function refuse(response: ServerResponse, refusal: Refusal): void {
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
