import { Channel } from './channel/channel.js';
import type { Engine } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import type { SandboxRecord } from './record.js';
import { PendingCalls, type HeldChannel } from './process/remote-run.js';
import { WARDEN_PATH } from './warden.js';

const IDLE_MS = 5 * 60_000;
const SWEEP_MS = 60_000;

interface Connection {
  readonly record: SandboxRecord;
  readonly channel: Channel;
  holders: number;
  lastUsed: number;
  /** How many tunnels are open: one, or none. */
  tunnels: number;
}

/**
 * The channels of one manager, one for each sandbox that is in use, shared by all its handles. One that nobody has used
 * for five minutes is closed: a manager may know of ten thousand sandboxes.
 */
export class SandboxConnections {
  readonly calls = new PendingCalls();
  readonly #engine: Engine;
  readonly #connections = new Map<string, Connection>();
  #sweep: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** The channel of a sandbox, which stays open until it is released. Throws `manager_closed`. */
  hold(record: SandboxRecord): HeldChannel {
    if (this.#closed) {
      throw new SandyardError('manager_closed', 'The manager of this sandbox is closed.', {
        hint: 'Make a new SandboxManager, and get the sandbox from it.',
      });
    }
    const connection = this.#connections.get(record.id) ?? this.#add(record);
    connection.holders += 1;
    let released = false;
    const release = () => {
      if (released) return;
      released = true;
      connection.holders -= 1;
      connection.lastUsed = Date.now();
    };
    return { channel: connection.channel, release };
  }

  /** The record of a sandbox whose tunnel is open, so that it is there and runs. */
  connected(id: string): SandboxRecord | undefined {
    const connection = this.#connections.get(id);
    return connection !== undefined && connection.tunnels > 0 ? connection.record : undefined;
  }

  /** The sandbox was removed. */
  destroyed(id: string): void {
    this.#connections.get(id)?.channel.destroyed();
    this.#drop(id);
  }

  #drop(id: string): void {
    const connection = this.#connections.get(id);
    this.#connections.delete(id);
    connection?.channel.close();
    if (this.#connections.size === 0) this.#stopSweeping();
  }

  /** Closes what isn't in `ids` and isn't in use: what is may be newer than they are. */
  keepOnly(ids: ReadonlySet<string>): void {
    for (const [id, { holders }] of this.#connections) if (holders === 0 && !ids.has(id)) this.#drop(id);
  }

  /** Ends the calls that wait, and closes all. What was spawned runs on. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.calls.close();
    for (const id of this.#connections.keys()) this.#drop(id);
  }

  #add(record: SandboxRecord): Connection {
    const connection: Connection = {
      record,
      channel: new Channel({ connect: (options) => this.#connect(connection, options) }),
      holders: 0,
      lastUsed: Date.now(),
      tunnels: 0,
    };
    this.#connections.set(record.id, connection);
    this.#sweep ??= setInterval(() => this.#closeIdle(), SWEEP_MS).unref();
    return connection;
  }

  async #connect(connection: Connection, options: { signal?: AbortSignal }) {
    const { id, name } = connection.record;
    try {
      const tunnel = await this.#engine.openTunnel(name, [WARDEN_PATH, 'connect'], options);
      connection.tunnels += 1;
      tunnel.once('close', () => (connection.tunnels -= 1));
      return tunnel;
    } catch (error) {
      // Another one may have its id by now.
      if (isSandyardError(error, 'sandbox_not_found') && this.#connections.get(id) === connection) {
        this.#connections.delete(id);
      }
      throw error;
    }
  }

  #closeIdle(): void {
    const before = Date.now() - IDLE_MS;
    for (const [id, { holders, lastUsed }] of this.#connections) {
      if (holders === 0 && lastUsed < before) this.#drop(id);
    }
  }

  #stopSweeping(): void {
    clearInterval(this.#sweep);
    this.#sweep = undefined;
  }
}
