import { z } from 'zod';

import { fields } from '../schemas.js';
import { time } from './answers.js';

/* What is answered about how well an engine isolates, and about what is enforced of one sandbox. */

const common = {
  check: z.string().describe('What it is about.'),
  expected: z.string(),
  found: z.string(),
};
const fix = z.string().nullable().describe('What to do about it; null when it is ok.');

export const diagnosisAnswer = z
  .object({
    at: time,
    ok: z.boolean().describe('Whether nothing fails. There may be warnings.'),
    checks: z.array(
      z.object({
        ...common,
        severity: z
          .enum(['ok', 'warn', 'fail'])
          .describe('"warn": one wall less than there could be. "fail": do not run hostile code there.'),
        fix,
      }),
    ),
  })
  .describe('What the engine and the service can and can not enforce.');

export const attestationAnswer = z
  .object({
    sandbox_id: fields.id,
    at: time,
    runtime: z.string().describe("The engine's name of the runtime that it runs on."),
    ok: z.boolean().describe('Whether all that it was made with is in force.'),
    drift: z.boolean().describe('Whether something is not as it was made.'),
    checks: z.array(
      z.object({
        ...common,
        source: z
          .enum(['engine', 'inside'])
          .describe('Who says what was found: the engine of the container, or a probe in the sandbox.'),
        status: z
          .enum(['ok', 'drift', 'unknown'])
          .describe('"drift": it is not what the sandbox was made with. "unknown": it could not be found out.'),
        fix,
      }),
    ),
  })
  .describe('What is really enforced of one sandbox.');
