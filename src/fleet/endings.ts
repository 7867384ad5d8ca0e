import type { ContainerDetails } from '../engine/engine.js';
import { isGvisor } from '../isolation.js';
import type { DiedOf } from '../process/process-exit.js';
import { endedByLease } from '../record/expiry.js';
import type { SandboxRecord } from '../record/record.js';
import type { InventoryChange } from './inventory.js';

/** What gVisor ends with when the engine's limit on processes keeps it from having another thread. */
const NO_MORE_THREADS = 2;
const KILLED = 128 + 9;
/** What the warden ends with when it is told to. */
const STOPPED = 128 + 15;

type Ending = Pick<ContainerDetails, 'exitCode' | 'oomKilled'> & Pick<SandboxRecord, 'runtime'>;

/** What a sandbox that has ended has died of, by how its container ended. */
export function judgeEnding({ exitCode, oomKilled, runtime }: Ending): DiedOf {
  const ended = endedByLease(exitCode);
  if (ended !== undefined) return ended;
  if (isGvisor(runtime)) {
    // Elsewhere that tells of any command that was killed so in its life, and the sandbox lives on.
    if (oomKilled) return 'out_of_memory';
    if (exitCode === NO_MORE_THREADS) return 'too_many_threads';
  }
  if (exitCode === KILLED) return 'killed';
  return exitCode === STOPPED ? 'stopped' : 'ended';
}

/** Tells why sandboxes end, of which the engine first tells that they have run out of memory. */
export class Endings {
  /** By id. */
  readonly #outOfMemory = new Set<string>();

  /** Why one ended that did so by itself or by somebody else's doing, as a lifecycle event has it. */
  reasonOf({ type, record, exitCode }: InventoryChange): Exclude<DiedOf, 'stopped' | 'restarted' | 'removed'> {
    const { id, runtime } = record;
    const oomKilled = this.#outOfMemory.has(id);
    if (type === 'oom') this.#outOfMemory.add(id);
    else this.#outOfMemory.delete(id);
    if (type !== 'stopped' || exitCode === undefined) return 'ended';
    const diedOf = judgeEnding({ exitCode, oomKilled, runtime });
    return diedOf === 'stopped' || diedOf === 'restarted' || diedOf === 'removed' ? 'ended' : diedOf;
  }
}
