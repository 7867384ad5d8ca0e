import type { Stats } from 'node:fs';
import * as fs from 'node:fs/promises';
import { basename, dirname, join, resolve, sep } from 'node:path';

import { errnoCode, hostFileError, unsafeEntry } from './archive-errors.js';
import { parentOf, type ArchiveMeter, type SafeEntry } from './guard.js';
import { SandyardError } from '../errors.js';

/*
 * An archive is unpacked into a fresh directory that only we can enter, on the file system of its target, and moved to
 * its place when all of it was checked. Three things make it safe, whatever the archive says:
 * - the ledger knows every path that exists in the staging directory, so no path is looked up through a link;
 * - everything is created exclusively, so where the file system takes two names for one (upper and lower case, composed
 *   and decomposed letters), the second fails instead of going where the first leads;
 * - symlinks are made last, when no more files are written.
 */

interface Staged {
  readonly kind: 'file' | 'directory' | 'symlink';
  readonly name: string;
  readonly linkTarget: string;
  /** Undefined for a directory that the archive implies but doesn't have. */
  readonly meta: Pick<SafeEntry, 'mode' | 'mtime'> | undefined;
}

/** What the caller named as the target of a copy. */
export interface Target {
  /** Absolute; of a directory the real path. */
  readonly path: string;
  readonly kind: 'directory' | 'other' | 'missing';
  /** Whether it can only mean a directory: because it is one, or because it ends in a slash. */
  readonly namesDirectory: boolean;
}

/** Looks at a target. A link to a directory is followed: it is the caller's own path. */
export async function resolveTarget(hostTarget: string): Promise<Target> {
  const path = resolve(hostTarget);
  const endsInSlash = hostTarget.endsWith('/') || hostTarget.endsWith(sep);
  try {
    if ((await fs.stat(path)).isDirectory()) {
      return { path: await fs.realpath(path), kind: 'directory', namesDirectory: true };
    }
    return { path, kind: 'other', namesDirectory: endsInSlash };
  } catch (error) {
    if (errnoCode(error) !== 'ENOENT') throw hostFileError('write to', hostTarget, error);
    return { path, kind: 'missing', namesDirectory: endsInSlash };
  }
}

export class Staging implements AsyncDisposable {
  readonly #dir: string;
  readonly #meter: ArchiveMeter;
  readonly #ledger = new Map<string, Staged>([['', { kind: 'directory', name: '.', linkTarget: '', meta: undefined }]]);

  private constructor(dir: string, meter: ArchiveMeter) {
    this.#dir = dir;
    this.#meter = meter;
  }

  /** Makes the staging directory: in the target where that exists (it may be a mount point), else as near as can be. */
  static async create(target: Target, meter: ArchiveMeter): Promise<Staging> {
    let near = target.kind === 'directory' ? target.path : dirname(target.path);
    for (;;) {
      try {
        return new Staging(await fs.mkdtemp(join(near, '.sandyard-')), meter);
      } catch (error) {
        if (errnoCode(error) !== 'ENOENT' || dirname(near) === near) throw hostFileError('write to', near, error);
        near = dirname(near);
      }
    }
  }

  /** Writes one entry, and consumes `body` to its end. */
  async add(entry: SafeEntry, body: AsyncIterable<Uint8Array>): Promise<void> {
    if (entry.path !== '') await this.#makeParents(entry, parentOf(entry.path));
    const before = this.#ledger.get(entry.path);
    const kind = entry.kind === 'link' ? 'file' : entry.kind;
    if (before !== undefined && before.kind !== kind) {
      throw unsafeEntry(entry.name, `it is a ${entry.kind} in place of an earlier ${before.kind}`);
    }
    if (entry.path !== '' && (before === undefined || kind !== 'directory')) this.#meter.countWrite(entry.sizeBytes);
    await this.#guarded(entry, async (path) => {
      if (before?.kind === 'file') await fs.unlink(path);
      if (entry.kind === 'directory' && before === undefined) await fs.mkdir(path, { mode: 0o700 });
      if (entry.kind === 'file') await writeFile(path, entry, body);
      if (entry.kind === 'link') await fs.link(this.#linkedFile(entry), path);
    });
    this.#ledger.set(entry.path, { kind, name: entry.name, linkTarget: entry.linkTarget, meta: entry });
  }

  /**
   * Moves everything to the target directory, which is made when it is missing. Whatever stands in the way there is
   * found first, so that nothing is changed when this throws `unsafe_archive`. Directories that were there keep their
   * mode and time; files and links that were there are replaced by renaming.
   */
  async placeDirectory(target: Target, signal: AbortSignal | undefined): Promise<void> {
    await this.#makeSymlinks();
    const { moves, made } = await this.#plan(target);
    signal?.throwIfAborted();
    if (target.kind !== 'directory') await this.#move(this.#dir, target.path);
    for (const path of moves) await this.#move(join(this.#dir, path), join(target.path, path));
    // From the innermost outwards: a directory may forbid entering it, and its time changes with its content.
    for (const path of made.toReversed()) await this.#applyMeta(join(target.path, path), this.#ledger.get(path)?.meta);
  }

  /** Moves the one file of the archive to the target, or into it under its own name when that is a directory. */
  async placeFile(target: Target, signal: AbortSignal | undefined): Promise<void> {
    const [file, other] = [...this.#ledger].filter(([path]) => path !== '');
    if (file === undefined) throw unsafeEntry('.', 'it is not the single file that was asked for');
    const [path, { kind, name }] = file;
    if (other !== undefined) throw unsafeEntry(other[1].name, 'it is not the single file that was asked for');
    if (kind !== 'file') throw unsafeEntry(name, `it is a ${kind}, not a file`, 'Copy what it points to.');
    const final = target.namesDirectory ? join(target.path, basename(path)) : target.path;
    const there = await lstatIfThere(final);
    if (there?.isDirectory() === true) {
      throw new SandyardError('is_a_directory', `A file can't replace a directory: ${final}`, {
        hint: 'Name another target.',
      });
    }
    signal?.throwIfAborted();
    await this.#move(join(this.#dir, path), final);
  }

  /** Removes what is left. It never throws: it must not hide why it is called. */
  async [Symbol.asyncDispose](): Promise<void> {
    await fs.rm(this.#dir, { recursive: true, force: true, maxRetries: 3 }).catch(() => undefined);
  }

  async #makeParents(entry: SafeEntry, path: string): Promise<void> {
    const missing: string[] = [];
    let existing = this.#ledger.get(path);
    for (let at = path; existing === undefined; existing = this.#ledger.get(at)) {
      missing.push(at);
      at = parentOf(at);
    }
    if (existing.kind !== 'directory') throw unsafeEntry(entry.name, `it lies below a ${existing.kind}`);
    for (const directory of missing.toReversed()) {
      this.#meter.countWrite(0);
      await this.#guarded({ name: entry.name, path: directory }, (full) => fs.mkdir(full, { mode: 0o700 }));
      this.#ledger.set(directory, { kind: 'directory', name: entry.name, linkTarget: '', meta: undefined });
    }
  }

  #linkedFile(entry: SafeEntry): string {
    const linked = this.#ledger.get(entry.linkTarget);
    if (entry.linkTarget === entry.path) throw unsafeEntry(entry.name, 'it is a hard link to itself');
    if (linked?.kind === 'file') return join(this.#dir, entry.linkTarget);
    const what = linked === undefined ? 'what is not in the archive before it' : `a ${linked.kind}`;
    throw unsafeEntry(entry.name, `it is a hard link to ${what}`, 'Exclude it, or include what it links to.');
  }

  async #makeSymlinks(): Promise<void> {
    for (const [path, { kind, name, linkTarget, meta }] of this.#ledger) {
      if (kind !== 'symlink') continue;
      await this.#guarded({ name, path }, async (full) => {
        await fs.symlink(linkTarget, full);
        if (meta !== undefined) await fs.lutimes(full, meta.mtime, meta.mtime);
      });
    }
  }

  /** What to move, and which directories are new with it. A directory that the target lacks is moved with all it has. */
  async #plan(target: Target): Promise<{ moves: string[]; made: string[] }> {
    const moves: string[] = [];
    const made = new Set<string>(target.kind === 'directory' ? [] : ['']);
    for (const [path, { kind, name }] of this.#ledger) {
      if (path === '') continue;
      const moved = made.has(parentOf(path));
      const there = moved ? undefined : await lstatIfThere(join(target.path, path));
      if (there !== undefined) checkReplaces({ kind, name }, there);
      if (kind === 'directory' && there === undefined) made.add(path);
      if (!moved && (kind !== 'directory' || there === undefined)) moves.push(path);
    }
    // Before the first move, so that a directory that forbids writing doesn't leave the copy half done.
    for (const directory of new Set(moves.map(parentOf))) await checkWritable(join(target.path, directory));
    return { moves, made: [...made] };
  }

  async #move(from: string, to: string): Promise<void> {
    try {
      await fs.mkdir(dirname(to), { recursive: true });
      await fs.rename(from, to);
    } catch (error) {
      throw hostFileError('write', to, error);
    }
  }

  async #applyMeta(path: string, meta: Staged['meta']): Promise<void> {
    try {
      if (meta !== undefined) await fs.utimes(path, meta.mtime, meta.mtime);
      await fs.chmod(path, meta?.mode ?? 0o777 & ~process.umask());
    } catch (error) {
      throw hostFileError('set the mode of', path, error);
    }
  }

  async #guarded(entry: Pick<SafeEntry, 'name' | 'path'>, write: (path: string) => Promise<unknown>): Promise<void> {
    try {
      await write(join(this.#dir, entry.path));
    } catch (error) {
      if (errnoCode(error) === 'EEXIST') {
        throw unsafeEntry(entry.name, 'this file system takes its name for that of an earlier entry');
      }
      if (isFromFileSystem(error)) throw hostFileError('write', entry.path, error);
      throw error;
    }
  }
}

async function writeFile(path: string, entry: SafeEntry, body: AsyncIterable<Uint8Array>): Promise<void> {
  const handle = await fs.open(path, 'wx', 0o600);
  try {
    if (entry.sizeBytes > 0) for await (const chunk of body) await handle.writeFile(chunk);
    await handle.utimes(entry.mtime, entry.mtime);
    await handle.chmod(entry.mode);
  } finally {
    await handle.close();
  }
}

async function lstatIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await fs.lstat(path);
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return undefined;
    throw hostFileError('write', path, error);
  }
}

async function checkWritable(directory: string): Promise<void> {
  try {
    await fs.access(directory, fs.constants.W_OK | fs.constants.X_OK);
  } catch (error) {
    throw hostFileError('write to', directory, error);
  }
}

function checkReplaces({ kind, name }: Pick<Staged, 'kind' | 'name'>, there: Stats): void {
  if ((kind === 'directory') === there.isDirectory()) return;
  const what = there.isDirectory() ? 'a directory' : there.isSymbolicLink() ? 'a symlink' : 'a file';
  throw unsafeEntry(name, `it is a ${kind} where the target has ${what}`, 'Copy to another target, or move that away.');
}

/** Errors of system calls have a number; those of streams, which also pass here, have none. */
function isFromFileSystem(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error;
}
