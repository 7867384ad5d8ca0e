import { z } from 'zod';

import { DISK_MODES } from '../isolation.js';
import { fields } from '../schemas.js';
import { secretTraits } from './secret-answers.js';

/*
 * What the service answers with, and `--json` prints: snake_case, seconds, ISO times, octal modes. Each shape has a
 * presenter in `presenters.ts`; the OpenAPI document is generated from the schemas.
 */

export const time = z.iso.datetime();
const count = z.int().min(0);

const egressPolicy = z.object({
  allow: z.array(z.string()).describe('Hosts that it may reach, as rules.'),
  learn: z.boolean().describe('Whether what it connects to is remembered.'),
  max_bytes: z.int().nullable(),
  bytes_per_second: z.int().nullable(),
  max_connections: z.int(),
});

export const egressAnswer = egressPolicy
  .extend({ learnt: z.array(z.string()).describe('Hosts that it has connected to while that was remembered.') })
  .describe('What a sandbox may reach now.');

export const egressLogAnswer = z
  .object({
    entries: z.array(
      z.object({
        seq: count,
        at: time,
        method: z.string().describe('"CONNECT" for a tunnel, which is for TLS.'),
        host: z.string(),
        port: z.int(),
        decision: z.enum(['allowed', 'denied']),
        reason: z.string().nullable().describe('Why it was denied.'),
        rule: z.string().nullable().describe('The rule that allowed it.'),
        address: z.string().nullable().describe('What was connected to.'),
        detail: z.string().nullable(),
      }),
    ),
    last_seq: count.describe('For "after", to have what comes then.'),
    lost: z.boolean().describe('Whether entries after "after" are no longer kept.'),
  })
  .describe('What was allowed and denied, the oldest first.');

export const egressDecisionAnswer = z
  .object({
    allowed: z.boolean(),
    host: z.string(),
    port: z.int(),
    rule: z.string().nullable(),
    address: z.string().nullable().describe('What its name leads to; only where it is allowed.'),
    reason: z.string().nullable(),
    detail: z.string().nullable(),
  })
  .describe('What would be decided on a URL, and why.');

export const sandboxAnswer = z
  .object({
    id: fields.id,
    name: z.string().describe('The name of its container.'),
    container_id: z.string(),
    project_name: z.string().nullable(),
    state: fields.state,
    image: z.string(),
    owner: z.string(),
    tenant: z.string().nullable().describe('Whose token or key it was made with; null where that is the owner.'),
    created_at: time,
    expires_at: time.describe('When the lease runs out.'),
    expires_in: count.describe('Seconds until then; 0 when it has run out.'),
    started_at: time.nullable().describe('Null in a list, and while it never ran.'),
    finished_at: time.nullable().describe('Null in a list, and while it runs.'),
    exit_code: z.int().nullable(),
    timeout: z.number().describe('The lease in seconds.'),
    idle_timeout: z.number().nullable(),
    max_lifetime: z.number().describe('How old it may become, in seconds: a lease never ends after that.'),
    on_expiry: fields.onExpiry,
    wake_on_use: fields.wakeOnUse,
    memory_limit: count.describe('Bytes.'),
    cpu_limit: z.number(),
    pids_limit: count,
    nofile_limit: count,
    disk_limit: count
      .nullable()
      .describe('Bytes that it may write; null where they are not bounded, or by its memory.'),
    inodes_limit: count.nullable().describe('Files and directories that it may make; null as with "disk_limit".'),
    disk: z
      .enum(DISK_MODES)
      .describe('How that is bounded: by a quota of the engine, by the sandbox itself, by its memory, or not at all.'),
    network: z.union([z.enum(['none', 'bridge']), z.object({ egress: egressPolicy })]),
    secrets: secretTraits,
    workdir: z.string(),
    user: z.string(),
    runtime: z.string().nullable().describe("Null for the engine's default."),
    profile: fields.profile,
    metadata: z.record(z.string(), z.string()),
  })
  .describe('A sandbox.');

export const sandboxListAnswer = z
  .object({
    sandboxes: z.array(sandboxAnswer),
    cursor: z.string().nullable().describe('Asks for the next page; null on the last one.'),
  })
  .describe('A page of sandboxes, newest first.');

export const statsAnswer = z
  .object({
    memory_bytes: count,
    memory_limit_bytes: count,
    cpu_seconds: z.number().describe('CPU time used since it was started.'),
    pids: count,
    network_received_bytes: count,
    network_sent_bytes: count,
    oom_kills: count.describe('How often the kernel ended something for want of memory.'),
    disk_bytes: count.nullable().describe('What it has written, as last measured; null where that is not watched.'),
    disk_limit_bytes: count.nullable(),
    inodes: count.nullable().describe('How many files and directories that is.'),
    inodes_limit: count.nullable(),
    at: time,
  })
  .describe('What a sandbox uses now.');

export const statsHistoryAnswer = z
  .object({
    samples: z.array(
      z.object({
        at: time,
        memory_bytes: count,
        cpu_seconds: z.number().describe('CPU time used since it was started.'),
        pids: count,
        network_received_bytes: count,
        network_sent_bytes: count,
      }),
    ),
  })
  .describe('What a sandbox used in the last hour since it was started: a sample each ten seconds, the oldest first.');

export const endAnswer = z
  .object({
    state: z.enum(['exited', 'removed']),
    exit_code: z.int().nullable().describe('Of PID 1 of the sandbox; null when it was removed.'),
    reason: z
      .enum(['lease_expired', 'idle'])
      .nullable()
      .describe('Why the sandbox ended itself; null when it did not, or was removed.'),
    finished_at: time.nullable(),
  })
  .describe('How a sandbox ended.');

export const EVENT_TYPES = [
  'created',
  'started',
  'stopped',
  'paused',
  'unpaused',
  'renewed',
  'oom',
  'disk_full',
  'destroyed',
] as const;

const EXPIRY_REASONS = ['lease_expired', 'idle', 'max_lifetime', 'stopped_too_long', 'lost', 'half_created'] as const;

const eventFields = {
  id: z.string().describe('Its place among the events of this run of the service; for "after".'),
  type: z
    .enum(EVENT_TYPES)
    .describe(
      'What happened. "oom": the kernel ended something in it for want of memory. "disk_full": it had written more than it may, and what ran in it was ended.',
    ),
  at: time,
  sandbox_id: fields.id,
  owner: z.string(),
  tenant: z.string().nullable().describe('Whose sandbox it is, as in its description.'),
  project_name: z.string().nullable(),
  reason: z
    .enum([
      ...EXPIRY_REASONS,
      'requested',
      'woken',
      'out_of_memory',
      'too_many_threads',
      'killed',
      'ended',
      'elsewhere',
    ])
    .describe(
      'Why. "requested": a client of this service asked for it. "woken": it was used. "ended": it ended by itself. ' +
        '"out_of_memory" and "too_many_threads": a limit ended it, as under gVisor. "killed": it was killed. "lost": ' +
        'it was found so after the engine was away. "elsewhere": somebody else did it.',
    ),
  by: z.string().nullable().describe('Who asked for it, such as "rest" or "reaper"; null where that is not known.'),
  request_id: z.string().nullable().describe('The X-Request-Id of the request that asked for it.'),
  exit_code: z.int().nullable().describe('With "stopped".'),
};

export const lifecycleEventAnswer = z.object(eventFields).describe('Something that happened to a sandbox.');

export const pruneAnswer = z
  .object({
    dry_run: z.boolean().describe('Whether nothing was removed, only looked for.'),
    sandboxes: z.array(
      z.object({
        id: fields.id,
        reason: z.enum(EXPIRY_REASONS),
        action: z.enum(['removed', 'paused', 'none']).describe('"none" in a dry run, and when the engine failed.'),
        error: z.string().describe('Why it could not be done.').optional(),
      }),
    ),
    volumes: z.array(orphanAnswer()),
    networks: z.array(orphanAnswer()),
  })
  .describe('What had expired, and what was left of sandboxes that are gone.');

function orphanAnswer() {
  return z.object({
    name: z.string(),
    reason: z.enum(['image_gone', 'sandbox_gone', 'unused']),
    removed: z.boolean(),
    error: z.string().describe('Why it could not be removed.').optional(),
  });
}

const outcome = z.enum(['exited', 'signaled', 'timed_out', 'oom_killed', 'killed', 'disk_full', 'sandbox_died']);

const diedOf = z
  .enum([
    'out_of_memory',
    'too_many_threads',
    'killed',
    'stopped',
    'restarted',
    'removed',
    'lease_expired',
    'idle',
    'ended',
  ])
  .nullable()
  .describe('What the sandbox died of, with the outcome "sandbox_died", as far as it is known; otherwise null.');

const exitFields = {
  exit_code: z.int().nullable().describe('Null when it did not exit by itself.'),
  signal: z.string().nullable(),
  execution_time: z.number().describe('Seconds.'),
  outcome,
  died_of: diedOf,
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
    died_of: exitFields.died_of,
    signal: exitFields.signal,
    ...dropFields,
    processes_left: exitFields.processes_left,
  })
  .describe('How a command ended and what it printed. A command that failed or timed out is not an error.');

export const exitAnswer = z
  .object({
    ...exitFields,
    usage: z
      .object({ user_seconds: z.number(), system_seconds: z.number(), max_rss_bytes: count })
      .nullable()
      .describe('CPU time, and the most memory that was resident; null when the sandbox died.'),
  })
  .describe('How a process ended.');

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

export const processListAnswer = z
  .object({ processes: z.array(processAnswer) })
  .describe('The processes of a sandbox: those that run, and those that ended lately.');

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
    etag: z.string().describe('Changes when the file does; in quotes it is the ETag of GET and PUT.'),
  })
  .describe('A file, directory or link in a sandbox.');

export const fileListAnswer = z.object({ entries: z.array(fileAnswer) }).describe('What is in a directory.');
