import type { SandboxConnections } from '../connections.js';
import type { HostRoom } from './host-room.js';
import type { Inventory } from '../fleet/inventory.js';

const UNKNOWN: HostRoom = { memoryBytes: null, diskBytes: null };
const FRESH_MS = 2000;
const ASK_MS = 300;

interface MachineRoomParts {
  readonly inventory: Inventory;
  readonly connections: SandboxConnections;
}

/**
 * How much room the engine's machine has, as the sandboxes on it see it: so it is known of an engine that is elsewhere, too. Unknown
 * while there is no way open to any of them.
 */
export class MachineRoom {
  readonly #parts: MachineRoomParts;
  #last: { readonly room: HostRoom; readonly at: number } | undefined;

  constructor(parts: MachineRoomParts) {
    this.#parts = parts;
  }

  async read(): Promise<HostRoom> {
    if (this.#last !== undefined && performance.now() - this.#last.at < FRESH_MS) return this.#last.room;
    const room = await this.#ask();
    this.#last = { room, at: performance.now() };
    return room;
  }

  async #ask(): Promise<HostRoom> {
    const { inventory, connections } = this.#parts;
    // What runs under gVisor sees its own memory, not the machine's.
    const record = inventory.now().find(({ id, runtime, state }) => {
      return state === 'running' && (runtime === null || runtime === 'runc') && connections.isOpen(id);
    });
    if (record === undefined) return UNKNOWN;
    const held = connections.hold(record);
    try {
      const usage = await Promise.race([held.channel.usage(), later(ASK_MS)]);
      if (usage === undefined) return UNKNOWN;
      return { memoryBytes: usage.machineAvailableBytes, diskBytes: usage.diskFreeBytes };
    } catch {
      return UNKNOWN;
    } finally {
      held.release();
    }
  }
}

function later(ms: number): Promise<undefined> {
  return new Promise((resolve) => {
    setTimeout(() => resolve(undefined), ms).unref();
  });
}
