import type { Limits } from '../config.js';
import type { CallOptions, Engine } from '../engine/engine.js';
import type { EngineFacts } from '../engine/facts.js';
import { removeOldTemporary } from '../engine/temporary.js';
import { SandyardError, type InputIssue } from '../errors.js';
import type { DiskMode, Profile } from '../isolation.js';
import { giveUpOn } from '../process/giving-up.js';
import type { ParsedCreateOptions } from '../schemas.js';

/*
 * How what a sandbox writes is bounded. By the engine's own quota where its storage driver has one, which is tried and not
 * guessed; by the sandbox's warden where its root is an overlay, which tells what the sandbox has written; both where both
 * can be had. Only the warden bounds the number of files.
 */

/** Drivers that lay what a container writes over its image, which stays as it is. */
const OVERLAYS: ReadonlySet<string> = new Set(['overlay', 'overlay2', 'overlayfs', 'fuse-overlayfs']);
/** The engine's configuration may change while a manager runs. */
const FRESH_MS = 10 * 60_000;

/** What an engine can do. */
export interface DiskBounding {
  readonly quota: boolean;
  readonly watched: boolean;
}

export function toDiskMode({ quota, watched }: DiskBounding): Exclude<DiskMode, 'memory'> {
  if (quota) return 'quota';
  return watched ? 'watchdog' : 'none';
}

/** By the name of the storage driver, and why a quota can't be had, which is `undefined` where it can. */
export function judgeBounding(storageDriver: string, quotaFault: string | undefined): DiskBounding {
  return { quota: quotaFault === undefined, watched: OVERLAYS.has(storageDriver) };
}

/** What an engine can do, tried once and then known for a while. */
export class DiskBounds {
  readonly #engine: Engine;
  readonly #facts: EngineFacts;
  /** Those that are under way, by the image they are made with: many may ask at once. */
  readonly #trials = new Map<string, Promise<DiskBounding>>();
  #known: { readonly bounding: DiskBounding; readonly until: number } | undefined;

  constructor(engine: Engine, facts: EngineFacts) {
    this.#engine = engine;
    this.#facts = facts;
  }

  /** Tries it with an image that the engine has. Throws `image_not_found`. */
  async read(image: string, { signal }: CallOptions = {}): Promise<DiskBounding> {
    if (this.#known !== undefined && this.#known.until > performance.now()) return this.#known.bounding;
    const trial = this.#trials.get(image) ?? this.#begin(image);
    return signal === undefined ? trial : giveUpOn(trial, signal);
  }

  #begin(image: string): Promise<DiskBounding> {
    const trial = this.#try(image).finally(() => this.#trials.delete(image));
    this.#trials.set(image, trial);
    return trial;
  }

  /** Goes on when one of those who wait for it gives up. */
  async #try(image: string): Promise<DiskBounding> {
    const [{ storageDriver }, fault] = await Promise.all([this.#facts.read(), this.#engine.tryDiskQuota(image)]);
    const bounding = judgeBounding(storageDriver, fault);
    // Where there are no quotas nothing was made.
    if (bounding.quota) await removeOldTemporary(this.#engine);
    this.#known = { bounding, until: performance.now() + FRESH_MS };
    return bounding;
  }
}

interface BoundsOf {
  readonly profile: Profile;
  /** `undefined` where that isn't known yet: then as if all could be had. */
  readonly bounding: DiskBounding | undefined;
  readonly limits: Limits;
}

interface DiskTraits {
  readonly mode: DiskMode;
  readonly diskBytes: number | null;
  readonly inodes: number | null;
}

/** How much a sandbox may write. Throws `validation_failed` for a bound that can't be had: none is promised. */
export function boundDisk(
  { diskLimit, inodesLimit }: Pick<ParsedCreateOptions, 'diskLimit' | 'inodesLimit'>,
  { profile, bounding = { quota: true, watched: true }, limits }: BoundsOf,
): DiskTraits {
  const mode = profile === 'strict' ? 'memory' : toDiskMode(bounding);
  const isBounded = mode === 'quota' || mode === 'watchdog';
  const countsFiles = mode !== 'memory' && bounding.watched;
  const why = mode === 'memory' ? IN_MEMORY : NO_MEANS;
  const faults = [
    ...(diskLimit !== undefined && !isBounded ? [{ path: ['diskLimit'], message: why }] : []),
    ...(inodesLimit !== undefined && !countsFiles ? [{ path: ['inodesLimit'], message: why }] : []),
  ];
  if (faults.length > 0) throw cantBeHad(faults, mode);
  return {
    mode,
    diskBytes: isBounded ? (diskLimit ?? Math.min(limits.diskBytes, limits.maxDiskBytes)) : null,
    inodes: countsFiles ? (inodesLimit ?? Math.min(limits.inodes, limits.maxInodes)) : null,
  };
}

const IN_MEMORY = 'goes by the memory with the profile "strict", whose files are there';
const NO_MEANS = "can't be had: the storage driver of the engine has no means for it";

function cantBeHad(issues: readonly InputIssue[], mode: DiskMode): SandyardError {
  const [first] = issues;
  return new SandyardError(
    'validation_failed',
    `Invalid create options: ${first?.path.join('.')}: ${first?.message}.`,
    {
      hint:
        mode === 'memory'
          ? 'Ask for more memory, or for another profile.'
          : 'Leave it out, or keep the data of the engine on a disk that has quotas; `sandyard doctor` tells what it has.',
      issues: [...issues],
    },
  );
}
