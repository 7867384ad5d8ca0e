import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';

import { extractArchive, extractFile, findSource, packDirectory, type CopyResult } from './archive/archive.js';
import type { CallOptions } from './engine/engine.js';
import { isSandyardError } from './errors.js';
import type { SandboxFiles } from './files/files.js';

const COPY_MAX_BYTES = 16 * 1024 ** 3;
const COPY_MAX_ENTRIES = 1_000_000;

export interface CopyOptions extends CallOptions {
  /** Names to leave out: see `packDirectory`. */
  readonly exclude?: readonly string[] | undefined;
}

export interface CopyFromOptions extends CopyOptions {
  /** Ends with `archive_too_large` beyond this. Defaults: 16 GiB, a million entries. */
  readonly maxBytes?: number | undefined;
  readonly maxEntries?: number | undefined;
}

interface Paths {
  readonly hostPath: string;
  readonly sandboxPath: string;
}

/** From the host into a sandbox; see `Sandbox.copyTo`. */
export async function copyTo(files: SandboxFiles, options: CopyOptions & Paths): Promise<CopyResult> {
  const { hostPath, sandboxPath, exclude = [], signal } = options;
  const source = await findSource(hostPath);
  if (source.isDirectory) {
    const { tar, result } = await packDirectory(hostPath, { exclude, ...(signal && { signal }) });
    await files.writeArchive(sandboxPath, tar, { signal });
    return result();
  }
  const target = await fileTarget(files, sandboxPath, { name: basename(hostPath), signal });
  const { mode, size } = await stat(source.path);
  await files.write(target, createReadStream(source.path), { mode: mode & 0o777, signal });
  return { entries: 1, bytes: size };
}

/** From a sandbox to the host; see `Sandbox.copyFrom`. */
export async function copyFrom(files: SandboxFiles, options: CopyFromOptions & Paths): Promise<CopyResult> {
  const { sandboxPath, hostPath, exclude = [], signal } = options;
  const { maxBytes = COPY_MAX_BYTES, maxEntries = COPY_MAX_ENTRIES } = options;
  const directory = await isDirectory(files, sandboxPath, { signal });
  const tar = await files.readArchive(sandboxPath, { signal });
  if (!directory) return extractFile(tar, hostPath, { maxBytes, ...(signal && { signal }) });
  return extractArchive(tar, hostPath, { exclude, maxBytes, maxEntries, ...(signal && { signal }) });
}

async function isDirectory(files: SandboxFiles, path: string, { signal }: CallOptions): Promise<boolean> {
  try {
    const { type } = await files.stat(path, { followLinks: true, signal });
    return type === 'directory';
  } catch (error) {
    if (isSandyardError(error, 'not_a_directory') || isSandyardError(error, 'file_not_found')) return false;
    throw error;
  }
}

async function fileTarget(
  files: SandboxFiles,
  path: string,
  { name, ...options }: CallOptions & { name: string },
): Promise<string> {
  if (path.endsWith('/')) return `${path}${name}`;
  return (await isDirectory(files, path, options)) ? `${path}/${name}` : path;
}
