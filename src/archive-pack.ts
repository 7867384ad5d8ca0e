import { isUtf8 } from 'node:buffer';
import { constants, type Stats } from 'node:fs';
import * as fs from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';

import { pack as tarPack, type Header, type Pack } from 'tar-stream';

import { errnoCode, hostFileError, quoteName } from './archive-errors.js';
import { compileExcludes } from './archive-exclude.js';
import { SandyardError } from './errors.js';

/*
 * Reads files of the host as tar: one at a time, no faster than the archive is read, so that memory doesn't grow with
 * what is packed, but for the names in the directories that are open.
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

interface Counts {
  entries: number;
  bytes: number;
}

type EntryHeader = Partial<Header> & Pick<Header, 'name'>;

const READ_BYTES = 256 * 1024;

/** Up to this size a file is read at once, and its change is found before any of it is sent. */
const SMALL_FILE_BYTES = 64 * 1024;

/** What fits the fields that tar-stream writes; beyond, it would write another number without saying so. */
const MAX_HEADER_ID = 0o777777;
const MAX_HEADER_SECONDS = 2 ** 31 - 1;

/** The archive of a source, in pieces. Nothing is read before the first piece is asked for. */
export async function* readAsTar(
  source: PackSource,
  options: PackOptions,
  counts: Counts,
): AsyncGenerator<Uint8Array, void> {
  const packer = new Packer(options, counts);
  const name = options.name ?? basename(source.path);
  const packing = (source.isDirectory ? packer.addTree(source.path) : packer.add(source.path, name)).then(
    () => packer.pack.finalize(),
    (error: Error) => packer.pack.destroy(error),
  );
  try {
    yield* packer.pack as AsyncIterable<Uint8Array>;
  } finally {
    packer.pack.destroy();
    await packing;
  }
}

class Packer {
  readonly pack: Pack = tarPack();
  readonly #options: PackOptions;
  readonly #counts: Counts;

  constructor(options: PackOptions, counts: Counts) {
    this.#options = options;
    this.#counts = counts;
  }

  /** Packs what a directory holds, each directory before its content. What vanishes before it is reached was not there. */
  async addTree(root: string): Promise<void> {
    const excluded = compileExcludes(this.#options.exclude);
    const left = [''];
    for (let path = left.pop(); path !== undefined; path = left.pop()) {
      try {
        const isDirectory = path === '' || (await this.add(join(root, path), path));
        const names = isDirectory ? await fs.readdir(join(root, path), { encoding: 'buffer' }) : [];
        // The last one is taken first, so in reverse: the archive is then in the order of names, the same each time.
        for (const name of names.sort((a, b) => Buffer.compare(b, a))) {
          const child = path === '' ? name.toString() : `${path}/${name.toString()}`;
          if (excluded(child)) continue;
          textOf(name, child);
          left.push(child);
        }
      } catch (error) {
        if (errnoCode(error) !== 'ENOENT' || path === '') throw hostFileError('read', join(root, path), error);
      }
    }
  }

  /** Packs one thing, without what is below it; true when it is a directory. */
  async add(path: string, name: string): Promise<boolean> {
    const stats = await fs.lstat(path);
    if (stats.isFile()) await this.#addFile(path, name);
    if (stats.isDirectory()) await this.#addEntry({ ...this.#describe(stats, name), type: 'directory' });
    if (stats.isSymbolicLink()) {
      const linkname = textOf(await fs.readlink(path, { encoding: 'buffer' }), path);
      await this.#addEntry({ ...this.#describe(stats, name), type: 'symlink', linkname });
    }
    return stats.isDirectory();
  }

  #describe(stats: Stats, name: string): EntryHeader {
    const { uid = 1000, gid = 1000 } = this.#options;
    const seconds = Math.floor(stats.mtimeMs / 1000);
    const pax = {
      ...(uid > MAX_HEADER_ID ? { uid } : {}),
      ...(gid > MAX_HEADER_ID ? { gid } : {}),
      ...(seconds > MAX_HEADER_SECONDS ? { mtime: seconds } : {}),
    };
    return {
      name,
      // The bits of the type are not written, but without them a mode of 0 would become tar-stream's default.
      mode: (stats.mode & constants.S_IFMT) | (stats.mode & 0o777),
      uid,
      gid,
      mtime: new Date(1000 * Math.min(Math.max(seconds, 0), MAX_HEADER_SECONDS)),
      pax: Object.keys(pax).length > 0 ? pax : null,
    };
  }

  async #addFile(path: string, name: string): Promise<void> {
    // Not through a link, and not waiting for a writer, should the file have been replaced since.
    const handle = await fs.open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const stats = await handle.stat();
      const header: EntryHeader = { ...this.#describe(stats, name), type: 'file', size: stats.size };
      const chunks = readExactly(handle, stats.size, path);
      if (stats.size <= SMALL_FILE_BYTES) {
        const content: Buffer[] = [];
        for await (const chunk of chunks) content.push(chunk);
        await this.#addEntry(header, Buffer.concat(content));
      } else {
        // A streamx stream, which Node's pipeline takes for one of its own; only the types say otherwise.
        await pipeline(chunks, this.pack.entry(header) as unknown as NodeJS.WritableStream);
        this.#counts.entries += 1;
      }
      this.#counts.bytes += stats.size;
    } finally {
      await handle.close();
    }
  }

  async #addEntry(header: EntryHeader, content: Uint8Array = new Uint8Array()): Promise<void> {
    await new Promise<void>((done, fail) => {
      const settle = (error?: Error | null) => (error == null ? done() : fail(error));
      if (header.type === 'file') this.pack.entry(header, content, settle);
      else this.pack.entry(header, settle);
    });
    this.#counts.entries += 1;
  }
}

/** The content of a file that must have this size, from its start to its end. */
async function* readExactly(handle: fs.FileHandle, size: number, path: string): AsyncGenerator<Buffer> {
  let left = size;
  for (;;) {
    // One byte more than is left, so that a file that grew is seen.
    const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, left + 1));
    const { bytesRead } = await handle.read(buffer, 0, buffer.length);
    if (bytesRead > left || (bytesRead === 0 && left > 0)) {
      throw new SandyardError('file_operation_failed', `${quoteName(path)} changed its size while it was copied`, {
        hint: 'Stop what writes to it and copy again, or exclude it.',
      });
    }
    if (bytesRead === 0) return;
    left -= bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** Names are bytes to the host and text in an archive; what is no text would arrive under another name. */
function textOf(bytes: Buffer, path: string): string {
  if (isUtf8(bytes)) return bytes.toString();
  throw hostFileError('read', path, new Error('its name or link is not UTF-8; rename or exclude it'));
}
