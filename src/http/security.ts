import type { RequestHandler } from 'express';
import helmet from 'helmet';

import { isLoopback, type ServiceConfig } from '../config.js';
import { SandyardError } from '../errors.js';
import { allowsOrigins, isAllowedOrigin } from './cross-origin.js';

/*
 * From where one may ask; who may is in authentication.ts. Without a token the service is bound to loopback, and the only
 * strangers that reach it are web pages in a browser on this machine: those are told apart by Host (a name that was re-bound to
 * 127.0.0.1) and Origin (a page of another site). With one, pages of other sites have no business here either, where it is said
 * which may.
 */

/** Strict headers for answers that are data. HTTPS is a proxy's matter, so nothing here demands it. */
export const securityHeaders = helmet({
  contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
  strictTransportSecurity: false,
  xFrameOptions: { action: 'deny' },
});

export function guardOrigin({ access, allowedHosts }: ServiceConfig, { isOpen }: { isOpen: boolean }): RequestHandler {
  const allowed = new Set(allowedHosts.map((host) => host.toLowerCase()));
  const hasList = allowsOrigins(access);
  return (request, _response, next) => {
    const host = request.headers.host?.toLowerCase() ?? '';
    const checksHost = isOpen || allowed.size > 0;
    if (checksHost && !allowed.has(host) && !isAllowedName(hostName(host), allowed)) {
      throw new SandyardError('forbidden', `The request is addressed to "${host}", which is not this service.`, {
        hint: 'Use localhost or 127.0.0.1, or add the name to SANDBOX_ALLOWED_HOSTS.',
        details: { refused: 'host' },
      });
    }
    const { origin } = request.headers;
    const checksOrigin = (isOpen || hasList) && origin !== undefined;
    if (checksOrigin && !isSameHost(origin, host) && !isAllowedOrigin(origin, access)) {
      throw new SandyardError('forbidden', `Pages of ${origin} may not use this service.`, {
        hint: 'Set SANDBOX_ALLOW_ORIGINS, or SANDBOX_TOKEN, and send that from your own server.',
        details: { refused: 'origin' },
      });
    }
    next();
  };
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
