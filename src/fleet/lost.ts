import type { SandboxRecord } from '../record/record.js';

/** When the engine couldn't be heard, by its own clock. */
export interface Outage {
  readonly from: Date;
  readonly to: Date;
}

/**
 * Which sandboxes may have been lost with an engine that was started again. Without live-restore it stops all that ran: so
 * nothing counts as lost while anything runs that ran before, or where the engine restores what runs. One that is stopped
 * on request while only the way to the engine is cut looks the same, and isn't told apart when it is the only one.
 */
export class LostSandboxes {
  /** By the container's id. */
  readonly #outages = new Map<string, Outage>();
  #awayFrom: Date | undefined;

  /** The engine can't be heard any more. */
  away(now: Date): void {
    this.#awayFrom ??= now;
  }

  /** The engine can be heard again. `before` and `after` are the same sandboxes, at both ends of the outage. */
  back(
    now: Date,
    { before, after, liveRestore }: { before: SandboxRecord[]; after: SandboxRecord[]; liveRestore: boolean },
  ): void {
    const from = this.#awayFrom;
    this.#awayFrom = undefined;
    if (from === undefined || liveRestore) return;
    const ran = new Set(before.filter(isUp).map(({ containerId }) => containerId));
    const those = after.filter(({ containerId }) => ran.has(containerId));
    if (those.some(isUp)) return;
    for (const { containerId } of those) this.#outages.set(containerId, { from, to: now });
  }

  /** The outage after which it was found stopped; it is lost if that is when it ended. */
  outageOf({ containerId }: SandboxRecord): Outage | undefined {
    return this.#outages.get(containerId);
  }

  forget({ containerId }: SandboxRecord): void {
    this.#outages.delete(containerId);
  }
}

function isUp({ state }: SandboxRecord): boolean {
  return state === 'running' || state === 'paused';
}
