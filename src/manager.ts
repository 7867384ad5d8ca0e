import type Docker from 'dockerode';
import { customAlphabet } from 'nanoid';

import type { CopyResult } from './archive/archive.js';
import { readEngineEnvironment, readManagerDefaults, type Limits } from './config.js';
import { SandboxConnections } from './connections.js';
import { DockerEngine } from './engine/docker-engine.js';
import type { ContainerSpec, Engine, EngineInfo } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import { silentLog, type Log } from './log.js';
import { planSandbox, toSpec } from './plan.js';
import type { Command, ExecOptions, ExecResult } from './process/process.js';
import { checkSchedule, Reaper, type ReapedSandbox } from './reaper.js';
import { containerName, KnownLeases, ownedBy, toRecord, type SandboxRecord } from './record.js';
import {
  Sandbox,
  toInfo,
  type CallOptions,
  type CopyFromOptions,
  type CopyOptions,
  type SandboxContext,
  type SandboxInfo,
  type SandboxStats,
} from './sandbox.js';
import {
  createOptionsSchema,
  fields,
  listOptionsSchema,
  parseInput,
  type CreateOptions,
  type ListOptions,
} from './schemas.js';
import { WardenDelivery } from './warden.js';

const DEFAULT_REAPER_SCHEDULE = '*/30 * * * * *';
/** Longer than all the deadlines of a create together. */
const HALF_CREATED_AFTER_MS = 10 * 60_000;
const LIST_LIMIT = 100;

/** Ids become container names and host names, so they are lower-case letters and digits. */
const newId = customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 12);

export interface ManagerOptions {
  /** A dockerode client. Default: the engine that DOCKER_HOST names, or one found at the usual sockets. */
  readonly docker?: Docker | undefined;
  /** Another Engine altogether; for tests. */
  readonly engine?: Engine | undefined;
  /** Default: says nothing. */
  readonly log?: Log | undefined;
  /** What sandboxes run unless told otherwise. Default: SANDBOX_IMAGE, or `sandyard-sandbox:latest`. */
  readonly image?: string | undefined;
  /** Whose sandboxes these are: a manager sees and removes only its own. Default: SANDBOX_OWNER, or `default`. */
  readonly owner?: string | undefined;
  /** Defaults and ceilings; what is left out comes from the SANDBOX_ variables. */
  readonly limits?: Partial<Limits> | undefined;
  /** When to look for expired sandboxes; `false` for never. Default: every 30 seconds. */
  readonly reaper?:
    | {
        /** A cron expression of five fields, or six with seconds first. */
        readonly schedule?: string | undefined;
        readonly dryRun?: boolean | undefined;
        /** How old what was never started must be to count as left by a manager that died. Default: 10 minutes. */
        readonly halfCreatedAfterMs?: number | undefined;
      }
    | false
    | undefined;
}

/**
 * Makes and keeps sandboxes on one Docker engine. Any number of managers can share an engine; all that is to be
 * remembered is on the engine itself. Every method rejects with a SandyardError, with `engine_unavailable` when there is
 * no engine, and works again when there is.
 */
export class SandboxManager implements AsyncDisposable {
  readonly image: string;
  readonly owner: string;
  readonly limits: Limits;
  readonly #engine: Engine;
  readonly #log: Log;
  readonly #context: SandboxContext;
  readonly #warden: WardenDelivery;
  readonly #reaper: Reaper;
  readonly #schedule: string | undefined;
  #closed = false;

  /** Does no I/O. */
  constructor(options: ManagerOptions = {}) {
    const defaults = readManagerDefaults();
    this.image = options.image ?? defaults.image;
    this.owner = options.owner ?? defaults.owner;
    this.limits = { ...defaults.limits, ...options.limits };
    this.#log = options.log ?? silentLog;
    const source = options.docker === undefined ? { env: readEngineEnvironment() } : { docker: options.docker };
    this.#engine = options.engine ?? new DockerEngine(source);
    const connections = new SandboxConnections(this.#engine);
    const leases = new KnownLeases();
    this.#context = { engine: this.#engine, connections, leases, limits: this.limits, log: this.#log };
    this.#warden = new WardenDelivery(this.#engine, this.image);
    const reaper = options.reaper === false ? undefined : (options.reaper ?? {});
    this.#schedule = reaper === undefined ? undefined : checkSchedule(reaper.schedule ?? DEFAULT_REAPER_SCHEDULE);
    this.#reaper = new Reaper({
      engine: this.#engine,
      log: this.#log,
      owner: this.owner,
      rules: {
        stoppedRetentionMs: this.limits.stoppedRetentionMs,
        halfCreatedAfterMs: reaper?.halfCreatedAfterMs ?? HALF_CREATED_AFTER_MS,
      },
      dryRun: reaper?.dryRun ?? false,
      seen: (ids) => {
        connections.keepOnly(ids);
        leases.keepOnly(ids);
      },
      removed: (id) => connections.destroyed(id),
    });
  }

  /**
   * Connects to the engine, finds what is ours on it, and starts the reaper. The other methods work without it; only
   * nothing expires then. May be tried again after it failed.
   */
  async open({ signal }: CallOptions = {}): Promise<void> {
    this.#checkOpen();
    const { version, address } = await this.#engine.info({ signal });
    const found = await this.#reaper.run({ signal });
    this.#checkOpen(); // close() may have come meanwhile
    if (this.#schedule !== undefined) this.#reaper.start(this.#schedule);
    this.#log.info({ engine: address, version, owner: this.owner, expired: found.length }, 'manager is open');
  }

  /**
   * Makes a sandbox and starts it. Either it is there and runs, or nothing is left of it: also when `signal` gives up
   * half-way. Throws `validation_failed`, `limit_exceeded` (naming the ceiling), `image_not_found`, `out_of_disk`.
   */
  async create(options: CreateOptions = {}, { signal }: CallOptions = {}): Promise<Sandbox> {
    this.#checkOpen();
    const given = parseInput(createOptionsSchema, options, 'create options');
    const id = newId();
    const plan = planSandbox(given, { id, owner: this.owner, image: this.image, limits: this.limits });
    const image = await this.#engine.inspectImage(plan.image, { signal });
    const spec = toSpec(plan, image, await this.#warden.volumeFor(image));
    try {
      // The engine's calls aren't aborted half-way, so that what they made is there to be removed.
      throwIfAborted(signal);
      const containerId = await this.#engine.createContainer(spec);
      throwIfAborted(signal);
      const record = toRecord({ ...spec, id: containerId, state: 'running' });
      if (record === undefined)
        throw new SandyardError('internal', `The labels of the sandbox ${id} are not a record.`);
      await this.#startNew(spec, record);
      throwIfAborted(signal);
      this.#checkOpen(); // close() may have come meanwhile
      this.#log.info({ sandbox: id, owner: this.owner, image: spec.image }, 'created a sandbox');
      return new Sandbox(this.#context, record);
    } catch (error) {
      // The one that has the name is somebody else's.
      if (!isSandyardError(error, 'name_conflict')) await this.#rollBack(spec, id);
      throw error;
    }
  }

  /** A handle of a sandbox. Throws `sandbox_not_found` when there is none of this owner's. */
  async get(id: string, options: CallOptions = {}): Promise<Sandbox> {
    this.#checkOpen();
    // What there is a connection to is there, and is ours: the engine need not be asked.
    const record = this.#context.connections.connected(id) ?? (await this.#find(id, options));
    return new Sandbox(this.#context, record);
  }

  /** Sandboxes of this owner, the newest first, `limit` (100) at a time; `cursor` goes on where a list ended. */
  async list(options: ListOptions = {}, { signal }: CallOptions = {}): Promise<SandboxList> {
    this.#checkOpen();
    const given = parseInput(listOptionsSchema, options, 'list options');
    const containers = await this.#engine.listContainers(ownedBy(this.owner), { signal });
    const after = given.cursor === undefined ? undefined : decodeCursor(given.cursor);
    const records = containers
      .map(toRecord)
      .filter((record) => record !== undefined)
      .filter(({ state }) => given.state === undefined || state === given.state)
      .filter(({ projectName }) => given.projectName === undefined || projectName === given.projectName)
      .map((record) => ({ record, key: `${record.createdAt.toISOString()} ${record.id}` }))
      .filter(({ key }) => after === undefined || key < after)
      .toSorted((a, b) => (a.key < b.key ? 1 : -1));
    const page = records.slice(0, given.limit ?? LIST_LIMIT);
    const last = page.length < records.length ? page.at(-1) : undefined;
    return {
      sandboxes: page.map(({ record }) => toInfo(record, { expiresAt: this.#context.leases.endOf(record) })),
      cursor: last === undefined ? null : Buffer.from(last.key).toString('base64url'),
    };
  }

  async inspect(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).inspect(options);
  }

  async start(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).start(options);
  }

  async stop(id: string, options: CallOptions & { graceMs?: number | undefined } = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).stop(options);
  }

  async renew(id: string, options: CallOptions & { ttlMs?: number | undefined } = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).renew(options);
  }

  async stats(id: string, options: CallOptions = {}): Promise<SandboxStats> {
    return (await this.get(id, options)).stats(options);
  }

  async exec(id: string, command: Command, options: ExecOptions = {}): Promise<ExecResult> {
    return (await this.get(id, options)).exec(command, options);
  }

  async copyTo(
    id: string,
    { hostPath, sandboxPath, ...options }: CopyOptions & { hostPath: string; sandboxPath: string },
  ): Promise<CopyResult> {
    return (await this.get(id, options)).copyTo(hostPath, sandboxPath, options);
  }

  async copyFrom(
    id: string,
    { sandboxPath, hostPath, ...options }: CopyFromOptions & { sandboxPath: string; hostPath: string },
  ): Promise<CopyResult> {
    return (await this.get(id, options)).copyFrom(sandboxPath, hostPath, options);
  }

  async destroy(id: string, options: CallOptions = {}): Promise<void> {
    await (await this.get(id, options)).destroy(options);
    this.#log.info({ sandbox: id, owner: this.owner }, 'destroyed a sandbox');
  }

  /** Removes what has expired, now; a dry run only tells what it would remove. */
  async reap(options: CallOptions & { dryRun?: boolean | undefined } = {}): Promise<ReapedSandbox[]> {
    this.#checkOpen();
    return this.#reaper.run(options);
  }

  async engineInfo(options: CallOptions = {}): Promise<EngineInfo> {
    return this.#engine.info(options);
  }

  /** Whether the engine has the default image. */
  async hasImage(options: CallOptions = {}): Promise<boolean> {
    try {
      await this.#engine.inspectImage(this.image, options);
      return true;
    } catch (error) {
      if (isSandyardError(error, 'image_not_found')) return false;
      throw error;
    }
  }

  /**
   * Stops the reaper, and ends the calls that wait for a command or a file operation, with what they run. The sandboxes
   * live on, and so does what was spawned in them.
   */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#reaper.stop();
    await this.#context.connections.close();
    this.#engine.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #find(id: string, { signal }: CallOptions): Promise<SandboxRecord> {
    this.#checkOpen();
    // An id that can't be one isn't asked for: it would become part of a path.
    const known = fields.id.safeParse(id).success;
    const details = known ? await this.#inspectContainer(containerName(id), signal) : undefined;
    const record = details === undefined ? undefined : toRecord(details);
    if (record !== undefined && record.owner === this.owner) return record;
    throw new SandyardError('sandbox_not_found', `There is no sandbox ${JSON.stringify(id.slice(0, 64))}.`, {
      hint: 'It may have been destroyed or have expired; list the sandboxes to see which there are.',
    });
  }

  async #inspectContainer(name: string, signal: AbortSignal | undefined) {
    try {
      return await this.#engine.inspectContainer(name, { signal });
    } catch (error) {
      if (isSandyardError(error, 'sandbox_not_found')) return undefined;
      throw error;
    }
  }

  /** Starts it, and makes sure that it is what it should be and can be talked to. */
  async #startNew(spec: ContainerSpec, record: SandboxRecord): Promise<void> {
    await this.#engine.startContainer(spec.name);
    const held = this.#context.connections.hold(record);
    try {
      const opened = held.channel.open();
      opened.catch(() => {}); // awaited below, when it is known that the container runs
      await this.#engine.verifyContainer(spec.name, spec);
      await opened;
    } catch (error) {
      // It ended after it was looked at: another look tells why.
      if (isSandyardError(error, 'wrong_state')) await this.#engine.verifyContainer(spec.name, spec);
      throw error;
    } finally {
      held.release();
    }
  }

  async #rollBack({ name, volume }: ContainerSpec, id: string): Promise<void> {
    this.#context.connections.destroyed(id);
    if (volume !== undefined) this.#warden.forget(volume);
    try {
      await this.#engine.removeContainer(name);
    } catch (error) {
      this.#log.error({ container: name, error }, 'could not remove a half-made sandbox; the reaper will');
    }
  }

  #checkOpen(): void {
    if (!this.#closed) return;
    throw new SandyardError('manager_closed', 'The manager is closed.', { hint: 'Make a new SandboxManager.' });
  }
}

export interface SandboxList {
  readonly sandboxes: readonly SandboxInfo[];
  /** Pass it on to have the next ones; `null` at the end. */
  readonly cursor: string | null;
}

function decodeCursor(cursor: string): string {
  const key = Buffer.from(cursor, 'base64url').toString('utf8');
  if (/^\d{4}-[\dT:.-]+Z [a-z0-9]+$/.test(key)) return key;
  throw new SandyardError('validation_failed', 'The cursor is not one that a list has returned.', {
    hint: 'Leave it out to list from the beginning.',
    issues: [{ path: ['cursor'], message: 'is not a cursor' }],
  });
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return;
  throw new SandyardError('aborted', 'The caller gave up while the sandbox was being created.', {
    cause: signal.reason,
  });
}
