import type { IncomingMessage } from 'node:http';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import type { Caller } from '../../../src/access/caller.js';
import { TerminalTickets } from '../../../src/http/terminal-tickets.js';

function upgrade(ticket: string, { method = 'GET', path = '/api/sandboxes/sb1/terminal', upgrade = 'websocket' } = {}) {
  return { method, url: `${path}?rows=1&ticket=${ticket}`, headers: { upgrade } } as unknown as IncomingMessage;
}

const CALLER: Caller = {
  owner: 'me',
  scopes: ['exec'],
  via: 'token',
  name: 't1',
  once: { id: 't1', expiresAt: new Date() },
};

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

describe('tickets', () => {
  test('are good for 30 s, once', () => {
    const tickets = new TerminalTickets();
    const [early, late] = [tickets.issue('sb1', CALLER), tickets.issue('sb1', CALLER)];
    expect(early.ticket).toMatch(/^[\w-]{32}$/);
    vi.advanceTimersByTime(29_999);
    expect(tickets.admits(upgrade(early.ticket))).toMatchObject({
      owner: 'me',
      via: 'ticket',
      sandbox: 'sb1',
      once: undefined,
    });
    expect(tickets.admits(upgrade(early.ticket))).toBeUndefined();
    vi.advanceTimersByTime(1);
    expect(tickets.admits(upgrade(late.ticket))).toBeUndefined();
  });

  test('are spent by nothing but the request that they are for', () => {
    const tickets = new TerminalTickets();
    const { ticket } = tickets.issue('sb1', CALLER);
    for (const other of [
      { method: 'POST' },
      { path: '/api/sandboxes/sb2/terminal' },
      { path: '/api/sandboxes/sb1/terminals' },
      { path: '/api/sandboxes/sb1/../sb1/terminal' },
      { upgrade: 'h2c' },
    ]) {
      expect(tickets.admits(upgrade(ticket, other))).toBeUndefined();
    }
    expect(tickets.admits(upgrade(`${ticket}x`))).toBeUndefined();
    expect(tickets.admits(upgrade(ticket))).toMatchObject({
      owner: 'me',
      via: 'ticket',
      sandbox: 'sb1',
      once: undefined,
    });
  });

  test('are so many at the most; the oldest make room', () => {
    const tickets = new TerminalTickets();
    const issued = Array.from({ length: 1001 }, () => tickets.issue('sb1', CALLER).ticket);
    expect(tickets.admits(upgrade(issued[0] ?? ''))).toBeUndefined();
    expect(tickets.admits(upgrade(issued[1] ?? ''))).toMatchObject({
      owner: 'me',
      via: 'ticket',
      sandbox: 'sb1',
      once: undefined,
    });
    expect(tickets.admits(upgrade(issued[1000] ?? ''))).toMatchObject({
      owner: 'me',
      via: 'ticket',
      sandbox: 'sb1',
      once: undefined,
    });
  });
});
