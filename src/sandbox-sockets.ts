import { nanoid } from 'nanoid';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { lstat, mkdir, readdir, realpath, rename, rm, rmdir, stat } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname, isAbsolute, join } from 'node:path';

import { anySignal } from './any-signal.js';
import type { CallOptions, DirectoryMount } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import { silentLog, type Log } from './log.js';
import { fields } from './schemas.js';

/** Where a sandbox has its own. */
const TARGET = '/run/sandyard';
/** Where they are unless that is told: on a disk that outlasts a restart, as sandboxes that are stopped do. */
export const USUAL_DIRECTORY = '/var/lib/sandyard/sockets';

/** The warden connects in a millisecond or two, on a machine that has time for it. One that is paused or gone doesn't. */
const CONNECTS_MS = 200;
/** After so many that haven't, and none that has, they aren't waited for any more where nobody has asked for it. */
const MOST_MISSES = 3;
/** Whoever has just made one needs a moment until there is its sandbox. */
const GRACE_MS = 10 * 60_000;
/** A socket's whole path has 107 bytes at the most. */
const MAX_PATH_BYTES = 50;
const ROOT_CHARACTERS = 12;
const OTHERS_WRITE = 0o022;
/** Of a directory in which nobody can change what is another's. */
const STICKY = 0o1000;

interface SocketsParts {
  /**
   * An absolute path that this machine and the engine's have in common. `auto` for the usual one, if it is; then there are
   * none where it turns out that it isn't, or that wardens don't connect. `none` for none.
   */
  readonly directory: string;
  /** Where the engine keeps its data: there is one engine for each such place on a machine. */
  readonly dataRoot: () => Promise<string>;
  readonly owner: string;
  readonly log: Log;
}

/** Where the directories are of an owner's sandboxes on one engine. */
export function rootFor(directory: string, { dataRoot, owner }: { dataRoot: string; owner: string }): string {
  const hash = createHash('sha256')
    .update(JSON.stringify([dataRoot, owner]))
    .digest('hex');
  return join(directory, hash.slice(0, ROOT_CHARACTERS));
}

/** Where nobody has asked for it it is tried, until it has once been of use or is given up. */
type State = 'on' | 'tried' | 'off';

/**
 * A quicker way into sandboxes than a command that the engine runs, where manager and engine share a file system. Each
 * sandbox has a directory of its own there, which it can't write to and where user code can't get in: in it a manager listens, and
 * the warden connects. Never the other way round, as a path that comes from a sandbox may lead anywhere.
 */
export class SandboxSockets {
  /** For managers that share no directory with the engine. */
  static readonly none = new SandboxSockets({
    directory: 'none',
    dataRoot: () => Promise.resolve(''),
    owner: '',
    log: silentLog,
  });
  readonly #parts: SocketsParts;
  readonly #directory: string | undefined;
  /** Where the directories are of what the owner has on this engine. */
  #root: Promise<string> | undefined;
  #state: State;
  #misses = 0;
  readonly #removing = new Map<string, Promise<void>>();

  /** Throws `config_invalid` for a directory that none can be made in. */
  constructor(parts: SocketsParts) {
    this.#parts = parts;
    this.#state = stateFor(parts.directory);
    if (this.#state === 'off') return;
    this.#directory = this.#state === 'tried' ? USUAL_DIRECTORY : parts.directory;
    checkDirectory(this.#directory);
  }

  /** Makes the directory of a sandbox, which is to be mounted in it. Throws `config_invalid`, and what the engine says. */
  async prepare(id: string): Promise<DirectoryMount | undefined> {
    const source = this.#state === 'off' ? undefined : await this.#directoryOf(id);
    if (source === undefined) return undefined;
    try {
      await mkdir(source, { recursive: true, mode: 0o700 });
      await checkRoots(source);
      return { source, target: TARGET };
    } catch (error) {
      if (this.isTried) {
        this.giveUp(error);
        return undefined;
      }
      throw new SandyardError('config_invalid', `SANDBOX_SOCKET_DIR is ${this.#parts.directory}: ${String(error)}.`, {
        hint: "Give a directory of root's that the manager can make others in, or `none`.",
        cause: error,
      });
    }
  }

  /** Has a sandbox started, where its directory is gone with a new one: it needn't be on a disk that has outlasted a restart. */
  async start(id: string, start: () => Promise<void>): Promise<void> {
    try {
      await start();
    } catch (error) {
      if (!isSandyardError(error, 'engine_error') || (await this.#isThere(id)) || !(await this.prepare(id)))
        throw error;
      await start();
    }
  }

  /** Whether it isn't known yet that it is of use, and nobody has asked for it. */
  get isTried(): boolean {
    return this.#state === 'tried';
  }

  /** From now on each way in is the engine's, where this is only tried. */
  giveUp(error: unknown): void {
    if (!this.isTried) return;
    this.#state = 'off';
    this.#parts.log.info({ error }, 'each way into a sandbox is made by the engine, as no directory is shared with it');
  }

  /** A connection from the warden of a sandbox; `undefined` where it has no such directory, or doesn't connect in time. */
  async connect(id: string, { signal }: CallOptions = {}): Promise<Socket | undefined> {
    if (this.#state === 'off' || signal?.aborted === true) return undefined;
    // Where the engine is away its own way in tells it.
    const directory = await this.#directoryOf(id).catch(() => undefined);
    if (directory === undefined) return undefined;
    const name = nanoid(10);
    const [hidden, shown] = [join(directory, `.${name}`), join(directory, name)];
    const server = createServer();
    const connected = nextConnection(server, signal);
    connected.catch(() => {}); // where it doesn't come to that
    try {
      await once(server.listen(hidden), 'listening');
      await rename(hidden, shown); // now somebody listens, and the warden is told
      const socket = await connected;
      if (this.isTried) this.#state = 'on';
      return socket;
    } catch (error) {
      // Else it has no such directory, and nobody to wait for.
      if (error instanceof Error && error.name === 'AbortError') this.#miss(id, { error, signal });
      return undefined;
    } finally {
      server.close();
      await rm(shown, { force: true }).catch(() => {}); // it goes with the directory
    }
  }

  /** Removes that of a sandbox which is no more. Never rejects. */
  async remove(id: string): Promise<void> {
    if (this.#directory === undefined) return;
    const removing = this.#removing.get(id) ?? this.#remove(id).finally(() => this.#removing.delete(id));
    this.#removing.set(id, removing);
    await removing;
  }

  /** Returns when nothing is being removed any more. */
  async close(): Promise<void> {
    await Promise.all(this.#removing.values());
  }

  /** Removes those that are of none of the sandboxes there are, which is asked when there may be any. */
  async removeOrphans(there: () => Promise<ReadonlySet<string | undefined>>): Promise<void> {
    const root = await this.#rootDirectory();
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
  async #directoryOf(id: string): Promise<string | undefined> {
    const root = await this.#rootDirectory();
    return root === undefined || !fields.id.safeParse(id).success ? undefined : join(root, id);
  }

  async #isThere(id: string): Promise<boolean> {
    const directory = await this.#directoryOf(id);
    return directory !== undefined && (await stat(directory).catch(() => undefined)) !== undefined;
  }

  async #rootDirectory(): Promise<string | undefined> {
    if (this.#directory === undefined) return undefined;
    const { owner, dataRoot } = this.#parts;
    const directory = this.#directory;
    this.#root ??= dataRoot().then((found) => rootFor(directory, { dataRoot: found, owner }));
    try {
      return await this.#root;
    } catch (error) {
      this.#root = undefined;
      throw error;
    }
  }

  #miss(id: string, { error, signal }: CallOptions & { error: unknown }): void {
    this.#parts.log.debug({ sandbox: id, error }, 'the warden of a sandbox did not connect');
    if (signal?.aborted === true) return; // nobody has waited for it
    this.#misses += 1;
    if (this.#misses >= MOST_MISSES) this.giveUp(error);
  }

  async #remove(id: string): Promise<void> {
    try {
      const directory = await this.#directoryOf(id);
      if (directory === undefined) return;
      // A manager may have begun to listen there just then.
      await rm(directory, { recursive: true, force: true, maxRetries: 3 });
      await rmdir(dirname(directory)).catch(() => {}); // the owner's, unless there are others
    } catch (error) {
      this.#parts.log.warn({ sandbox: id, error }, 'could not remove the directory of a sandbox; will try again');
    }
  }
}

function stateFor(directory: string): State {
  if (directory === 'none') return 'off';
  if (directory !== 'auto') return 'on';
  return process.platform === 'linux' && isRoot() ? 'tried' : 'off';
}

function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

function checkDirectory(directory: string): void {
  const faults = [
    ...(isAbsolute(directory) ? [] : ['it is not an absolute path']),
    ...(Buffer.byteLength(directory) <= MAX_PATH_BYTES ? [] : [`it has more than ${MAX_PATH_BYTES} bytes`]),
    // What user code can be must not be able to listen there, or to connect.
    ...(isRoot() ? [] : ['the manager is not root']),
  ];
  if (faults.length === 0) return;
  throw new SandyardError('config_invalid', `SANDBOX_SOCKET_DIR can't be ${directory}: ${faults.join(', ')}.`, {
    hint: 'Give a short path of a directory on the machine of the engine, to a manager that is root there; or `none`.',
  });
}

/** Whoever else may change one, or what is above it, can put into it what they like. */
async function checkRoots(path: string, { mayBeLink = false } = {}): Promise<void> {
  const found = await lstat(path);
  const isLink = mayBeLink && found.isSymbolicLink();
  const mayOthersChange = !isLink && (found.mode & OTHERS_WRITE) !== 0 && (found.mode & STICKY) === 0;
  if (!(isLink || found.isDirectory()) || found.uid !== 0 || mayOthersChange) {
    throw new Error(`${path} is not a directory of root's alone`);
  }
  if (isLink) await checkRoots(await realpath(path));
  if (dirname(path) !== path) await checkRoots(dirname(path), { mayBeLink: true });
}

/** The first there is. Rejects when there is none in time, or nobody waits for it any more; what comes then is ended. */
async function nextConnection(server: Server, signal: AbortSignal | undefined): Promise<Socket> {
  const late = AbortSignal.timeout(CONNECTS_MS);
  const over = signal === undefined ? late : anySignal([late, signal]);
  let isAwaited = true;
  server.on('connection', (socket) => {
    socket.on('error', () => {}); // whoever uses it hears of its end
    if (!isAwaited || over.aborted) socket.destroy();
    isAwaited = false; // it may connect twice
  });
  const [socket] = (await once(server, 'connection', { signal: over })) as [Socket];
  return socket;
}
