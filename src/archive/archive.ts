import * as fs from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import { extract as tarExtract } from 'tar-stream';

import { copyAborted, damagedArchive, errnoCode, hostFileError } from './archive-errors.js';
import { compileExcludes } from './exclude.js';
import { ArchiveMeter, safeEntry, safePath, type ArchiveLimits, type TarHeader } from './guard.js';
import { readAsTar, type PackOptions, type PackSource } from './pack.js';
import { resolveTarget, Staging, type Target } from './staging.js';
import { SandyardError } from '../errors.js';
import { quoteName } from '../quote.js';

/*
 * Tar on the host's side: packing what goes into a sandbox, and unpacking what comes out of one, which is hostile.
 */

export type { PackOptions };

/** What was copied. Directories and links count as entries; the directory itself that was copied doesn't. */
export interface CopyResult {
  readonly entries: number;
  /** Content of files, in bytes. */
  readonly bytes: number;
}

export interface Packed {
  /** Reads nothing before it is read itself; consume it to its end, or destroy it. */
  readonly tar: Readable;
  /** What was packed so far; final when `tar` has ended. */
  readonly result: () => CopyResult;
}

const PACK_BUFFER_BYTES = 256 * 1024;

/**
 * Packs a directory of the host (its content, with names relative to it, in the order of names) or one file. Links in
 * `hostPath` itself are followed; links below it are packed as links. Kept are permission bits (not setuid, setgid and
 * sticky), times in seconds, empty directories and any UTF-8 name. A file with several hard links is packed for each.
 * Sockets, named pipes and devices are left out: they have no content, and mean something on this host only.
 *
 * @throws `file_not_found`; from `tar`: `file_operation_failed`, also when a file shrinks while it is packed (the archive
 *   then has no end and is refused by whoever reads it; one that grows is packed as long as it was), and `aborted`.
 */
export async function packDirectory(hostPath: string, options: PackOptions = {}): Promise<Packed> {
  const source = await findSource(hostPath);
  const counts = { entries: 0, bytes: 0 };
  const tar = Readable.from(readAsTar(source, options, counts), {
    objectMode: false,
    highWaterMark: PACK_BUFFER_BYTES,
  });
  // Whoever reads gets the error; before anybody does, it must not be an unhandled one.
  tar.on('error', () => undefined);
  destroyOnAbort(tar, options.signal);
  return { tar, result: () => ({ ...counts }) };
}

export interface ExtractOptions extends ArchiveLimits {
  /** What to leave out, relative to the target; see `compileExcludes`. It counts towards no limit. */
  readonly exclude?: readonly string[];
  readonly signal?: AbortSignal;
}

/**
 * Unpacks a hostile archive into the directory `hostTarget`, which is made with its parents when it is missing and merged into when it
 * is there. Everything is unpacked beside its place and moved there when the whole archive was checked: what is refused,
 * aborted or cut short leaves the target as it was (only a fault of the disk during the moves can leave a part). Modes (`& 0o777`) and times are kept, owners are not. Files and links
 * in the target are replaced by renaming, never written through; directories in the target keep their mode and time.
 *
 * Refused are: absolute names and names with `..`; symlinks that are absolute, climb out of the target or have a `..`
 * after a name; hard links to anything but an earlier file of the archive; what lies below a link or a file; a directory
 * in place of a file or the reverse, and in one archive a link in place of a file; setuid, setgid and sticky bits;
 * devices, named pipes, sparse and other special entries; names that are not UTF-8; an archive without its proper end.
 *
 * @throws `unsafe_archive`, `archive_too_large`, `not_a_directory` (the target is a file), `out_of_disk`,
 *   `file_operation_failed`, `aborted`; or what the source failed with, when that is a SandyardError.
 */
export async function extractArchive(tar: Readable, hostTarget: string, options: ExtractOptions): Promise<CopyResult> {
  return receive(tar, hostTarget, { ...options, as: 'directory' });
}

/**
 * Unpacks a hostile archive of exactly one regular file and writes it as the file `hostTarget`; when that is a directory
 * or ends in `/`, into it under the file's own name. Missing parents are made; a file that is there is replaced, and so
 * is a link: it is not followed.
 *
 * @throws as `extractArchive`, and `is_a_directory` when a directory has the name that the file would get.
 */
export async function extractFile(
  tar: Readable,
  hostTarget: string,
  options: Pick<ExtractOptions, 'maxBytes' | 'signal'>,
): Promise<CopyResult> {
  const { maxBytes, signal } = options;
  return receive(tar, hostTarget, { maxBytes, maxEntries: 1, as: 'file', ...(signal && { signal }) });
}

interface ReceiveOptions extends ExtractOptions {
  readonly as: 'directory' | 'file';
}

/** Unpacks beside the target, then moves into place. Whatever happens, nothing of the staging and the source is left. */
async function receive(tar: Readable, hostTarget: string, options: ReceiveOptions): Promise<CopyResult> {
  const { signal } = options;
  // Who reads the source gets its error; before and after that, it must not be an unhandled one.
  tar.on('error', () => undefined);
  try {
    signal?.throwIfAborted();
    const target = await findTarget(hostTarget, options);
    const meter = new ArchiveMeter(options);
    await using staging = await Staging.create(target, meter);
    await unpack(tar, { staging, meter, options });
    if (options.as === 'file') await staging.placeFile(target, signal);
    else await staging.placeDirectory(target, signal);
    return { entries: meter.entries, bytes: meter.bytes };
  } catch (error) {
    throw explain(error, signal);
  } finally {
    tar.destroy();
  }
}

/**
 * What a path on the host is, links followed. Throws `file_not_found`, and `file_operation_failed` for what is neither a
 * file nor a directory or can't be looked at.
 */
export async function findSource(hostPath: string): Promise<PackSource> {
  try {
    const path = await fs.realpath(hostPath);
    const stats = await fs.stat(path);
    if (stats.isDirectory() || stats.isFile()) return { path, isDirectory: stats.isDirectory() };
  } catch (error) {
    if (errnoCode(error) !== 'ENOENT') throw hostFileError('read', hostPath, error);
    throw new SandyardError('file_not_found', `There is no file or directory ${quoteName(hostPath)} on this machine`, {
      hint: 'A relative path starts at the working directory of this process.',
      cause: error,
    });
  }
  throw hostFileError('read', hostPath, new Error('it is neither a file nor a directory'));
}

function destroyOnAbort(stream: Readable, signal: AbortSignal | undefined): void {
  if (signal === undefined) return;
  const abort = () => {
    stream.destroy(copyAborted(signal));
  };
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  stream.once('close', () => signal.removeEventListener('abort', abort));
}

async function findTarget(hostTarget: string, { as }: ReceiveOptions): Promise<Target> {
  const target = await resolveTarget(hostTarget);
  if (target.kind === 'other' && (as !== 'file' || target.namesDirectory)) {
    throw new SandyardError('not_a_directory', `The target ${quoteName(hostTarget)} is not a directory`, {
      hint: 'Name a directory, or a path that does not exist yet.',
    });
  }
  return target;
}

interface Unpacking {
  readonly staging: Staging;
  readonly meter: ArchiveMeter;
  readonly options: ExtractOptions;
}

async function unpack(source: Readable, { staging, meter, options }: Unpacking): Promise<void> {
  const excluded = compileExcludes(options.exclude);
  const parser = tarExtract();
  let sourceError: SandyardError | undefined;
  const chunks = readSource(source, (error) => {
    sourceError = explainSource(error, options.signal);
    return sourceError;
  });
  const feeding = pipeline(
    meter.count(chunks),
    // A streamx stream, which Node's pipeline takes for one of its own; only the types say otherwise.
    parser as unknown as NodeJS.WritableStream,
    options.signal === undefined ? {} : { signal: options.signal },
  );
  // The loop below fails with it; this one is awaited only when the loop doesn't.
  feeding.catch(() => undefined);
  try {
    for await (const entry of parser) {
      const header = entry.header as TarHeader;
      meter.countHeader(header);
      const path = safePath(header.name);
      if (path !== '' && excluded(path)) entry.resume();
      else await staging.add(safeEntry(header, path), entry as AsyncIterable<Uint8Array>);
    }
    await feeding;
  } catch (error) {
    // The parser, and what it was parsing, fail as a consequence, and not always with the same error.
    throw sourceError ?? error;
  }
  meter.checkComplete();
}

/** The source's chunks, apart from the pipeline, which would give the source the errors of the parser. */
async function* readSource(
  source: Readable,
  failed: (error: unknown) => SandyardError,
): AsyncGenerator<Uint8Array, void> {
  try {
    yield* source as AsyncIterable<Uint8Array>;
  } catch (error) {
    throw failed(error);
  }
}

function explainSource(error: unknown, signal: AbortSignal | undefined): SandyardError {
  if (error instanceof SandyardError) return error;
  if (signal?.aborted === true) return copyAborted(signal);
  return new SandyardError('file_operation_failed', 'The archive could not be read to its end', {
    hint: 'Copy again; what was there before is unchanged.',
    cause: error,
  });
}

function explain(error: unknown, signal: AbortSignal | undefined): SandyardError {
  if (error instanceof SandyardError) return error;
  if (signal?.aborted === true) return copyAborted(signal);
  return damagedArchive(error instanceof Error ? error.message : String(error), error);
}
