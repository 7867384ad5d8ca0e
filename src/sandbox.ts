import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';

import { extractArchive, extractFile, findSource, packDirectory, type CopyResult } from './archive/archive.js';
import type { Limits } from './config.js';
import type { ContainerState, ContainerDetails, Engine } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import { ACTIVITY_RESOLUTION } from './expiry.js';
import { SandboxFiles } from './files.js';
import type { Log } from './log.js';
import {
  exec,
  spawn,
  toUidGid,
  type Command,
  type ExecOptions,
  type ExecResult,
  type SpawnOptions,
} from './process.js';
import { toRecord, type Lease, type LeaseStore, type SandboxRecord } from './record.js';
import type { ProcessTarget, RunningProcesses, SandboxProcess } from './sandbox-process.js';
import { parseInput, renewOptionsSchema } from './schemas.js';

const COPY_MAX_BYTES = 16 * 1024 ** 3;
const COPY_MAX_ENTRIES = 1_000_000;

export interface SandboxInfo {
  readonly id: string;
  /** The container's name, `sandyard-ID`. */
  readonly name: string;
  readonly containerId: string;
  readonly projectName: string | null;
  readonly state: ContainerState;
  readonly image: string;
  readonly owner: string;
  readonly createdAt: Date;
  /** When its lease runs out, unless it is renewed. */
  readonly expiresAt: Date;
  /** `null` where it never ran, and in a list, which doesn't inspect each; as the two that follow. */
  readonly startedAt: Date | null;
  readonly finishedAt: Date | null;
  readonly exitCode: number | null;
  readonly ttlMs: number;
  readonly idleTimeoutMs: number | null;
  readonly limits: {
    readonly memoryBytes: number;
    readonly cpus: number;
    readonly pids: number;
    readonly nofile: number;
  };
  readonly network: 'none' | 'bridge';
  readonly workdir: string;
  readonly user: string;
  readonly metadata: Readonly<Record<string, string>>;
}

export interface SandboxStats {
  readonly memoryBytes: number;
  readonly memoryLimitBytes: number;
  /** CPU time used since it was last started. */
  readonly cpuSeconds: number;
  readonly pids: number;
  readonly networkReceivedBytes: number;
  readonly networkSentBytes: number;
  readonly at: Date;
}

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface CopyOptions extends CallOptions {
  /** Names to leave out: see `packDirectory`. */
  readonly exclude?: readonly string[] | undefined;
}

export interface CopyFromOptions extends CopyOptions {
  /** Ends with `archive_too_large` beyond this. Defaults: 16 GiB, a million entries. */
  readonly maxBytes?: number | undefined;
  readonly maxEntries?: number | undefined;
}

/** What a sandbox needs of its manager. */
export interface SandboxContext {
  readonly engine: Engine;
  readonly leases: LeaseStore;
  readonly limits: Limits;
  readonly log: Log;
  readonly processes: RunningProcesses;
}

/** A handle of one sandbox. Holds no connection; several may be had of the same sandbox. */
export class Sandbox implements AsyncDisposable {
  readonly files: SandboxFiles;
  readonly #context: SandboxContext;
  readonly #record: SandboxRecord;
  readonly #target: ProcessTarget;

  /** @internal Made by a manager. */
  constructor(context: SandboxContext, record: SandboxRecord) {
    this.#context = context;
    this.#record = record;
    this.#target = {
      engine: context.engine,
      container: record.name,
      user: toUidGid(record.user),
      workdir: record.workdir,
      execTimeoutMs: context.limits.execTimeoutMs,
      processes: context.processes,
      noteActivity: () => this.#noteActivity(),
    };
    this.files = new SandboxFiles(this.#target);
  }

  get id(): string {
    return this.#record.id;
  }

  /** What it is and how it is. Throws `sandbox_not_found`. */
  async inspect({ signal }: CallOptions = {}): Promise<SandboxInfo> {
    const details = await this.#context.engine.inspectContainer(this.#record.name, { signal });
    const record = toRecord(details) ?? this.#record;
    return toInfo(record, { lease: await this.#context.leases.read(record, { signal }), details });
  }

  /** Runs a command to its end; see `ExecResult`. */
  async exec(command: Command, options: ExecOptions = {}): Promise<ExecResult> {
    return exec(this.#target, command, options);
  }

  /** Starts a command and gives a handle of it. */
  async spawn(command: Command, options: SpawnOptions = {}): Promise<SandboxProcess> {
    return spawn(this.#target, command, options);
  }

  /**
   * Copies from the host into the sandbox. The source becomes the target: a directory's content is merged into the
   * target directory, a file is written as the target, or into it under its own name where the target ends in "/" or is
   * a directory. Modes, links, empty directories and names are kept; all of it belongs to the sandbox's user.
   */
  async copyTo(hostPath: string, sandboxPath: string, options: CopyOptions = {}): Promise<CopyResult> {
    const { exclude = [], signal } = options;
    const source = await findSource(hostPath);
    if (source.isDirectory) {
      const { tar, result } = await packDirectory(hostPath, { exclude, ...(signal && { signal }) });
      await this.files.writeArchive(sandboxPath, tar, { signal });
      return result();
    }
    const target = await this.#fileTarget(sandboxPath, basename(hostPath), { signal });
    const { mode, size } = await stat(source.path);
    await this.files.write(target, createReadStream(source.path), { mode: mode & 0o777, signal });
    return { entries: 1, bytes: size };
  }

  /**
   * Copies from the sandbox to the host, by the same rule. What comes out is hostile: a name or link that leads out of
   * the target, a device and the like are refused with `unsafe_archive`, which names the entry, before anything is
   * put in place.
   */
  async copyFrom(sandboxPath: string, hostPath: string, options: CopyFromOptions = {}): Promise<CopyResult> {
    const { exclude = [], maxBytes = COPY_MAX_BYTES, maxEntries = COPY_MAX_ENTRIES, signal } = options;
    const isDirectory = await this.#isDirectory(sandboxPath, { signal });
    const tar = await this.files.readArchive(sandboxPath, { signal });
    if (!isDirectory) return extractFile(tar, hostPath, { maxBytes, ...(signal && { signal }) });
    return extractArchive(tar, hostPath, { exclude, maxBytes, maxEntries, ...(signal && { signal }) });
  }

  /** Starts it again after a stop. Its files are there; what ran is not. */
  async start(options: CallOptions = {}): Promise<SandboxInfo> {
    await this.#context.engine.startContainer(this.#record.name, options);
    this.#noteActivity();
    return this.inspect(options);
  }

  /** Ends all that runs in it and keeps its files. Its lease goes on. */
  async stop(options: CallOptions = {}): Promise<SandboxInfo> {
    await this.#context.engine.stopContainer(this.#record.name, { ...options, graceSeconds: 0 });
    return this.inspect(options);
  }

  /**
   * Has its lease end `ttlMs` from now: later or earlier than before, and never after `maxLifetimeMs` of its life.
   * Default: what it was created with.
   */
  async renew(options: CallOptions & { ttlMs?: number | undefined } = {}): Promise<SandboxInfo> {
    const { signal, ...rest } = options;
    const { ttlMs = this.#record.ttlMs } = parseInput(renewOptionsSchema, rest, 'renew options');
    const now = Date.now();
    const last = this.#record.createdAt.getTime() + this.#record.maxLifetimeMs;
    if (now + ttlMs > last) {
      throw new SandyardError('limit_exceeded', 'The lease would end after the longest lifetime of the sandbox.', {
        hint: `It may live until ${new Date(last).toISOString()}; ask for ${Math.max(0, last - now)} ms at most.`,
      });
    }
    await this.inspect({ signal }); // so that a missing sandbox is called missing
    const lease = { expiresAt: new Date(now + ttlMs), lastActiveAt: new Date(now) };
    await this.#context.leases.update(this.#record, () => lease, { signal });
    return this.inspect({ signal });
  }

  /** What it uses now. Throws `wrong_state` when it doesn't run. */
  async stats(options: CallOptions = {}): Promise<SandboxStats> {
    const { state } = await this.#context.engine.inspectContainer(this.#record.name, options);
    if (state !== 'running' && state !== 'paused') {
      throw new SandyardError('wrong_state', `The sandbox ${this.id} is ${state}, so it uses nothing.`, {
        hint: 'Start it first.',
      });
    }
    const { cpuNanoseconds, ...stats } = await this.#context.engine.stats(this.#record.name, options);
    return { ...stats, cpuSeconds: cpuNanoseconds / 1e9, at: new Date() };
  }

  /** Removes it with all that is in it. Succeeds when it is gone already. */
  async destroy(options: CallOptions = {}): Promise<void> {
    await this.#context.engine.removeContainer(this.#record.name, options);
    this.#context.leases.forget(this.id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.destroy();
  }

  async #isDirectory(path: string, options: CallOptions): Promise<boolean> {
    const info = await this.files
      .stat(path.length > 1 ? `${path.replace(/\/+$/, '')}/.` : path, options)
      .catch((error: unknown) => {
        if (isSandyardError(error, 'not_a_directory') || isSandyardError(error, 'file_not_found')) return undefined;
        throw error;
      });
    return info !== undefined;
  }

  async #fileTarget(path: string, name: string, options: CallOptions): Promise<string> {
    if (path.endsWith('/')) return `${path}${name}`;
    return (await this.#isDirectory(path, options)) ? `${path}/${name}` : path;
  }

  /**
   * Remembers that the sandbox is used, where it has an idle timeout and what is recorded is getting old. It isn't
   * waited for: a command must not be slower for it, nor fail with it.
   */
  #noteActivity(): void {
    const { idleTimeoutMs } = this.#record;
    if (idleTimeoutMs === null) return;
    const lease = this.#context.leases.known(this.#record);
    const now = new Date();
    if (now.getTime() - lease.lastActiveAt.getTime() < idleTimeoutMs * ACTIVITY_RESOLUTION) return;
    this.#context.leases
      .update(this.#record, ({ expiresAt }) => ({ expiresAt, lastActiveAt: now }))
      .catch((error: unknown) => {
        if (isSandyardError(error, 'sandbox_not_found')) return;
        this.#context.log.warn({ sandbox: this.id, error }, 'could not record that the sandbox is used');
      });
  }
}

/** What is shown of a sandbox. */
export function toInfo(
  record: SandboxRecord,
  { lease, details }: { lease: Lease; details?: ContainerDetails },
): SandboxInfo {
  const { maxLifetimeMs: _, ...shown } = record;
  return {
    ...shown,
    state: details?.state ?? record.state,
    expiresAt: lease.expiresAt,
    startedAt: details?.startedAt ?? null,
    finishedAt: details?.finishedAt ?? null,
    exitCode: details?.state === 'exited' ? details.exitCode : null,
  };
}
