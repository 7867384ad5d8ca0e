import { z } from 'zod';

import { formatRule, parseRule } from './proxy/hosts.js';

/* What a sandbox with egress may reach, as callers say it. */

/** A rule of an allow-list, in the one way in which it is kept. */
export const hostRuleSchema = z
  .string()
  .max(260)
  .transform((value, context) => {
    const rule = parseRule(value);
    if (rule !== undefined) return formatRule(rule);
    context.addIssue({
      code: 'custom',
      message:
        'must be a host such as "pypi.org", "*.npmjs.org:443", or "*" for every public one; addresses are refused',
    });
    return z.NEVER;
  });

const allowSchema = z
  .array(hostRuleSchema)
  .max(100, 'must have at most 100 entries')
  .transform((rules) => [...new Set(rules)]);

/** What a sandbox may reach. Names are the same in the library and on the wire, but for those of more words. */
const egressFields = {
  allow: allowSchema.describe(
    'Hosts that it may reach: "pypi.org", "*.npmjs.org:443", "*". Ports are 80 and 443 unless one is given.',
  ),
  learn: z
    .boolean()
    .describe('Whether every public host that the service allows may be reached, and which were is remembered.'),
  maxBytes: z.int().min(1).describe('How many bytes it may send and receive in all.'),
  bytesPerSecond: z.int().min(1024).describe('How fast each of its connections may send, and receive.'),
  maxConnections: z.int().min(1).max(1000).describe('How many connections it may have at once; 64 unless given.'),
} as const;

export const egressSchema = z.strictObject({
  allow: egressFields.allow.default([]),
  learn: egressFields.learn.default(false),
  maxBytes: egressFields.maxBytes.nullable().default(null),
  bytesPerSecond: egressFields.bytesPerSecond.nullable().default(null),
  maxConnections: egressFields.maxConnections.default(64),
});

export const egressBody = z
  .strictObject({
    allow: egressFields.allow.optional(),
    learn: egressFields.learn.optional(),
    max_bytes: egressFields.maxBytes.nullable().optional(),
    bytes_per_second: egressFields.bytesPerSecond.nullable().optional(),
    max_connections: egressFields.maxConnections.optional(),
  })
  .describe('Which hosts a sandbox may reach, and how much of it.');

/** What a sandbox may reach, and how much of it. */
export type EgressOptions = z.input<typeof egressSchema>;
/** The same with nothing left out. */
export type EgressPolicy = z.output<typeof egressSchema>;
