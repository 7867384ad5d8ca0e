import { nanoid } from 'nanoid';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { lstat, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname, isAbsolute, join } from 'node:path';

import { anySignal } from './any-signal.js';
import type { CallOptions, DirectoryMount } from './engine/engine.js';
import { SandyardError } from './errors.js';
import { silentLog, type Log } from './log.js';
import { fields } from './schemas.js';

/** Where a sandbox has its own. */
const TARGET = '/run/sandyard';

/** The warden connects in a millisecond or two, on a machine that has time for it. One that is paused or gone doesn't. */
const CONNECTS_MS = 200;
/** Whoever has just made one needs a moment until there is its sandbox. */
const GRACE_MS = 10 * 60_000;
/** A socket's whole path has 107 bytes at the most. */
const MAX_PATH_BYTES = 50;
const OWNER_CHARACTERS = 12;

interface SocketsParts {
  /** An absolute path that this machine and the engine's have in common; without one none of it is done. */
  readonly directory: string | undefined;
  readonly owner: string;
  readonly log: Log;
}

/**
 * A quicker way into sandboxes than a command that the engine runs, where manager and engine share a file system. Each
 * sandbox has a directory of its own there, which it can't write to and where user code can't get in: in it a manager listens, and
 * the warden connects. Never the other way round, as a path that comes from a sandbox may lead anywhere.
 */
export class SandboxSockets {
  /** For managers that share no directory with the engine. */
  static readonly none = new SandboxSockets({ directory: undefined, owner: '', log: silentLog });
  readonly #parts: SocketsParts;
  readonly #root: string | undefined;
  readonly #removing = new Map<string, Promise<void>>();

  /** Throws `config_invalid` for a directory that none can be made in. */
  constructor(parts: SocketsParts) {
    const { directory, owner } = parts;
    this.#parts = parts;
    if (directory === undefined) return;
    checkDirectory(directory);
    this.#root = join(directory, createHash('sha256').update(owner).digest('hex').slice(0, OWNER_CHARACTERS));
  }

  /** Makes the directory of a sandbox, which is to be mounted in it. Throws `config_invalid`. */
  async prepare(id: string): Promise<DirectoryMount | undefined> {
    const source = this.#directoryOf(id);
    if (source === undefined) return undefined;
    try {
      await mkdir(source, { recursive: true, mode: 0o700 });
      for (const directory of [dirname(dirname(source)), dirname(source), source]) await checkRoots(directory);
      return { source, target: TARGET };
    } catch (error) {
      throw new SandyardError('config_invalid', `SANDBOX_SOCKET_DIR is ${this.#parts.directory}: ${String(error)}.`, {
        hint: "Give a directory of root's that the manager can make others in, or leave it out.",
        cause: error,
      });
    }
  }

  /** A connection from the warden of a sandbox; `undefined` where it has no such directory, or doesn't connect in time. */
  async connect(id: string, { signal }: CallOptions = {}): Promise<Socket | undefined> {
    const directory = this.#directoryOf(id);
    if (directory === undefined || signal?.aborted === true) return undefined;
    const name = nanoid(10);
    const [hidden, shown] = [join(directory, `.${name}`), join(directory, name)];
    const server = createServer();
    try {
      const connected = nextConnection(server, signal);
      connected.catch(() => {}); // where it doesn't come to that
      await once(server.listen(hidden), 'listening');
      await rename(hidden, shown); // now somebody listens, and the warden is told
      return await connected;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        this.#parts.log.debug({ sandbox: id, error }, 'the warden of a sandbox did not connect');
      }
      return undefined;
    } finally {
      server.on('connection', (socket) => socket.destroy()); // it may do so twice
      server.close();
      await rm(shown, { force: true }).catch(() => {}); // it goes with the directory
    }
  }

  /** Removes that of a sandbox which is no more. Never rejects. */
  async remove(id: string): Promise<void> {
    const directory = this.#directoryOf(id);
    if (directory === undefined) return;
    const removing = this.#removing.get(id) ?? this.#remove(directory).finally(() => this.#removing.delete(id));
    this.#removing.set(id, removing);
    await removing;
  }

  /** Returns when nothing is being removed any more. */
  async close(): Promise<void> {
    await Promise.all(this.#removing.values());
  }

  /** Removes those that are of none of the sandboxes there are, which is asked when there may be any. */
  async removeOrphans(there: () => Promise<ReadonlySet<string | undefined>>): Promise<void> {
    const root = this.#root;
    if (root === undefined) return;
    const ids = await readdir(root).catch(() => []); // nobody has made any
    const old: string[] = [];
    for (const id of ids) {
      const found = await stat(join(root, id)).catch(() => undefined);
      if (found !== undefined && Date.now() - found.mtimeMs > GRACE_MS) old.push(id);
    }
    const kept = old.length === 0 ? new Set() : await there();
    for (const id of old) if (!kept.has(id)) await this.remove(id);
  }

  /** The id is a label's: it must not lead anywhere else. */
  #directoryOf(id: string): string | undefined {
    return this.#root === undefined || !fields.id.safeParse(id).success ? undefined : join(this.#root, id);
  }

  async #remove(directory: string): Promise<void> {
    try {
      // A manager may have begun to listen there just then.
      await rm(directory, { recursive: true, force: true, maxRetries: 3 });
    } catch (error) {
      this.#parts.log.warn({ directory, error }, 'could not remove the directory of a sandbox; will try again');
    }
  }
}

function checkDirectory(directory: string): void {
  const faults = [
    ...(isAbsolute(directory) ? [] : ['it is not an absolute path']),
    ...(Buffer.byteLength(directory) <= MAX_PATH_BYTES ? [] : [`it has more than ${MAX_PATH_BYTES} bytes`]),
    // What user code can be must not be able to listen there, or to connect.
    ...(process.geteuid?.() === 0 ? [] : ['the manager is not root']),
  ];
  if (faults.length === 0) return;
  throw new SandyardError('config_invalid', `SANDBOX_SOCKET_DIR can't be ${directory}: ${faults.join(', ')}.`, {
    hint: 'Give a short path of a directory on the machine of the engine, to a manager that is root there; or leave it out.',
  });
}

/** Whoever else has made one can put into it what they like. */
async function checkRoots(directory: string): Promise<void> {
  const found = await lstat(directory);
  if (!found.isDirectory() || found.uid !== 0) throw new Error(`${directory} is not a directory of root's`);
}

/** Rejects when there is none in time, or nobody waits for it any more. */
async function nextConnection(server: Server, signal: AbortSignal | undefined): Promise<Socket> {
  const late = AbortSignal.timeout(CONNECTS_MS);
  const options = { signal: signal === undefined ? late : anySignal([late, signal]) };
  const [socket] = (await once(server, 'connection', options)) as [Socket];
  return socket.on('error', () => {}); // whoever uses it hears of its end
}
