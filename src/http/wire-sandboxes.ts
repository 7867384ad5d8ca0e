import { z } from 'zod';

import type { CreateOptions, ListOptions, SandboxInfo, SandboxStats } from '../index.js';
import { fields } from '../schemas.js';
import { count, defined, graceSeconds, MAX_SECONDS, time, toMs } from './wire-fields.js';

const leaseSeconds = z
  .number()
  .min(1, 'must be at least 1 second')
  .max(MAX_SECONDS, 'must be a year at most')
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
    runtime: fields.runtime.optional(),
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
    runtime: body.runtime,
  });
}

export const renewBody = z
  .strictObject({ timeout: leaseSeconds.describe('The new lease in seconds, from now on.').optional() })
  .describe('For how long; without "timeout", as long as the lease was at first.');

export const stopBody = z
  .strictObject({ grace: graceSeconds.optional() })
  .describe('How long what runs in it may take to end.');

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
    runtime: z.string().nullable().describe("Null for the engine's default."),
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
    runtime: info.runtime,
    metadata: info.metadata,
  };
}

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
    oom_kills: stats.oomKills,
    at: stats.at.toISOString(),
  };
}
