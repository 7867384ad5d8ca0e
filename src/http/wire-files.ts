import { z } from 'zod';

import type { FileEvent, FileInfo } from '../index.js';
import { fields } from '../schemas.js';
import { count, octalMode, time } from './wire-fields.js';

export const fileAnswer = z
  .object({
    path: z.string(),
    name: z.string(),
    type: z.enum(['file', 'directory', 'symlink', 'other']),
    size_bytes: count,
    mode: z.string().describe('Permission bits in octal: "0644".'),
    modified_at: time,
    uid: count,
    gid: count,
    link_target: z.string().nullable(),
    etag: z.string().describe('Changes when the file does; in quotes it is the ETag of GET and PUT.'),
  })
  .describe('A file, directory or link in a sandbox.');

export function presentFile(file: FileInfo): z.output<typeof fileAnswer> {
  return {
    path: file.path,
    name: file.name,
    type: file.type,
    size_bytes: file.sizeBytes,
    mode: file.mode.toString(8).padStart(4, '0'),
    modified_at: file.modifiedAt.toISOString(),
    uid: file.uid,
    gid: file.gid,
    link_target: file.linkTarget,
    etag: file.etag,
  };
}

export const fileListAnswer = z.object({ entries: z.array(fileAnswer) }).describe('What is in a directory.');

export const makeDirBody = z
  .strictObject({
    path: fields.path,
    mode: octalMode.optional(),
    parents: z
      .boolean()
      .describe('Whether those above are made, too, and one that exists is no fault; true unless given.')
      .optional(),
  })
  .describe('A directory to make.');

export const renameBody = z
  .strictObject({
    from: fields.path,
    to: fields.path,
    replace: z.boolean().describe('Whether what is there already may be replaced; true unless given.').optional(),
  })
  .describe('A file or directory to move.');

export const chmodBody = z.strictObject({ path: fields.path, mode: octalMode }).describe('Permission bits to set.');

const changeTypes = ['create', 'write', 'remove', 'rename', 'chmod', 'overflow'] as const;

/** One line, or one server-sent event, of a watch. */
export const watchEvent = z
  .object({
    type: z
      .enum(['ready', ...changeTypes, 'heartbeat', 'error'])
      .describe('First "ready". "overflow": some changes were missed, so look again. Last, if at all, "error".'),
    seq: z.int().min(1).describe('Counts the events of this watch from 1.').optional(),
    path: z.string().optional(),
    is_directory: z.boolean().optional(),
    to: z.string().describe('Where it was moved to, with "rename".').optional(),
    problem: z.record(z.string(), z.unknown()).describe('With "error": why the watch ended.').optional(),
  })
  .describe('A change below a watched path.');

export function presentChange({ type, path, isDirectory, to }: FileEvent) {
  return { type, path, is_directory: isDirectory, ...(to !== undefined && { to }) };
}
