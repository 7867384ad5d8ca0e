import type { Log } from '../log.js';
import type { SandboxRecord } from '../record/record.js';
import type { Telemetry } from '../telemetry.js';
import type { LifecycleEvents } from './lifecycle.js';

/** All that runs in a sandbox ends at once, and each tells of it: that is one event. */
const SAME_MS = 2000;

interface AlarmParts {
  readonly lifecycle: LifecycleEvents;
  readonly telemetry: Telemetry;
  readonly log: Log;
}

/** Tells that a sandbox had written more than it may, as this manager sees it by how what it runs there ends. */
export class DiskAlarms {
  readonly #parts: AlarmParts;
  readonly #told = new Map<string, number>();

  constructor(parts: AlarmParts) {
    this.#parts = parts;
  }

  tell(record: SandboxRecord): void {
    const now = performance.now();
    for (const [id, at] of this.#told) if (now - at > SAME_MS) this.#told.delete(id);
    if (this.#told.has(record.id)) return;
    this.#told.set(record.id, now);
    const { lifecycle, telemetry, log } = this.#parts;
    const { diskBytes, inodes } = record.limits;
    log.warn(
      { sandbox: record.id, owner: record.owner, disk_limit: diskBytes, inodes_limit: inodes },
      'a sandbox had written more than it may; all that ran in it was ended',
    );
    lifecycle.tell({ type: 'disk_full', record, reason: 'ended' });
    telemetry.event('disk_full');
  }
}
