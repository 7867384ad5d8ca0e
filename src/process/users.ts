import { SandyardError } from '../errors.js';
import type { UserIds } from './remote-run.js';

/** The uid and gid of a user by the word that callers use. */
export function toUserIds(user: string): UserIds {
  if (user === 'sandbox') return { uid: 1000, gid: 1000 };
  if (user === 'root') return { uid: 0, gid: 0 };
  const [uid = 1000, gid = uid] = user.split(':').map(Number);
  return { uid, gid };
}

export function isRoot(user: string): boolean {
  return toUserIds(user).uid === 0;
}

/** Throws `validation_failed` for root where there is none to be had. */
export function checkUser(user: string | undefined, { rootAllowed }: { rootAllowed: boolean }): void {
  if (user === undefined || rootAllowed || !isRoot(user)) return;
  const message = 'may be root only in a sandbox with the profile "dev"';
  throw new SandyardError('validation_failed', `Invalid options: user: ${message}.`, {
    hint: 'Use another user, or make a sandbox with the profile "dev" where the operator allows it.',
    issues: [{ path: ['user'], message }],
  });
}
