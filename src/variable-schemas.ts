import { isIP } from 'node:net';
import { z } from 'zod';

import { isOrigin, toOriginPattern } from './origins.js';
import { parseAddress, parseRange } from './proxy/addresses.js';
import { parseDuration, parseSize } from './schemas.js';

/* The kinds of text that variables of the environment may be, each with what it becomes. */

export const duration = z.string().transform((value, context) => {
  const ms = parseDuration(value);
  if (ms !== undefined && ms >= 1000) return ms;
  context.addIssue({ code: 'custom', message: 'must be a duration of a second or more, such as "90s", "30m" or "2h"' });
  return z.NEVER;
});

/** Unlike what a sandbox gets, it may be none. */
export const amount = z.string().transform((value, context) => {
  const bytes = parseSize(value);
  if (bytes !== undefined) return bytes;
  context.addIssue({ code: 'custom', message: 'must be a size such as "512m" or "1g", or 0' });
  return z.NEVER;
});

export const integer = (min: number, max: number) =>
  z.string().regex(/^\d+$/, 'must be a whole number').transform(Number).pipe(z.number().min(min).max(max));

export const list = z.string().transform((value) =>
  value
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== ''),
);

export const someOf = <Word extends string>(words: readonly [Word, ...Word[]]) =>
  list.pipe(z.array(z.enum(words)).min(1, 'must name one at least'));

export const patterns = list.refine(
  (names) => names.length > 0 && names.every((name) => /^[\w.:@*/-]{1,512}$/.test(name)),
  'must be names of images, comma-separated, in which * may stand for anything but "/"',
);

export const range = z
  .string()
  .refine((value) => parseRange(value) !== undefined, 'must be a range of IPv4 addresses such as "10.217.0.0/16"');

export const nameServer = z.string().refine((value) => {
  const [, address = '', port = '53'] = /^([\d.]+)(?::(\d{1,5}))?$/.exec(value) ?? [];
  return parseAddress(address) !== undefined && Number(port) >= 1 && Number(port) <= 65_535;
}, 'must be IPv4 addresses, each with a port if it is not 53');

export const webhookUrls = list.refine(
  (urls) => urls.every(isWebhookUrl),
  'must be http or https URLs, comma-separated, without user and password',
);

function isWebhookUrl(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const { protocol, username, password } = new URL(value);
  return /^https?:$/.test(protocol) && username === '' && password === '';
}

export const origins = list.refine(
  (values) => values.every(isOrigin),
  'must be origins such as "https://app.example", comma-separated, without a path',
);

export const originPattern = z.string().transform((value, context) => {
  try {
    return toOriginPattern(value);
  } catch (error) {
    context.addIssue({ code: 'custom', message: (error as Error).message });
    return z.NEVER;
  }
});

export const proxies = list.refine(
  (values) => values.every((value) => /^(loopback|linklocal|uniquelocal)$/.test(value) || isAddressRange(value)),
  'must be addresses or networks such as "10.0.0.0/8", comma-separated, or loopback, linklocal, uniquelocal',
);

function isAddressRange(value: string): boolean {
  const [address = '', prefix, ...more] = value.split('/');
  const version = isIP(address);
  if (version === 0 || more.length > 0) return false;
  return prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= (version === 4 ? 32 : 128));
}

/** In bytes: what HS256 signs with should be no shorter than what it makes (RFC 7518, 3.2). */
export const MIN_TOKEN_SECRET = 32;

/** What the Standard Webhooks specification demands of a key, in bytes. */
export const MIN_WEBHOOK_SECRET = 24;

/** As that specification writes it: "whsec_" and base64. Any other text is the key itself. `undefined` where it is none. */
export function toWebhookKey(secret: string): Uint8Array | undefined {
  const base64 = /^whsec_(.*)$/s.exec(secret)?.[1];
  if (base64 !== undefined && !/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) return undefined;
  const key = base64 === undefined ? Buffer.from(secret) : Buffer.from(base64, 'base64');
  return key.length < MIN_WEBHOOK_SECRET ? undefined : key;
}
