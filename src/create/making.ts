import pLimit from 'p-limit';

import type { Admission, Admitted } from './admission.js';
import type { Limits } from '../config.js';
import type { Creation } from './creation.js';
import type { CallOptions } from '../engine/engine.js';
import { isSandyardError, SandyardError } from '../errors.js';
import type { Inventory } from '../fleet/inventory.js';
import type { Isolating } from './isolating.js';
import type { LifecycleEvents } from '../fleet/lifecycle.js';
import type { Log } from '../log.js';
import { planSandbox, type SandboxPlan } from './plan.js';
import { giveUpOn } from '../process/giving-up.js';
import { claimedAs, type Claim, type MadeFor, type SandboxRecord } from '../record/record.js';
import { newSandboxId, type ParsedCreateOptions } from '../schemas.js';
import type { Telemetry } from '../telemetry.js';
import type { WarmSandboxes } from './warm-sandboxes.js';

/** How many records are read at once. */
const READERS = 8;

interface MakingParts {
  readonly admission: Admission;
  readonly warm: WarmSandboxes;
  readonly isolating: Isolating;
  readonly creation: Creation;
  readonly inventory: Inventory;
  /** All sandboxes of the owner. */
  readonly all: (options: CallOptions) => Promise<readonly SandboxRecord[]>;
  /** What a warm one was claimed as, by its record; `undefined` when nobody has claimed it. */
  readonly readClaim: (record: SandboxRecord) => Promise<Claim | undefined>;
  readonly isTaken: (record: SandboxRecord) => Promise<boolean>;
  readonly lifecycle: LifecycleEvents;
  readonly telemetry: Telemetry;
  readonly log: Log;
  readonly owner: string;
  readonly image: string;
  readonly limits: Limits;
}

export interface MakeOptions {
  readonly signal?: AbortSignal | undefined;
  /** The request that it is made for: repeated, it gets the same sandbox. */
  readonly madeFor?: MadeFor | undefined;
  /** Whose it is to be, unless it is to be the owner's own. */
  readonly tenant?: string | undefined;
}

/** Gives callers sandboxes: a warm one where there is one that does, else a new one, when it is its turn. */
export class Making {
  readonly #parts: MakingParts;
  /** Those that are being made for a request that may be repeated, by its key. */
  readonly #underWay = new Map<string, { content: string; made: Promise<SandboxRecord> }>();
  /** What this manager has given out. */
  readonly #made = new Set<string>();

  constructor(parts: MakingParts) {
    this.#parts = parts;
  }

  /** Whether this manager has made it. */
  has(id: string): boolean {
    return this.#made.has(id);
  }

  forget(id: string): void {
    this.#made.delete(id);
  }

  async make(given: ParsedCreateOptions, options: MakeOptions): Promise<SandboxRecord> {
    const { signal, madeFor } = options;
    if (madeFor === undefined) return this.#make(given, options);
    for (;;) {
      const known = this.#underWay.get(madeFor.key);
      if (known === undefined) break;
      checkContent(known.content, madeFor);
      try {
        return await (signal === undefined ? known.made : giveUpOn(known.made, signal));
      } catch (error) {
        // Whoever began it has given up; whoever repeats it hasn't.
        if (!isSandyardError(error, 'aborted') || signal?.aborted === true) throw error;
      }
    }
    const made = this.#makeOnce(given, { ...options, madeFor }).finally(() => this.#underWay.delete(madeFor.key));
    this.#underWay.set(madeFor.key, { content: madeFor.content, made });
    return made;
  }

  async #makeOnce(given: ParsedCreateOptions, options: MakeOptions & { madeFor: MadeFor }): Promise<SandboxRecord> {
    const { madeFor } = options;
    for (const record of await this.#readAll(options.signal)) {
      if (record.warm || record.madeFor?.key !== madeFor.key) continue;
      // One that its manager has left half-made is no answer: it will end by itself.
      if (!(await this.#parts.isTaken(record))) continue;
      checkContent(record.madeFor.content, madeFor);
      // Whoever claimed a warm one may have died before it had the limits it was asked for.
      if (record.pool !== null) await this.#parts.warm.setLimits(record);
      return record;
    }
    return this.#make(given, options);
  }

  /** All there are, and of the warm ones also what only their records say: whoever claimed one may have died right then. */
  async #readAll(signal: AbortSignal | undefined): Promise<SandboxRecord[]> {
    const { all, readClaim, log } = this.#parts;
    const limit = pLimit(READERS);
    const read = async (record: SandboxRecord): Promise<SandboxRecord> => {
      if (!record.warm || record.state !== 'running') return record;
      try {
        const claim = await readClaim(record);
        return claim === undefined ? record : claimedAs(record, claim);
      } catch (error) {
        log.debug({ sandbox: record.id, error }, 'could not read whether a warm sandbox was claimed');
        return record;
      }
    };
    const found = await all({ signal });
    return Promise.all(found.map((record) => limit(() => read(record))));
  }

  async #make(given: ParsedCreateOptions, { signal, madeFor, tenant }: MakeOptions): Promise<SandboxRecord> {
    const { isolating, owner, image, limits, telemetry, log } = this.#parts;
    const defaults = { id: newSandboxId(), owner, tenant, image, limits, madeFor };
    planSandbox(isolating.check(given), defaults); // what can be refused without the engine is
    const plan = planSandbox(await isolating.settle(given, { signal }), defaults);
    const began = performance.now();
    const seconds = () => (performance.now() - began) / 1000;
    let source: 'warm' | 'cold' = 'warm';
    try {
      let record = await this.#take(plan, { signal, madeFor });
      if (record === undefined) {
        source = 'cold';
        record = await this.#create(plan, signal);
      }
      telemetry.create({ source, status: 'ok', seconds: seconds() });
      const fields = {
        sandbox: record.id,
        owner,
        ...(tenant !== undefined && { tenant }),
        image: record.image,
        source,
        duration_ms: Math.round(seconds() * 1000),
      };
      log.info(fields, 'created a sandbox');
      return record;
    } catch (error) {
      const status = isSandyardError(error, 'aborted') ? 'aborted' : 'error';
      const refusal = isSandyardError(error) ? (error.details['ceiling'] ?? error.details['resource']) : undefined;
      if (refusal !== undefined) telemetry.rejected(String(refusal));
      telemetry.create({ source, status, seconds: seconds() });
      throw error;
    }
  }

  async #take(plan: SandboxPlan, { signal, madeFor }: MakeOptions): Promise<SandboxRecord | undefined> {
    const { admission, warm } = this.#parts;
    const kind = warm.kindFor(plan);
    if (kind === undefined) return undefined;
    const admitted = admission.admitClaim({ ...plan.traits.limits, tenant: plan.tenant ?? undefined });
    try {
      const record = await warm.take(kind, plan, { signal, madeFor });
      if (record !== undefined) this.#made.add(record.id); // before it is no longer reserved
      return record;
    } finally {
      admitted.release();
    }
  }

  async #create(plan: SandboxPlan, signal: AbortSignal | undefined): Promise<SandboxRecord> {
    const { admission, creation, inventory, lifecycle } = this.#parts;
    const wanted = { id: plan.id, ...plan.traits.limits, tenant: plan.tenant ?? undefined };
    const admitted: Admitted = await admission.enter(wanted, { signal });
    try {
      lifecycle.intend(plan.id, 'requested', ['created', 'started']);
      const record = await creation.make(plan, signal);
      this.#made.add(record.id); // before it is no longer reserved
      inventory.enter(record);
      return record;
    } finally {
      admitted.release();
    }
  }
}

function checkContent(content: string, madeFor: MadeFor): void {
  if (content === madeFor.content) return;
  throw new SandyardError('idempotency_mismatch', 'The idempotency key was used for a sandbox with other options.', {
    hint: 'Use a new key for each new sandbox, and the same only to repeat a request.',
  });
}
