import { z } from 'zod';

import type { ContainerState } from './engine/engine.js';

/*
 * What is remembered of a sandbox, and where. Docker is the registry: what never changes is in the container's labels.
 * The lease changes, and labels can't: the warden keeps it, in the sandbox, where only root can read or write it, and so
 * it outlives every manager.
 */

const LABEL_MANAGED = 'sandyard.managed';
const LABEL_OWNER = 'sandyard.owner';

const NAME_PREFIX = 'sandyard-';

const traitsSchema = z.object({
  limits: z.object({ memoryBytes: z.number(), cpus: z.number(), pids: z.number(), nofile: z.number() }),
  network: z.enum(['none', 'bridge']),
  workdir: z.string(),
  user: z.string(),
  ttlMs: z.number(),
  idleTimeoutMs: z.number().nullable(),
  /** `null`: the engine's own default. */
  runtime: z.string().nullable().default(null),
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

const ANSWER_MS = 1000;

/** When leases end, as far as this manager has seen: a sandbox that doesn't run can't be asked, and a list doesn't ask. */
export class KnownLeases {
  readonly #ends = new Map<string, Date>();

  /** As it was last seen; at first, as the sandbox was created with. */
  endOf(record: SandboxRecord): Date {
    return this.#ends.get(record.id) ?? new Date(record.createdAt.getTime() + record.ttlMs);
  }

  /** Notes how much is left of a lease, as its sandbox says: to the second, for that is how long the answer may take. */
  see(record: SandboxRecord, leftMs: number): void {
    const end = new Date(Date.now() + leftMs);
    if (Math.abs(end.getTime() - this.endOf(record).getTime()) >= ANSWER_MS) this.#ends.set(record.id, end);
  }

  /** Notes that a lease was renewed. */
  renew(id: string, leftMs: number): Date {
    const end = new Date(Date.now() + leftMs);
    this.#ends.set(id, end);
    return end;
  }

  forget(id: string): void {
    this.#ends.delete(id);
  }

  /** Forgets what isn't in `ids`. */
  keepOnly(ids: ReadonlySet<string>): void {
    for (const id of this.#ends.keys()) if (!ids.has(id)) this.#ends.delete(id);
  }
}
