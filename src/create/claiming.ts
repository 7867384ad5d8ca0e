import type { Channel } from '../channel/channel.js';
import { RemoteError, type RemoteRecord } from '../channel/messages.js';
import type { SandboxConnections } from '../connections.js';
import { SandyardError } from '../errors.js';
import type { Claim, SandboxRecord } from '../record/record.js';

/** A warm sandbox that doesn't answer in this time is none. */
export const ANSWER_MS = 2000;
/** Its record is renewed once in minutes: that it changes so often under a claim doesn't happen. */
const TRIES = 3;

const EAGAIN = 11;

/** A claim, and as it is written. */
export interface Wanted {
  readonly claim: Claim;
  readonly blob: Uint8Array;
}

interface WriteOptions extends Wanted {
  /** Of the record as last seen, when there was no claim in it. */
  readonly version: bigint;
  /** Whether nobody waits for it any more: nothing is sent then. */
  readonly isLate: () => boolean;
}

/** Writes a claim to the record of a warm sandbox, unless somebody else has. Throws what keeps it from being known. */
export async function writeClaim(
  channel: Channel,
  { claim, blob, version: seen, isLate }: WriteOptions,
): Promise<'claimed' | 'lost'> {
  const change = {
    ttlMs: claim.ttlMs,
    renewMs: claim.ttlMs,
    idleMs: claim.idleTimeoutMs,
    onExpiry: claim.onExpiry,
    lastMs: claim.maxLifetimeMs,
    blob,
  };
  let version = seen;
  for (let tries = 0; tries < TRIES && !isLate(); tries += 1) {
    try {
      await channel.setRecord({ ...change, version });
      return 'claimed';
    } catch (error) {
      if (!(error instanceof RemoteError) || error.errno !== EAGAIN) throw error;
    }
    // Another manager has renewed it, or claimed it; or the answer to our own claim was lost on its way.
    const now = await channel.record();
    if (holds(now, blob)) return 'claimed';
    if (now.blob.length > 0) return 'lost';
    version = now.version;
  }
  throw new SandyardError('channel_failed', 'The record of a warm sandbox could not be written.');
}

/** Whether that is what is written there. */
export function holds(record: RemoteRecord, blob: Uint8Array): boolean {
  return Buffer.compare(record.blob, blob) === 0;
}

export async function readRecord(connections: SandboxConnections, record: SandboxRecord): Promise<RemoteRecord> {
  const held = connections.hold(record);
  try {
    return await within(held.channel.record());
  } finally {
    held.release();
  }
}

/** Settles in time, whatever the warden does. */
export async function within<T>(answer: Promise<T>, ms = ANSWER_MS): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new SandyardError('engine_timeout', 'A warm sandbox did not answer in time.')), ms);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}
