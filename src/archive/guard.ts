import { posix, sep } from 'node:path';

import { damagedArchive, unsafeEntry } from './archive-errors.js';
import { SandyardError } from '../errors.js';

/*
 * What an archive that comes out of a sandbox may hold. Everything here only looks at headers and counts bytes; what
 * passes is safe to write into an empty directory that nobody else writes to.
 */

/** A header as tar-stream reads it. Nothing in it was checked: it doesn't even have the types of tar-stream's own `Header`. */
export interface TarHeader {
  readonly name: string;
  readonly type?: string | null;
  readonly size?: number;
  readonly mode?: number;
  readonly mtime?: Date;
  readonly linkname?: string | null;
  /** Where the entry's content starts, in bytes from the start of the archive. */
  readonly byteOffset?: number;
  readonly pax?: unknown;
}

export interface SafeEntry {
  readonly kind: 'file' | 'directory' | 'symlink' | 'link';
  /** As the archive has it; for messages. */
  readonly name: string;
  /** Relative to the target, no `.` or `..`; empty for the target itself. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Permission bits only. */
  readonly mode: number;
  readonly mtime: Date;
  /** Of a symlink its text, of a (hard) link the path of the entry that it links to. */
  readonly linkTarget: string;
}

const BLOCK_BYTES = 512;
const END_OF_ARCHIVE_BYTES = 2 * BLOCK_BYTES;

/** Linux's PATH_MAX. */
const MAX_NAME_BYTES = 4096;

const SPECIAL_BITS = 0o7000;
const PERMISSION_BITS = 0o777;

/** The year 9999: times beyond what file systems and Date know are cut, they are no reason to fail. */
const MAX_MTIME_SECONDS = 253_402_300_799;

const REFUSED_TYPES: Readonly<Record<string, string>> = {
  'character-device': 'it is a character device',
  'block-device': 'it is a block device',
  fifo: 'it is a named pipe',
  'contiguous-file': 'it is a contiguous file',
};

/** The path below the target that an entry's name stands for; `unsafe_archive` for a name that could leave it. */
export function safePath(name: string): string {
  if (name === '') throw unsafeEntry(name, 'its name is empty');
  if (name.includes('\0')) throw unsafeEntry(name, 'its name contains a NUL character');
  if (name.startsWith('/')) throw unsafeEntry(name, 'its name is absolute');
  if (sep === '\\' && /[\\:]/.test(name)) throw unsafeEntry(name, 'its name contains "\\" or ":"');
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) throw unsafeEntry(name, `its name exceeds ${MAX_NAME_BYTES} bytes`);
  const names = name.split('/').filter((part) => part !== '' && part !== '.');
  if (names.includes('..')) throw unsafeEntry(name, 'its name contains ".."');
  return names.join('/');
}

/** What an entry is, checked; `unsafe_archive` for whatever is not a plain file, directory or link that stays inside. */
export function safeEntry(header: TarHeader, path: string): SafeEntry {
  const { name } = header;
  const kind = safeKind(header, path);
  const mode = header.mode ?? 0;
  if (!Number.isSafeInteger(mode)) throw unsafeEntry(name, 'its mode is not a number');
  // The target's own bits are its owner's: of its entry only the permissions are ever taken, and /tmp has a sticky bit.
  if (kind !== 'symlink' && path !== '' && (mode & SPECIAL_BITS) !== 0) {
    throw unsafeEntry(name, 'it has a setuid, setgid or sticky bit');
  }
  const sizeBytes = header.size ?? 0;
  if (kind !== 'file' && sizeBytes > 0) throw unsafeEntry(name, `it is a ${kind} with content`);
  return {
    kind,
    name,
    path,
    sizeBytes,
    mode: mode & PERMISSION_BITS,
    mtime: safeMtime(header),
    linkTarget: safeLinkTarget(header, kind, path),
  };
}

function safeKind({ name, type, pax }: TarHeader, path: string): SafeEntry['kind'] {
  // The decoder puts U+FFFD for bytes that are not UTF-8: writing that would rename the file, and may merge two.
  if (path.includes('\uFFFD')) throw unsafeEntry(name, 'its name is not UTF-8');
  if (Object.keys((pax as PaxRecords) ?? {}).some((key) => key.startsWith('GNU.sparse.'))) {
    throw unsafeEntry(name, 'it is stored as a sparse file');
  }
  switch (type ?? '') {
    case 'file':
      // Before POSIX, a trailing slash was the only mark of a directory.
      if (name.endsWith('/')) return 'directory';
      if (path === '') throw unsafeEntry(name, 'it would replace the target directory itself');
      return 'file';
    case 'directory':
      return 'directory';
    case 'symlink':
    case 'link':
      if (path === '') throw unsafeEntry(name, 'it would replace the target directory itself');
      return type === 'link' ? 'link' : 'symlink';
    default:
      throw unsafeEntry(name, REFUSED_TYPES[type ?? ''] ?? 'it is of an unknown type');
  }
}

function safeLinkTarget({ name, linkname }: TarHeader, kind: SafeEntry['kind'], path: string): string {
  if (kind !== 'symlink' && kind !== 'link') return '';
  const target = linkname ?? '';
  if (target === '') throw unsafeEntry(name, 'it links to nothing');
  if (target.includes('\0')) throw unsafeEntry(name, 'its link contains a NUL character');
  if (target.includes('\uFFFD')) throw unsafeEntry(name, 'its link is not UTF-8');
  if (target.startsWith('/')) throw unsafeEntry(name, 'it links to an absolute path');
  if (Buffer.byteLength(target) > MAX_NAME_BYTES) throw unsafeEntry(name, `its link exceeds ${MAX_NAME_BYTES} bytes`);
  if (sep === '\\' && /[\\:]/.test(target)) throw unsafeEntry(name, 'its link contains "\\" or ":"');
  if (kind === 'symlink') {
    checkStaysInside(name, target, path);
    return target;
  }
  try {
    return safePath(target);
  } catch (error) {
    throw unsafeEntry(
      name,
      `it is a hard link to ${error instanceof SandyardError ? 'a path outside the target' : 'nothing'}`,
    );
  }
}

/**
 * A symlink may climb only at its start, and no further than to the target directory. The directory it lies in is a
 * real one, so these steps lead to a real directory inside; from there the link only descends, through directories or
 * through links that obey the same rule. So no chain of links leads out, in whatever order, or by however many archives,
 * they are made. (`a/..` is not always `.`: when `a` is a link, it is the parent of where that points.)
 */
function checkStaysInside(name: string, target: string, path: string): void {
  const depth = path.split('/').length - 1;
  const parts = target.split('/').filter((part) => part !== '' && part !== '.');
  const climbs = parts.findIndex((part) => part !== '..');
  const descent = climbs === -1 ? [] : parts.slice(climbs);
  if (descent.includes('..'))
    throw unsafeEntry(name, 'it is a symlink with ".." after a name, which could lead outside');
  if (parts.length - descent.length > depth) throw unsafeEntry(name, 'it is a symlink that leads outside the target');
}

type PaxRecords = Readonly<Record<string, string>> | null | undefined;

function safeMtime({ mtime, pax }: TarHeader): Date {
  const exact = Number.parseFloat((pax as PaxRecords)?.['mtime'] ?? '');
  const seconds = Number.isFinite(exact) ? exact : (mtime?.getTime() ?? 0) / 1000;
  return new Date(1000 * Math.min(Math.max(Number.isFinite(seconds) ? seconds : 0, 0), MAX_MTIME_SECONDS));
}

/** The directory that a path lies in; empty for the target itself. */
export function parentOf(path: string): string {
  const parent = posix.dirname(path);
  return parent === '.' ? '' : parent;
}

export interface ArchiveLimits {
  readonly maxBytes: number;
  readonly maxEntries: number;
}

/** What an archive may need besides content: headers, padding, long names. An endless run of headers is an attack. */
const OVERHEAD_BYTES = 1024 * 1024;
const OVERHEAD_BYTES_PER_ENTRY = 4096;
const PIECE_BYTES = 64 * 1024;

/** Counts an archive while it streams by, and knows whether it has come to its proper end. */
export class ArchiveMeter {
  readonly #limits: ArchiveLimits;
  #rawBytes = 0;
  #trailingZeros = 0;
  #expectedBytes = OVERHEAD_BYTES;
  #lastEntryEnd = 0;
  /** What is written below the target; the target itself is not counted. */
  entries = 0;
  /** Content of what is written. */
  bytes = 0;

  constructor(limits: ArchiveLimits) {
    this.#limits = limits;
  }

  /**
   * Counts an archive on its way to the parser, in pieces that are small beside `OVERHEAD_BYTES`: what was counted is
   * then never far ahead of what was parsed, however large the chunks are that it comes in.
   */
  async *count(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of source) {
      for (let start = 0; start < chunk.length; start += PIECE_BYTES) {
        const piece = chunk.subarray(start, start + PIECE_BYTES);
        this.#countRaw(piece);
        yield piece;
      }
    }
  }

  #countRaw(chunk: Uint8Array): void {
    this.#rawBytes += chunk.length;
    if (this.#rawBytes > this.#expectedBytes) throw this.#tooLarge('has more headers than its entries can need');
    let end = chunk.length;
    const start = Math.max(0, end - END_OF_ARCHIVE_BYTES);
    while (end > start && chunk[end - 1] === 0) end -= 1;
    this.#trailingZeros = end > 0 ? chunk.length - end : this.#trailingZeros + chunk.length;
  }

  /** Counts the header of an entry, whether it will be written or not. */
  countHeader(header: TarHeader): void {
    const size = header.size ?? 0;
    this.#lastEntryEnd = (header.byteOffset ?? 0) + Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES;
    this.#expectedBytes += OVERHEAD_BYTES_PER_ENTRY + size;
  }

  /** Counts what is about to be written, by what its header declares; the parser never yields more than that. */
  countWrite(sizeBytes: number): void {
    this.entries += 1;
    this.bytes += sizeBytes;
    if (this.entries > this.#limits.maxEntries) {
      throw this.#tooLarge(`has more than ${this.#limits.maxEntries} entries`);
    }
    if (this.bytes > this.#limits.maxBytes) throw this.#tooLarge(`holds more than ${this.#limits.maxBytes} bytes`);
  }

  /** The parser takes an archive that was cut between two entries for a whole one; two empty blocks tell. */
  checkComplete(): void {
    const rest = this.#rawBytes - this.#lastEntryEnd;
    if (Math.min(rest, this.#trailingZeros) < END_OF_ARCHIVE_BYTES) throw damagedArchive('its end is missing');
  }

  #tooLarge(why: string): SandyardError {
    return new SandyardError('archive_too_large', `The archive was refused because it ${why}`, {
      hint: 'Exclude what is not needed, copy a part of it, or raise the limit.',
    });
  }
}
