import { SandyardError } from '../errors.js';
import { quoteName } from '../quote.js';

/* The errors of archives, and of the files on the host's side of a copy. */

/** `unsafe_archive` for one entry: its name as the archive has it, and why, as a clause after "it". */
export function unsafeEntry(
  name: string,
  why: string,
  hint = 'Exclude it, or change it in the sandbox.',
): SandyardError {
  return new SandyardError(
    'unsafe_archive',
    `The archive was refused because of its entry ${quoteName(name)}: ${why}`,
    {
      hint,
    },
  );
}

export function damagedArchive(why: string, cause?: unknown): SandyardError {
  return new SandyardError('unsafe_archive', `The archive is damaged: ${why}`, {
    hint: 'Copy again; what was there before is unchanged.',
    ...(cause === undefined ? {} : { cause }),
  });
}

/** An error of the host's own file system, as `out_of_disk` or `file_operation_failed`. */
export function hostFileError(action: string, path: string, cause: unknown): SandyardError {
  if (cause instanceof SandyardError) return cause;
  const code = errnoCode(cause);
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new SandyardError('out_of_disk', `No space is left on this machine to ${action} ${quoteName(path)}`, {
      hint: 'Free some space, or copy to another disk.',
      cause,
    });
  }
  const why = code ?? (cause instanceof Error ? cause.message : String(cause));
  return new SandyardError('file_operation_failed', `Could not ${action} ${quoteName(path)} on this machine: ${why}`, {
    hint: 'Check that the path exists there and that you may use it.',
    cause,
  });
}

export function copyAborted(signal: AbortSignal): SandyardError {
  return new SandyardError('aborted', 'The copy was aborted by its caller', {
    hint: 'Nothing was changed at its target; call again to copy.',
    cause: signal.reason,
  });
}

/** `ENOENT` and the like, of an error from the file system. */
export function errnoCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}
