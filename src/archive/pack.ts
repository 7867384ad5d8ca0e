import { constants } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, relative } from 'node:path';

import { pack, type PackOptions as TarPackOptions } from 'tar-fs';

import { errnoCode, hostFileError } from './archive-errors.js';
import { compileExcludes } from './exclude.js';
import { SandyardError } from '../errors.js';
import { quoteName } from '../quote.js';

/*
 * Reads files of the host as tar, no faster than the archive is read, so that memory doesn't grow with what is packed.
 */

export interface PackOptions {
  /** What to leave out, relative to the packed directory; see `compileExcludes` for what patterns mean. */
  readonly exclude?: readonly string[];
  /** Owner of everything in the archive. Default 1000. */
  readonly uid?: number;
  /** Group of everything in the archive. Default 1000. */
  readonly gid?: number;
  /** Name of the one entry when a file is packed. Default: the file's base name. */
  readonly name?: string;
  readonly signal?: AbortSignal;
}

export interface PackSource {
  /** Absolute, and not a link. */
  readonly path: string;
  readonly isDirectory: boolean;
}

type Header = Parameters<NonNullable<TarPackOptions['map']>>[0];

interface Counts {
  entries: number;
  bytes: number;
}

const BLOCK_BYTES = 64 * 1024;

/** What fits the fields that tar-stream writes; beyond, it would write another number without saying so. */
const MAX_HEADER_ID = 0o777777;
const MAX_HEADER_SECONDS = 2 ** 31 - 1;

/** The archive of a source, in pieces. Nothing is read before the first piece is asked for. */
export async function* readAsTar(
  source: PackSource,
  options: PackOptions,
  counts: Counts,
): AsyncGenerator<Uint8Array, void> {
  const excluded = compileExcludes(options.exclude);
  const root = source.isDirectory ? source.path : dirname(source.path);
  // By its entries, so that the directory itself isn't one: the target keeps its own mode and time.
  const entries = source.isDirectory ? (await readdir(root)).sort() : [basename(source.path)];
  const settings: TarPackOptions & { sort: boolean; umask: number } = {
    entries: entries.filter((name) => !source.isDirectory || !excluded(name)),
    ignore: (path) => source.isDirectory && excluded(relative(root, path)),
    map: (header) => {
      counts.entries += 1;
      counts.bytes += header.size ?? 0;
      return { ...describe(header, options), ...(source.isDirectory ? {} : { name: options.name ?? header.name }) };
    },
    sort: true,
    strict: false, // leaves out pipes and devices, as it does sockets
    umask: 0,
  };
  const tar = pack(root, settings);
  try {
    yield* inBlocks(tar as AsyncIterable<Uint8Array>);
  } catch (error) {
    if (errnoCode(error) !== undefined) throw hostFileError('read', source.path, error);
    throw new SandyardError(
      'file_operation_failed',
      `A file of ${quoteName(source.path)} changed its size while it was copied`,
      {
        hint: 'Stop what writes to it and copy again, or exclude it.',
        cause: error,
      },
    );
  } finally {
    tar.destroy();
  }
}

/** Puts small pieces together: each that went on alone would keep all that is between here and the sandbox busy. */
async function* inBlocks(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  let block: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of pieces) {
    block.push(piece);
    bytes += piece.length;
    if (bytes < BLOCK_BYTES) continue;
    yield block.length === 1 ? piece : Buffer.concat(block);
    block = [];
    bytes = 0;
  }
  if (bytes > 0) yield Buffer.concat(block);
}

/** An entry as it is to arrive: owned by the sandbox's user, and with none of the special bits. */
function describe(header: Header, { uid = 1000, gid = 1000 }: PackOptions): Header {
  const seconds = Math.floor((header.mtime?.getTime() ?? 0) / 1000);
  const pax = {
    ...(uid > MAX_HEADER_ID ? { uid: String(uid) } : {}),
    ...(gid > MAX_HEADER_ID ? { gid: String(gid) } : {}),
    ...(seconds > MAX_HEADER_SECONDS ? { mtime: String(seconds) } : {}),
  };
  return {
    ...header,
    // A bit of the type, which is not written: without it a mode of 0 would become tar-stream's default.
    mode: constants.S_IFREG | ((header.mode ?? 0) & 0o777),
    uid,
    gid,
    mtime: new Date(1000 * Math.min(Math.max(seconds, 0), MAX_HEADER_SECONDS)),
    ...(Object.keys(pax).length > 0 && { pax }),
  };
}
