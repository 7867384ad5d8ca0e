import pLimit from 'p-limit';

import type { Ceilings } from '../config.js';
import type { SandboxConnections } from '../connections.js';
import type { CallOptions, Engine } from '../engine/engine.js';
import { isSandyardError, SandyardError, unlessGone } from '../errors.js';
import type { Inventory } from './inventory.js';
import type { Log } from '../log.js';
import {
  claimedAs,
  containerName,
  isTenants,
  ownedBy,
  poolName,
  toRecord,
  type Claim,
  type SandboxRecord,
} from '../record/record.js';
import type { Records } from './records.js';
import { fields } from '../schemas.js';
import type { ManagerGauges } from '../telemetry.js';

interface DirectoryParts {
  readonly engine: Engine;
  readonly inventory: Inventory;
  readonly connections: SandboxConnections;
  readonly records: Records;
  readonly owner: string;
  readonly log: Log;
}

/** Of whose sandboxes: of one tenant's, or of all of the owner's. */
export interface FindOptions extends CallOptions {
  readonly tenant?: string | undefined;
}

/** How many records are read at once of those that labels don't tell all about. */
const READERS = 4;

/**
 * Which sandboxes an owner has: by the inventory, where that is up to date. Without one, or while the engine is away, by asking the
 * engine.
 */
export class SandboxDirectory {
  readonly #parts: DirectoryParts;

  constructor(parts: DirectoryParts) {
    this.#parts = parts;
  }

  /**
   * Throws `sandbox_not_found` when there is none of this owner's, or it is one that nobody has claimed; or where there is one,
   * but not of that tenant: `details.refused` alone tells that from one that is not there.
   */
  async find(id: string, { tenant, ...options }: FindOptions): Promise<SandboxRecord> {
    const found = await this.#find(id, options);
    if (found !== undefined && (tenant === undefined || isTenants(found, tenant))) return found;
    throw new SandyardError('sandbox_not_found', `There is no sandbox ${JSON.stringify(id.slice(0, 64))}.`, {
      hint: 'It may have been destroyed or have expired; list the sandboxes to see which there are.',
      ...(found !== undefined && { details: { refused: 'owner' } }),
    });
  }

  async #find(id: string, options: CallOptions): Promise<SandboxRecord | undefined> {
    const { inventory, connections } = this.#parts;
    // What there is a connection to, or what the engine has told of, is there, and is ours.
    const known = inventory.live ? inventory.find(id) : connections.connected(id);
    if (known !== undefined) return known.warm ? unlessGone(this.#readClaimed(known)) : known;
    // An id that can't be one isn't asked for: it would become part of a path. One that was just claimed may be renamed
    // between two looks, and is renamed once.
    const names = fields.id.safeParse(id).success ? [containerName(id), poolName(id), containerName(id)] : [];
    for (const name of names) {
      const record = await unlessGone(this.#inspect(name, options));
      if (record !== undefined) return record;
    }
    return undefined;
  }

  /** All, warm ones included. */
  async all({ signal }: CallOptions): Promise<readonly SandboxRecord[]> {
    const { engine, inventory, owner } = this.#parts;
    if (inventory.live) return inventory.all();
    const containers = await engine.listContainers(ownedBy(owner), { signal });
    const found = containers.map(toRecord).filter((record) => record !== undefined);
    const limit = pLimit(READERS);
    const read = await Promise.all(found.map((record) => limit(() => this.#asClaimed(record))));
    return read.filter((record) => record !== undefined);
  }

  /** One that was claimed, as its name says, as what it was; as it is, where that can't be read; `undefined` when it is gone. */
  async #asClaimed(record: SandboxRecord): Promise<SandboxRecord | undefined> {
    if (!record.warm || record.name === poolName(record.id)) return record;
    const { records, log } = this.#parts;
    try {
      const claim = await records.readClaim(record);
      return claim === undefined ? record : claimedAs(record, claim);
    } catch (error) {
      if (isSandyardError(error, 'sandbox_not_found')) return undefined;
      log.warn({ sandbox: record.id, error }, 'could not read what a sandbox was claimed as');
      return record;
    }
  }

  /** What is promised to the sandboxes that are there, as far as is known, to those that `isOurs`, and to a tenant's. */
  used(
    except: ReadonlySet<string>,
    { isOurs, tenant }: { isOurs: (id: string) => boolean; tenant?: string | undefined },
  ): { owner: Ceilings; manager: Ceilings; tenant?: Ceilings } {
    const counted = this.#parts.inventory
      .now()
      .filter(({ id, warm, state }) => !warm && state !== 'exited' && !except.has(id));
    return {
      owner: sum(counted),
      manager: sum(counted.filter(({ id }) => isOurs(id))),
      ...(tenant !== undefined && { tenant: sum(counted.filter((record) => isTenants(record, tenant))) }),
    };
  }

  async gauges(): Promise<Pick<ManagerGauges, 'sandboxes' | 'usage'>> {
    const { connections } = this.#parts;
    const given = (await this.all({})).filter(({ warm }) => !warm);
    const sandboxes = { created: 0, running: 0, paused: 0, exited: 0 };
    for (const { state } of given) sandboxes[state] += 1;
    const open = given.filter(({ id, state }) => state === 'running' && connections.isOpen(id));
    const usage: ManagerGauges['usage'] = async () => {
      const read = await Promise.allSettled(open.map((record) => this.#readUsage(record)));
      return read.filter((result) => result.status === 'fulfilled').map(({ value }) => value);
    };
    return { sandboxes, usage };
  }

  async #readUsage(record: SandboxRecord) {
    const held = this.#parts.connections.hold(record);
    try {
      const { memoryBytes, cpuSeconds } = await held.channel.usage();
      return { id: record.id, memoryBytes, cpuSeconds };
    } finally {
      held.release();
    }
  }

  /** The sandbox of that container, if it is this owner's and not one that nobody has claimed. */
  async #inspect(name: string, { signal }: CallOptions): Promise<SandboxRecord | undefined> {
    const { engine, owner } = this.#parts;
    const record = toRecord(await engine.inspectContainer(name, { signal }));
    if (record?.owner !== owner) return undefined;
    return record.warm ? this.#readClaimed(record) : record;
  }

  /** A warm one as what it was claimed; `undefined` when nobody has. */
  async #readClaimed(record: SandboxRecord): Promise<SandboxRecord | undefined> {
    const claim = await this.#parts.records.readClaim(record);
    return claim && claimedAs(record, claim);
  }

  /** What a warm one was claimed as. Whoever claimed it and has died since may have left it its old name. */
  async readClaim(record: SandboxRecord): Promise<Claim | undefined> {
    const { engine, records, inventory } = this.#parts;
    const claim = await records.readClaim(record);
    if (claim !== undefined && record.name === poolName(record.id)) {
      const claimed = claimedAs(record, claim);
      await engine.renameContainer(record.containerId, claimed.name);
      inventory.enter(claimed);
    }
    return claim;
  }
}

function sum(records: readonly SandboxRecord[]): Ceilings {
  const total = { sandboxes: records.length, memoryBytes: 0, cpus: 0, pids: 0 };
  for (const { limits } of records) {
    total.memoryBytes += limits.memoryBytes;
    total.cpus += limits.cpus;
    total.pids += limits.pids;
  }
  return total;
}
