import { ANSWER_MS, holds, readRecord, within, writeClaim, type Wanted } from './claiming.js';
import type { SandboxConnections } from '../connections.js';
import { withContext } from '../context.js';
import { Filling, type PoolKind } from './filling.js';
import type { Inventory } from '../fleet/inventory.js';
import type { SeenRecord } from '../fleet/records.js';
import type { Log } from '../log.js';
import type { EngineClock } from '../record/engine-clock.js';
import { claimedAs, decodeClaim, DISCARDED, encodeClaim, type Claim, type SandboxRecord } from '../record/record.js';
import type { Telemetry } from '../telemetry.js';

/** Long enough for a manager to be restarted, short enough for what a dead one leaves to be gone soon. */
export const POOL_LEASE_MS = 10 * 60_000;
const TICK_MS = 1000;
/** Much less than it takes to make one. */
const FINISH_AFTER_MS = 5;
/** Renewed when there is less left than that. */
const RENEW_BELOW_MS = (2 * POOL_LEASE_MS) / 3;
/** Whoever has got one is about to use it, which the engine's work on the name would slow down. */
const RENAME_AFTER_MS = 100;
/**
 * The same for one that another manager has claimed, and then hasn't done it: an engine may half remove what two change
 * at once.
 */
const RENAME_OTHERS_AFTER_MS = 3000;
/**
 * How old one is when a manager that hasn't made it makes itself a way in, which costs the engine half as much as a start: most
 * are claimed by their maker before that.
 */
const ENTERED_AT_MS = 5000;
const DOES_NOT_ANSWER = 'a warm sandbox does not answer';
/** What is done for the pool, whoever's claim has brought it about. */
const ON_NOBODYS_BEHALF = { actor: 'pool', requestId: undefined, traceId: undefined, spanId: undefined };

interface PoolParts {
  readonly inventory: Inventory;
  readonly connections: SandboxConnections;
  readonly clock: EngineClock;
  readonly log: Log;
  readonly telemetry: Telemetry;
  /** Reads the record of one, without the engine making a way into it unless it takes one. */
  readonly look: (record: SandboxRecord) => Promise<SeenRecord | undefined>;
  /** The kinds that are to be kept, as they are now: another image under the same name is another kind. */
  readonly kinds: () => Promise<readonly PoolKind[]>;
  /** Makes one, ready and with the pool's lease; `undefined` when there is no room for it now. */
  readonly make: (kind: PoolKind, signal: AbortSignal) => Promise<SandboxRecord | undefined>;
  readonly remove: (record: SandboxRecord) => Promise<void>;
  readonly claimed: (id: string) => void;
  /** Called with one that was claimed, in the background: gives it the name of a claimed one. */
  readonly rename: (record: SandboxRecord) => Promise<void>;
}

/** A warm sandbox that can be claimed, as last seen. */
interface Seen {
  /** Of its record. */
  readonly version: bigint;
  readonly renewAt: number;
}

/** One that can't be claimed yet, as last seen. */
interface Unfit {
  readonly since: number;
  readonly lookAt: number;
}

/**
 * Warm sandboxes: made before anybody asks. All managers of an owner share those of the same kind. Which manager gets one
 * is decided by its warden: a claim is written to its record, if that is still as it was, before it is answered; so a claim
 * outlives the manager that made it, and there is never a second one. One that was claimed never comes back.
 */
export class Pool {
  readonly #parts: PoolParts;
  /** By id. */
  readonly #seen = new Map<string, Seen>();
  /** By id. Most soon can be claimed; those whose maker was killed never can, and end minutes later. */
  readonly #unfit = new Map<string, Unfit>();
  /** Those that this manager is claiming or removing, or of which it doesn't know whether it has claimed them. */
  readonly #taken = new Set<string>();
  readonly #own = new Set<string>();
  readonly #claiming = new Set<Promise<unknown>>();
  /** Those that were claimed and have their old name, and what gives them the new one. */
  readonly #unnamed = new Map<SandboxRecord, NodeJS.Timeout | undefined>();
  readonly #filling: Filling;
  #kinds: readonly PoolKind[] = [];
  #closed = false;
  #troubled = false;
  #timer: NodeJS.Timeout | undefined;
  #finishing: NodeJS.Timeout | undefined;
  #ticking: Promise<void> | undefined;

  constructor(parts: PoolParts) {
    this.#parts = parts;
    this.#filling = new Filling({
      log: parts.log,
      make: parts.make,
      ready: (key) => this.#members(key).length,
      made: (record) => this.#enter(record),
      done: () => this.#makeMissing(),
    });
  }

  get filling(): number {
    return this.#filling.size;
  }

  /** How many can be claimed at once: there is a way in. */
  get ready(): number {
    const { connections } = this.#parts;
    return this.#kinds.reduce(
      (sum, { key }) => sum + this.#members(key).filter(({ id }) => connections.isOpen(id)).length,
      0,
    );
  }

  start(): void {
    if (this.#closed) return;
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS).unref();
    this.#tick();
  }

  /** Stops filling, and removes what this manager has made and nobody has claimed. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    clearTimeout(this.#finishing);
    await Promise.allSettled([this.#filling.close(), this.#ticking, ...this.#claiming]);
    await Promise.all([...this.#unnamed.keys()].map((claimed) => this.#rename(claimed)));
    await Promise.all([...this.#own].map((id) => this.#discard(id)));
  }

  /** A warm sandbox that is now what `claim` says; `undefined` when there is none. */
  async claim(key: string, claim: Claim): Promise<SandboxRecord | undefined> {
    const blob = encodeClaim(claim);
    if (blob === undefined) return undefined;
    this.#filling.asked(key);
    const claiming = this.#claimOne(key, { claim, blob });
    this.#claiming.add(claiming);
    try {
      const record = await claiming;
      if (record === undefined) this.#parts.telemetry.claim('empty');
      return record;
    } finally {
      this.#claiming.delete(claiming);
      this.#finishSoon();
    }
  }

  async #claimOne(key: string, wanted: Wanted): Promise<SandboxRecord | undefined> {
    const { inventory, connections, telemetry, claimed } = this.#parts;
    if (!inventory.live) return undefined;
    const until = performance.now() + ANSWER_MS;
    // Its own first: two managers that claim at once are seldom in each other's way then.
    const [own, others] = partition(this.#members(key), ({ id }) => this.#own.has(id));
    const [open, closed] = partition(others, ({ id }) => connections.isOpen(id));
    for (const { id } of [...own, ...open, ...closed]) {
      const [record, seen] = [inventory.find(id), this.#seen.get(id)];
      const leftMs = until - performance.now();
      if (leftMs <= 0 || this.#closed) return undefined;
      // Another claim may have had it while this one waited: only a version seen without a claim may be claimed.
      if (record?.warm !== true || seen === undefined || this.#taken.has(id)) continue;
      this.#taken.add(id);
      const result = await this.#tryClaim(record, { ...wanted, version: seen.version }, leftMs);
      telemetry.claim(result);
      this.#seen.delete(id);
      if (result === 'lost') this.#taken.delete(id); // the next look tells who has it
      if (result !== 'claimed') continue;
      this.#own.delete(id);
      const given = claimedAs(inventory.find(id) ?? record, wanted.claim);
      claimed(id);
      connections.update(given);
      inventory.enter(given);
      this.#unnamed.set(given, undefined);
      return given;
    }
    return undefined;
  }

  /** Those that can be claimed. */
  #members(key: string): SandboxRecord[] {
    return this.#parts.inventory
      .now()
      .filter(({ warm, pool, state, id }) => warm && pool === key && state === 'running' && this.#seen.has(id))
      .filter(({ id }) => !this.#taken.has(id));
  }

  async #tryClaim(
    record: SandboxRecord,
    wanted: Wanted & { version: bigint },
    ms: number,
  ): Promise<'claimed' | 'lost' | 'unfit'> {
    let late = false;
    const held = this.#parts.connections.hold(record);
    const writing = writeClaim(held.channel, { ...wanted, isLate: () => late });
    try {
      return await within(writing, ms);
    } catch (error) {
      late = true;
      this.#parts.log.warn({ sandbox: record.id, error }, 'a warm sandbox could not be claimed');
      void this.#clearUp(record, wanted.blob, writing);
      return 'unfit';
    } finally {
      held.release();
    }
  }

  /**
   * Of a claim that nobody waits for any more, finds out whether it was made. One that was is of no use to anybody: it has
   * been given to nobody, and nobody else can have it. Where that can't be found out it is left to its lease.
   */
  async #clearUp(record: SandboxRecord, blob: Uint8Array, writing: Promise<unknown>): Promise<void> {
    await Promise.allSettled([writing]);
    try {
      const now = await readRecord(this.#parts.connections, record);
      if (holds(now, blob)) await this.#parts.remove(record);
      else this.#taken.delete(record.id);
    } catch (error) {
      this.#parts.log.debug({ sandbox: record.id, error }, 'a warm sandbox that does not answer is left to its lease');
    }
  }

  #tick(): void {
    if (this.#closed) return;
    this.#ticking ??= withContext(ON_NOBODYS_BEHALF, () => this.#look())
      .then(
        () => (this.#troubled = false),
        (error: unknown) => this.#tellTrouble(error),
      )
      .finally(() => (this.#ticking = undefined))
      .then(() => {});
  }

  /** Once, however often it fails in a row. */
  #tellTrouble(error: unknown): void {
    const level = this.#troubled ? 'debug' : 'warn';
    this.#troubled = true;
    this.#parts.log[level]({ error }, 'could not look after the warm sandboxes; will again');
  }

  async #look(): Promise<void> {
    const { inventory, kinds } = this.#parts;
    if (!inventory.live) return;
    this.#kinds = await kinds();
    const there = inventory.now().filter(({ warm, state }) => warm && state === 'running');
    const ids = new Set(there.map(({ id }) => id));
    for (const known of [this.#seen, this.#unfit, this.#taken, this.#own]) forgetOthers(known, ids);
    await Promise.all(there.map((record) => this.#lookAfter(record)));
    this.#makeMissing();
  }

  /** What needs doing after a claim: once for all at the same time, and not before they have begun to use what they got. */
  #finishSoon(): void {
    if (this.#closed) return;
    this.#finishing ??= setTimeout(() => {
      this.#finishing = undefined;
      for (const [claimed, timer] of this.#unnamed) if (timer === undefined) this.#renameIn(RENAME_AFTER_MS, claimed);
      this.#makeMissing();
    }, FINISH_AFTER_MS).unref();
  }

  #makeMissing(): void {
    if (!this.#closed) withContext(ON_NOBODYS_BEHALF, () => this.#filling.makeMissing(this.#kinds));
  }

  async #lookAfter(record: SandboxRecord): Promise<void> {
    const { id, pool } = record;
    if (this.#taken.has(id) || this.#closed) return;
    const kind = this.#kinds.find(({ key }) => key === pool);
    if (kind === undefined) {
      if (this.#own.has(id)) await this.#discard(id);
      return;
    }
    if (!this.#seen.has(id) && this.#isTimeToLook(id)) await this.#adopt(record);
    const seen = this.#seen.get(id);
    if (seen === undefined) return;
    const isSurplus = this.#members(kind.key).length > this.#filling.target(kind);
    if (seen.renewAt <= performance.now() && !isSurplus) await this.#renew(record, seen.version);
    else await this.#enterAged(record);
  }

  /** The longer one hasn't been fit to be claimed, the less often it is looked at. */
  #isTimeToLook(id: string): boolean {
    return (this.#unfit.get(id)?.lookAt ?? 0) <= performance.now();
  }

  #noteUnfit(id: string): void {
    const now = performance.now();
    const since = this.#unfit.get(id)?.since ?? now;
    this.#unfit.set(id, { since, lookAt: now + Math.max(TICK_MS / 2, now - since) });
  }

  async #enterAged(record: SandboxRecord): Promise<void> {
    const { connections, clock, log } = this.#parts;
    const ageMs = clock.now().getTime() - record.agesFrom.getTime();
    if (connections.isOpen(record.id) || ageMs < ENTERED_AT_MS) return;
    const held = connections.hold(record);
    try {
      await within(held.channel.open());
    } catch (error) {
      log.debug({ sandbox: record.id, error }, DOES_NOT_ANSWER);
    } finally {
      held.release();
    }
  }

  /** Takes in one that this manager has made. */
  async #enter(record: SandboxRecord): Promise<void> {
    this.#own.add(record.id);
    this.#parts.inventory.enter(record);
    await this.#adopt(record);
  }

  /** Gets to know one, whoever made it. One that turns out to be claimed is helped to its name. */
  async #adopt(record: SandboxRecord): Promise<void> {
    this.#noteUnfit(record.id);
    try {
      const found = await within(this.#parts.look(record));
      if (found === undefined) return;
      const { version, blob, taken, leaseLeftMs } = found;
      const claim = decodeClaim(blob);
      if (claim !== undefined) {
        const claimed = claimedAs(this.#parts.inventory.find(record.id) ?? record, claim);
        this.#parts.inventory.enter(claimed);
        this.#renameIn(RENAME_OTHERS_AFTER_MS, claimed);
      } else if (blob.length === 0 && taken) {
        // Until it is taken, its maker is at it yet, and would set the lease that a claim has been given.
        this.#seen.set(record.id, { version, renewAt: renewalOf(leaseLeftMs) });
        this.#unfit.delete(record.id);
      }
    } catch (error) {
      this.#parts.log.debug({ sandbox: record.id, error }, DOES_NOT_ANSWER);
    }
  }

  async #renew(record: SandboxRecord, version: bigint): Promise<void> {
    const held = this.#parts.connections.hold(record);
    try {
      const renewed = await within(held.channel.setRecord({ version, ttlMs: POOL_LEASE_MS }));
      this.#seen.set(record.id, { version: renewed.version, renewAt: renewalOf(renewed.leaseLeftMs) });
    } catch {
      // Renewed or claimed by somebody else; or gone. Until that is known, it isn't one that is missing.
      this.#seen.delete(record.id);
      if (!this.#taken.has(record.id)) await this.#adopt(record);
    } finally {
      held.release();
    }
  }

  /** Removes one, unless somebody has claimed it: it is taken as if for a claim, and ends by itself if we don't get further. */
  async #discard(id: string): Promise<void> {
    const { inventory, connections, remove, log } = this.#parts;
    const record = inventory.find(id);
    this.#own.delete(id);
    if (record?.warm !== true || this.#taken.has(id)) return;
    this.#taken.add(id);
    try {
      const { version, blob } = await readRecord(this.#parts.connections, record);
      if (blob.length > 0) return void this.#taken.delete(id); // the next look tells who has it
      const held = connections.hold(record);
      await within(held.channel.setRecord({ version, ttlMs: 1, blob: DISCARDED })).finally(() => held.release());
      await remove(record);
    } catch (error) {
      log.debug({ sandbox: id, error }, 'a warm sandbox that is no longer needed is left to its lease');
    }
  }

  #renameIn(ms: number, claimed: SandboxRecord): void {
    this.#unnamed.set(
      claimed,
      setTimeout(() => void this.#rename(claimed), ms),
    );
  }

  async #rename(claimed: SandboxRecord): Promise<void> {
    clearTimeout(this.#unnamed.get(claimed));
    this.#unnamed.delete(claimed);
    if (this.#parts.inventory.find(claimed.id) === undefined) return;
    try {
      await this.#parts.rename(claimed);
    } catch (error) {
      this.#parts.log.debug({ sandbox: claimed.id, error }, 'a claimed sandbox has its old name yet');
    }
  }
}

function partition<T>(all: readonly T[], belongs: (one: T) => boolean): [T[], T[]] {
  const parts: [T[], T[]] = [[], []];
  for (const one of all) parts[belongs(one) ? 0 : 1].push(one);
  return parts;
}

function renewalOf(leaseLeftMs: number | null): number {
  return performance.now() + (leaseLeftMs === null ? 0 : leaseLeftMs - RENEW_BELOW_MS);
}

function forgetOthers(
  known: { keys(): Iterable<string>; delete(id: string): boolean },
  ids: ReadonlySet<string>,
): void {
  for (const id of known.keys()) if (!ids.has(id)) known.delete(id);
}
