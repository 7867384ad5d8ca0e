import { z } from 'zod';

import type { ContainerState } from '../engine/engine.js';
import { egressSchema } from '../egress-schemas.js';
import { DISK_MODES, PROFILES } from '../isolation.js';
import { secretTraitsSchema } from '../secret-schemas.js';

/*
 * What is remembered of a sandbox, and where. Docker is the registry: what never changes is in the container's labels.
 * What does change is the record, which the warden keeps in the sandbox, where only root can read or write it, and so it
 * outlives every manager: the lease, and, of a sandbox that was made before anybody asked for it, what it was claimed
 * as.
 */

const LABEL_MANAGED = 'sandyard.managed';
const LABEL_OWNER = 'sandyard.owner';
const LABEL_POOL = 'sandyard.pool';
const LABEL_REQUEST = 'sandyard.request';
const LABEL_TENANT = 'sandyard.tenant';
const LABEL_QUOTA = 'sandyard.quota';

const NAME_PREFIX = 'sandyard-';
export const POOL_NAME_PREFIX = 'sandyard-pool-';

/** As much as the warden keeps for us. */
const MAX_CLAIM_BYTES = 32 * 1024;

const limitsSchema = z.object({
  memoryBytes: z.number(),
  cpus: z.number(),
  pids: z.number(),
  nofile: z.number(),
  /** `null` where it isn't bounded, or by its memory. */
  diskBytes: z.number().nullable().default(null),
  inodes: z.number().nullable().default(null),
});

const networkSchema = z.union([z.enum(['none', 'bridge']), z.object({ egress: egressSchema })]);

const leaseTerms = {
  ttlMs: z.number(),
  idleTimeoutMs: z.number().nullable(),
  onExpiry: z.enum(['destroy', 'stop', 'pause']).default('destroy'),
  wakeOnUse: z.boolean().default(false),
};

const traitsSchema = z.object({
  limits: limitsSchema,
  network: networkSchema,
  /** Where its secrets go; never what they are. */
  secrets: secretTraitsSchema.default({}),
  workdir: z.string(),
  user: z.string(),
  ...leaseTerms,
  /** `null`: the engine's own default. */
  runtime: z.string().nullable().default(null),
  profile: z.enum(PROFILES).default('standard'),
  disk: z.enum(DISK_MODES).default('none'),
  metadata: z.record(z.string(), z.string()),
});

/** What a sandbox is made as, which stays so for its life; of a warm one, until it is claimed. */
export type SandboxTraits = z.output<typeof traitsSchema>;

/** The request that a sandbox was made for, where its client may repeat it: hashes of its key and of its content. */
const requestSchema = z.object({ key: z.string(), content: z.string() });
export type MadeFor = z.output<typeof requestSchema>;

/** What a warm sandbox was claimed as: what goes over its labels, as JSON in its record. */
const claimSchema = z.object({
  projectName: z.string().nullable(),
  limits: limitsSchema,
  ...leaseTerms,
  metadata: z.record(z.string(), z.string()),
  env: z.record(z.string(), z.string()),
  maxLifetimeMs: z.number(),
  createdAt: z.coerce.date(),
  agesFrom: z.coerce.date(),
  madeFor: requestSchema.nullable(),
  tenant: z.string().nullable().default(null),
  /** Random: so that whoever lost the answer to a claim knows it by the record. */
  token: z.string(),
});
export type Claim = z.output<typeof claimSchema>;

export interface SandboxRecord extends SandboxTraits {
  readonly id: string;
  readonly owner: string;
  /** Whose it is among those that the owner has made sandboxes for; `null`: the owner's own. */
  readonly tenant: string | null;
  readonly projectName: string | null;
  /** By the clock of whoever made or claimed it: to be shown. */
  readonly createdAt: Date;
  /** From when on its longest lifetime counts, by the engine's clock. */
  readonly agesFrom: Date;
  readonly maxLifetimeMs: number;
  readonly name: string;
  readonly containerId: string;
  readonly image: string;
  readonly state: ContainerState;
  /** Which pool it was made for; `null` when it was made for a caller. */
  readonly pool: string | null;
  /** Whether it was made for a pool, and nobody is known to have claimed it. */
  readonly warm: boolean;
  /** Variables of a claimed one, for every process that is started in it. */
  readonly env: Readonly<Record<string, string>>;
  readonly madeFor: MadeFor | null;
  /** What the storage driver lets its root take, with what is its image's where that counts; `null` where it has no quota. */
  readonly quotaBytes: number | null;
}

export function containerName(id: string): string {
  return `${NAME_PREFIX}${id}`;
}

/** The name of a warm sandbox that nobody has claimed. */
export function poolName(id: string): string {
  return `${POOL_NAME_PREFIX}${id}`;
}

/** The label filters that find all sandboxes of an owner, and nothing else. */
export function ownedBy(owner: string): string[] {
  return [`${LABEL_MANAGED}=1`, `${LABEL_OWNER}=${owner}`];
}

export interface LabelledAs {
  readonly id: string;
  readonly owner: string;
  readonly tenant?: string | undefined;
  readonly projectName: string | undefined;
  readonly createdAt: Date;
  readonly maxLifetimeMs: number;
  readonly pool?: string | undefined;
  readonly madeFor?: MadeFor | undefined;
}

export function toLabels(traits: SandboxTraits, about: LabelledAs): Record<string, string> {
  return {
    [LABEL_MANAGED]: '1',
    [LABEL_OWNER]: about.owner,
    'sandyard.id': about.id,
    'sandyard.created-at': about.createdAt.toISOString(),
    'sandyard.max-lifetime': String(about.maxLifetimeMs),
    'sandyard.version': '1',
    ...(about.projectName === undefined ? {} : { 'sandyard.project': about.projectName }),
    ...(about.tenant === undefined ? {} : { [LABEL_TENANT]: about.tenant }),
    ...(about.pool === undefined ? {} : { [LABEL_POOL]: about.pool }),
    ...(about.madeFor === undefined ? {} : { [LABEL_REQUEST]: JSON.stringify(about.madeFor) }),
    'sandyard.traits': JSON.stringify(traits),
  };
}

/** That of the quota which its container is made with. */
export function quotaLabel(quotaBytes: number): Record<string, string> {
  return { [LABEL_QUOTA]: String(quotaBytes) };
}

const json = z.string().transform((text, context) => {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    context.addIssue({ code: 'custom', message: 'is not JSON' });
    return z.NEVER;
  }
});

const labelsSchema = z.object({
  [LABEL_MANAGED]: z.literal('1'),
  [LABEL_OWNER]: z.string(),
  'sandyard.id': z.string(),
  'sandyard.created-at': z.coerce.date(),
  'sandyard.max-lifetime': z.string().regex(/^\d+$/).transform(Number),
  'sandyard.project': z.string().optional(),
  [LABEL_TENANT]: z.string().optional(),
  [LABEL_POOL]: z.string().optional(),
  [LABEL_REQUEST]: json.pipe(requestSchema).optional(),
  [LABEL_QUOTA]: z.string().regex(/^\d+$/).transform(Number).optional(),
  'sandyard.traits': json.pipe(traitsSchema),
});

/** The record in a container's labels; `undefined` when it isn't one of ours. */
export function toRecord(container: {
  id: string;
  name: string;
  image: string;
  state: ContainerState;
  createdAt: Date;
  labels: Readonly<Record<string, string>>;
}): SandboxRecord | undefined {
  const parsed = labelsSchema.safeParse(container.labels);
  if (!parsed.success) return undefined;
  const labels = parsed.data;
  const id = labels['sandyard.id'];
  const pool = labels[LABEL_POOL] ?? null;
  if (container.name !== containerName(id) && (pool === null || container.name !== poolName(id))) return undefined;
  return {
    ...labels['sandyard.traits'],
    id,
    owner: labels[LABEL_OWNER],
    tenant: labels[LABEL_TENANT] ?? null,
    projectName: labels['sandyard.project'] ?? null,
    createdAt: labels['sandyard.created-at'],
    agesFrom: container.createdAt,
    maxLifetimeMs: labels['sandyard.max-lifetime'],
    name: container.name,
    containerId: container.id,
    image: container.image,
    state: container.state,
    pool,
    warm: pool !== null,
    env: {},
    madeFor: labels[LABEL_REQUEST] ?? null,
    quotaBytes: labels[LABEL_QUOTA] ?? null,
  };
}

/** Whether it is that tenant's. What was made for nobody in particular is that of the tenant who is called like the owner. */
export function isTenants(record: Pick<SandboxRecord, 'owner' | 'tenant'>, tenant: string): boolean {
  return (record.tenant ?? record.owner) === tenant;
}

/** What a claim is written as; `undefined` when it is more than a warden keeps. */
export function encodeClaim(claim: Claim): Uint8Array | undefined {
  const blob = Buffer.from(JSON.stringify(claim));
  return blob.length > MAX_CLAIM_BYTES ? undefined : blob;
}

/** In the record of a warm sandbox that nobody is to have any more. */
export const DISCARDED = Buffer.from('"discarded"');

/** The claim in a record; `undefined` when there is none. Throws on what is no claim: nobody else writes there. */
export function decodeClaim(blob: Uint8Array): Claim | undefined {
  return blob.length === 0 || DISCARDED.equals(blob)
    ? undefined
    : claimSchema.parse(JSON.parse(Buffer.from(blob).toString('utf8')));
}

/** A warm sandbox as it is once it is claimed. */
export function claimedAs(record: SandboxRecord, written: Claim): SandboxRecord {
  const { token: _, ...claim } = written;
  return { ...record, ...claim, warm: false, name: containerName(record.id) };
}
