import type { Engine } from '../engine/engine.js';
import type { EngineClock } from '../record/engine-clock.js';
import { endedByLease } from '../record/expiry.js';
import type { LifecycleEvents } from './lifecycle.js';
import type { Log } from '../log.js';
import type { SandboxRecord } from '../record/record.js';
import type { Records } from './records.js';
import type { SandboxSockets } from '../sandbox-sockets.js';

interface WakingParts {
  readonly engine: Engine;
  readonly sockets: SandboxSockets;
  readonly records: Records;
  readonly clock: EngineClock;
  readonly lifecycle: LifecycleEvents;
  readonly log: Log;
}

/**
 * Starts sandboxes that are used after their lease or idle timeout has stopped or paused them, where they were made to be
 * woken so. One that somebody has stopped or paused stays as it is.
 */
export class Waking {
  readonly #parts: WakingParts;
  /** By id: whoever comes meanwhile waits for the same. */
  readonly #under = new Map<string, Promise<boolean>>();

  constructor(parts: WakingParts) {
    this.#parts = parts;
  }

  /** Whether it was woken. */
  wake(record: SandboxRecord): Promise<boolean> {
    if (!record.wakeOnUse) return Promise.resolve(false);
    const known = this.#under.get(record.id);
    if (known !== undefined) return known;
    const waking = this.#wake(record).finally(() => this.#under.delete(record.id));
    this.#under.set(record.id, waking);
    return waking;
  }

  async #wake(record: SandboxRecord): Promise<boolean> {
    const { engine, sockets, records, lifecycle, log } = this.#parts;
    const { id, containerId } = record;
    const { state, exitCode } = await engine.inspectContainer(containerId);
    if (state === 'running') return true;
    // One whose files are in memory would wake up without them.
    if (state === 'exited' && endedByLease(exitCode) !== undefined && record.profile !== 'strict') {
      lifecycle.intend(id, 'woken', ['started']);
      await sockets.start(id, () => engine.startContainer(containerId));
    } else if (state === 'paused' && (await this.#leaseHasEnded(record))) {
      lifecycle.intend(id, 'woken', ['unpaused']);
      const unpaused = engine.unpauseContainer(containerId);
      // Over the connection that waits for this: so not before this has answered.
      void records.revive(record, { after: unpaused }).catch((error: unknown) => {
        log.warn({ sandbox: id, error }, 'could not give a sandbox that was woken a new lease');
      });
      await unpaused;
    } else {
      return false;
    }
    log.info({ sandbox: id }, 'woke a sandbox that is used');
    return true;
  }

  async #leaseHasEnded(record: SandboxRecord): Promise<boolean> {
    const end = await this.#parts.records.readLeaseEnd(record);
    return end !== undefined && end <= this.#parts.clock.now();
  }
}
