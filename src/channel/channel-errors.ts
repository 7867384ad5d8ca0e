import { isSandyardError, SandyardError } from '../errors.js';
import { showText } from './wire.js';

/** Why a tunnel is no more: it was cut, which may be mended by another; or the sandbox doesn't keep to the protocol. */
export type TunnelEnd = { readonly kind: 'cut' | 'fault'; readonly error: Error };

export function channelFailed(what: string, cause?: unknown): SandyardError {
  return new SandyardError('channel_failed', `The sandbox's warden can't be talked to: ${what}.`, {
    hint: 'Something in the sandbox interferes, or its image has another version of the warden. Make a new sandbox.',
    ...(cause === undefined ? {} : { cause }),
  });
}

/** What the engine says itself goes on as it is. */
export function connectFailed(error: unknown): SandyardError {
  if (isSandyardError(error)) return error;
  const text = error instanceof Error ? error.message : String(error);
  return channelFailed(`the connection is gone (${showText(Buffer.from(text))})`, error);
}

export function otherVersion({ version, build }: { version: number; build: string }): SandyardError {
  return new SandyardError(
    'channel_failed',
    `The sandbox has a warden that speaks version ${version} of the protocol (${build}).`,
    { hint: 'The sandbox was made by another release of Sandyard. Make a new one.' },
  );
}

export function sandboxDied(cause?: unknown): SandyardError {
  return new SandyardError('sandbox_died', 'The sandbox ended, or was started again, while the process ran.', {
    hint: 'Nothing that ran in it goes on. inspect() tells what became of it.',
    ...(cause === undefined ? {} : { cause }),
  });
}

export function sandboxDestroyed(): SandyardError {
  return new SandyardError('sandbox_not_found', 'The sandbox was destroyed.', {
    hint: 'List the sandboxes to see which there are.',
  });
}

export function channelClosed(): SandyardError {
  return new SandyardError('manager_closed', 'The connection to the sandbox was closed by this program.', {
    hint: 'What runs in the sandbox runs on: another manager can get it.',
  });
}

export function gaveUp(signal: AbortSignal): SandyardError {
  return new SandyardError('aborted', 'The caller gave up.', { cause: signal.reason });
}

export function notInTime(doing: string, deadlineMs: number): SandyardError {
  return new SandyardError('engine_timeout', `It took longer than ${deadlineMs / 1000} s to ${doing}.`, {
    hint: 'The engine or the sandbox may be overloaded or stuck.',
  });
}

export function outputLost({ firstSeq, lastSeq }: { firstSeq: number; lastSeq: number }): SandyardError {
  const which = `Output ${firstSeq === lastSeq ? firstSeq : `${firstSeq} to ${lastSeq}`}`;
  return new SandyardError('output_lost', `${which} of the process is no longer kept.`, {
    hint: `Read on after ${lastSeq}.`,
    details: { firstSeq: lastSeq + 1 },
  });
}
