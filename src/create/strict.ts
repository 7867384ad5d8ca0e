import type { ReadOnlyRoot } from '../engine/engine.js';
import { SandyardError } from '../errors.js';
import type { UserIds } from '../process/remote-run.js';

/*
 * The file system of a sandbox with the profile `strict`: the image, read-only, and over it what is in memory. That counts
 * as the sandbox's own. All of it together, full to the last file, leaves half of the memory, less what the files
 * themselves take of the kernel's, to what runs: were it to leave nothing, nothing could be started any more, not even what
 * deletes them.
 */

/** What each may take of the memory. */
const SHARES = [
  { name: 'workspace', share: 1 / 4 },
  { name: 'tmp', share: 1 / 8 },
  { name: 'home', share: 1 / 16 },
  // As the engine makes it, it may have files without end, each of which takes memory.
  { name: 'shm', share: 1 / 16 },
] as const;
const SHM_BYTES = 64 * 1024 * 1024;
const PAGE = 4096;
/** The kernel takes about a quarter of a page for each file, which counts as the sandbox's memory, too. */
const LEAST_INODES = 1024;
/** Where the warden keeps the record: on a disk of its own, so that it can be read also when the sandbox doesn't run. */
const STATE_DIRECTORY = '/var/lib/sandyard';

/** What the sandbox may write to, in so much memory, and the user whose that is. */
export function toReadOnlyRoot(
  memoryBytes: number,
  { user: { uid, gid }, workspace, home }: { user: UserIds; workspace: string; home: string },
): ReadOnlyRoot {
  const targets = { workspace, home, tmp: '/tmp', shm: '/dev/shm' };
  const tmpfs = SHARES.map(({ name, share }) => {
    const most = name === 'shm' ? SHM_BYTES : Infinity;
    const bytes = Math.min(most, Math.floor((memoryBytes * share) / PAGE) * PAGE);
    const isShared = name === 'tmp' || name === 'shm';
    const owner = isShared ? { uid: 0, gid: 0, mode: 0o1777 } : { uid, gid, mode: 0o755 };
    return { target: targets[name], bytes, inodes: Math.max(LEAST_INODES, bytes / PAGE), ...owner };
  });
  return { tmpfs, kept: STATE_DIRECTORY };
}

/** What nothing is left of when it has stopped can't be started again. */
export function nothingKept(id: string, doing: 'stop' | 'start'): SandyardError {
  const why = doing === 'start' ? 'has lost its files when it ended' : 'has its files in memory, and would lose them';
  return new SandyardError('wrong_state', `The sandbox ${id} has the profile "strict": it ${why}.`, {
    hint:
      doing === 'start'
        ? 'Destroy it, and make another.'
        : 'Pause it to keep it as it is, or copy out what you need and destroy it.',
    details: { profile: 'strict' },
  });
}
