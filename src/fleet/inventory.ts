import { setTimeout as sleep } from 'node:timers/promises';
import pLimit from 'p-limit';

import type { EngineClock } from '../record/engine-clock.js';
import type { ContainerEvent, ContainerState, ContainerSummary, Engine } from '../engine/engine.js';
import { isSandyardError } from '../errors.js';
import type { Log } from '../log.js';
import { EventFeed, throwIfAborted } from './event-feed.js';
import { LostSandboxes, type Outage } from './lost.js';
import { Waiters } from './waiters.js';
import { claimedAs, ownedBy, poolName, toRecord, type Claim, type SandboxRecord } from '../record/record.js';

/** How many records are read at once of those that labels don't tell all about. */
const READERS = 4;
/** Much more than are removed while anything is on its way that takes them to be there. */
const REMEMBERED_GONE = 1000;
/** Much longer than the engine takes to tell of what it has answered for. */
const AGREE_MS = 1000;

/** What became of a sandbox, as the engine tells it. */
export interface InventoryChange {
  readonly type: 'created' | 'started' | 'stopped' | 'paused' | 'unpaused' | 'oom' | 'destroyed';
  readonly record: SandboxRecord;
  /** Of `stopped`; `undefined` where the engine was away when it happened. */
  readonly exitCode: number | undefined;
  /** Found when all was compared again, after the engine was away; otherwise it was told. */
  readonly found: boolean;
}

interface InventoryParts {
  readonly engine: Engine;
  readonly clock: EngineClock;
  readonly log: Log;
  readonly owner: string;
  /** The claim in the record of a sandbox; `undefined` when nobody has claimed it. */
  readonly readClaim: (record: SandboxRecord) => Promise<Claim | undefined>;
  /** Called for each change, in order, but for what happens to warm ones. Must not throw. */
  readonly changed: (change: InventoryChange) => void;
  /** Called after each full comparison with all that there are. Must not throw. */
  readonly compared: (ids: ReadonlySet<string>) => void;
}

/**
 * All sandboxes of an owner on the engine, whoever made them: an index in memory, kept by the engine's events, and compared
 * with a list of all of them at the beginning and each time that the events were interrupted. So nobody who asks for a
 * sandbox has the engine list its containers.
 */
export class Inventory {
  readonly #parts: InventoryParts;
  /** By id. */
  readonly #records = new Map<string, SandboxRecord>();
  /** Warm by their labels, claimed by their name: what they were claimed as is being read. By id. */
  readonly #reading = new Map<string, Promise<void>>();
  readonly #waiters = new Waiters();
  /** Containers that were removed lately. By id, the oldest first. */
  readonly #gone = new Set<string>();
  readonly #readers = pLimit(READERS);
  readonly #lost = new LostSandboxes();
  readonly #feed: EventFeed;

  constructor(parts: InventoryParts) {
    this.#parts = parts;
    const { engine, clock, log, owner } = parts;
    this.#feed = new EventFeed({
      engine,
      log,
      owner,
      compare: (signal) => this.#compare(signal),
      apply: (event) => this.#apply(event),
      brokeOff: () => this.#lost.away(clock.now()),
    });
  }

  /** Whether it is complete and kept up to date now; while the engine is away it is not. */
  get live(): boolean {
    return this.#feed.live;
  }

  /** Resolves when it is complete; fails with what the engine fails with. */
  async open(signal?: AbortSignal): Promise<void> {
    await this.#feed.open(signal);
  }

  async close(): Promise<void> {
    await this.#feed.close();
    await Promise.all(this.#reading.values());
  }

  /** A sandbox that is there, warm or not. */
  find(id: string): SandboxRecord | undefined {
    return this.#records.get(id);
  }

  /** When the engine was away, of one that ran before and was found stopped after that. */
  outageOf(record: SandboxRecord): Outage | undefined {
    return this.#lost.outageOf(record);
  }

  /** All, warm ones included. Waits, for a second at most, for what is being read of them. */
  async all(): Promise<SandboxRecord[]> {
    for (const record of this.#records.values()) if (isUnread(record)) this.#readClaim(record);
    if (this.#reading.size > 0) {
      const read = new AbortController();
      const late = sleep(1000, undefined, { ref: false, signal: read.signal }).catch(() => {});
      await Promise.race([Promise.all(this.#reading.values()), late]);
      read.abort();
    }
    return this.now();
  }

  /** All, as far as is known now. */
  now(): SandboxRecord[] {
    return [...this.#records.values()];
  }

  /** Resolves when something has happened to a sandbox, or is told late that it may have: after `atMostMs`. */
  async changed(id: string, options: { atMostMs: number; signal?: AbortSignal | undefined }): Promise<void> {
    await this.#waiters.wait(id, options);
  }

  /** Resolves when that a sandbox is in this state is known here, too, so that a list tells of it; after a second at the latest. */
  async agrees(id: string, state: ContainerState, { signal }: { signal?: AbortSignal | undefined }): Promise<void> {
    const until = performance.now() + AGREE_MS;
    for (let left = AGREE_MS; left > 0; left = until - performance.now()) {
      const agrees = (this.#records.get(id)?.state ?? state) === state;
      if (agrees || !this.live || signal?.aborted === true) return;
      await this.#waiters.wait(id, { atMostMs: left, signal });
    }
  }

  /** Enters what this manager has made or claimed itself, before the engine tells of it. */
  enter(record: SandboxRecord): void {
    if (this.#gone.has(record.containerId)) return;
    const known = this.#records.get(record.id);
    this.#records.set(record.id, record);
    if (!record.warm && (known === undefined || known.warm)) this.#tell('created', record);
  }

  /** Notes that this manager has removed it. */
  remove(id: string): void {
    const record = this.#records.get(id);
    if (record === undefined) return;
    this.#note(record.containerId);
    this.#drop(record, { found: false });
  }

  async #compare(signal: AbortSignal): Promise<void> {
    const { engine, clock, owner, compared } = this.#parts;
    const { systemTime, liveRestore } = await engine.info({ signal });
    clock.see(systemTime);
    // What is entered while they are listed may be newer than the list.
    const before = this.now();
    const containers = await engine.listContainers(ownedBy(owner), { signal });
    throwIfAborted(signal);
    const there = new Set<string>();
    for (const container of containers) {
      const record = toRecord(container);
      if (record === undefined) continue;
      there.add(record.id);
      this.#see(record, container);
    }
    for (const { id, containerId } of before) {
      const known = this.#records.get(id);
      if (known?.containerId === containerId && !there.has(id)) this.#drop(known, { found: true });
    }
    this.#lost.back(clock.now(), { before, after: this.now(), liveRestore });
    compared(new Set(this.#records.keys()));
  }

  /** Compares one with what is known of it. */
  #see(record: SandboxRecord, { state }: ContainerSummary): void {
    const known = this.#records.get(record.id);
    if (known === undefined) return this.#enterUnknown(record, { found: true });
    if (known.state !== state) this.#setState(known, state, { found: true });
    this.#setName(record.id, record.name);
  }

  #enterUnknown(record: SandboxRecord, { found }: { found: boolean }): void {
    if (this.#gone.has(record.containerId)) return;
    this.#records.set(record.id, record);
    if (!record.warm) this.#tell('created', record, { found });
    else if (isUnread(record)) this.#readClaim(record);
  }

  #drop(record: SandboxRecord, { found }: { found: boolean }): void {
    this.#records.delete(record.id);
    this.#lost.forget(record);
    this.#tell('destroyed', record, { found });
  }

  /** A warm one with the name of a claimed one has been claimed. */
  #setName(id: string, name: string): void {
    const known = this.#records.get(id);
    if (known === undefined || known.name === name) return;
    const record = { ...known, name };
    this.#records.set(id, record);
    if (isUnread(record)) this.#readClaim(record);
  }

  #apply(event: ContainerEvent): void {
    const record = toRecord({ ...event, state: 'created', createdAt: event.at });
    const known = this.#knownAs(event);
    // Of another name than ours it is no longer one of ours.
    if (event.action === 'destroy' || record === undefined) {
      if (event.action === 'destroy') this.#note(event.id);
      if (known !== undefined) this.#drop(known, { found: false });
      return;
    }
    if (known === undefined) {
      // Of one that is unknown yet an event says when it was made only if it is that one.
      if (event.action === 'create') this.#enterUnknown(record, { found: false });
      else if (!this.#gone.has(event.id)) void this.#lookAt(event.id);
      return;
    }
    if (event.action === 'rename') return this.#setName(known.id, event.name);
    if (event.action === 'oom') return this.#tell('oom', known);
    const state = STATE_AFTER[event.action];
    if (state !== undefined) this.#setState(known, state, { exitCode: event.exitCode });
  }

  #knownAs({ id, labels }: ContainerEvent): SandboxRecord | undefined {
    const known = this.#records.get(labels['sandyard.id'] ?? '');
    return known?.containerId === id ? known : undefined;
  }

  /** Notes that a container was removed, whatever is still on its way that takes it to be there. */
  #note(containerId: string): void {
    this.#gone.add(containerId);
    for (const oldest of this.#gone) {
      if (this.#gone.size <= REMEMBERED_GONE) return;
      this.#gone.delete(oldest);
    }
  }

  async #lookAt(containerId: string): Promise<void> {
    const signal = this.#feed.signal;
    try {
      const record = toRecord(await this.#parts.engine.inspectContainer(containerId, { signal }));
      if (signal?.aborted === true || record === undefined || this.#records.has(record.id)) return;
      this.#enterUnknown(record, { found: false });
    } catch (error) {
      if (signal?.aborted === true) return;
      if (!isSandyardError(error, 'sandbox_not_found')) this.#parts.log.warn({ error }, 'could not look at a sandbox');
    }
  }

  #setState(
    known: SandboxRecord,
    state: ContainerState,
    about: { exitCode?: number | undefined; found?: boolean },
  ): void {
    const before = known.state;
    const record = { ...known, state };
    this.#records.set(known.id, record);
    if (before === state) return;
    if (state === 'running') this.#tell(before === 'paused' ? 'unpaused' : 'started', record, about);
    else if (state !== 'created') this.#tell(state === 'paused' ? 'paused' : 'stopped', record, about);
  }

  #tell(
    type: InventoryChange['type'],
    record: SandboxRecord,
    { exitCode, found = false }: { exitCode?: number | undefined; found?: boolean } = {},
  ): void {
    this.#waiters.wake(record.id);
    if (!record.warm) this.#parts.changed({ type, record, exitCode, found });
  }

  /** Has what a warm one was claimed as read from its record, a few at a time. */
  #readClaim({ id }: SandboxRecord): void {
    if (this.#reading.has(id)) return;
    const read = this.#readers(async () => {
      try {
        const record = this.#records.get(id);
        if (record?.warm !== true || this.#feed.signal?.aborted === true) return;
        const claim = await this.#parts.readClaim(record);
        const known = this.#records.get(id);
        if (claim !== undefined && known?.warm === true) this.enter(claimedAs(known, claim));
      } catch (error) {
        this.#parts.log.warn({ sandbox: id, error }, 'could not read what a sandbox was claimed as; a list will again');
      } finally {
        this.#reading.delete(id);
      }
    });
    this.#reading.set(id, read);
  }
}

/** Whether it was claimed, as its name says, and what it was claimed as isn't known yet. */
function isUnread({ warm, name, id }: SandboxRecord): boolean {
  return warm && name !== poolName(id);
}

const STATE_AFTER: Readonly<Partial<Record<ContainerEvent['action'], ContainerState>>> = {
  start: 'running',
  die: 'exited',
  pause: 'paused',
  unpause: 'running',
};
