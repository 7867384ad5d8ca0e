import { z } from 'zod';

import { egressBody } from '../egress-schemas.js';
import type { CreateOptions, EgressOptions, ListOptions } from '../index.js';
import { fields } from '../schemas.js';
import { secretsBody } from '../secret-schemas.js';
import { defined, graceSeconds, MAX_SECONDS, queryInteger, toMs } from './request-fields.js';

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
    disk_limit: fields.diskLimit.optional(),
    inodes_limit: fields.inodesLimit.optional(),
    image: fields.image.optional(),
    env: fields.env.optional(),
    network: z
      .union([z.enum(['none', 'bridge']), z.strictObject({ egress: egressBody })])
      .describe(fields.network.description ?? '')
      .optional(),
    secrets: secretsBody.optional(),
    timeout: leaseSeconds.describe('Lease in seconds; "on_expiry" says what becomes of it then.').optional(),
    idle_timeout: leaseSeconds
      .describe('Seconds in which nothing was done in it, after which the same becomes of it.')
      .optional(),
    max_lifetime: leaseSeconds
      .describe('Seconds that it may live at the most, however often its lease is renewed; then it is removed.')
      .optional(),
    on_expiry: fields.onExpiry.optional(),
    wake_on_use: fields.wakeOnUse.optional(),
    metadata: fields.metadata.optional(),
    labels: fields.labels.optional(),
    workdir: fields.path.describe('Where commands run unless they say otherwise.').optional(),
    user: fields.user.optional(),
    runtime: fields.runtime.optional(),
    profile: fields.profile.optional(),
  })
  .describe('What a sandbox is made of. All of it is optional.');

export function toCreateOptions(body: z.output<typeof createBody>): CreateOptions {
  return defined({
    projectName: body.project_name,
    memoryLimit: body.memory_limit,
    cpuLimit: body.cpu_limit,
    pidsLimit: body.pids_limit,
    nofileLimit: body.nofile_limit,
    diskLimit: body.disk_limit,
    inodesLimit: body.inodes_limit,
    image: body.image,
    env: body.env,
    network: typeof body.network === 'object' ? { egress: toEgressOptions(body.network.egress) } : body.network,
    secrets: body.secrets && toSecrets(body.secrets),
    ttlMs: body.timeout,
    idleTimeoutMs: body.idle_timeout,
    maxLifetimeMs: body.max_lifetime,
    onExpiry: body.on_expiry,
    wakeOnUse: body.wake_on_use,
    metadata: body.metadata,
    labels: body.labels,
    workdir: body.workdir,
    user: body.user,
    runtime: body.runtime,
    profile: body.profile,
  });
}

function toSecrets(body: z.output<typeof secretsBody>): CreateOptions['secrets'] {
  return Object.fromEntries(
    Object.entries(body).map(([name, { value, hosts, intercept_tls: interceptTls }]) => [
      name,
      { value, hosts, ...defined({ interceptTls }) },
    ]),
  );
}

export function toEgressOptions(body: z.output<typeof egressBody>): EgressOptions {
  return defined({
    allow: body.allow,
    learn: body.learn,
    maxBytes: body.max_bytes,
    bytesPerSecond: body.bytes_per_second,
    maxConnections: body.max_connections,
  });
}

export const renewBody = z
  .strictObject({ timeout: leaseSeconds.describe('The new lease in seconds, from now on.').optional() })
  .describe('For how long; without "timeout", as long as the lease was at first.');

export const stopBody = z
  .strictObject({ grace: graceSeconds.optional() })
  .describe('How long what runs in it may take to end.');

export const pruneBody = z
  .strictObject({
    dry_run: z
      .boolean()
      .describe('Removes nothing, only tells. As the service is configured, unless given.')
      .optional(),
  })
  .describe('How to clean up.');

export const listQuery = z.strictObject({
  state: fields.state.optional(),
  project_name: fields.projectName.optional(),
  limit: queryInteger({ min: 1, max: 1000 }, 'How many at most; 100 unless given.'),
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
