import { Readable } from 'node:stream';
import { pack } from 'tar-stream';
import { z } from 'zod';

import type { ContainerState, Engine } from './engine/engine.js';

/*
 * What is remembered of a sandbox, and where. Docker is the registry: what never changes is in the container's labels.
 * The lease changes, and labels can't; it is in a file in the sandbox that only root can read or write, so that it
 * outlives every manager. Where there is no such file the lease is still the one that the sandbox was created with.
 */

const LABEL_MANAGED = 'sandyard.managed';
const LABEL_OWNER = 'sandyard.owner';

const LEASE_DIRECTORY = 'var/lib/sandyard';
const LEASE_FILE = `${LEASE_DIRECTORY}/lease.json`;

const NAME_PREFIX = 'sandyard-';

const traitsSchema = z.object({
  limits: z.object({ memoryBytes: z.number(), cpus: z.number(), pids: z.number(), nofile: z.number() }),
  network: z.enum(['none', 'bridge']),
  workdir: z.string(),
  user: z.string(),
  ttlMs: z.number(),
  idleTimeoutMs: z.number().nullable(),
  metadata: z.record(z.string(), z.string()),
});

/** What a sandbox is made as, which stays so for its life. */
export type SandboxTraits = z.output<typeof traitsSchema>;

export interface SandboxRecord extends SandboxTraits {
  readonly id: string;
  readonly owner: string;
  readonly projectName: string | null;
  readonly createdAt: Date;
  readonly maxLifetimeMs: number;
  readonly name: string;
  readonly containerId: string;
  readonly image: string;
  readonly state: ContainerState;
}

export interface Lease {
  readonly expiresAt: Date;
  readonly lastActiveAt: Date;
}

export function containerName(id: string): string {
  return `${NAME_PREFIX}${id}`;
}

/** The label filters that find all sandboxes of an owner, and nothing else. */
export function ownedBy(owner: string): string[] {
  return [`${LABEL_MANAGED}=1`, `${LABEL_OWNER}=${owner}`];
}

export function toLabels(
  traits: SandboxTraits,
  about: { id: string; owner: string; projectName: string | undefined; createdAt: Date; maxLifetimeMs: number },
): Record<string, string> {
  return {
    [LABEL_MANAGED]: '1',
    [LABEL_OWNER]: about.owner,
    'sandyard.id': about.id,
    'sandyard.created-at': about.createdAt.toISOString(),
    'sandyard.max-lifetime': String(about.maxLifetimeMs),
    'sandyard.version': '1',
    ...(about.projectName === undefined ? {} : { 'sandyard.project': about.projectName }),
    'sandyard.traits': JSON.stringify(traits),
  };
}

const labelsSchema = z.object({
  [LABEL_MANAGED]: z.literal('1'),
  [LABEL_OWNER]: z.string(),
  'sandyard.id': z.string(),
  'sandyard.created-at': z.coerce.date(),
  'sandyard.max-lifetime': z.string().regex(/^\d+$/).transform(Number),
  'sandyard.project': z.string().optional(),
  'sandyard.traits': z
    .string()
    .transform((text, context) => {
      try {
        return JSON.parse(text) as unknown;
      } catch {
        context.addIssue({ code: 'custom', message: 'is not JSON' });
        return z.NEVER;
      }
    })
    .pipe(traitsSchema),
});

/** The record in a container's labels; `undefined` when it isn't one of ours. */
export function toRecord(container: {
  id: string;
  name: string;
  image: string;
  state: ContainerState;
  labels: Readonly<Record<string, string>>;
}): SandboxRecord | undefined {
  const parsed = labelsSchema.safeParse(container.labels);
  if (!parsed.success || container.name !== containerName(parsed.data['sandyard.id'])) return undefined;
  const labels = parsed.data;
  return {
    ...labels['sandyard.traits'],
    id: labels['sandyard.id'],
    owner: labels[LABEL_OWNER],
    projectName: labels['sandyard.project'] ?? null,
    createdAt: labels['sandyard.created-at'],
    maxLifetimeMs: labels['sandyard.max-lifetime'],
    name: container.name,
    containerId: container.id,
    image: container.image,
    state: container.state,
  };
}

/** Reads and writes leases, and keeps what it last saw of each. */
export class LeaseStore {
  readonly #engine: Engine;
  readonly #known = new Map<string, Lease>();
  readonly #updates = new Map<string, Promise<void>>();

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** The lease as this manager last saw it. */
  known(record: SandboxRecord): Lease {
    return this.#known.get(record.id) ?? initialLease(record);
  }

  /** The lease as the sandbox carries it now. */
  async read(record: SandboxRecord, options: { signal?: AbortSignal | undefined } = {}): Promise<Lease> {
    const bytes = await this.#engine.readFile(record.name, `/${LEASE_FILE}`, options);
    const lease = (bytes === undefined ? undefined : parseLease(bytes)) ?? initialLease(record);
    this.#known.set(record.id, lease);
    return lease;
  }

  /**
   * Changes the lease: reads it, and writes what `change` makes of it. One change of a sandbox after the other, so that
   * none of this manager's is lost.
   */
  async update(
    record: SandboxRecord,
    change: (lease: Lease) => Lease,
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<void> {
    const before = this.#updates.get(record.id) ?? Promise.resolve();
    const update = before
      .catch(() => {}) // told to whoever made that change
      .then(async () => this.#write(record, change(await this.read(record, options))));
    this.#updates.set(record.id, update);
    try {
      await update;
    } finally {
      if (this.#updates.get(record.id) === update) this.#updates.delete(record.id);
    }
  }

  /** Not to be aborted: a lease that is cut off is none. */
  async #write(record: SandboxRecord, lease: Lease): Promise<void> {
    const tar = pack();
    tar.entry({ name: LEASE_DIRECTORY, type: 'directory', mode: 0o700, uid: 0, gid: 0 });
    tar.entry(
      { name: LEASE_FILE, mode: 0o600, uid: 0, gid: 0 },
      JSON.stringify({ expiresAt: lease.expiresAt.toISOString(), lastActiveAt: lease.lastActiveAt.toISOString() }),
    );
    tar.finalize();
    await this.#engine.putArchive(record.name, Readable.from(tar));
    this.#known.set(record.id, lease);
  }

  forget(id: string): void {
    this.#known.delete(id);
  }

  /** Forgets what isn't in `ids`. */
  keepOnly(ids: ReadonlySet<string>): void {
    for (const id of this.#known.keys()) if (!ids.has(id)) this.#known.delete(id);
  }
}

function initialLease(record: SandboxRecord): Lease {
  return { expiresAt: new Date(record.createdAt.getTime() + record.ttlMs), lastActiveAt: record.createdAt };
}

const leaseSchema = z.object({ expiresAt: z.coerce.date(), lastActiveAt: z.coerce.date() });

function parseLease(bytes: Uint8Array): Lease | undefined {
  try {
    return leaseSchema.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
  } catch {
    return undefined; // a write that was cut off; the lease of the creation stands
  }
}
