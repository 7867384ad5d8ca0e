import type { IncomingHttpHeaders } from 'node:http';

import { SandyardError } from '../errors.js';
import type { FileInfo } from '../index.js';
import { fields } from '../schemas.js';

/*
 * Conditions and ranges of requests for files, by RFC 9110, sections 13 and 14. Tags are strong: they change with the
 * file's time, size and inode.
 */

export function etagOf({ etag }: FileInfo): string {
  return `"${etag}"`;
}

/** Whether the client has the file already, as it is. */
export function isUnchanged(headers: IncomingHttpHeaders, info: FileInfo): boolean {
  const noneMatch = headers['if-none-match'];
  if (noneMatch !== undefined) return matches(noneMatch, info, { weakly: true });
  const since = Date.parse(headers['if-modified-since'] ?? '');
  // The header has whole seconds.
  return Math.floor(info.modifiedAt.getTime() / 1000) * 1000 <= since;
}

/** Whether the request has a condition that is judged before the content is read. */
export function isConditional(headers: IncomingHttpHeaders): boolean {
  return headers['if-none-match'] !== undefined || headers['if-modified-since'] !== undefined;
}

/** Throws `precondition_failed` where the request demands another version of the file. */
export function requireMatch(headers: IncomingHttpHeaders, info: FileInfo): void {
  const ifMatch = headers['if-match'];
  if (ifMatch === undefined || matches(ifMatch, info, { weakly: false })) return;
  throw new SandyardError('precondition_failed', `${info.path} is not what If-Match names.`, {
    hint: 'Read it again; its ETag says what it is now.',
  });
}

/** What a file must be so that it is written. Throws `invalid_request` for what can't be asked for. */
export function writeConditions(headers: IncomingHttpHeaders): { ifMatch?: string; ifNoneMatch?: '*' } {
  const ifNoneMatch = headers['if-none-match'];
  if (ifNoneMatch !== undefined && ifNoneMatch.trim() !== '*') {
    throw new SandyardError('invalid_request', 'If-None-Match of a write can only be "*": not if there is any.', {
      hint: 'To replace a known version, send its ETag as If-Match.',
    });
  }
  const ifMatch = headers['if-match'];
  if (ifMatch === undefined) return ifNoneMatch === undefined ? {} : { ifNoneMatch: '*' };
  const tags = tagsOf(ifMatch);
  const [tag = '', ...more] = tags;
  if (more.length > 0 || ifNoneMatch !== undefined) {
    throw new SandyardError('invalid_request', 'A write takes one condition with one tag.', {
      hint: 'Send If-Match with the ETag of the version that you have, or If-None-Match: *.',
    });
  }
  const bare = tag === '*' ? tag : unquote(tag);
  // A weak tag, or one that isn't ours, matches no file.
  if (bare === undefined || !fields.etag.safeParse(bare).success) {
    throw new SandyardError('precondition_failed', 'If-Match names no version that the file could have.', {
      hint: 'Send the ETag as it came, with its quotes.',
    });
  }
  return { ifMatch: bare };
}

export interface ByteRange {
  /** Negative: from the end. */
  readonly offset: number;
  readonly length?: number;
}

/** The range that is asked for. `undefined` where there is none, or one that is to be ignored: several, or malformed. */
export function rangeOf(headers: IncomingHttpHeaders): ByteRange | undefined {
  const match = /^bytes=(?:(\d{1,15})-(\d{0,15})|-(\d{1,15}))$/i.exec(headers.range?.trim() ?? '');
  if (match === null) return undefined;
  const [, first, last, suffix] = match;
  // The last 0 bytes are none, and that is not the same as all.
  if (suffix !== undefined) return Number(suffix) === 0 ? { offset: 0, length: 0 } : { offset: -Number(suffix) };
  const offset = Number(first);
  if (last === undefined || last === '') return { offset };
  const length = Number(last) - offset + 1;
  return length > 0 ? { offset, length } : undefined;
}

/** Whether the range is of the version that the client has a part of. A date is too coarse to tell. */
export function isRangeCurrent(headers: IncomingHttpHeaders, info: FileInfo): boolean {
  const ifRange = headers['if-range'];
  return ifRange === undefined || ifRange === etagOf(info);
}

function matches(header: string, info: FileInfo, { weakly }: { weakly: boolean }): boolean {
  return tagsOf(header).some((tag) => tag === '*' || (weakly ? tag.replace(/^W\//, '') : tag) === etagOf(info));
}

function tagsOf(header: string): string[] {
  return header
    .slice(0, 4096)
    .split(',')
    .map((tag) => tag.trim());
}

function unquote(tag: string): string | undefined {
  return /^"([^"]*)"$/.exec(tag)?.[1];
}
