import type { CallOptions, Engine } from '../engine/engine.js';
import type { KnownLeases } from '../record/leases.js';
import type { SandboxRecord } from '../record/record.js';
import type { LifecycleEvents } from './lifecycle.js';
import type { Records } from './records.js';

/** How long the managers that didn't make a sandbox leave pausing it to the one that did. */
const OTHERS_WAIT_MS = 15_000;

interface PausingParts {
  readonly engine: Engine;
  readonly records: Records;
  readonly leases: KnownLeases;
  readonly lifecycle: LifecycleEvents;
  /** Whether this manager has made it. */
  readonly isOurs: (id: string) => boolean;
}

/**
 * Pauses sandboxes. An engine that is told to pause a container while it starts a command in it can lock up over that container,
 * with what it starts frozen half-way (seen with Docker 20.10 and cgroup v1). So nothing is paused while this manager opens a
 * way into it, and when a lease ends not all managers look and pause at the same moment.
 */
export class Pausing {
  readonly #parts: PausingParts;

  constructor(parts: PausingParts) {
    this.#parts = parts;
  }

  async pause(record: SandboxRecord, options: CallOptions = {}): Promise<void> {
    const { engine, records } = this.#parts;
    // Once it is open, nothing is being started for it. One that can't be talked to is paused all the same.
    await records.ask(record, ({ channel }) => channel.open(), options.signal).catch(() => {});
    await engine.pauseContainer(record.containerId, options);
  }

  /** Pauses one that is to be paused when its lease or idle timeout ends, if that has ended; answers whether it did. */
  async pauseExpired(record: SandboxRecord): Promise<boolean> {
    const { records, leases, lifecycle, isOurs } = this.#parts;
    const patienceMs = isOurs(record.id) ? 0 : OTHERS_WAIT_MS;
    const mayBeIdle = record.idleTimeoutMs !== null;
    if (!mayBeIdle && Date.now() < leases.endOf(record).getTime() + patienceMs) return false;
    if (!(await records.hasEnded(record))) return false;
    lifecycle.intend(record.id, 'lease_expired', ['paused']);
    await this.pause(record);
    return true;
  }
}
