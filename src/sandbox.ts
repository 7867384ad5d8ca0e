import type { Duplex } from 'node:stream';

import type { CopyResult } from './archive/archive.js';
import { attest, type Attestation } from './attest/attestation.js';
import { gaveUp } from './channel/channel-errors.js';
import type { RemoteSample } from './channel/messages.js';
import type { Limits } from './config.js';
import type { Egress } from './egress/egress.js';
import { SandboxEgress } from './egress/sandbox-egress.js';
import { SandboxSecrets } from './egress/sandbox-secrets.js';
import type { SandboxConnections } from './connections.js';
import { copyFrom, copyTo, type CopyFromOptions, type CopyOptions } from './copy.js';
import type { EngineClock } from './record/engine-clock.js';
import type { CallOptions, ContainerDetails, Engine } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import { SandboxFiles } from './files/files.js';
import { connectPort } from './files/port.js';
import type { DiskAlarms } from './fleet/disk-alarms.js';
import { judgeEnding } from './fleet/endings.js';
import type { Inventory } from './fleet/inventory.js';
import type { KnownLeases } from './record/leases.js';
import type { LifecycleEvents, LifecycleEventType } from './fleet/lifecycle.js';
import { exec, spawn, type Command, type ExecOptions, type ExecResult, type SpawnOptions } from './process/process.js';
import { SandboxProcesses } from './process/processes.js';
import { toUserIds } from './process/users.js';
import { nothingKept } from './create/strict.js';
import type { DiedOf } from './process/process-exit.js';
import type { ProcessTarget } from './process/remote-run.js';
import type { SandboxProcess } from './process/sandbox-process.js';
import type { SandboxRecord } from './record/record.js';
import type { Pausing } from './fleet/pausing.js';
import type { Records } from './fleet/records.js';
import { toInfo, type SandboxInfo } from './sandbox-info.js';
import type { SandboxSockets } from './sandbox-sockets.js';
import { fields, parseInput, renewOptionsSchema } from './schemas.js';
import type { Telemetry } from './telemetry.js';

const STOP_GRACE_MS = 2000;
/** How long `wait` relies on being told: then it looks itself. */
const WAIT_MS = 5000;

export interface StopOptions extends CallOptions {
  /** How long what runs may take to end after SIGTERM. Default: 2000. */
  readonly graceMs?: number | undefined;
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
  /** What it has written, and how many files that is, as last measured; `null` where it isn't watched, or never was. */
  readonly diskBytes: number | null;
  readonly diskLimitBytes: number | null;
  readonly inodes: number | null;
  readonly inodesLimit: number | null;
  readonly at: Date;
}

/** What a sandbox needs of its manager. */
export interface SandboxContext {
  readonly egress: Egress;
  readonly engine: Engine;
  readonly connections: SandboxConnections;
  readonly sockets: SandboxSockets;
  readonly records: Records;
  readonly pausing: Pausing;
  readonly leases: KnownLeases;
  readonly inventory: Inventory;
  readonly lifecycle: LifecycleEvents;
  readonly alarms: DiskAlarms;
  readonly clock: EngineClock;
  readonly limits: Limits;
  readonly telemetry: Telemetry;
}

/** A handle of one sandbox. Several may be had of the same one; they share one connection. */
export class Sandbox implements AsyncDisposable {
  readonly files: SandboxFiles;
  readonly processes: SandboxProcesses;
  readonly egress: SandboxEgress;
  readonly secrets: SandboxSecrets;
  readonly #context: SandboxContext;
  readonly #record: SandboxRecord;
  readonly #target: ProcessTarget;

  /** @internal Made by a manager. */
  constructor(context: SandboxContext, record: SandboxRecord) {
    this.#context = context;
    this.#record = record;
    this.#target = {
      hold: () => context.connections.use(record),
      user: toUserIds(record.user),
      rootAllowed: record.profile === 'dev',
      workdir: record.workdir,
      env: record.env,
      telemetry: context.telemetry,
      disk: record.limits,
      diskFull: () => context.alarms.tell(record),
      execTimeoutMs: context.limits.execTimeoutMs,
      calls: context.connections.calls,
      whyDied: () => this.#whyDied(),
    };
    this.files = new SandboxFiles(this.#target);
    this.processes = new SandboxProcesses(this.#target);
    this.egress = new SandboxEgress(context.egress, record);
    this.secrets = new SandboxSecrets(context.egress, record);
  }

  get id(): string {
    return this.#record.id;
  }

  /** What it is and how it is. Throws `sandbox_not_found`. */
  async inspect({ signal }: CallOptions = {}): Promise<SandboxInfo> {
    const details = await this.#look(signal);
    if (details.state === 'running') await this.#context.records.see(this.#record, signal);
    return this.#show(details);
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
    return copyTo(this.files, { hostPath, sandboxPath, ...options });
  }

  /**
   * Copies from the sandbox to the host, by the same rule. What comes out is hostile: a name or link that leads out of
   * the target, a device and the like are refused with `unsafe_archive`, which names the entry, before anything is
   * put in place.
   */
  async copyFrom(sandboxPath: string, hostPath: string, options: CopyFromOptions = {}): Promise<CopyResult> {
    return copyFrom(this.files, { hostPath, sandboxPath, ...options });
  }

  /**
   * Starts it again after a stop, with a new lease where the old one has stopped it. Its files are there; what ran is not.
   * Throws `wrong_state` for one with the profile `strict`, whose files went when it ended.
   */
  async start({ signal }: CallOptions = {}): Promise<SandboxInfo> {
    if (this.#record.profile === 'strict' && (await this.#look(signal)).state === 'exited') {
      throw nothingKept(this.id, 'start');
    }
    const started = this.#change(['started'], (engine) =>
      this.#context.sockets.start(this.id, () => engine.startContainer(this.#record.containerId, { signal })),
    );
    const isRevived = this.#record.onExpiry === 'pause';
    await (isRevived ? this.#context.records.revive(this.#record, { after: started, signal }) : started);
    return this.#changed(signal);
  }

  /**
   * Ends all that runs in it, by SIGTERM and, after `graceMs` (2000), by SIGKILL, and keeps its files. Its lease goes on.
   * Throws `wrong_state` for one with the profile `strict`, which would lose its files.
   */
  async stop(options: StopOptions = {}): Promise<SandboxInfo> {
    const { signal } = options;
    if (this.#record.profile === 'strict' && (await this.#look(signal)).state !== 'exited') {
      throw nothingKept(this.id, 'stop');
    }
    const graceMs = parseInput(fields.graceMs, options.graceMs ?? STOP_GRACE_MS, 'grace period');
    const graceSeconds = Math.ceil(graceMs / 1000);
    await this.#change(['unpaused', 'stopped'], (engine) =>
      engine.stopContainer(this.#record.containerId, { signal, graceSeconds }),
    );
    return this.#changed(signal);
  }

  /** Stops it and starts it. */
  async restart(options: StopOptions = {}): Promise<SandboxInfo> {
    await this.stop(options);
    return this.start({ signal: options.signal });
  }

  /**
   * Halts all that runs in it, and keeps it in memory. Its lease goes on: when that ends, a paused sandbox can't end itself, and is
   * removed by a manager. Throws `wrong_state` when it doesn't run.
   */
  async pause({ signal }: CallOptions = {}): Promise<SandboxInfo> {
    await this.#change(['paused'], () => this.#context.pausing.pause(this.#record, { signal }));
    return this.#changed(signal);
  }

  /** Has it go on, with a new lease where the end of the old one has paused it. */
  async unpause({ signal }: CallOptions = {}): Promise<SandboxInfo> {
    const unpaused = this.#change(['unpaused'], (engine) =>
      engine.unpauseContainer(this.#record.containerId, { signal }),
    );
    await this.#context.records.revive(this.#record, { after: unpaused, signal });
    return this.#changed(signal);
  }

  /**
   * Waits until it runs no more, or is paused no more and has ended: for how it ended, or `null` when it was removed. One that was
   * never started is waited for, too.
   */
  async wait({ signal }: CallOptions = {}): Promise<SandboxInfo | null> {
    for (;;) {
      try {
        const details = await this.#look(signal);
        if (details.state === 'exited') return this.#show(details);
      } catch (error) {
        if (isSandyardError(error, 'sandbox_not_found')) return null;
        throw error;
      }
      await this.#context.inventory.changed(this.id, { atMostMs: WAIT_MS, signal });
      if (signal?.aborted === true) throw gaveUp(signal);
    }
  }

  /**
   * Has its lease end `ttlMs` from now: later or earlier than before, and never after `maxLifetimeMs` of its life.
   * Default: what it was created with. Throws `wrong_state` when it doesn't run.
   */
  async renew(options: CallOptions & { ttlMs?: number | undefined } = {}): Promise<SandboxInfo> {
    const { signal, ...rest } = options;
    const { ttlMs = this.#record.ttlMs } = parseInput(renewOptionsSchema, rest, 'renew options');
    const now = this.#context.clock.now().getTime();
    const last = this.#record.agesFrom.getTime() + this.#record.maxLifetimeMs;
    if (now + ttlMs > last) {
      throw new SandyardError('limit_exceeded', 'The lease would end after the longest lifetime of the sandbox.', {
        hint: `It may live until ${new Date(last).toISOString()}; ask for ${Math.max(0, Math.floor(last - now))} ms at most.`,
      });
    }
    const details = await this.#look(signal);
    if (details.state !== 'running') {
      throw new SandyardError('wrong_state', `The sandbox ${this.id} is ${details.state}, and keeps its own lease.`, {
        hint: details.state === 'paused' ? 'Unpause it first, then renew it.' : 'Start it first, then renew it.',
      });
    }
    await this.#context.records.renew(this.#record, ttlMs, signal);
    this.#context.lifecycle.intend(this.id, 'requested', ['renewed']);
    this.#context.lifecycle.tell({ type: 'renewed', record: this.#record, reason: 'requested' });
    this.#context.telemetry.event('renewed');
    return this.#show(details);
  }

  /** What it uses now. Throws `wrong_state` when it doesn't run. */
  async stats({ signal }: CallOptions = {}): Promise<SandboxStats> {
    const {
      memoryLimitBytes,
      processes,
      machineAvailableBytes: _memory,
      diskFreeBytes: _disk,
      ...usage
    } = await this.#context.records.ask(this.#record, ({ channel }) => channel.usage(), signal);
    return {
      ...usage,
      memoryLimitBytes: memoryLimitBytes ?? this.#record.limits.memoryBytes,
      diskLimitBytes: this.#record.limits.diskBytes,
      inodesLimit: this.#record.limits.inodes,
      pids: processes,
      at: new Date(),
    };
  }

  /** What it used in the last hour since it was started, a sample each ten seconds, the oldest first. */
  async statsHistory({ signal }: CallOptions = {}): Promise<RemoteSample[]> {
    return this.#context.records.ask(this.#record, ({ channel }) => channel.usageHistory(), signal);
  }

  /**
   * What is really in force of what it was made with: read back from the engine, and tried by a probe inside, with the
   * rights of its user. Throws `wrong_state` when it doesn't run.
   */
  async attest({ signal }: CallOptions = {}): Promise<Attestation> {
    return attest({ engine: this.#context.engine, record: this.#record, target: this.#target }, { signal });
  }

  /** Removes it with all that is in it. Succeeds when it is gone already. */
  async destroy(options: CallOptions = {}): Promise<void> {
    await this.#change(['unpaused', 'stopped', 'destroyed'], (engine) =>
      engine.removeContainer(this.#record.containerId, options),
    );
    if (typeof this.#record.network === 'object') await this.#context.egress.release(this.id, this.#record);
    this.#context.connections.destroyed(this.id);
    this.#context.leases.forget(this.id);
    this.#context.inventory.remove(this.id);
    await this.#context.sockets.remove(this.id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.destroy();
  }

  async #whyDied(): Promise<DiedOf | null> {
    try {
      const details = await this.#look(undefined);
      return details.state === 'exited' ? judgeEnding({ ...details, runtime: this.#record.runtime }) : 'restarted';
    } catch (error) {
      return isSandyardError(error, 'sandbox_not_found') ? 'removed' : null;
    }
  }

  async #look(signal: AbortSignal | undefined): Promise<ContainerDetails> {
    const { engine, connections } = this.#context;
    const details = await engine.inspectContainer(this.#record.containerId, { signal });
    // Whoever is told that it stands still is told so of the next call, too: the engine's event may come later than that,
    // and what was sent into one that is paused is waited for.
    if (details.state !== 'running') connections.cut(this.id);
    return details;
  }

  #show(details: ContainerDetails): SandboxInfo {
    return toInfo(this.#record, { expiresAt: this.#context.leases.endOf(this.#record), details });
  }

  /** How it is after a change, which a list by the same manager then tells, too. */
  async #changed(signal: AbortSignal | undefined): Promise<SandboxInfo> {
    const info = await this.inspect({ signal });
    await this.#context.inventory.agrees(this.id, info.state, { signal });
    return info;
  }

  /** What the engine then tells of it, of these types, was asked for. */
  async #change(types: readonly LifecycleEventType[], act: (engine: Engine) => Promise<void>): Promise<void> {
    const takeBack = this.#context.lifecycle.intend(this.id, 'requested', types);
    try {
      await act(this.#context.engine);
    } catch (error) {
      // What wasn't waited for to its end may yet come about.
      if (!isSandyardError(error, 'aborted') && !isSandyardError(error, 'engine_timeout')) takeBack();
      throw error;
    }
  }
}
