import { z } from 'zod';

import { fields } from '../schemas.js';
import { defined, graceSeconds, seconds } from './request-fields.js';

/** Of input that comes with the request that starts a process: more goes through its own route, at its own pace. */
const MAX_FIRST_INPUT_BYTES = 128 * 1024;

const commandFields = {
  command: fields.command,
  workdir: fields.path.describe('Where it runs.').optional(),
  env: fields.env.optional(),
  timeout: seconds.describe('Seconds after which it is ended, with all that it started.').optional(),
  user: fields.user.optional(),
};

export const executeBody = z
  .strictObject({
    ...commandFields,
    stdin: z.string().describe('What it reads from its standard input; without it, that is empty.').optional(),
    max_output_bytes: fields.maxOutputBytes.optional(),
    exec_id: fields.processId
      .describe('Runs at most once under this id: the same request again gives the result of the same process.')
      .optional(),
  })
  .describe('A command to run.');

export function toExecOptions(body: z.output<typeof executeBody>) {
  return defined({
    cwd: body.workdir,
    env: body.env,
    timeoutMs: body.timeout,
    // As bytes: for the library some words have a meaning of their own.
    stdin: body.stdin === undefined ? undefined : Buffer.from(body.stdin),
    user: body.user,
    maxOutputBytes: body.max_output_bytes,
    execId: body.exec_id,
  });
}

export const sizeBody = fields.terminalSize;

export const processBody = z
  .strictObject({
    ...commandFields,
    id: fields.processId.describe('Starts nothing when the id is in use, and answers with that process.').optional(),
    pty: z
      .union([z.boolean(), sizeBody])
      .describe('Gives it a terminal; its output is then all stdout, and its input stays open.')
      .optional(),
    stdin: z
      .string()
      .refine((value) => Buffer.byteLength(value) <= MAX_FIRST_INPUT_BYTES, 'must be 128 KiB at most; send more later')
      .describe('What it reads first.')
      .optional(),
    stdin_open: z
      .boolean()
      .describe('Keeps its standard input open for POST …/stdin; otherwise that ends after "stdin".')
      .optional(),
    when_unread: fields.whenUnread
      .describe('When nobody reads what it prints: "run" on and lose the oldest, or "wait". "run" unless given.')
      .optional(),
  })
  .describe('A command to run in the background.');

export type ProcessBody = z.output<typeof processBody>;

export function toSpawnOptions(body: ProcessBody) {
  const readsInput = body.stdin !== undefined || body.stdin_open === true;
  return {
    whenUnread: body.when_unread ?? 'run',
    ...defined({
      cwd: body.workdir,
      env: body.env,
      timeoutMs: body.timeout,
      user: body.user,
      id: body.id,
      pty: body.pty === false ? undefined : body.pty,
      stdin: readsInput ? ('pipe' as const) : undefined,
    }),
    text: true,
  };
}

export const signalBody = z
  .strictObject({ signal: fields.signal })
  .describe('A signal for a process and all that it started.');

export const killBody = z
  .strictObject({ signal: fields.signal.describe('SIGTERM unless given.').optional(), grace: graceSeconds.optional() })
  .describe('How to end a process.');
