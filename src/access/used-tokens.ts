import { createHash } from 'node:crypto';
import { mkdir, open, readdir, unlink, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';

import { SandyardError } from '../errors.js';

const FOLDER = 'used-tokens';
const CLEAN_EVERY_MS = 10 * 60_000;
/** For a clock that is set back: what is forgotten must be expired by then, too. */
const SLACK_MS = 24 * 3_600_000;

/**
 * Which tokens for a single use have been used. Each is a file of its own, which only one can make: so also of two services that
 * share the directory one alone takes a token, and a restart forgets nothing. Those that have expired long ago are removed.
 */
export class UsedTokens {
  readonly #directory: string;
  #cleanedAt = -Infinity;

  constructor(stateDirectory: string) {
    this.#directory = join(stateDirectory, FOLDER);
  }

  /** Whether it is the first to use that token; when it returns that is on the disk. Throws where it can't be noted. */
  async spend({ id, expiresAt }: { id: string; expiresAt: Date }): Promise<boolean> {
    const name = `${expiresAt.getTime()}-${createHash('sha256').update(id).digest('base64url')}`;
    try {
      if (performance.now() - this.#cleanedAt > CLEAN_EVERY_MS) await this.#clean();
      const file = await open(join(this.#directory, name), 'wx', 0o600);
      await syncAndClose(file);
      await syncAndClose(await open(this.#directory, 'r'));
      return true;
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false;
      this.#cleanedAt = -Infinity; // the folder may be gone
      throw new SandyardError('config_invalid', 'It could not be noted that the token was used.', {
        hint: 'Make SANDBOX_STATE_DIR writable to the service, and see that its disk is not full.',
        cause: error,
      });
    }
  }

  async #clean(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const before = Date.now() - SLACK_MS;
    for (const name of await readdir(this.#directory)) {
      const [, expiredAt] = /^(\d{1,16})-[\w-]{43}$/.exec(name) ?? [];
      // Another service may have removed it already.
      if (expiredAt !== undefined && Number(expiredAt) < before)
        await unlink(join(this.#directory, name)).catch(() => {});
    }
    this.#cleanedAt = performance.now();
  }
}

async function syncAndClose(file: FileHandle): Promise<void> {
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
