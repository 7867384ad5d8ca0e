import { RemoteError, type RemoteRecord } from '../channel/messages.js';
import { parseRecordFile, parseRecordLink, type RecordFile } from '../channel/record-file.js';
import type { SandboxConnections } from '../connections.js';
import type { CallOptions, Engine } from '../engine/engine.js';
import { isSandyardError, SandyardError, type ErrorCode } from '../errors.js';
import type { EngineClock } from '../record/engine-clock.js';
import type { KnownLeases } from '../record/leases.js';
import type { Log } from '../log.js';
import type { HeldChannel } from '../process/remote-run.js';
import { giveUpOn } from '../process/giving-up.js';
import { decodeClaim, type Claim, type SandboxRecord } from '../record/record.js';

/** Where the warden keeps the record: see `warden/PROTOCOL.md`. */
const RECORD_PATH = '/var/lib/sandyard/record';
const MAX_RECORD_BYTES = 40 * 1024;

const EAGAIN = 11;
const ETIME = 62;

/** Faults of the way into a sandbox, without which the engine can still tell what it is. */
const UNREACHABLE: readonly ErrorCode[] = [
  'wrong_state',
  'sandbox_died',
  'channel_failed',
  'engine_error',
  'engine_timeout',
];

/** What of a record is the same wherever it was read. */
export type SeenRecord = Pick<RemoteRecord, 'version' | 'leaseLeftMs' | 'taken' | 'blob'>;

interface RecordsParts {
  readonly engine: Engine;
  readonly connections: SandboxConnections;
  readonly leases: KnownLeases;
  readonly clock: EngineClock;
  readonly log: Log;
}

/** The records that sandboxes keep themselves: their leases, and what warm ones were claimed as. */
export class Records {
  readonly #parts: RecordsParts;
  /** Those that run again, or are about to, with the lease that had ended. */
  readonly #reviving = new Set<string>();

  constructor(parts: RecordsParts) {
    this.#parts = parts;
  }

  /** Asks the warden of a sandbox that runs. */
  async ask<Answer>(
    record: SandboxRecord,
    act: (held: HeldChannel) => Promise<Answer>,
    signal?: AbortSignal,
  ): Promise<Answer> {
    const held = this.#parts.connections.hold(record);
    const answer = act(held).finally(() => held.release());
    try {
      return await (signal === undefined ? answer : giveUpOn(answer, signal));
    } catch (error) {
      throw translateRecord(error, record.id);
    }
  }

  /** Notes the lease as the sandbox has it now. Where that can't be had, what was last seen stands. */
  async see(record: SandboxRecord, signal?: AbortSignal): Promise<void> {
    try {
      const { leaseLeftMs } = await this.ask(record, ({ channel }) => channel.record(), signal);
      if (leaseLeftMs !== null) this.#parts.leases.see(record, leaseLeftMs);
    } catch (error) {
      if (!UNREACHABLE.some((code) => isSandyardError(error, code))) throw error;
      this.#parts.log.warn({ sandbox: record.id, error }, 'could not read the lease of a running sandbox');
    }
  }

  /** Has the lease end `ttlMs` from now, and returns when that is. */
  async renew(record: SandboxRecord, ttlMs: number, signal?: AbortSignal): Promise<Date> {
    const { leaseLeftMs } = await this.ask(record, ({ channel }) => channel.setRecord({ ttlMs }), signal);
    return this.#parts.leases.renew(record.id, leaseLeftMs ?? ttlMs);
  }

  /**
   * Gives one whose lease has ended, and that runs all the same once `after` has come, the lease that it gets when it is started.
   * Until it has that, it doesn't count as one that is to be paused.
   */
  async revive(record: SandboxRecord, { after, signal }: CallOptions & { after: Promise<void> }): Promise<void> {
    this.#reviving.add(record.id);
    try {
      await after;
      const leftMs = await this.ask(record, (held) => this.#giveLease(record, held), signal);
      if (leftMs !== undefined) this.#parts.leases.renew(record.id, leftMs);
    } finally {
      this.#reviving.delete(record.id);
    }
  }

  async #giveLease(record: SandboxRecord, { channel }: HeldChannel): Promise<number | undefined> {
    const { leaseLeftMs, renewMs, version } = await channel.record();
    if (leaseLeftMs !== 0) return undefined;
    const ttlMs = renewMs ?? record.ttlMs;
    try {
      return (await channel.setRecord({ version, ttlMs })).leaseLeftMs ?? ttlMs;
    } catch (error) {
      if (error instanceof RemoteError && error.errno === EAGAIN) return undefined; // somebody else has
      throw error;
    }
  }

  /** Whether the lease or idle timeout of one that runs has ended, so that it is to be paused. */
  async hasEnded(record: SandboxRecord): Promise<boolean> {
    if (this.#reviving.has(record.id)) return false;
    const { leaseLeftMs }: RemoteRecord = await this.ask(record, ({ channel }) => channel.record());
    if (leaseLeftMs !== null) this.#parts.leases.see(record, leaseLeftMs);
    // The answer may be older than its new lease.
    return leaseLeftMs === 0 && !this.#reviving.has(record.id);
  }

  /** When the lease of one that can't be asked ends, by its record; `undefined` where it has none that can be read. */
  async readLeaseEnd(record: SandboxRecord): Promise<Date | undefined> {
    return (await this.#readFile(record))?.leaseEndsAt ?? undefined;
  }

  /** The record, where there is one, without the engine making a way into the sandbox unless it takes one. */
  async look(record: SandboxRecord): Promise<SeenRecord | undefined> {
    if (record.state !== 'running') return this.#readFile(record);
    // A way in that the engine makes costs as much as fifty looks at its disk; any other less than one, and is there for the next.
    const isOpen = await this.#parts.connections.openDirectly(record);
    // What is there to be asked for is on disk before anybody is told of it.
    const noted = isOpen ? undefined : await this.#readLink(record);
    if (noted !== undefined) return noted;
    try {
      return await this.ask(record, ({ channel }) => channel.record());
    } catch (error) {
      if (!isSandyardError(error, 'wrong_state')) throw error;
      return this.#readFile(record); // stopped or paused since
    }
  }

  /** What a warm sandbox was claimed as; `undefined` when nobody has claimed it. */
  async readClaim(record: SandboxRecord): Promise<Claim | undefined> {
    const found = await this.look(record);
    try {
      return found && decodeClaim(found.blob);
    } catch (error) {
      throw unreadable(record, error);
    }
  }

  /** Whether it was ever given to anybody: what was not ends by itself, minutes after it was made. */
  async isTaken(record: SandboxRecord): Promise<boolean> {
    if (record.state === 'created') return false;
    try {
      return (await this.look(record))?.taken ?? false;
    } catch (error) {
      if (isSandyardError(error, 'sandbox_not_found')) return false;
      throw error;
    }
  }

  /** From the disk. It is a file only where it is too long for a link. */
  async #readFile(record: SandboxRecord): Promise<(RecordFile & SeenRecord) | undefined> {
    const noted = await this.#readLink(record);
    if (noted !== undefined) return noted;
    const { engine } = this.#parts;
    const found = await engine.readContainerFile(record.containerId, RECORD_PATH, { maxBytes: MAX_RECORD_BYTES });
    if (found === undefined) return undefined;
    const file = parseRecordFile(found);
    if (file !== undefined) return this.#asSeen(file);
    // It may well have been claimed: what isn't known must not count as nothing.
    throw unreadable(record);
  }

  async #readLink({ containerId }: SandboxRecord): Promise<(RecordFile & SeenRecord) | undefined> {
    const target = await this.#parts.engine.readContainerLink(containerId, RECORD_PATH);
    const file = target === undefined ? undefined : parseRecordLink(target);
    return file && this.#asSeen(file);
  }

  #asSeen(file: RecordFile): RecordFile & SeenRecord {
    const { leaseEndsAt } = file;
    const leaseLeftMs = leaseEndsAt && Math.max(0, leaseEndsAt.getTime() - this.#parts.clock.now().getTime());
    return { ...file, leaseLeftMs };
  }
}

function unreadable({ containerId }: SandboxRecord, cause?: unknown): SandyardError {
  return new SandyardError('engine_error', `The record of the container ${containerId} can't be read.`, {
    hint: 'It was made by another version of Sandyard, or is damaged. Remove it by hand when you need it no more.',
    ...(cause === undefined ? {} : { cause }),
  });
}

/** An answer about a record, as a SandyardError; any other error as it is. */
export function translateRecord(error: unknown, id: string): unknown {
  if (!(error instanceof RemoteError)) return error;
  if (error.errno === ETIME) {
    return new SandyardError('wrong_state', `The lease of the sandbox ${id} has ended, and it is being paused.`, {
      hint: 'Start it: that gives it a new lease.',
      cause: error,
    });
  }
  return new SandyardError('engine_error', `The sandbox ${id} could not do that with its record: ${error.text}.`, {
    hint: 'Its disk, or its memory, may be full.',
    cause: error,
  });
}
