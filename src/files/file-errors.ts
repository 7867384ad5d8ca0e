import { SandyardError, type ErrorCode } from '../errors.js';
import { quoteName } from '../quote.js';
import type { DiskBound } from '../process/remote-run.js';
import { formatSize } from '../schemas.js';
import { ERRNO } from '../process/remote-errors.js';

interface Failure {
  readonly code: ErrorCode;
  /** A clause after the path. */
  readonly meaning: string;
  readonly hint: string;
}

const NO_PATH: Failure = {
  code: 'validation_failed',
  meaning: 'can not be used as a path here',
  hint: 'Use another path: this one is too long, a loop of links, or ends in ".".',
};
const NOT_ALLOWED: Failure = {
  code: 'permission_denied',
  meaning: "is not open to the sandbox's user",
  hint: 'Use a path below /workspace, /tmp or the home directory, or change its mode.',
};
const NO_ROOM: Failure = { code: 'out_of_disk', meaning: 'has no room left', hint: 'Remove files in the sandbox.' };
const NO_RESOURCES: Failure = {
  code: 'limit_exceeded',
  meaning: 'needs more memory, processes or open files than the sandbox has left',
  hint: 'End something in the sandbox, or create it with higher limits.',
};

/** What the warden's file operations end with, and what it means. */
const FAILURES: Readonly<Partial<Record<number, Failure>>> = {
  [ERRNO.ENOENT]: {
    code: 'file_not_found',
    meaning: 'does not exist',
    hint: 'List the directory to see what is there.',
  },
  [ERRNO.EISDIR]: {
    code: 'is_a_directory',
    meaning: 'is a directory',
    hint: 'Name a file in it, or use the archive calls.',
  },
  [ERRNO.ENOTEMPTY]: {
    code: 'is_a_directory',
    meaning: 'is a directory that is not empty',
    hint: 'Remove it with recursive.',
  },
  [ERRNO.ENOTDIR]: { code: 'not_a_directory', meaning: 'is not a directory', hint: 'Name a directory.' },
  [ERRNO.ENOTSUP]: {
    code: 'not_a_file',
    meaning: 'is not a regular file',
    hint: 'Only regular files can be read and written.',
  },
  [ERRNO.EEXIST]: {
    code: 'file_exists',
    meaning: 'exists',
    hint: 'Remove it first, or choose another name.',
  },
  [ERRNO.ELOOP]: NO_PATH,
  [ERRNO.ENAMETOOLONG]: NO_PATH,
  [ERRNO.EINVAL]: NO_PATH,
  [ERRNO.EACCES]: NOT_ALLOWED,
  [ERRNO.EPERM]: NOT_ALLOWED,
  [ERRNO.EROFS]: NOT_ALLOWED,
  [ERRNO.EBUSY]: NOT_ALLOWED,
  [ERRNO.ETXTBSY]: NOT_ALLOWED,
  [ERRNO.ENOSPC]: NO_ROOM,
  [ERRNO.EDQUOT]: NO_ROOM,
  [ERRNO.EFBIG]: { code: 'limit_exceeded', meaning: 'would be larger than a file may be', hint: 'Write less.' },
  [ERRNO.EAGAIN]: NO_RESOURCES,
  [ERRNO.ENOMEM]: NO_RESOURCES,
  [ERRNO.EMFILE]: NO_RESOURCES,
  [ERRNO.ENFILE]: NO_RESOURCES,
  [ERRNO.EBADMSG]: { code: 'invalid_request', meaning: 'got no tar', hint: 'Send an uncompressed tar.' },
  [ERRNO.ESTALE]: {
    code: 'precondition_failed',
    meaning: 'has changed',
    hint: 'Read it again for its present tag, then repeat the change.',
  },
  [ERRNO.ENODATA]: {
    code: 'file_operation_failed',
    meaning: 'became shorter while it was read',
    hint: 'Read it again.',
  },
  [ERRNO.EXDEV]: {
    code: 'file_operation_failed',
    meaning: 'is on another file system than its target',
    hint: 'Copy it, then remove it.',
  },
};

/** What failed: the path that the caller named, the exit code, and what was said on standard error. */
export interface FileFailure {
  readonly path: string;
  readonly errno: number;
  readonly said: string;
}

export function fileError({ path, errno, said }: FileFailure): SandyardError {
  const failure = FAILURES[errno];
  if (failure === undefined) {
    const message = `The operation on ${quoteName(path)} failed with error ${errno}${saidSo(said)}.`;
    return new SandyardError('file_operation_failed', message, { hint: "The error's number is Linux's." });
  }
  const { code, meaning, hint } = failure;
  return new SandyardError(code, `${quoteName(path)} ${meaning}${where(path, said)}.`, { hint, cause: said });
}

/** The sandbox has written more than it may: the operation was ended, or not begun. */
export function diskFull(path: string, { diskBytes, inodes }: DiskBound): SandyardError {
  const bounds = [
    ...(diskBytes === null ? [] : [formatSize(diskBytes)]),
    ...(inodes === null ? [] : [`${inodes} files and directories`]),
  ].join(' and ');
  return new SandyardError(
    'out_of_disk',
    `${quoteName(path)} can't be written: there is more in the sandbox than it may write, ${bounds}.`,
    { hint: 'Remove files in it, or create a sandbox with a higher disk or inodes limit.' },
  );
}

/** An entry of an archive that would be written elsewhere than where it is unpacked. */
export function outsideTarget({ path, errno, said }: FileFailure): SandyardError | undefined {
  if (errno !== ERRNO.EXDEV) return undefined;
  const message = `The archive was refused because of its entry ${quoteName(said.trim())}: it leads out of ${quoteName(path)}.`;
  return new SandyardError('unsafe_archive', message, { hint: 'Make the archive without it.' });
}

/** Why a file isn't written when its tag was demanded to be this: see `write` in `warden/PROTOCOL.md`. */
export function preconditionFailed({ path, errno }: FileFailure, tag: string): SandyardError | undefined {
  const because = (why: string, hint: string) =>
    new SandyardError('precondition_failed', `${quoteName(path)} ${why}.`, { hint });
  if (tag === '!') return errno === ERRNO.EEXIST ? because('exists already', 'Choose another name.') : undefined;
  if (tag === '-') return undefined;
  if (errno === ERRNO.ENOENT || (tag === '*' && errno === ERRNO.ESTALE))
    return because('does not exist', 'Write it without ifMatch.');
  return undefined;
}

/** The file that it was about, where that isn't the one that the caller named. */
function where(path: string, said: string): string {
  const about = said.trim();
  return about === '' || about === path ? '' : ` (${quoteName(about)})`;
}

function saidSo(said: string): string {
  return said.trim() === '' ? '' : `: ${quoteName(said.trim())}`;
}
