import { stat } from 'node:fs/promises';
import { basename, join, posix, resolve } from 'node:path';

import { isSandyardError, SandyardError } from '../errors.js';
import type { Sandbox } from '../index.js';

/** `-` is a tar on our standard input or output. */
export type CopyPath =
  | { readonly kind: 'host'; readonly path: string }
  | { readonly kind: 'sandbox'; readonly id: string; readonly path: string }
  | { readonly kind: 'stream' };

/**
 * `ID:PATH` is in a sandbox. A path of this machine that looks so is written with `./` before it, or whole from `/`, as
 * with docker cp and scp.
 */
export function parseCopyPath(text: string): CopyPath {
  if (text === '-') return { kind: 'stream' };
  const match = /^([a-z0-9]{1,64}):(.*)$/s.exec(text);
  if (match === null) return { kind: 'host', path: text };
  const [, id = '', path = ''] = match;
  if (path.startsWith('/')) return { kind: 'sandbox', id, path };
  throw new SandyardError('validation_failed', `${JSON.stringify(text)} has no absolute path after the colon.`, {
    hint: `Write ${id}:/workspace/… for a path in a sandbox, or ./${text} for a file of this machine.`,
  });
}

export type Copy =
  | { readonly direction: 'in'; readonly id: string; readonly from: string | null; readonly to: string }
  | { readonly direction: 'out'; readonly id: string; readonly from: string; readonly to: string | null };

/** What is to be copied where; `null` is the stream. */
export function planCopy(source: string, target: string): Copy {
  const [from, to] = [parseCopyPath(source), parseCopyPath(target)];
  if (from.kind === 'sandbox' && to.kind !== 'sandbox') {
    return { direction: 'out', id: from.id, from: from.path, to: to.kind === 'host' ? to.path : null };
  }
  if (to.kind === 'sandbox' && from.kind !== 'sandbox') {
    return { direction: 'in', id: to.id, from: from.kind === 'host' ? from.path : null, to: to.path };
  }
  const both = from.kind === 'sandbox';
  throw new SandyardError(
    'validation_failed',
    both ? 'Both paths are in sandboxes.' : 'Neither path is in a sandbox.',
    {
      hint: both ? 'Copy to this machine first.' : 'One of the two has the form ID:PATH.',
    },
  );
}

interface Places {
  readonly hostPath: string;
  readonly sandboxPath: string;
}

/*
 * The library has the source become the target. As with cp and docker cp, a directory here goes into a target that is
 * a directory, under its own name; written with `/.` at its end, only its content does.
 */

export async function targetInSandbox({ hostPath, sandboxPath }: Places, { files }: Pick<Sandbox, 'files'>) {
  const nested =
    !namesContent(hostPath) && (await isHostDirectory(hostPath)) && (await isDirectory(files, sandboxPath));
  return nested ? posix.join(sandboxPath, basename(resolve(hostPath))) : sandboxPath;
}

export async function targetOnHost({ hostPath, sandboxPath }: Places, { files }: Pick<Sandbox, 'files'>) {
  const name = posix.basename(sandboxPath);
  const named = name !== '' && !namesContent(sandboxPath);
  const nested = named && (await isHostDirectory(hostPath)) && (await isDirectory(files, sandboxPath));
  return nested ? join(hostPath, name) : hostPath;
}

function namesContent(path: string): boolean {
  return /(^|\/)\.\/*$/.test(path);
}

async function isHostDirectory(path: string): Promise<boolean> {
  // What can't be looked at is told by the copy.
  return stat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}

async function isDirectory(files: Sandbox['files'], path: string): Promise<boolean> {
  try {
    return (await files.stat(path, { followLinks: true })).type === 'directory';
  } catch (error) {
    if (isSandyardError(error, 'file_not_found') || isSandyardError(error, 'not_a_directory')) return false;
    throw error;
  }
}
