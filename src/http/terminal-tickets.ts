import { createHash, randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

import type { Caller } from '../access/caller.js';

const LIFETIME_MS = 30_000;
/** Far more than are ever on the way at once; the oldest make room. */
const MAX_TICKETS = 1000;
const PATH = /^\/api\/sandboxes\/([a-z0-9]{1,64})\/terminal\/?$/;

export interface Ticket {
  readonly ticket: string;
  readonly expiresAt: Date;
}

/**
 * Admission to a terminal for a browser, which can't send a header with a WebSocket. A ticket is for one sandbox and one
 * connection, and for half a minute, so that it is worth nothing by the time that it may have got into a log or a
 * history. Only its digest is kept.
 */
export class TerminalTickets {
  /** In the order in which they run out. */
  readonly #tickets = new Map<
    string,
    { readonly caller: Caller; readonly sandbox: string; readonly expiresAt: number }
  >();

  /** What it admits to is what whoever asks for it may do, and of that this terminal only. */
  issue(sandbox: string, caller: Caller): Ticket {
    const ticket = randomBytes(24).toString('base64url');
    const expiresAt = Date.now() + LIFETIME_MS;
    this.#makeRoom();
    this.#tickets.set(digest(ticket), {
      caller: { ...caller, sandbox, via: 'ticket', once: undefined },
      sandbox,
      expiresAt,
    });
    return { ticket, expiresAt: new Date(expiresAt) };
  }

  /** On whose behalf, where the request is for a terminal and bears a ticket for it; from then on that is good for nothing. */
  admits(request: IncomingMessage): Caller | undefined {
    const found = terminalOf(request);
    const given = found?.query.getAll('ticket') ?? [];
    const [ticket] = given;
    if (found === undefined || ticket === undefined || given.length > 1) return undefined;
    const key = digest(ticket);
    const known = this.#tickets.get(key);
    if (known === undefined || known.sandbox !== found.sandbox) return undefined;
    this.#tickets.delete(key);
    return Date.now() < known.expiresAt ? known.caller : undefined;
  }

  #makeRoom(): void {
    for (const [key, { expiresAt }] of this.#tickets) {
      if (expiresAt > Date.now() && this.#tickets.size < MAX_TICKETS) return;
      this.#tickets.delete(key);
    }
  }
}

/** Which terminal a request wants to open, if it does. */
export function terminalOf(request: IncomingMessage): { sandbox: string; query: URLSearchParams } | undefined {
  if (request.method !== 'GET' || request.headers.upgrade?.toLowerCase() !== 'websocket') return undefined;
  const [path = '', query = ''] = (request.url ?? '').split('?', 2);
  const sandbox = PATH.exec(path)?.[1];
  return sandbox === undefined ? undefined : { sandbox, query: new URLSearchParams(query) };
}

/** What is looked up is a digest, so the time that it takes tells nothing of tickets that there are. */
function digest(ticket: string): string {
  return createHash('sha256').update(ticket).digest('hex');
}
