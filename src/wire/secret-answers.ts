import { z } from 'zod';

/* Secrets are told of by their names and by where they go. There is no shape for what they are. */

export const secretTraits = z
  .record(z.string(), z.object({ hosts: z.array(z.string()), intercept_tls: z.boolean() }))
  .describe('Where each secret goes, by its name.');

export const secretsAnswer = z.object({ secrets: secretTraits }).describe('Where the secrets of a sandbox go.');
