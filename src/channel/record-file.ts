import { crc32 } from 'node:zlib';

import type { RemoteRecord } from './messages.js';
import { MAX_BLOB_BYTES, MAX_TIME_MS, ON_EXPIRY } from './wire.js';

/** The record of a sandbox that can't be asked: as the warden tells it, but with times that stand still. */
export interface RecordFile extends Omit<RemoteRecord, 'leaseLeftMs' | 'lastLeftMs'> {
  /** `null` when it has no lease. */
  readonly leaseEndsAt: Date | null;
  /** `null` when it has no longest lifetime. */
  readonly lastEndsAt: Date | null;
}

const MAX_HEAD_BYTES = 256;
/* Numbers as the warden prints them: in one way only. */
const NUMBER = '(0|[1-9][0-9]{0,19})';
const HEAD = new RegExp(
  `^sandyard-record 2 ([0-9a-f]{8}) ${NUMBER} ${NUMBER} ${NUMBER} ${NUMBER} ${NUMBER} ([012]) ${NUMBER} ([01])$`,
);
const SUMMED_FROM = 'sandyard-record 2 01234567 '.length;
const MAX_VERSION = 2n ** 64n - 1n;

/** Reads the file that `warden/PROTOCOL.md` describes; `undefined` is what isn't one, or isn't whole. */
export function parseRecordFile(file: Buffer): RecordFile | undefined {
  const headEnd = file.subarray(0, MAX_HEAD_BYTES).indexOf('\n');
  const head = HEAD.exec(file.toString('latin1', 0, Math.max(headEnd, 0)));
  if (head === null) return undefined;
  const [sum, length, version, lease, idle, renew, onExpiry, last, taken] = head.slice(1) as HeadFields;
  const blob = file.subarray(headEnd + 1);
  if (blob.length > MAX_BLOB_BYTES || blob.length !== Number(length)) return undefined;
  if (crc32(file.subarray(SUMMED_FROM)) !== Number.parseInt(sum, 16)) return undefined;
  const [versionNumber, ends, times] = [BigInt(version), [lease, last].map(Number), [idle, renew].map(Number)];
  if (versionNumber === 0n || versionNumber > MAX_VERSION) return undefined;
  if (ends.some((end) => end > 2 * MAX_TIME_MS) || times.some((ms) => ms > MAX_TIME_MS)) return undefined;
  return {
    version: versionNumber,
    leaseEndsAt: dateOrNone(Number(lease)),
    idleMs: timeOrNone(Number(idle)),
    renewMs: timeOrNone(Number(renew)),
    onExpiry: ON_EXPIRY[Number(onExpiry)] ?? 'destroy',
    lastEndsAt: dateOrNone(Number(last)),
    taken: taken === '1',
    blob: Buffer.from(blob), // kept for long: not what it came in
  };
}

/** How each begins: `sandyard-record 2 `. */
const LINK_START = Buffer.from('sandyard-record 2 ').toString('base64url');

/**
 * Reads the record of the path that a link at its place leads to, wherever that place is; `undefined` where it leads
 * anywhere else.
 */
export function parseRecordLink(target: string): RecordFile | undefined {
  const start = target.indexOf(`/${LINK_START}`);
  return start < 0 ? undefined : parseRecordFile(Buffer.from(target.slice(start).replaceAll('/', ''), 'base64url'));
}

type HeadFields = [string, string, string, string, string, string, string, string, string];

function dateOrNone(ms: number): Date | null {
  return ms === 0 ? null : new Date(ms);
}

function timeOrNone(ms: number): number | null {
  return ms === 0 ? null : ms;
}
