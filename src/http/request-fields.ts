import { z } from 'zod';

/*
 * What clients ask with, in the same words and units as the answers in `wire/`. In the `-requests` files each schema has
 * the mapping to the library's options beside it. The OpenAPI document is generated from these same schemas.
 */

export const MAX_SECONDS = 366 * 86_400;

/** Any length of time that a command may have. */
export const seconds = z
  .number()
  .min(0.001, 'must be at least 0.001 seconds')
  .max(MAX_SECONDS, 'must be a year at most')
  .transform(toMs);

/** Zero is "at once". */
export const graceSeconds = z
  .number()
  .min(0, 'must be 0 or more')
  .max(600, 'must be 10 minutes at most')
  .transform(toMs)
  .describe('Seconds between asking (SIGTERM or your signal) and SIGKILL; 2 unless given.');

/** A yes or no in a query. */
export function queryFlag(description: string) {
  return z
    .enum(['true', 'false'])
    .transform((value) => value === 'true')
    .describe(description)
    .optional();
}

/** A whole number in a query. */
export function queryInteger({ min, max }: { min: number; max?: number }, description?: string) {
  const atLeast = z.coerce.number().int().min(min);
  const bounded = max === undefined ? atLeast : atLeast.max(max);
  return (description === undefined ? bounded : bounded.describe(description)).optional();
}

/** Of what waits for an end. */
export const waitQuery = z.strictObject({
  timeout: z.coerce
    .number()
    .min(0.001, 'must be at least 0.001 seconds')
    .max(86_400, 'must be a day at most')
    .transform(toMs)
    .describe('For how many seconds; until it has ended unless given.')
    .optional(),
});

export const octalMode = z
  .string()
  .regex(/^0?[0-7]{3}$/, 'must be octal permission bits such as "644"')
  .transform((value) => Number.parseInt(value, 8))
  .describe('Permission bits in octal: "644".');

export function toMs(value: number): number {
  return Math.round(value * 1000);
}

/** Without the keys that have no value: what isn't given is absent in the library's options, not `undefined`. */
export function defined<T extends object>(value: T): { [Key in keyof T]?: Exclude<T[Key], undefined> } {
  const result: Record<string, unknown> = {};
  for (const [key, item] of Object.entries(value)) if (item !== undefined) result[key] = item;
  return result as { [Key in keyof T]?: Exclude<T[Key], undefined> };
}
