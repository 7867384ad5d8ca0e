import { findExcess, hasCeilings, toCeilingError, type Promised, type Used } from './ceilings.js';
import type { AdmissionSettings } from '../config.js';
import { SandyardError } from '../errors.js';
import { findShortage, type HostRoom } from './host-room.js';
import { settleable, type Settleable } from '../settleable.js';

/** Before anything was measured. */
const FIRST_CREATE_MS = 1000;
/** How much the latest create counts in the average. */
const WEIGHT = 0.2;
const MAX_RETRY_S = 60;

/** What a sandbox will count as. With its id it is never counted twice, however early it is in the index. */
export interface Wanted {
  readonly id?: string;
  readonly memoryBytes: number;
  readonly cpus: number;
  readonly pids: number;
  /** Whose it will be, where it won't be the owner's own. */
  readonly tenant?: string | undefined;
}

/** A place that is kept for a sandbox. */
export interface Admitted {
  /** To be called when the sandbox is in the index, or won't be made. More than once does no harm. */
  release(): void;
}

export interface AdmissionParts extends AdmissionSettings {
  /** What is there now, but for warm sandboxes that nobody has claimed, and for those with one of the ids. */
  readonly used: (except: ReadonlySet<string>, tenant: string | undefined) => Used;
  /** What was free a few seconds ago at the most. Has a deadline of its own; when it fails, nothing is known. */
  readonly room: () => Promise<HostRoom>;
}

interface Entry {
  /** What is reserved for it; `undefined` for what is made for a pool. */
  readonly wanted: Wanted | undefined;
  /** When it began, by a clock that never jumps; `undefined` while it waits, and for a claim, which needs no turn. */
  startedAt: number | undefined;
  readonly turn: Settleable<void>;
  /** Rejected when the caller or the manager gives up. */
  readonly gaveUp: Settleable<never>;
}

/**
 * Who may make a sandbox, and when. Ceilings are checked at once, and again when it is its turn, as other managers may have
 * made some meanwhile; between two managers that ask at the same moment nobody decides, so an owner's ceiling can be passed
 * by what they are making then. What was promised and isn't in the index yet is reserved, also for those that wait: nobody
 * waits for a place that another one who came earlier will get.
 */
export class Admission {
  readonly #parts: AdmissionParts;
  readonly #limited: boolean;
  /** All that is promised, waits, or is under way. */
  readonly #entries = new Set<Entry>();
  readonly #queue: Entry[] = [];
  #running = 0;
  #createMs = FIRST_CREATE_MS;
  #closed = false;

  constructor(parts: AdmissionParts) {
    this.#parts = parts;
    this.#limited = hasCeilings(parts.ceilings);
  }

  /** How many wait for their turn. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** How many are being made, for callers and for pools. */
  get running(): number {
    return this.#running;
  }

  /**
   * Waits for its turn to make a sandbox; first come, first served. Throws `over_capacity`, `limit_exceeded` when it could
   * never be, `host_exhausted`, `aborted`, `manager_closed`.
   */
  async enter(wanted: Wanted, { signal }: { signal?: AbortSignal | undefined } = {}): Promise<Admitted> {
    this.#checkOpen();
    if (signal?.aborted === true) throw toAborted(signal);
    this.#checkCeilings(wanted, [...this.#entries]);
    if (this.#running >= this.#parts.atOnce && this.#queue.length >= this.#parts.queue) throw this.#toQueueFull();
    const entry = this.#reserve(wanted);
    const giveUp = () => signal !== undefined && entry.gaveUp.reject(toAborted(signal));
    signal?.addEventListener('abort', giveUp, { once: true });
    this.#queue.push(entry);
    this.#advance();
    try {
      await Promise.race([entry.gaveUp.promise, entry.turn.promise]);
      const shortage = await Promise.race([entry.gaveUp.promise, this.#findShortage()]);
      if (shortage !== undefined) throw shortage;
      // Those that wait still come after it.
      const before = [...this.#entries].filter((other) => other !== entry && !this.#queue.includes(other));
      this.#checkCeilings(wanted, before);
    } catch (error) {
      this.#leave(entry);
      throw error;
    } finally {
      signal?.removeEventListener('abort', giveUp);
    }
    return this.#admit(entry);
  }

  /**
   * A warm sandbox is to be given out: ceilings count, the queue and the machine don't, as it is there already. Throws
   * `over_capacity`, `limit_exceeded`, `manager_closed`.
   */
  admitClaim(wanted: Wanted): Admitted {
    this.#checkOpen();
    this.#checkCeilings(wanted, [...this.#entries]);
    return this.#admit(this.#reserve(wanted));
  }

  /**
   * A turn to fill a pool, if nobody waits and there is room for it; a place is left for whoever comes meanwhile, where
   * there are several. None either when one that was made could not be given out, for a ceiling.
   */
  async tryEnter(wanted: Wanted): Promise<Admitted | undefined> {
    const places = Math.max(1, this.#parts.atOnce - 1);
    if (this.#closed || this.#queue.length > 0 || this.#running >= places) return undefined;
    if (this.#findExcess(wanted, [...this.#entries]) !== undefined) return undefined;
    const entry = this.#reserve(undefined);
    this.#begin(entry);
    const shortage = await Promise.race([entry.gaveUp.promise, this.#findShortage()]).catch((error: unknown) => error);
    if (shortage === undefined && this.#queue.length === 0) return this.#admit(entry);
    this.#leave(entry);
    return undefined;
  }

  /** Runs `make` in such a turn; `undefined` where there is none. */
  async whenThereIsRoom<T>(wanted: Wanted, make: () => Promise<T>): Promise<T | undefined> {
    const admitted = await this.tryEnter(wanted);
    if (admitted === undefined) return undefined;
    try {
      return await make();
    } finally {
      admitted.release();
    }
  }

  /** Those that wait get `manager_closed`, as does whoever comes. What was admitted keeps its place until it is released. */
  close(): void {
    this.#closed = true;
    for (const { gaveUp } of this.#entries) gaveUp.reject(toClosed());
  }

  #checkOpen(): void {
    if (this.#closed) throw toClosed();
  }

  #findExcess(wanted: Wanted, others: readonly Entry[]) {
    if (!this.#limited) return undefined;
    const reserved = others.map((entry) => entry.wanted).filter((other) => other !== undefined);
    const ids = new Set(reserved.map(({ id }) => id).filter((id) => id !== undefined));
    const used = this.#parts.used(ids, wanted.tenant);
    return findExcess(toUsage(wanted), { ceilings: this.#parts.ceilings, used, reserved: reserved.map(toUsage) });
  }

  #checkCeilings(wanted: Wanted, others: readonly Entry[]): void {
    const excess = this.#findExcess(wanted, others);
    if (excess !== undefined) throw toCeilingError(excess, this.#queue.length);
  }

  /** `host_exhausted`, if all that are being made now, this one among them, don't find enough. */
  async #findShortage(): Promise<SandyardError | undefined> {
    let room: HostRoom;
    try {
      room = await this.#parts.room();
    } catch {
      // Not to know what is free is no reason to refuse: the engine itself says when it has no room.
      return undefined;
    }
    return findShortage(room, { floor: this.#parts.floor, running: this.#running });
  }

  #reserve(wanted: Wanted | undefined): Entry {
    const entry = { wanted, startedAt: undefined, turn: settleable<void>(), gaveUp: settleable<never>() };
    this.#entries.add(entry);
    return entry;
  }

  #begin(entry: Entry): void {
    entry.startedAt = performance.now();
    this.#running += 1;
    entry.turn.resolve(undefined);
  }

  #advance(): void {
    while (this.#running < this.#parts.atOnce) {
      const next = this.#queue.shift();
      if (next === undefined) return;
      this.#begin(next);
    }
  }

  #admit(entry: Entry): Admitted {
    return {
      release: () => {
        if (!this.#entries.has(entry)) return;
        const { startedAt } = entry;
        if (startedAt !== undefined) this.#createMs += WEIGHT * (performance.now() - startedAt - this.#createMs);
        this.#leave(entry);
      },
    };
  }

  #leave(entry: Entry): void {
    this.#entries.delete(entry);
    const place = this.#queue.indexOf(entry);
    if (place !== -1) this.#queue.splice(place, 1);
    if (entry.startedAt === undefined) return;
    this.#running -= 1;
    this.#advance();
  }

  #toQueueFull(): SandyardError {
    const { queue, atOnce } = this.#parts;
    const waiting = this.#queue.length;
    // When those that wait now will have begun: whoever comes then has the least to wait.
    const seconds = Math.ceil((((waiting || 1) / atOnce) * this.#createMs) / 1000);
    const message = `${atOnce} sandboxes are being made and ${waiting} wait for it; no more than ${queue} may.`;
    return new SandyardError('over_capacity', message, {
      hint: 'Try again after the time in "retry_after_s".',
      details: {
        ceiling: 'queue',
        limit: queue,
        used: waiting,
        wanted: 1,
        queue_length: waiting,
        retry_after_s: Math.min(Math.max(seconds, 1), MAX_RETRY_S),
      },
    });
  }
}

function toUsage({ memoryBytes, cpus, pids, tenant }: Wanted): Promised {
  return { sandboxes: 1, memoryBytes, cpus, pids, tenant };
}

function toAborted(signal: AbortSignal): SandyardError {
  return new SandyardError('aborted', 'The caller gave up while the sandbox waited to be made.', {
    cause: signal.reason,
  });
}

function toClosed(): SandyardError {
  return new SandyardError('manager_closed', 'The manager is closed.', { hint: 'Make a new SandboxManager.' });
}
