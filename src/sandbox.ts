import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { Duplex } from 'node:stream';

import { extractArchive, extractFile, findSource, packDirectory, type CopyResult } from './archive/archive.js';
import type { Limits } from './config.js';
import type { SandboxConnections } from './connections.js';
import type { CallOptions, ContainerDetails, ContainerState, Engine } from './engine/engine.js';
import { isSandyardError, SandyardError, type ErrorCode } from './errors.js';
import { SandboxFiles } from './files/files.js';
import { giveUpOn } from './process/giving-up.js';
import type { Log } from './log.js';
import { connectPort } from './files/port.js';
import {
  exec,
  spawn,
  toUserIds,
  type Command,
  type ExecOptions,
  type ExecResult,
  type SpawnOptions,
} from './process/process.js';
import { SandboxProcesses } from './process/processes.js';
import { toRecord, type KnownLeases, type SandboxRecord } from './record.js';
import type { HeldChannel, ProcessTarget } from './process/remote-run.js';
import type { SandboxProcess } from './process/sandbox-process.js';
import { fields, parseInput, renewOptionsSchema } from './schemas.js';

export type { CallOptions };

const COPY_MAX_BYTES = 16 * 1024 ** 3;
const COPY_MAX_ENTRIES = 1_000_000;
const STOP_GRACE_MS = 2000;

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
  /** The engine's runtime that was asked for; `null` for its default. */
  readonly runtime: string | null;
  readonly metadata: Readonly<Record<string, string>>;
}

export interface SandboxStats {
  /** Without what the kernel can take back at once. */
  readonly memoryBytes: number;
  readonly memoryLimitBytes: number;
  /** CPU time used since it was last started. */
  readonly cpuSeconds: number;
  readonly pids: number;
  readonly networkReceivedBytes: number;
  readonly networkSentBytes: number;
  /** How often the kernel has killed something in it for want of memory. */
  readonly oomKills: number;
  readonly at: Date;
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
  readonly connections: SandboxConnections;
  readonly leases: KnownLeases;
  readonly limits: Limits;
  readonly log: Log;
}

/** Faults of the way into a sandbox, without which the engine can still tell what it is. */
const UNREACHABLE: readonly ErrorCode[] = [
  'wrong_state',
  'sandbox_died',
  'channel_failed',
  'engine_error',
  'engine_timeout',
];

/** A handle of one sandbox. Several may be had of the same one; they share one connection. */
export class Sandbox implements AsyncDisposable {
  readonly files: SandboxFiles;
  readonly processes: SandboxProcesses;
  readonly #context: SandboxContext;
  readonly #record: SandboxRecord;
  readonly #target: ProcessTarget;

  /** @internal Made by a manager. */
  constructor(context: SandboxContext, record: SandboxRecord) {
    this.#context = context;
    this.#record = record;
    this.#target = {
      hold: () => context.connections.hold(record),
      user: toUserIds(record.user),
      workdir: record.workdir,
      execTimeoutMs: context.limits.execTimeoutMs,
      calls: context.connections.calls,
    };
    this.files = new SandboxFiles(this.#target);
    this.processes = new SandboxProcesses(this.#target);
  }

  get id(): string {
    return this.#record.id;
  }

  /** What it is and how it is. Throws `sandbox_not_found`. */
  async inspect({ signal }: CallOptions = {}): Promise<SandboxInfo> {
    const details = await this.#context.engine.inspectContainer(this.#record.name, { signal });
    const record = toRecord(details) ?? this.#record;
    if (details.state === 'running') await this.#readLease(signal);
    return toInfo(record, { expiresAt: this.#context.leases.endOf(record), details });
  }

  /** Runs a command to its end; see `ExecResult`. */
  async exec(command: Command, options: ExecOptions = {}): Promise<ExecResult> {
    return exec(this.#target, command, options);
  }

  /**
   * Starts a command and gives a handle of it. It runs on when this program ends, or its manager is closed: then get it
   * with `processes.get`.
   */
  async spawn(command: Command, options: SpawnOptions = {}): Promise<SandboxProcess> {
    return spawn(this.#target, command, options);
  }

  /** A connection to a TCP port in the sandbox, whatever network it has. Throws `port_not_open`. */
  async connect(port: number, options: CallOptions = {}): Promise<Duplex> {
    return connectPort(this.#target, port, options);
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
    return this.inspect(options);
  }

  /**
   * Ends all that runs in it, by SIGTERM and, after `graceMs` (2000), by SIGKILL, and keeps its files. Its lease goes on.
   */
  async stop(options: CallOptions & { graceMs?: number | undefined } = {}): Promise<SandboxInfo> {
    const { signal } = options;
    const graceMs = parseInput(fields.graceMs, options.graceMs ?? STOP_GRACE_MS, 'grace period');
    const graceSeconds = Math.ceil(graceMs / 1000);
    await this.#context.engine.stopContainer(this.#record.name, { signal, graceSeconds });
    return this.inspect({ signal });
  }

  /**
   * Has its lease end `ttlMs` from now: later or earlier than before, and never after `maxLifetimeMs` of its life.
   * Default: what it was created with. Throws `wrong_state` when it doesn't run.
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
    const details = await this.#context.engine.inspectContainer(this.#record.name, { signal });
    if (details.state !== 'running') {
      throw new SandyardError('wrong_state', `The sandbox ${this.id} is ${details.state}, and keeps its own lease.`, {
        hint: 'Start it first, then renew it.',
      });
    }
    const { leaseLeftMs } = await this.#ask((held) => held.channel.setRecord({ ttlMs }), signal);
    const expiresAt = this.#context.leases.renew(this.id, leaseLeftMs ?? ttlMs);
    return toInfo(toRecord(details) ?? this.#record, { expiresAt, details });
  }

  /** What it uses now. Throws `wrong_state` when it doesn't run. */
  async stats({ signal }: CallOptions = {}): Promise<SandboxStats> {
    const { memoryLimitBytes, processes, ...usage } = await this.#ask(({ channel }) => channel.usage(), signal);
    return {
      ...usage,
      memoryLimitBytes: memoryLimitBytes ?? this.#record.limits.memoryBytes,
      pids: processes,
      at: new Date(),
    };
  }

  /** Removes it with all that is in it. Succeeds when it is gone already. */
  async destroy(options: CallOptions = {}): Promise<void> {
    await this.#context.engine.removeContainer(this.#record.name, options);
    this.#context.connections.destroyed(this.id);
    this.#context.leases.forget(this.id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.destroy();
  }

  async #isDirectory(path: string, { signal }: CallOptions): Promise<boolean> {
    try {
      const { type } = await this.files.stat(path, { followLinks: true, signal });
      return type === 'directory';
    } catch (error) {
      if (isSandyardError(error, 'not_a_directory') || isSandyardError(error, 'file_not_found')) return false;
      throw error;
    }
  }

  async #fileTarget(path: string, name: string, options: CallOptions): Promise<string> {
    if (path.endsWith('/')) return `${path}${name}`;
    return (await this.#isDirectory(path, options)) ? `${path}/${name}` : path;
  }

  /** Notes the lease as the sandbox has it now. Where that can't be had, what was last seen stands. */
  async #readLease(signal: AbortSignal | undefined): Promise<void> {
    try {
      const { leaseLeftMs } = await this.#ask(({ channel }) => channel.record(), signal);
      if (leaseLeftMs !== null) this.#context.leases.see(this.#record, leaseLeftMs);
    } catch (error) {
      if (!UNREACHABLE.some((code) => isSandyardError(error, code))) throw error;
      this.#context.log.warn({ sandbox: this.id, error }, 'could not read the lease of a running sandbox');
    }
  }

  async #ask<Answer>(act: (held: HeldChannel) => Promise<Answer>, signal: AbortSignal | undefined): Promise<Answer> {
    const held = this.#target.hold();
    const answer = act(held).finally(() => held.release());
    return signal === undefined ? answer : giveUpOn(answer, signal);
  }
}

/** What is shown of a sandbox. */
export function toInfo(
  record: SandboxRecord,
  { expiresAt, details }: { expiresAt: Date; details?: ContainerDetails },
): SandboxInfo {
  const { maxLifetimeMs: _, ...shown } = record;
  return {
    ...shown,
    state: details?.state ?? record.state,
    expiresAt,
    startedAt: details?.startedAt ?? null,
    finishedAt: details?.finishedAt ?? null,
    exitCode: details?.state === 'exited' ? details.exitCode : null,
  };
}
