import type { Readable } from 'node:stream';
import { z } from 'zod';

import { Builtin, runBuiltin, type BuiltinCall } from './builtin.js';
import type { CallOptions } from '../engine/engine.js';
import { SandyardError } from '../errors.js';
import { notRecord, RecordReader, toFileInfo, type FileEvent, type FileInfo } from './file-entries.js';
import { outsideTarget, preconditionFailed, type FileFailure } from './file-errors.js';
import { readContent, readEntry, readEvents, toReadable } from './file-streams.js';
import { checkStdin } from '../process/process.js';
import { quoteName } from '../quote.js';
import type { ProcessTarget } from '../process/remote-run.js';
import { fields, formatSize, parseInput } from '../schemas.js';
import { abandon, type Stdin } from '../process/stdin.js';

const READ_MAX_BYTES = 64 * 1024 * 1024;
const LIST_MAX_BYTES = 64 * 1024 * 1024;
const LIST_MAX_ENTRIES = 1_000_000;
const DIRECTORY_MODE = 0o755;

export interface OpenOptions extends CallOptions {
  /** Where to begin; below zero, that many bytes before the end. Default: 0. */
  readonly offset?: number | undefined;
  /** How many bytes at the most. Default: to the end. */
  readonly length?: number | undefined;
}

/** A part of a file, as the file was when it was opened. */
export interface OpenFile {
  readonly info: FileInfo;
  /** Where the part begins, and its length. */
  readonly start: number;
  readonly length: number;
  /** Read it to its end, or destroy it. It fails where the file becomes shorter meanwhile. */
  readonly body: Readable;
}

export interface WriteOptions extends CallOptions {
  /** Permission bits. Default: those of the old file, or 0644. */
  readonly mode?: number | undefined;
  /** The `etag` that the file must have, or `*` where it must exist. */
  readonly ifMatch?: string | undefined;
  /** `*` where the file must not exist. */
  readonly ifNoneMatch?: '*' | undefined;
}

const offsetSchema = z.int();
const lengthSchema = z.int().min(0);
const depthSchema = z.int().min(1).max(64);

/** The files of one sandbox. All paths are absolute; all operations have the rights of the sandbox's user. */
export class SandboxFiles {
  readonly #target: ProcessTarget;

  /** @internal Made by a sandbox. */
  constructor(target: ProcessTarget) {
    this.#target = target;
  }

  /**
   * The content of a file, of at most `maxBytes` (64 MiB by default). Throws `file_not_found`, `is_a_directory`,
   * `permission_denied`, `limit_exceeded`.
   */
  async read(path: string, options: CallOptions & { maxBytes?: number } = {}): Promise<Uint8Array> {
    const { maxBytes = READ_MAX_BYTES, signal } = options;
    const { length, chunks, builtin } = await this.#open(path, { signal });
    if (length > maxBytes) {
      await builtin.run.stop();
      throw new SandyardError('limit_exceeded', `${quoteName(path)} has more than ${formatSize(maxBytes)}.`, {
        hint: 'Read it with readStream(), or raise maxBytes.',
      });
    }
    const parts: Uint8Array[] = [];
    for await (const chunk of chunks) parts.push(chunk);
    return Buffer.concat(parts);
  }

  /** The same as text, decoded as UTF-8. */
  async readText(path: string, options: CallOptions & { maxBytes?: number } = {}): Promise<string> {
    return new TextDecoder().decode(await this.read(path, options));
  }

  /** The content of a file of any size. What is wrong with the file is thrown here, not by the stream. */
  async readStream(path: string, { signal }: CallOptions = {}): Promise<Readable> {
    return (await this.open(path, { signal })).body;
  }

  /**
   * A file, or a part of it, with what is known of it. Throws as `read`, and `range_not_satisfiable` when `offset` is at
   * or after its end, unless it is 0.
   */
  async open(path: string, options: OpenOptions = {}): Promise<OpenFile> {
    const { info, start, length, chunks, builtin } = await this.#open(path, options);
    return { info, start, length, body: toReadable(chunks, builtin) };
  }

  /**
   * Writes a file, making the directories above it. Whoever reads meanwhile sees the old content or the new; when it
   * fails, the old stays. Throws `is_a_directory`, `permission_denied`, `out_of_disk`, `precondition_failed`, or what
   * `data` failed with.
   */
  async write(path: string, data: Stdin, options: WriteOptions = {}): Promise<FileInfo> {
    const { mode, ifMatch, ifNoneMatch, signal } = options;
    checkStdin(data, 'data');
    const tag = toTag({ ifMatch, ifNoneMatch });
    const explain = (failure: FileFailure) => preconditionFailed(failure, tag);
    return this.#ask({ argv: ['write', checkPath(path), toMode(mode), tag], path, stdin: data, signal, explain });
  }

  /** Adds to the end of a file, which is made where there is none. `mode` as with `write`. */
  async append(
    path: string,
    data: Stdin,
    options: CallOptions & { mode?: number | undefined } = {},
  ): Promise<FileInfo> {
    const { mode, signal } = options;
    checkStdin(data, 'data');
    return this.#ask({ argv: ['append', checkPath(path), toMode(mode)], path, stdin: data, signal });
  }

  /**
   * What is in a directory, `depth` levels down (1 by default), in the order of the paths. Links below it are not
   * followed. Throws `limit_exceeded` above a million entries.
   */
  async list(path: string, options: CallOptions & { depth?: number | undefined } = {}): Promise<FileInfo[]> {
    const depth = parseInput(depthSchema, options.depth ?? 1, 'depth');
    const argv = ['list', checkPath(path), String(depth)];
    const reader = new RecordReader();
    const found: FileInfo[] = [];
    let bytes = 0;
    for await (const chunk of new Builtin(this.#target, { argv, path, signal: options.signal }).stdout()) {
      reader.push(chunk);
      for (let entry = reader.next(); entry !== undefined; entry = reader.next()) {
        found.push(toFileInfo(entry, path, { below: true }));
      }
      bytes += chunk.length;
      if (bytes > LIST_MAX_BYTES || found.length > LIST_MAX_ENTRIES) {
        throw new SandyardError('limit_exceeded', `${quoteName(path)} has too many files to list at once.`, {
          hint: 'List with a smaller depth, or a directory further down.',
        });
      }
    }
    return found.toSorted((a, b) => (a.path < b.path ? -1 : 1));
  }

  /** What is known of a file; of a link itself where it is one, unless `followLinks`. Throws `file_not_found`. */
  async stat(path: string, options: CallOptions & { followLinks?: boolean | undefined } = {}): Promise<FileInfo> {
    const { followLinks = false, signal } = options;
    return this.#ask({ argv: ['stat', checkPath(path), followLinks ? '1' : '0'], path, signal });
  }

  /** Makes a directory of mode 0755, or `mode`; with `parents` (true) also those above, and one that exists is no fault. */
  async makeDir(
    path: string,
    options: CallOptions & { mode?: number | undefined; parents?: boolean | undefined } = {},
  ): Promise<void> {
    const { mode = DIRECTORY_MODE, parents = true, signal } = options;
    const argv = ['mkdir', withoutSlashes(checkPath(path)), toMode(mode), parents ? '1' : '0'];
    await runBuiltin(this.#target, { argv, path, signal });
  }

  /** Renames or moves, in one step. Throws `file_exists` when `to` is there and `replace` (true) is false. */
  async rename(from: string, to: string, options: CallOptions & { replace?: boolean | undefined } = {}): Promise<void> {
    const { replace = true, signal } = options;
    const argv = ['rename', checkPath(from), checkPath(to), replace ? '1' : '0'];
    await runBuiltin(this.#target, { argv, path: from, signal });
  }

  /** Removes a file or an empty directory, or with `recursive` a directory with all that is in it. */
  async remove(path: string, options: CallOptions & { recursive?: boolean | undefined } = {}): Promise<void> {
    const argv = ['remove', withoutSlashes(checkPath(path)), options.recursive === true ? '1' : '0'];
    await runBuiltin(this.#target, { argv, path, signal: options.signal });
  }

  /** Sets the permission bits of a file or directory; of what a link points to. */
  async chmod(path: string, mode: number, { signal }: CallOptions = {}): Promise<void> {
    await runBuiltin(this.#target, { argv: ['chmod', checkPath(path), toMode(mode)], path, signal });
  }

  /**
   * What happens to a file or in a directory, with `recursive` also in those below it, from the moment on at which this
   * resolves. Goes on until the loop is left, `signal` aborts it, or the sandbox ends.
   */
  async watch(
    path: string,
    options: CallOptions & { recursive?: boolean | undefined } = {},
  ): Promise<AsyncGenerator<FileEvent, void>> {
    const argv = ['watch', checkPath(path), options.recursive === true ? '1' : '0'];
    const builtin = new Builtin(this.#target, { argv, path, signal: options.signal, timeoutMs: null });
    const events = readEvents(builtin, path);
    const first = await events.next();
    if (first.done === true || first.value !== undefined) throw notRecord();
    const rest = events as AsyncGenerator<FileEvent, void>;
    const leave = rest.return.bind(rest);
    // A generator that waits for the next event can't be left before there is one.
    rest.return = async (value) => {
      await builtin.run.stop();
      return leave(value);
    };
    return rest;
  }

  /**
   * A tar of what the path names: of a directory its content, named from "./" on; of anything else, itself. What
   * comes out of a sandbox is hostile: unpack it with `copyFrom`, not with a tool that trusts it.
   */
  async readArchive(path: string, { signal }: CallOptions = {}): Promise<Readable> {
    const builtin = new Builtin(this.#target, { argv: ['pack', checkPath(path)], path, signal });
    const chunks = builtin.stdout();
    const first = await chunks.next(); // so that what fails before it is thrown here
    const all = async function* (): AsyncGenerator<Uint8Array, void> {
      if (first.done === true) return;
      yield first.value;
      yield* chunks;
    };
    return toReadable(all(), builtin);
  }

  /**
   * Unpacks an uncompressed tar into a directory, which is made where there is none. Throws `unsafe_archive` for an entry
   * that leads out of it, and `invalid_request` for what is no tar; what came before that is unpacked then.
   */
  async writeArchive(path: string, tar: AsyncIterable<Uint8Array>, { signal }: CallOptions = {}): Promise<void> {
    checkStdin(tar, 'archive');
    try {
      await runBuiltin(this.#target, {
        argv: ['unpack', checkPath(path)],
        path,
        signal,
        stdin: tar,
        explain: outsideTarget,
      });
    } finally {
      abandon(tar);
    }
  }

  /** Runs what answers with one entry, about the path itself. */
  async #ask(call: BuiltinCall): Promise<FileInfo> {
    try {
      const reader = new RecordReader();
      reader.push(await runBuiltin(this.#target, call));
      const entry = reader.next();
      if (entry === undefined) throw notRecord();
      return toFileInfo(entry, call.path, { below: false });
    } finally {
      abandon(call.stdin);
    }
  }

  async #open(path: string, options: OpenOptions) {
    const offset = parseInput(offsetSchema, options.offset ?? 0, 'offset');
    const most = options.length === undefined ? undefined : parseInput(lengthSchema, options.length, 'length');
    const argv = ['read', checkPath(path), String(offset), most === undefined ? '-' : String(most)];
    const builtin = new Builtin(this.#target, { argv, path, signal: options.signal });
    const chunks = builtin.stdout();
    try {
      const reader = new RecordReader();
      const info = await readEntry(chunks, { reader, path });
      const start = offset < 0 ? Math.max(0, info.sizeBytes + offset) : offset;
      if (start > 0 && start >= info.sizeBytes) throw outOfRange(path, info.sizeBytes);
      const length = Math.min(most ?? info.sizeBytes, info.sizeBytes - start);
      return { info, start, length, builtin, chunks: readContent(chunks, { first: reader.rest(), length }) };
    } catch (error) {
      await chunks.return();
      throw error;
    }
  }
}

function toTag({ ifMatch, ifNoneMatch }: Pick<WriteOptions, 'ifMatch' | 'ifNoneMatch'>): string {
  if (ifMatch === undefined && ifNoneMatch === undefined) return '-';
  if (ifMatch !== undefined && ifNoneMatch !== undefined) {
    throw new SandyardError('validation_failed', 'Only one of ifMatch and ifNoneMatch can be demanded.');
  }
  if (ifNoneMatch !== undefined) {
    parseInput(z.literal('*'), ifNoneMatch, 'ifNoneMatch');
    return '!';
  }
  return parseInput(fields.etag, ifMatch, 'ifMatch');
}

function toMode(mode: number | undefined): string {
  return mode === undefined ? '-' : parseInput(fields.mode, mode, 'mode').toString(8);
}

function checkPath(path: string): string {
  return parseInput(fields.path, path, 'path');
}

function withoutSlashes(path: string): string {
  return path.replace(/(?<=.)\/+$/, '');
}

function outOfRange(path: string, sizeBytes: number): SandyardError {
  return new SandyardError(
    'range_not_satisfiable',
    `${quoteName(path)} has ${sizeBytes} bytes, and none from there on.`,
    {
      hint: 'Begin before its end.',
      details: { sizeBytes },
    },
  );
}
