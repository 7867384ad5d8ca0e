import cors from 'cors';
import type { RequestHandler } from 'express';

import type { AccessSettings } from '../access-settings.js';

type Allowed = Pick<AccessSettings, 'allowOrigins' | 'allowOriginPattern'>;

/** What a page may read of an answer besides what every page may. */
const EXPOSED = [
  'Content-Disposition',
  'Content-Range',
  'ETag',
  'Idempotent-Replayed',
  'Location',
  'RateLimit',
  'RateLimit-Policy',
  'Retry-After',
  'WWW-Authenticate',
  'X-Request-Id',
];
const ACCEPTED = [
  'Accept',
  'Authorization',
  'Content-Type',
  'Idempotency-Key',
  'If-Match',
  'If-Modified-Since',
  'If-None-Match',
  'If-Range',
  'If-Unmodified-Since',
  'Last-Event-ID',
  'Range',
  'traceparent',
  'X-Request-Id',
];
const PREFLIGHT_S = 600;

export function allowsOrigins({ allowOrigins, allowOriginPattern }: Allowed): boolean {
  return allowOrigins.length > 0 || allowOriginPattern !== undefined;
}

export function isAllowedOrigin(origin: string, { allowOrigins, allowOriginPattern }: Allowed): boolean {
  return allowOrigins.includes(origin) || allowOriginPattern?.(origin) === true;
}

/**
 * Has browsers let pages of these origins use the service. There are no cookies here, so none are asked for: a page needs a token
 * of its own.
 */
export function allowCrossOrigin(allowed: Allowed): RequestHandler {
  return cors({
    origin: (origin, answer) => answer(null, origin !== undefined && isAllowedOrigin(origin, allowed)),
    methods: ['GET', 'HEAD', 'POST', 'PUT', 'DELETE'],
    allowedHeaders: ACCEPTED,
    exposedHeaders: EXPOSED,
    maxAge: PREFLIGHT_S,
  });
}
