import { SandyardError } from '../errors.js';

/*
 * What the warden's file operations print: records, each with its length before it. They run with the rights of the
 * sandbox's user on files that user has made: names are any bytes, sizes and times any number.
 */

const MAX_DATE_MS = 8.64e15;
/** Two names of 4 KiB, and room. */
const MAX_RECORD_BYTES = 64 * 1024;

export interface FileInfo {
  readonly path: string;
  readonly name: string;
  readonly type: 'file' | 'directory' | 'symlink' | 'other';
  readonly sizeBytes: number;
  /** Permission bits, with setuid, setgid and sticky. */
  readonly mode: number;
  readonly modifiedAt: Date;
  readonly uid: number;
  readonly gid: number;
  /** Where a symlink points, as it is written in it. */
  readonly linkTarget: string | null;
  /** Another one when the file has been replaced or written to: what `ifMatch` of `write()` takes. */
  readonly etag: string;
}

export interface FileEvent {
  /** `overflow`: more happened than could be told; look for yourself. */
  readonly type: 'create' | 'write' | 'remove' | 'rename' | 'chmod' | 'overflow';
  readonly path: string;
  readonly isDirectory: boolean;
  /** The new path of what was renamed. */
  readonly to?: string | undefined;
}

/** Takes bytes as they come, and gives the records in them. */
export class RecordReader {
  #bytes: Buffer = Buffer.alloc(0);

  push(chunk: Uint8Array): void {
    const given = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    this.#bytes = this.#bytes.length === 0 ? given : Buffer.concat([this.#bytes, given]);
  }

  /** The next record, when all of it has come. */
  next(): Fields | undefined {
    if (this.#bytes.length < 4) return undefined;
    const length = this.#bytes.readUInt32LE(0);
    if (length > MAX_RECORD_BYTES) throw notRecord();
    if (this.#bytes.length < 4 + length) return undefined;
    const record = this.#bytes.subarray(4, 4 + length);
    this.#bytes = this.#bytes.subarray(4 + length);
    return new Fields(record);
  }

  /** What has come after the last record that was taken. */
  rest(): Buffer {
    const rest = this.#bytes;
    this.#bytes = Buffer.alloc(0);
    return rest;
  }
}

/** The fields of one record, in order. */
export class Fields {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  u8(): number {
    return this.#take(1).readUInt8();
  }

  u32(): number {
    return this.#take(4).readUInt32LE();
  }

  u64(): bigint {
    return this.#take(8).readBigUInt64LE();
  }

  i64(): bigint {
    return this.#take(8).readBigInt64LE();
  }

  text(): string {
    return this.#take(this.u32()).toString('utf8');
  }

  /** Throws when there is more. */
  end(): void {
    if (this.#at !== this.#bytes.length) throw notRecord();
  }

  #take(length: number): Buffer {
    const from = this.#at;
    if (length > this.#bytes.length - from) throw notRecord();
    this.#at += length;
    return this.#bytes.subarray(from, this.#at);
  }
}

const TYPES: Readonly<Record<string, FileInfo['type']>> = { f: 'file', d: 'directory', l: 'symlink', o: 'other' };

/** An entry as information on a file: named relative to `root` where `below` it is, else on what `root` itself names. */
export function toFileInfo(fields: Fields, root: string, { below }: { below: boolean }): FileInfo {
  const kind = String.fromCharCode(fields.u8());
  const mode = fields.u32() & 0o7777;
  const size = fields.u64();
  const seconds = fields.i64();
  const nanoseconds = fields.u32();
  const [uid, gid, inode] = [fields.u32(), fields.u32(), fields.u64()];
  const [relative, linkTarget] = [fields.text(), fields.text()];
  fields.end();
  const type = TYPES[kind];
  if (type === undefined) throw notRecord();
  const path = below ? joinPath(root, relative) : root;
  return {
    path,
    name: path.replace(/(?<=.)\/+$/, '').replace(/^.*\//s, ''),
    type,
    sizeBytes: Math.min(Number(size), Number.MAX_SAFE_INTEGER),
    mode,
    modifiedAt: toDate(seconds, nanoseconds),
    uid,
    gid,
    linkTarget: type === 'symlink' ? linkTarget : null,
    etag: [inode, BigInt.asUintN(64, seconds), nanoseconds, size].map((number) => number.toString(16)).join('-'),
  };
}

const EVENTS: Readonly<Record<number, FileEvent['type']>> = {
  2: 'create',
  3: 'write',
  4: 'remove',
  5: 'rename',
  6: 'chmod',
  7: 'overflow',
};
const READY = 1;
const RENAME = 5;

/** An event in what `root` names; `undefined` for the first, which says that it is being watched. */
export function toFileEvent(fields: Fields, root: string): FileEvent | undefined {
  const kind = fields.u8();
  const isDirectory = fields.u8() !== 0;
  const path = joinPath(root, fields.text());
  const to = kind === RENAME ? { to: joinPath(root, fields.text()) } : {};
  fields.end();
  if (kind === READY) return undefined;
  const type = EVENTS[kind];
  if (type === undefined) throw notRecord();
  return { type, path, isDirectory, ...to };
}

function joinPath(root: string, relative: string): string {
  if (relative === '') return root;
  return root.endsWith('/') ? `${root}${relative}` : `${root}/${relative}`;
}

/** A time that a Date can't hold, which a file may well have, becomes the nearest that it can (ECMA-262, 21.4.1.1). */
function toDate(seconds: bigint, nanoseconds: number): Date {
  const ms = Number(seconds) * 1000 + Math.trunc(nanoseconds / 1e6);
  return new Date(Math.max(-MAX_DATE_MS, Math.min(MAX_DATE_MS, ms)));
}

export function notRecord(): SandyardError {
  return new SandyardError('channel_failed', "What the sandbox's file operation printed is not what it should be.", {
    hint: 'The warden of the sandbox may be of another version; create a new sandbox.',
  });
}
