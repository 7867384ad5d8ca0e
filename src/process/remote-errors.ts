import { RemoteError } from '../channel/messages.js';
import { isSandyardError, SandyardError, type ErrorCode } from '../errors.js';
import { quoteName } from '../quote.js';

/** Linux's numbers of the errors that mean something here. */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  ENOEXEC: 8,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  ENAMETOOLONG: 36,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EBADMSG: 74,
  ENOTSUP: 95,
  ECONNREFUSED: 111,
  ESTALE: 116,
  EDQUOT: 122,
} as const;

/** At what a start can fail. */
const STAGE = { request: 0, making: 1, user: 2, workdir: 3, program: 4 } as const;

/** What was to be started, for messages. */
export interface StartSubject {
  readonly argv: readonly string[];
  readonly cwd: string;
}

/** What kept a command from being started, as a SandyardError; any other error as it is. */
export function translateStart(error: unknown, { argv: [program = ''], cwd }: StartSubject): unknown {
  if (!(error instanceof RemoteError)) return error;
  const { errno, stage, text } = error;
  const because = (code: ErrorCode, message: string, hint: string) =>
    new SandyardError(code, message, { hint, cause: error });
  if (errno === ERRNO.ENOMEM) {
    return because('limit_exceeded', `The sandbox has no memory left to start ${quoteName(program)}.`, MEMORY_HINT);
  }
  if (stage === STAGE.making && errno === ERRNO.EAGAIN) {
    return because('limit_exceeded', `The sandbox has as many processes as it may have.`, PIDS_HINT);
  }
  if (stage === STAGE.making && (errno === ERRNO.EMFILE || errno === ERRNO.ENFILE)) {
    return because('limit_exceeded', 'The sandbox has as many files open as it may have.', FILES_HINT);
  }
  if (stage === STAGE.request && errno === ERRNO.EDQUOT) {
    return because(
      'out_of_disk',
      'The sandbox has written so much more than it may that no command is started.',
      DISK_HINT,
    );
  }
  if (stage === STAGE.user) {
    return because('validation_failed', `The user or the limits can't be had in the sandbox: ${text}.`, USER_HINT);
  }
  if (stage === STAGE.workdir) {
    return because('workdir_not_found', `The working directory ${quoteName(cwd)} can't be entered.`, WORKDIR_HINT);
  }
  if (stage === STAGE.program) return explainProgram(error, program);
  return new SandyardError('engine_error', `The sandbox could not start ${quoteName(program)}: ${text}.`, {
    cause: error,
  });
}

const MEMORY_HINT = 'End what uses it, or create the sandbox with a higher memory limit.';
const PIDS_HINT = 'End some of them, or create the sandbox with a higher limit of processes.';
const FILES_HINT = 'End what has them open, or create the sandbox with a higher limit of open files.';
const DISK_HINT = 'Remove files in it, by the calls for files, or destroy it.';
const USER_HINT = 'Use another user, or leave it out for that of the sandbox.';
const WORKDIR_HINT = 'Make it first, or use another: it must be a directory that the user may enter.';
const ARGUMENTS_HINT = 'Pass less as arguments and environment; a file or the standard input takes any amount.';

const E2BIG = 7;

function explainProgram(error: RemoteError, program: string): SandyardError {
  const options = (hint: string) => ({ hint, cause: error });
  const name = quoteName(program);
  if (error.errno === ERRNO.ENOENT || error.errno === ERRNO.ENOTDIR) {
    const hint = 'Install it, or check its name, PATH, and the interpreter in its first line.';
    return new SandyardError('command_not_found', `There is no ${name} in the sandbox.`, options(hint));
  }
  if (error.errno === E2BIG) {
    return new SandyardError('validation_failed', `The arguments of ${name} are too long.`, options(ARGUMENTS_HINT));
  }
  const hint = 'It must be a file that the user may execute, and a program of this architecture or a script.';
  return new SandyardError(
    'command_not_executable',
    `The sandbox can't execute ${name}: ${error.text}.`,
    options(hint),
  );
}

/** An answer about a process, as a SandyardError; any other error as it is. */
export function translateProcess(error: unknown, id: string): unknown {
  if (!(error instanceof RemoteError)) return error;
  if (error.stage === STAGE.request && error.errno === ERRNO.ENOENT) {
    return new SandyardError('process_not_found', `There is no process ${quoteName(id)} in the sandbox.`, {
      hint: 'It may have been forgotten; list the processes to see which are remembered.',
      cause: error,
    });
  }
  if (error.errno === ERRNO.EBUSY) {
    return new SandyardError('wrong_state', `The process ${quoteName(id)} still runs, or somebody reads its output.`, {
      hint: 'Kill it, or let go of it, first.',
      cause: error,
    });
  }
  return new SandyardError(
    'engine_error',
    `The sandbox could not do that with the process ${quoteName(id)}: ${error.text}.`,
    {
      cause: error,
    },
  );
}

/** Whether the error says that a process is gone: it has ended and nothing of it is left, or all of its sandbox has. */
export function saysGone(error: unknown): boolean {
  if (error instanceof RemoteError) return error.errno === ERRNO.ENOENT || error.errno === ERRNO.ESRCH;
  return saysSandboxGone(error);
}

/** Whether the error says that the sandbox doesn't run, so that nothing in it does. */
export function saysSandboxGone(error: unknown): boolean {
  const codes = ['sandbox_not_found', 'wrong_state', 'sandbox_died'] as const;
  return codes.some((code) => isSandyardError(error, code));
}
