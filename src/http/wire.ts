import { z } from 'zod';

import { fields } from '../schemas.js';
import type {
  CreateOptions,
  ExecResult,
  FileInfo,
  ListOptions,
  ProcessExit,
  SandboxInfo,
  SandboxStats,
} from '../index.js';

/*
 * What goes over the wire: snake_case, seconds, ISO times. Each request schema has the mapping to the library's options
 * beside it, each answer schema its presenter. The OpenAPI document is generated from these same schemas.
 */

const MAX_LEASE_SECONDS = 366 * 86_400;

const leaseSeconds = z
  .number()
  .min(1, 'must be at least 1 second')
  .max(MAX_LEASE_SECONDS, 'must be a year at most')
  .transform(toMs);

const execSeconds = z
  .number()
  .min(0.001, 'must be at least 0.001 seconds')
  .max(MAX_LEASE_SECONDS, 'must be a year at most')
  .transform(toMs);

export const createBody = z
  .strictObject({
    project_name: fields.projectName.optional(),
    memory_limit: fields.memoryLimit.optional(),
    cpu_limit: fields.cpuLimit.optional(),
    pids_limit: fields.pidsLimit.optional(),
    nofile_limit: fields.nofileLimit.optional(),
    image: fields.image.optional(),
    env: fields.env.optional(),
    network: fields.network.optional(),
    timeout: leaseSeconds.describe('Lease in seconds: it is removed when it has run out.').optional(),
    idle_timeout: leaseSeconds.describe('It is removed when nothing was done in it for so many seconds.').optional(),
    metadata: fields.metadata.optional(),
    labels: fields.labels.optional(),
    workdir: fields.path.describe('Where commands run unless they say otherwise.').optional(),
    user: fields.user.optional(),
  })
  .describe('What a sandbox is made of. All of it is optional.');

export function toCreateOptions(body: z.output<typeof createBody>): CreateOptions {
  return defined({
    projectName: body.project_name,
    memoryLimit: body.memory_limit,
    cpuLimit: body.cpu_limit,
    pidsLimit: body.pids_limit,
    nofileLimit: body.nofile_limit,
    image: body.image,
    env: body.env,
    network: body.network,
    ttlMs: body.timeout,
    idleTimeoutMs: body.idle_timeout,
    metadata: body.metadata,
    labels: body.labels,
    workdir: body.workdir,
    user: body.user,
  });
}

export const executeBody = z
  .strictObject({
    command: fields.command,
    workdir: fields.path.describe('Where it runs.').optional(),
    env: fields.env.optional(),
    timeout: execSeconds.describe('Seconds after which it is ended, with all that it started.').optional(),
    stdin: z.string().describe('What it reads from its standard input; without it, that is empty.').optional(),
    user: fields.user.optional(),
    max_output_bytes: fields.maxOutputBytes.optional(),
  })
  .describe('A command to run.');

export function toExecOptions(body: z.output<typeof executeBody>) {
  return defined({
    cwd: body.workdir,
    env: body.env,
    timeoutMs: body.timeout,
    stdin: body.stdin,
    user: body.user,
    maxOutputBytes: body.max_output_bytes,
  });
}

export const renewBody = z
  .strictObject({ timeout: leaseSeconds.describe('The new lease in seconds, from now on.').optional() })
  .describe('For how long; without "timeout", as long as the lease was at first.');

export const listQuery = z.strictObject({
  state: fields.state.optional(),
  project_name: fields.projectName.optional(),
  limit: z.coerce.number().int().min(1).max(1000).describe('How many at most; 100 unless given.').optional(),
  cursor: z.string().max(256).describe('The "cursor" of the page before.').optional(),
});

export function toListOptions(query: z.output<typeof listQuery>): ListOptions {
  return defined({
    state: query.state,
    projectName: query.project_name,
    limit: query.limit,
    cursor: query.cursor,
  });
}

const time = z.iso.datetime();
const count = z.int().min(0);

export const sandboxAnswer = z
  .object({
    id: fields.id,
    name: z.string().describe('The name of its container.'),
    container_id: z.string(),
    project_name: z.string().nullable(),
    state: fields.state,
    image: z.string(),
    owner: z.string(),
    created_at: time,
    expires_at: time.describe('When the lease runs out.'),
    started_at: time.nullable().describe('Null in a list, and while it never ran.'),
    finished_at: time.nullable().describe('Null in a list, and while it runs.'),
    exit_code: z.int().nullable(),
    timeout: z.number().describe('The lease in seconds.'),
    idle_timeout: z.number().nullable(),
    memory_limit: count.describe('Bytes.'),
    cpu_limit: z.number(),
    pids_limit: count,
    nofile_limit: count,
    network: fields.network,
    workdir: z.string(),
    user: z.string(),
    metadata: z.record(z.string(), z.string()),
  })
  .describe('A sandbox.');

export function presentSandbox(info: SandboxInfo): z.output<typeof sandboxAnswer> {
  return {
    id: info.id,
    name: info.name,
    container_id: info.containerId,
    project_name: info.projectName,
    state: info.state,
    image: info.image,
    owner: info.owner,
    created_at: info.createdAt.toISOString(),
    expires_at: info.expiresAt.toISOString(),
    started_at: info.startedAt?.toISOString() ?? null,
    finished_at: info.finishedAt?.toISOString() ?? null,
    exit_code: info.exitCode,
    timeout: info.ttlMs / 1000,
    idle_timeout: info.idleTimeoutMs === null ? null : info.idleTimeoutMs / 1000,
    memory_limit: info.limits.memoryBytes,
    cpu_limit: info.limits.cpus,
    pids_limit: info.limits.pids,
    nofile_limit: info.limits.nofile,
    network: info.network,
    workdir: info.workdir,
    user: info.user,
    metadata: info.metadata,
  };
}

export const sandboxListAnswer = z
  .object({
    sandboxes: z.array(sandboxAnswer),
    cursor: z.string().nullable().describe('Asks for the next page; null on the last one.'),
  })
  .describe('A page of sandboxes, newest first.');

const exitFields = {
  exit_code: z.int().nullable().describe('Null when it did not exit by itself.'),
  signal: z.string().nullable(),
  execution_time: z.number().describe('Seconds.'),
  outcome: z.enum(['exited', 'signaled', 'timed_out', 'oom_killed', 'killed', 'sandbox_died']),
  truncated: z.boolean().describe('Whether output was dropped.'),
  dropped_bytes: z.object({ stdout: count, stderr: count }),
  processes_left: z.boolean().describe('Whether something that it started was still there when it exited.'),
};

export const execAnswer = z
  .object({
    exit_code: exitFields.exit_code,
    stdout: z.string(),
    stderr: z.string(),
    execution_time: exitFields.execution_time,
    outcome: exitFields.outcome,
    signal: exitFields.signal,
    truncated: exitFields.truncated,
    dropped_bytes: exitFields.dropped_bytes,
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

export const exitEvent = z.object({ type: z.literal('exit'), ...exitFields });

/** A stream drops nothing: a slow reader makes the command wait. */
export function presentExit(exit: ProcessExit): z.output<typeof exitEvent> {
  return {
    type: 'exit',
    exit_code: exit.exitCode,
    signal: exit.signal,
    execution_time: toSeconds(exit.durationMs),
    outcome: exit.outcome,
    truncated: false,
    dropped_bytes: { stdout: 0, stderr: 0 },
    processes_left: exit.processesLeft,
  };
}

export const statsAnswer = z
  .object({
    memory_bytes: count,
    memory_limit_bytes: count,
    cpu_seconds: z.number().describe('CPU time used since it was started.'),
    pids: count,
    network_received_bytes: count,
    network_sent_bytes: count,
    at: time,
  })
  .describe('What a sandbox uses now.');

export function presentStats(stats: SandboxStats): z.output<typeof statsAnswer> {
  return {
    memory_bytes: stats.memoryBytes,
    memory_limit_bytes: stats.memoryLimitBytes,
    cpu_seconds: stats.cpuSeconds,
    pids: stats.pids,
    network_received_bytes: stats.networkReceivedBytes,
    network_sent_bytes: stats.networkSentBytes,
    at: stats.at.toISOString(),
  };
}

export const fileAnswer = z
  .object({
    path: z.string(),
    name: z.string(),
    type: z.enum(['file', 'directory', 'symlink', 'other']),
    size_bytes: count,
    mode: z.string().describe('Permission bits in octal: "0644".'),
    modified_at: time,
    uid: count,
    gid: count,
    link_target: z.string().nullable(),
  })
  .describe('A file, directory or link in a sandbox. A link is described itself, not what it leads to.');

export function presentFile(file: FileInfo): z.output<typeof fileAnswer> {
  return {
    path: file.path,
    name: file.name,
    type: file.type,
    size_bytes: file.sizeBytes,
    mode: file.mode.toString(8).padStart(4, '0'),
    modified_at: file.modifiedAt.toISOString(),
    uid: file.uid,
    gid: file.gid,
    link_target: file.linkTarget,
  };
}

export const fileListAnswer = z.object({ entries: z.array(fileAnswer) }).describe('What is in a directory.');

function toMs(seconds: number): number {
  return Math.round(seconds * 1000);
}

/** To the microsecond: what dividing leaves below that is noise. */
function toSeconds(ms: number): number {
  return Math.round(ms * 1000) / 1e6;
}

/** Without the keys that have no value: what isn't given is absent in the library's options, not `undefined`. */
export function defined<T extends object>(value: T): { [Key in keyof T]?: Exclude<T[Key], undefined> } {
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  return Object.fromEntries(entries) as { [Key in keyof T]?: Exclude<T[Key], undefined> };
}
