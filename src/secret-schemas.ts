import { z } from 'zod';

import { hostRuleSchema } from './egress-schemas.js';

/*
 * Secrets that never enter a sandbox, as callers say them: the proxy puts them into requests to their hosts. The value is
 * concealed from where it is read on, so that nothing can show it by accident.
 */

/** Shorter ones can't be told apart in what a host answers, where they are covered. */
const MIN_VALUE = 8;
const MAX_VALUE = 4096;

/** A text that neither JSON nor an inspector shows: only who asks for it gets it. */
export class Concealed {
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  reveal(): string {
    return this.#text;
  }
}

/** What the value of a header can be (RFC 9110, 5.5), without what isn't ASCII. */
const valueSchema = z
  .string()
  .min(MIN_VALUE, `must have at least ${MIN_VALUE} characters`)
  .max(MAX_VALUE, `must have at most ${MAX_VALUE} characters`)
  .regex(/^[\u0020-\u007e]*$/, 'must be printable ASCII, without line breaks: it goes into a header')
  .refine((value) => value.trim() === value, 'must not begin or end with a space');

const nameSchema = z
  .string()
  .regex(/^(?!SANDYARD_)[A-Za-z_][A-Za-z0-9_]{0,127}$/, 'must be a name of letters, digits and "_", not SANDYARD_…');

const hostsSchema = z
  .array(hostRuleSchema)
  .min(1, 'must name a host')
  .max(10, 'must have at most 10 entries')
  .refine(
    (hosts) => hosts.every((host) => !/^\*(:|$)/.test(host)),
    'must not have "*": whoever is called would have the secret',
  )
  .transform((hosts) => [...new Set(hosts)]);

const secretFields = {
  value: valueSchema.describe('What takes the place of the placeholder, in headers. Nothing ever shows it.'),
  hosts: hostsSchema.describe(
    'Hosts that it goes to, as in "allow", which must have them. Without a port that of its protocol.',
  ),
  interceptTls: z
    .boolean()
    .describe(
      'Whether TLS to these hosts is opened for it, which then is the only way it goes; over plain HTTP if not.',
    ),
} as const;

const MAX_SECRETS = 16;
const isFew = (secrets: object) => Object.keys(secrets).length <= MAX_SECRETS;
const FEW = `must have at most ${MAX_SECRETS} entries`;
const ABOUT = 'Secrets by the names of variables, which have placeholders inside. They need "egress".';

export const secretValueSchema = secretFields.value.transform((value) => new Concealed(value));

export const secretsSchema = z
  .record(
    nameSchema,
    z.strictObject({
      value: secretValueSchema,
      hosts: secretFields.hosts,
      interceptTls: secretFields.interceptTls.default(false),
    }),
  )
  .refine(isFew, FEW);

/** The value stays a text here: the library conceals it. */
export const secretsBody = z
  .record(
    nameSchema,
    z.strictObject({
      value: secretFields.value,
      hosts: secretFields.hosts,
      intercept_tls: secretFields.interceptTls.optional(),
    }),
  )
  .refine(isFew, FEW)
  .describe(ABOUT);

export const secretBody = z
  .strictObject({
    name: z.string().min(1).max(128).describe('The name of the secret.'),
    value: secretFields.value,
  })
  .describe('The new value of a secret.');

/** What may be told of a secret, and is kept of it in the labels of its sandbox. */
export const secretTraitsSchema = z.record(
  z.string(),
  z.object({ hosts: z.array(z.string()), interceptTls: z.boolean() }),
);

/** Where the secrets of a sandbox go, by their names. */
export type SecretTraits = Readonly<
  Record<string, { readonly hosts: readonly string[]; readonly interceptTls: boolean }>
>;
