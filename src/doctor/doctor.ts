import type { Limits } from '../config.js';
import type { CallOptions, Engine, ImageInfo } from '../engine/engine.js';
import { removeOldTemporary } from '../engine/temporary.js';
import { isSandyardError, SandyardError } from '../errors.js';
import { giveUpOn } from '../process/giving-up.js';
import { PROTOCOL_VERSION, WARDEN_LABEL, type WardenDelivery } from '../warden.js';
import { checkEngine, checkImage, checkQuota, checkRuntimes, toCheck, type DoctorCheck } from './checks.js';
import { tryRuntime, type RuntimeTrial } from './trials.js';

/** What an engine can and can't enforce, found out and, where it can be, tried. */
export interface Diagnosis {
  readonly at: Date;
  /** Whether nothing fails; there may be warnings. */
  readonly ok: boolean;
  readonly checks: readonly DoctorCheck[];
}

interface DoctorParts {
  readonly engine: Engine;
  readonly warden: WardenDelivery;
  readonly image: string;
  readonly limits: Limits;
}

interface Examination {
  readonly diagnosis: Promise<Diagnosis>;
  readonly abort: AbortController;
  waiting: number;
}

/** Looks at one engine, once at a time: who asks meanwhile gets what is being found out, and costs it nothing more. */
export class Doctor {
  readonly #parts: DoctorParts;
  #underWay: Examination | undefined;

  constructor(parts: DoctorParts) {
    this.#parts = parts;
  }

  /**
   * Makes and removes a container for each runtime, and one that is never started. Throws `aborted` only, and what it has
   * made is gone then, too.
   */
  async diagnose({ signal }: CallOptions): Promise<Diagnosis> {
    const examination = (this.#underWay ??= this.#begin());
    examination.waiting += 1;
    const { diagnosis, abort } = examination;
    try {
      return await (signal === undefined ? diagnosis : giveUpOn(diagnosis, signal));
    } finally {
      examination.waiting -= 1;
      if (examination.waiting === 0) {
        this.#underWay = undefined;
        abort.abort();
        await diagnosis.catch(() => {});
      }
    }
  }

  #begin(): Examination {
    const abort = new AbortController();
    const diagnosis = examine(this.#parts, { signal: abort.signal })
      .catch((error: unknown) => [noEngine(error)])
      .then((checks) => ({ at: new Date(), ok: isHealthy(checks), checks }));
    return { diagnosis, abort, waiting: 0 };
  }
}

export function isHealthy(checks: readonly DoctorCheck[]): boolean {
  return checks.every(({ severity }) => severity !== 'fail');
}

async function examine({ engine, warden, image, limits }: DoctorParts, { signal }: CallOptions) {
  const examination = await engine.examine({ signal });
  const found = await findImage(engine, image, { signal });
  const protocol = found === undefined ? undefined : (found.labels[WARDEN_LABEL] ?? null);
  const checks = [...checkEngine(examination), checkImage(image, { protocol, expected: PROTOCOL_VERSION })];
  if (found === undefined) return checks; // and nothing can be tried without
  await removeOldTemporary(engine, { signal });
  const volume = await warden.volumeFor(found).catch(unlessAborted);
  const trials: RuntimeTrial[] = [];
  // One after the other: they are timed.
  for (const runtime of examination.runtimes) {
    trials.push(await tryRuntime({ engine, image, limits, found, volume }, runtime, { signal }));
  }
  const fault = await engine.tryDiskQuota(image, { signal });
  return [...checks, ...checkRuntimes(trials, examination), checkQuota(fault, examination.storageDriver)];
}

async function findImage(engine: Engine, image: string, { signal }: CallOptions): Promise<ImageInfo | undefined> {
  try {
    return await engine.inspectImage(image, { signal });
  } catch (error) {
    if (isSandyardError(error, 'image_not_found')) return undefined;
    throw error;
  }
}

/** Without a warden the trials say what is missing. */
function unlessAborted(error: unknown): undefined {
  if (isSandyardError(error, 'image_not_found')) return undefined;
  throw error;
}

function noEngine(error: unknown): DoctorCheck {
  if (!(error instanceof SandyardError) || error.code === 'aborted' || error.code === 'manager_closed') throw error;
  return toCheck('engine', {
    expected: 'answers',
    found: error.message,
    ok: false,
    otherwise: 'fail',
    fix: error.hint ?? 'See the log of the engine.',
  });
}
