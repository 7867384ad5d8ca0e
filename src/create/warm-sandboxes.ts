import { createHash } from 'node:crypto';
import { nanoid } from 'nanoid';

import type { Limits } from '../config.js';
import type { SandboxConnections } from '../connections.js';
import { throwIfAborted, type Creation } from './creation.js';
import type { EngineClock } from '../record/engine-clock.js';
import { toShmBytes } from '../engine/container-spec.js';
import type { CallOptions, Engine } from '../engine/engine.js';
import { isSandyardError, SandyardError } from '../errors.js';
import type { Inventory } from '../fleet/inventory.js';
import type { SeenRecord } from '../fleet/records.js';
import type { Log } from '../log.js';
import { planSandbox, type SandboxPlan } from './plan.js';
import type { PoolKind } from './filling.js';
import { toPidsLimit, type Isolating, type SettledOptions } from './isolating.js';
import { Pool, POOL_LEASE_MS } from './pool.js';
import type { Claim, MadeFor, SandboxRecord, SandboxTraits } from '../record/record.js';
import {
  createOptionsSchema,
  newSandboxId,
  parseInput,
  type CreateOptions,
  type ParsedCreateOptions,
} from '../schemas.js';
import type { Telemetry } from '../telemetry.js';

/** A kind of sandbox that is kept warm, and how many of it. */
export interface PoolOptions extends Pick<
  CreateOptions,
  | 'image'
  | 'memoryLimit'
  | 'cpuLimit'
  | 'pidsLimit'
  | 'nofileLimit'
  | 'diskLimit'
  | 'inodesLimit'
  | 'network'
  | 'runtime'
  | 'user'
  | 'workdir'
  | 'profile'
> {
  /** How many are ready when nobody asks for any. */
  readonly size: number;
  /** How many are kept ready at the most while many are asked for. Default: `size`. */
  readonly max?: number | undefined;
}

/** Whoever claims one would have the use of its secrets. */
const poolOptionsSchema = createOptionsSchema.omit({ secrets: true });

interface WantedKind extends Omit<PoolKind, 'key'> {
  readonly given: ParsedCreateOptions;
}

/** A kind as it is now: of the image that its name leads to. */
export interface WarmKind extends PoolKind {
  readonly image: string;
  readonly traits: SandboxTraits;
  /** What all of it have in common, and can't be given later. */
  readonly made: string;
  readonly options: SettledOptions;
}

interface WarmParts {
  readonly engine: Engine;
  readonly inventory: Inventory;
  readonly connections: SandboxConnections;
  readonly isolating: Isolating;
  readonly creation: Creation;
  readonly clock: EngineClock;
  readonly log: Log;
  readonly telemetry: Telemetry;
  readonly owner: string;
  readonly image: string;
  readonly limits: Limits;
  readonly pools: readonly PoolOptions[];
  /** Reads the record of one, without the engine making a way into it unless it takes one. */
  readonly look: (record: SandboxRecord) => Promise<SeenRecord | undefined>;
  /** Runs `make` when there is room for another sandbox that nobody waits for; `undefined` when there is none. */
  readonly whenThereIsRoom: <T>(limits: SandboxTraits['limits'], make: () => Promise<T>) => Promise<T | undefined>;
  readonly remove: (record: SandboxRecord) => Promise<void>;
  /** Called before it is known that a caller has got one. */
  readonly claimed: (id: string) => void;
}

/** The warm sandboxes that a manager keeps, and which of them does for whom. */
export class WarmSandboxes {
  readonly #parts: WarmParts;
  readonly #pool: Pool;
  readonly #wanted: readonly WantedKind[];
  /** Images and runtimes that are not there, as is known. */
  readonly #missing = new Set<string>();
  #kinds: readonly WarmKind[] = [];

  /** Throws `validation_failed` and `limit_exceeded` for options that no sandbox can be made with. */
  constructor(parts: WarmParts) {
    const { engine, isolating, owner, image: defaultImage, limits } = parts;
    this.#parts = parts;
    this.#wanted = parts.pools.map(({ size, max = size, ...options }) => {
      const given = isolating.check(parseInput(poolOptionsSchema, options, 'pool options'));
      if (given.profile === 'dev') throw claimsCanBeForged();
      planSandbox(given, { id: '', owner, image: defaultImage, limits });
      return { min: size, max: Math.max(size, max), given };
    });
    this.#pool = new Pool({
      ...parts,
      kinds: () => this.#findKinds(),
      make: (kind, signal) => this.#make(kind, signal),
      rename: (record) => engine.renameContainer(record.containerId, record.name),
    });
  }

  get ready(): number {
    return this.#pool.ready;
  }

  get filling(): number {
    return this.#pool.filling;
  }

  start(): void {
    if (this.#parts.pools.length > 0) this.#pool.start();
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }

  /** The kind that it can be made of, where there is one. */
  kindFor({ image, traits, hasOwnLabels, secrets }: SandboxPlan): WarmKind | undefined {
    if (hasOwnLabels || secrets.length > 0) return undefined; // neither can be given later
    const made = immutable(traits);
    const fit = this.#kinds.filter(
      (kind) => kind.image === image && kind.made === made && fitsInMemory(kind.traits, traits),
    );
    return fit.find((kind) => sameLimits(kind.traits, traits)) ?? fit[0];
  }

  /** A warm sandbox of a kind that is made what was planned; `undefined` when there is none. */
  async take(
    kind: WarmKind,
    plan: SandboxPlan,
    { signal, madeFor }: CallOptions & { madeFor?: MadeFor | undefined },
  ): Promise<SandboxRecord | undefined> {
    throwIfAborted(signal);
    const { limits, ttlMs, idleTimeoutMs, onExpiry, wakeOnUse, metadata } = plan.traits;
    const claim: Claim = {
      limits,
      ttlMs,
      idleTimeoutMs,
      onExpiry,
      wakeOnUse,
      metadata,
      projectName: plan.projectName,
      env: plan.env,
      maxLifetimeMs: plan.maxLifetimeMs,
      createdAt: new Date(),
      agesFrom: this.#parts.clock.now(),
      madeFor: madeFor ?? null,
      tenant: plan.tenant,
      token: nanoid(),
    };
    const record = await this.#pool.claim(kind.key, claim);
    if (record === undefined) return undefined;
    const fits = sameLimits(kind.traits, plan.traits) || (await this.#resize(record));
    if (fits && signal?.aborted !== true) return record;
    await this.#remove(record);
    throwIfAborted(signal);
    return undefined;
  }

  /** Has the engine hold one that was claimed to the limits it was claimed with. */
  async setLimits({ containerId, limits, runtime }: SandboxRecord): Promise<void> {
    const pids = toPidsLimit(limits.pids, runtime);
    await this.#parts.engine.updateContainer(containerId, { ...limits, pids });
  }

  async #resize(record: SandboxRecord): Promise<boolean> {
    const { log } = this.#parts;
    try {
      await this.setLimits(record);
      return true;
    } catch (error) {
      log.warn({ sandbox: record.id, error }, 'a warm sandbox could not be given other limits, and is removed');
      return false;
    }
  }

  /** One that was claimed, and that nobody gets. */
  async #remove(record: SandboxRecord): Promise<void> {
    const { remove, log } = this.#parts;
    try {
      await remove(record);
    } catch (error) {
      log.error({ sandbox: record.id, error }, 'could not remove a claimed sandbox that nobody has; its lease will');
    }
  }

  /** Looks at the images anew: what is now another image makes another kind. One without its image is none now. */
  async #findKinds(): Promise<readonly WarmKind[]> {
    const found = await Promise.all(this.#wanted.map((kind) => this.#findKind(kind)));
    this.#kinds = found.filter((kind) => kind !== undefined);
    return this.#kinds;
  }

  async #findKind({ given, min, max }: WantedKind): Promise<WarmKind | undefined> {
    const { engine, log, isolating, owner, image: defaultImage, limits } = this.#parts;
    const wanted = given.image ?? defaultImage;
    const about = JSON.stringify([wanted, given.runtime]);
    try {
      const options = await isolating.settle(given);
      const { image, traits } = planSandbox(options, { id: '', owner, image: defaultImage, limits });
      const { id } = await engine.inspectImage(image);
      this.#missing.delete(about);
      const made = immutable(traits);
      return { min, max, image, traits, made, options, key: hash([id, made, traits.limits]) };
    } catch (error) {
      const isMissing = ['image_not_found', 'validation_failed', 'forbidden'] as const;
      if (!isMissing.some((code) => isSandyardError(error, code))) throw error;
      if (!this.#missing.has(about))
        log.warn({ image: wanted, error }, 'no sandboxes are kept warm of an image or runtime that is not there');
      this.#missing.add(about);
      return undefined;
    }
  }

  #make({ key }: PoolKind, signal: AbortSignal): Promise<SandboxRecord | undefined> {
    const kind = this.#kinds.find((found) => found.key === key);
    if (kind === undefined) return Promise.resolve(undefined);
    const { owner, limits, image, creation, whenThereIsRoom } = this.#parts;
    const given = { ...kind.options, ttlMs: POOL_LEASE_MS };
    const wide = { ...limits, maxLifetimeMs: Math.max(limits.maxLifetimeMs, POOL_LEASE_MS) };
    const plan = planSandbox(given, { id: newSandboxId(), owner, image, limits: wide, pool: key });
    return whenThereIsRoom(plan.traits.limits, () => creation.make(plan, signal));
  }
}

/** What of a sandbox can't be changed when it is claimed. */
function immutable({ network, workdir, user, runtime, profile, disk, limits }: SandboxTraits): string {
  const { nofile, diskBytes, inodes } = limits;
  // What is in memory has sizes that go by the memory there is to be.
  const memoryBytes = profile === 'strict' ? limits.memoryBytes : null;
  return JSON.stringify([network, workdir, user, runtime, profile, disk, nofile, diskBytes, inodes, memoryBytes]);
}

/** Its /dev/shm stays as it is, and must not be able to take more of the memory than that of a new one. */
function fitsInMemory(made: SandboxTraits, wanted: SandboxTraits): boolean {
  return toShmBytes(made.limits.memoryBytes) <= toShmBytes(wanted.limits.memoryBytes);
}

/** What it was claimed as is in its record, and that is root's. */
function claimsCanBeForged(): SandyardError {
  return new SandyardError('validation_failed', 'Invalid pool options: profile: "dev" can not be kept warm.', {
    hint: 'Keep "standard" or "strict" ones warm; those with "dev" are made when they are asked for.',
    issues: [{ path: ['profile'], message: 'can not be "dev"' }],
  });
}

function sameLimits(a: SandboxTraits, b: SandboxTraits): boolean {
  return (
    a.limits.memoryBytes === b.limits.memoryBytes && a.limits.cpus === b.limits.cpus && a.limits.pids === b.limits.pids
  );
}

function hash(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 16);
}
