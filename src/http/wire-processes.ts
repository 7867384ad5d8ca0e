import { z } from 'zod';

import type { ExecResult, ProcessExit, ProcessInfo } from '../index.js';
import { fields } from '../schemas.js';
import { count, defined, graceSeconds, seconds, time, toSeconds } from './wire-fields.js';

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

const outcome = z.enum(['exited', 'signaled', 'timed_out', 'oom_killed', 'killed', 'sandbox_died']);

const exitFields = {
  exit_code: z.int().nullable().describe('Null when it did not exit by itself.'),
  signal: z.string().nullable(),
  execution_time: z.number().describe('Seconds.'),
  outcome,
  processes_left: z.boolean().describe('Whether something that it started was still there when it exited.'),
};

const dropFields = {
  truncated: z.boolean().describe('Whether output was dropped.'),
  dropped_bytes: z.object({ stdout: count, stderr: count }),
};

export const execAnswer = z
  .object({
    exit_code: exitFields.exit_code,
    stdout: z.string(),
    stderr: z.string(),
    execution_time: exitFields.execution_time,
    outcome: exitFields.outcome,
    signal: exitFields.signal,
    ...dropFields,
    processes_left: exitFields.processes_left,
  })
  .describe('How a command ended and what it printed. A command that failed or timed out is not an error.');

export function presentExec(result: ExecResult): z.output<typeof execAnswer> {
  return {
    exit_code: result.exitCode,
    stdout: result.stdout,
    stderr: result.stderr,
    execution_time: toSeconds(result.durationMs),
    outcome: result.outcome,
    signal: result.signal,
    truncated: result.truncated,
    dropped_bytes: result.droppedBytes,
    processes_left: result.processesLeft,
  };
}

export const exitAnswer = z
  .object({
    ...exitFields,
    usage: z
      .object({ user_seconds: z.number(), system_seconds: z.number(), max_rss_bytes: count })
      .nullable()
      .describe('CPU time, and the most memory that was resident; null when the sandbox died.'),
  })
  .describe('How a process ended.');

export function presentExit({ usage, ...exit }: ProcessExit): z.output<typeof exitAnswer> {
  return {
    exit_code: exit.exitCode,
    signal: exit.signal,
    execution_time: toSeconds(exit.durationMs),
    outcome: exit.outcome,
    processes_left: exit.processesLeft,
    usage: usage && {
      user_seconds: toSeconds(usage.userMs),
      system_seconds: toSeconds(usage.systemMs),
      max_rss_bytes: usage.maxRssBytes,
    },
  };
}

export const processAnswer = z
  .object({
    id: fields.processId,
    pid: z.int().nullable().describe('Its number in the sandbox; null when it has ended.'),
    command: z.array(z.string()),
    state: z.enum(['running', 'exited']),
    outcome: outcome.nullable().describe('Null while it runs, as exit_code and signal.'),
    exit_code: z.int().nullable(),
    signal: z.string().nullable(),
    started_at: time,
    pty: z.boolean(),
    first_seq: count.describe('The oldest piece of output that is kept; one more than last_seq when there is none.'),
    last_seq: count.describe('The newest piece of output.'),
    readers: count.describe('How many read its output now.'),
  })
  .describe('A process in a sandbox.');

export function presentProcess(info: ProcessInfo): z.output<typeof processAnswer> {
  return {
    id: info.id,
    pid: info.pid,
    command: [...info.command],
    state: info.state,
    outcome: info.outcome,
    exit_code: info.exitCode,
    signal: info.signal,
    started_at: info.startedAt.toISOString(),
    pty: info.pty,
    first_seq: info.firstSeq,
    last_seq: info.lastSeq,
    readers: info.readers,
  };
}

export const processListAnswer = z
  .object({ processes: z.array(processAnswer) })
  .describe('The processes of a sandbox: those that run, and those that ended lately.');
