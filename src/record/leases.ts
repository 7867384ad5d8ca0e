import type { SandboxRecord } from './record.js';

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
