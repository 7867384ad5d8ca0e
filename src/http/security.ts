import { createHash, timingSafeEqual } from 'node:crypto';
import type { Request, RequestHandler } from 'express';
import helmet from 'helmet';

import { isLoopback, type ServiceConfig } from '../config.js';
import { SandyardError } from '../errors.js';
import type { TerminalTickets } from './terminal-tickets.js';

/*
 * Who may ask. With a token, whoever has it. Without one the service is bound to loopback, and the only strangers that
 * reach it are web pages in a browser on this machine: those are told apart by Host (a name that was re-bound to
 * 127.0.0.1) and Origin (a page of another site).
 */

/** Strict headers for answers that are data. HTTPS is a proxy's matter, so nothing here demands it. */
export const securityHeaders = helmet({
  contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
  strictTransportSecurity: false,
  xFrameOptions: { action: 'deny' },
});

export function guardOrigin({ token, allowedHosts }: ServiceConfig): RequestHandler {
  const allowed = new Set(allowedHosts.map((host) => host.toLowerCase()));
  const isOpen = token !== undefined;
  return (request, _response, next) => {
    const host = request.headers.host?.toLowerCase() ?? '';
    const checksHost = !isOpen || allowed.size > 0;
    if (checksHost && !allowed.has(host) && !isAllowedName(hostName(host), allowed)) {
      throw new SandyardError('forbidden', `The request is addressed to "${host}", which is not this service.`, {
        hint: 'Use localhost or 127.0.0.1, or add the name to SANDBOX_ALLOWED_HOSTS.',
        details: { refused: 'host' },
      });
    }
    const { origin } = request.headers;
    if (!isOpen && origin !== undefined && !isSameHost(origin, host)) {
      throw new SandyardError('forbidden', `Pages of ${origin} may not use this service.`, {
        hint: 'Set SANDBOX_TOKEN, and send it from your own server.',
        details: { refused: 'origin' },
      });
    }
    next();
  };
}

/** A terminal also opens to a ticket, which only who has the token can get. */
export function requireToken({ token }: ServiceConfig, tickets: TerminalTickets): RequestHandler {
  const expected = token === undefined ? undefined : digest(token);
  return (request, response, next) => {
    if (expected === undefined) {
      next();
      return;
    }
    const given = bearerToken(request);
    const isAdmitted = given === undefined ? tickets.admits(request) : timingSafeEqual(digest(given), expected);
    if (isAdmitted) {
      next();
      return;
    }
    response.set('WWW-Authenticate', given === undefined ? 'Bearer' : 'Bearer error="invalid_token"');
    throw new SandyardError(
      'unauthorized',
      given === undefined ? 'The request carries no token.' : 'The token is not valid.',
      { hint: 'Send the header "Authorization: Bearer <the value of SANDBOX_TOKEN>".' },
    );
  };
}

function bearerToken(request: Request): string | undefined {
  return /^Bearer +(\S+) *$/i.exec(request.headers.authorization ?? '')?.[1];
}

/** Digests have one length, so that the comparison takes the same time for every token. */
function digest(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}

function isAllowedName(name: string, allowed: ReadonlySet<string>): boolean {
  return isLoopback(name) || allowed.has(name);
}

/** Without the port: `[::1]:8888` is `[::1]`. */
function hostName(host: string): string {
  return /^(\[[^\]]*\]|[^:]*)(:\d+)?$/.exec(host)?.[1] ?? '';
}

function isSameHost(origin: string, host: string): boolean {
  return URL.canParse(origin) && new URL(origin).host === host;
}
