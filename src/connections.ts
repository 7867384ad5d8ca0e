import type { Duplex } from 'node:stream';

import { Channel } from './channel/channel.js';
import type { Engine } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import type { SandboxRecord } from './record/record.js';
import { PendingCalls, type HeldChannel } from './process/remote-run.js';
import { SandboxSockets } from './sandbox-sockets.js';
import { WARDEN_PATH } from './warden.js';

const IDLE_MS = 5 * 60_000;
const SWEEP_MS = 60_000;
/** How long a use that finds no way in has the sandbox woken: what waits for longer was there before it was to sleep. */
const WAKES_MS = 5000;
/** While there are so many, none is made for what only may be asked something: each takes a descriptor of its own. */
const MANY = 500;
/** How often a way in is tried for those who have come meanwhile, so that those who came first are told, too. */
const MOST_TRIES = 3;

interface Connection {
  /** As it was last known. */
  record: SandboxRecord;
  readonly channel: Channel;
  holders: number;
  /** How often it was held. */
  holds: number;
  /** How many of them use the sandbox, and don't only ask after it. */
  users: number;
  lastUsed: number;
  /** When a use of it last began, by a clock that never jumps. */
  usedAt: number;
  /** How many tunnels are open: one, or none. */
  tunnels: number;
  /** The tunnel to be used before any is opened. */
  first: Duplex | undefined;
  /** Whether a way in could be made without the engine, where that was tried. */
  direct: Promise<boolean> | undefined;
}

/** Starts a sandbox that doesn't run, where it is to be woken by being used; answers whether it did. */
export type Wake = (record: SandboxRecord) => Promise<boolean>;

/**
 * The channels of one manager, one for each sandbox that is in use, shared by all its handles. One that nobody has used
 * for five minutes is closed: a manager may know of ten thousand sandboxes.
 */
export class SandboxConnections {
  readonly calls = new PendingCalls();
  readonly #engine: Engine;
  readonly #wake: Wake;
  readonly #sockets: SandboxSockets;
  readonly #connections = new Map<string, Connection>();
  #sweep: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(engine: Engine, wake: Wake = () => Promise.resolve(false), sockets = SandboxSockets.none) {
    this.#engine = engine;
    this.#wake = wake;
    this.#sockets = sockets;
  }

  /** The channel of a sandbox, which stays open until it is released. Throws `manager_closed`. */
  hold(record: SandboxRecord): HeldChannel {
    if (this.#closed) {
      throw new SandyardError('manager_closed', 'The manager of this sandbox is closed.', {
        hint: 'Make a new SandboxManager, and get the sandbox from it.',
      });
    }
    const connection = this.#connections.get(record.id) ?? this.#add(record);
    connection.record = record;
    connection.holders += 1;
    connection.holds += 1;
    let released = false;
    const release = () => {
      if (released) return;
      released = true;
      connection.holders -= 1;
      connection.lastUsed = Date.now();
    };
    return { channel: connection.channel, release };
  }

  /**
   * Gives it the tunnel that the next hold is to use, for a sandbox that was just made. It is closed with the others.
   * Throws `manager_closed`.
   */
  enter(record: SandboxRecord, tunnel: Duplex): void {
    tunnel.on('error', () => {}); // should it be cut before it is used, another is opened
    try {
      this.hold(record).release();
    } catch (error) {
      tunnel.destroy();
      throw error;
    }
    const connection = this.#connections.get(record.id);
    if (connection !== undefined) connection.first = tunnel;
  }

  /** The same for a use of the sandbox, by which one that is to be woken so is. */
  use(record: SandboxRecord): HeldChannel {
    const held = this.hold(record);
    const connection = this.#connections.get(record.id);
    if (connection === undefined) return held;
    connection.usedAt = performance.now();
    connection.users += 1;
    let released = false;
    const release = () => {
      if (!released) connection.users -= 1;
      released = true;
      held.release();
    };
    return { channel: held.channel, release };
  }

  /** The record of a sandbox whose tunnel is open, so that it is there and runs. */
  connected(id: string): SandboxRecord | undefined {
    const connection = this.#connections.get(id);
    return connection !== undefined && connection.tunnels > 0 ? connection.record : undefined;
  }

  /** What a sandbox is now known as. */
  update(record: SandboxRecord): void {
    const connection = this.#connections.get(record.id);
    if (connection !== undefined) connection.record = record;
  }

  /** Whether there is a way to it at this moment. */
  isOpen(id: string): boolean {
    return this.connected(id) !== undefined;
  }

  /** Makes a way in, where there is none, if that takes nothing of the engine; whether there is one. Throws `manager_closed`. */
  async openDirectly(record: SandboxRecord): Promise<boolean> {
    if (this.isOpen(record.id)) return true;
    if (this.#connections.size >= MANY) return false;
    const held = this.hold(record);
    try {
      const connection = this.#connections.get(record.id);
      if (connection === undefined) return false;
      // One that can't be had stays so for as long as anybody is interested: each try may wait.
      return await (connection.direct ??= this.#openDirectly(connection));
    } finally {
      held.release();
    }
  }

  /** The sandbox was paused or stopped: whatever is asked of it next finds out anew whether it runs. */
  cut(id: string): void {
    const connection = this.#connections.get(id);
    if (connection === undefined) return;
    takeFirst(connection)?.destroy();
    connection.channel.cut();
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
    connection?.first?.destroy();
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
      holds: 0,
      users: 0,
      lastUsed: Date.now(),
      usedAt: -Infinity,
      tunnels: 0,
      first: undefined,
      direct: undefined,
    };
    this.#connections.set(record.id, connection);
    this.#sweep ??= setInterval(() => this.#closeIdle(), SWEEP_MS).unref();
    return connection;
  }

  async #connect(connection: Connection, options: { signal?: AbortSignal }) {
    const { id } = connection.record;
    try {
      const tunnel = takeFirst(connection) ?? (await this.#openTunnel(connection, options));
      takeFirst(connection)?.destroy(); // made meanwhile: kept, it would be used when what it led to has ended
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

  async #openDirectly(connection: Connection): Promise<boolean> {
    const { id } = connection.record;
    const isThere = () => connection.tunnels > 0 || connection.first?.destroyed === false;
    if (!isThere()) {
      const tunnel = await this.#sockets.connect(id);
      if (tunnel === undefined) return false;
      if (isThere() || this.#connections.get(id) !== connection) tunnel.destroy();
      else connection.first = tunnel;
    }
    connection.direct = undefined;
    return isThere();
  }

  /** Who waits for a way in may have come when it was known already that there is none: for those it is tried again. */
  async #openTunnel(connection: Connection, options: { signal?: AbortSignal }): Promise<Duplex> {
    for (let tries = 1; ; tries += 1) {
      const { holds } = connection;
      try {
        return await this.#tryToOpen(connection, options);
      } catch (error) {
        const isFinal = connection.holds === holds || tries === MOST_TRIES;
        if (isFinal || !isSandyardError(error, 'wrong_state')) throw error;
      }
    }
  }

  async #tryToOpen(connection: Connection, options: { signal?: AbortSignal }): Promise<Duplex> {
    const { record } = connection;
    const open = async () =>
      (await this.#sockets.connect(record.id, options)) ??
      this.#engine.openTunnel(record.containerId, [WARDEN_PATH, 'connect'], options);
    try {
      return await open();
    } catch (error) {
      if (!isSandyardError(error, 'wrong_state')) throw error;
      // It may have been started or unpaused since.
      if ((await this.#engine.inspectContainer(record.containerId, options)).state !== 'running') {
        const isUsed = connection.users > 0 && performance.now() - connection.usedAt < WAKES_MS;
        if (!isUsed || !(await this.#wake(record))) throw error;
      }
    }
    return open();
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

function takeFirst(connection: Connection): Duplex | undefined {
  const { first } = connection;
  connection.first = undefined;
  return first?.destroyed === true ? undefined : first;
}
