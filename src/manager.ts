import { Admission } from './create/admission.js';
import type { CopyResult } from './archive/archive.js';
import type { Attestation } from './attest/attestation.js';
import { readEngineEnvironment, readManagerDefaults, type Limits } from './config.js';
import { SandboxConnections } from './connections.js';
import type { CopyFromOptions, CopyOptions } from './copy.js';
import { Creation } from './create/creation.js';
import { DiskBounds, toDiskMode } from './create/disk-bounds.js';
import { Isolating } from './create/isolating.js';
import { SandboxDirectory } from './fleet/directory.js';
import { EngineClock } from './record/engine-clock.js';
import { Doctor, type Diagnosis } from './doctor/doctor.js';
import { Egress } from './egress/egress.js';
import { DockerEngine } from './engine/docker-engine.js';
import type { CallOptions, EngineInfo } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import { DiskAlarms } from './fleet/disk-alarms.js';
import { Endings } from './fleet/endings.js';
import { Inventory, type InventoryChange } from './fleet/inventory.js';
import { KnownLeases } from './record/leases.js';
import { Pausing } from './fleet/pausing.js';
import type { DiskMode } from './isolation.js';
import { LifecycleEvents, type EventsOptions, type LifecycleEvent } from './fleet/lifecycle.js';
import { listPage } from './fleet/listing.js';
import { silentLog, type Log } from './log.js';
import { MachineRoom } from './create/machine-room.js';
import { Making } from './create/making.js';
import type { Command, ExecOptions, ExecResult } from './process/process.js';
import { Reaper, type PruneResult, type ReapOptions } from './fleet/reaper.js';
import {
  toPools,
  toReaperSettings,
  type CreateCallOptions,
  type ManagerOptions,
  type SandboxList,
  type TenantOptions,
} from './manager-options.js';
import type { SandboxRecord } from './record/record.js';
import { Records } from './fleet/records.js';
import { Sandbox, type SandboxContext, type SandboxStats, type StopOptions } from './sandbox.js';
import { toInfo, type SandboxInfo } from './sandbox-info.js';
import { createOptionsSchema, fields, parseInput, type CreateOptions, type ListOptions } from './schemas.js';
import { silentTelemetry, type ManagerGauges } from './telemetry.js';
import { Waking } from './fleet/waking.js';
import { OUR_IMAGE, WardenDelivery } from './warden.js';
import { WarmSandboxes } from './create/warm-sandboxes.js';

/**
 * Makes and keeps sandboxes on one Docker engine. Any number of managers can share an engine; all that is to be
 * remembered is on the engine itself. Every method rejects with a SandyardError, with `engine_unavailable` when there is
 * no engine, and works again when there is.
 */
export class SandboxManager implements AsyncDisposable {
  readonly image: string;
  readonly owner: string;
  readonly limits: Limits;
  readonly #log: Log;
  readonly #context: SandboxContext;
  readonly #directory: SandboxDirectory;
  readonly #admission: Admission;
  readonly #warm: WarmSandboxes;
  readonly #making: Making;
  readonly #doctor: Doctor;
  readonly #reaper: Reaper;
  readonly #disk: DiskBounds;
  readonly #schedule: string | undefined;
  readonly #endings = new Endings();
  #adopted = false;
  #closed = false;
  #closing: Promise<void> | undefined;

  /** Does no I/O. */
  constructor(options: ManagerOptions = {}) {
    const defaults = readManagerDefaults();
    const { telemetry = silentTelemetry, log = silentLog } = options;
    this.image = options.image ?? defaults.image;
    this.owner = options.owner ?? defaults.owner;
    this.limits = { ...defaults.limits, ...options.limits };
    this.#log = log;
    const { image, owner, limits } = this;
    const source = options.docker === undefined ? { env: readEngineEnvironment() } : { docker: options.docker };
    const engine = options.engine ?? new DockerEngine(source, { telemetry });
    const clock = new EngineClock();
    const leases = new KnownLeases();
    const lifecycle = new LifecycleEvents();
    const connections = new SandboxConnections(engine, (record) => waking.wake(record));
    const records = new Records({ engine, connections, leases, log });
    const waking = new Waking({ engine, records, clock, lifecycle, log });
    const inventory = new Inventory({
      engine,
      clock,
      log,
      owner,
      readClaim: (record) => records.readClaim(record),
      changed: (change) => this.#changed(change),
      compared: (ids) => {
        connections.keepOnly(ids);
        leases.keepOnly(ids);
      },
    });
    this.#disk = new DiskBounds(engine);
    const isOurs = (id: string) => this.#making.has(id);
    const pausing = new Pausing({ engine, records, leases, lifecycle, isOurs });
    const egress = new Egress({
      engine,
      owner,
      log,
      settings: { ...defaults.egress, ...options.egress },
      images: [image, OUR_IMAGE],
      maxLifetimeMs: limits.maxLifetimeMs,
    });
    this.#context = {
      egress,
      engine,
      connections,
      pausing,
      records,
      leases,
      inventory,
      lifecycle,
      alarms: new DiskAlarms({ lifecycle, telemetry, log }),
      clock,
      limits,
      telemetry,
    };
    const directory = new SandboxDirectory({ engine, inventory, connections, records, owner, log });
    this.#directory = directory;
    const room = new MachineRoom({ inventory, connections });
    this.#admission = new Admission({
      ...defaults.admission,
      ...options.admission,
      used: (except, tenant) => directory.used(except, { isOurs, tenant }),
      room: () => room.read(),
    });
    const checkOpen = () => this.#checkOpen();
    const settings = { ...defaults.isolation, ...options.isolation };
    const isolating = new Isolating({ engine, disk: this.#disk, settings, defaultImage: image });
    const warden = new WardenDelivery(engine, image);
    this.#doctor = new Doctor({ engine, warden, image, limits });
    const creation = new Creation({
      engine,
      connections,
      warden,
      egress,
      clock,
      log,
      removed: (id) => this.#forget(id),
      checkOpen,
    });
    const common = { engine, inventory, connections, creation, clock, lifecycle, log, telemetry, owner, image, limits };
    this.#warm = new WarmSandboxes({
      ...common,
      isolating,
      pools: toPools(options.pool ?? { ...defaults.pool }),
      whenThereIsRoom: (wanted, make) => this.#admission.whenThereIsRoom(wanted, make),
      remove: (record) => this.#remove(record),
      claimed: (id) => lifecycle.intend(id, 'requested', ['created']),
    });
    this.#making = new Making({
      ...common,
      admission: this.#admission,
      warm: this.#warm,
      isolating,
      all: (call) => directory.all(call),
      readClaim: (record) => directory.readClaim(record),
      isTaken: (record) => records.isTaken(record),
      setLimits: ({ containerId, limits }) => engine.updateContainer(containerId, limits),
    });
    const { schedule, dryRun, halfCreatedAfterMs } = toReaperSettings(options.reaper);
    this.#schedule = schedule;
    this.#reaper = new Reaper({
      ...common,
      rules: { stoppedRetentionMs: limits.stoppedRetentionMs, halfCreatedAfterMs },
      dryRun,
      candidates: (call) => directory.all(call),
      readLeaseEnd: (record) => records.readLeaseEnd(record),
      readClaim: (record) => directory.readClaim(record),
      outageOf: (record) => inventory.outageOf(record),
      pauseExpired: (record) => pausing.pauseExpired(record),
      removing: ({ id }, reason) => lifecycle.intend(id, reason, ['stopped', 'destroyed']),
      removed: (record) => this.#forget(record.id, record),
    });
  }

  /**
   * Connects to the engine, finds what is ours on it, and from then on follows what becomes of it; starts the reaper, and fills the
   * pools. The other methods work without it; only nothing expires then, nothing is warm, and each list asks the engine. May be
   * tried again after it failed.
   */
  async open({ signal }: CallOptions = {}): Promise<void> {
    this.#checkOpen();
    const { version, address, found } = await this.#adopt(signal).finally(() => this.#checkOpen());
    if (this.#schedule !== undefined) this.#reaper.start(this.#schedule);
    this.#warm.start();
    this.#context.egress.start();
    this.#log.info({ engine: address, version, owner: this.owner, expired: found.length }, 'manager is open');
  }

  async #adopt(signal: AbortSignal | undefined) {
    const { version, address } = await this.#context.engine.info({ signal });
    this.#checkOpen(); // close() may have come meanwhile
    await this.#context.inventory.open(signal);
    this.#checkOpen();
    this.#adopted = true;
    return { version, address, found: this.#schedule === undefined ? [] : await this.#reaper.run({ signal }) };
  }

  /**
   * Makes a sandbox and starts it, or gives out a warm one. Either it is there and runs, or nothing is left of it: also when `signal` gives up
   * half-way. Throws `validation_failed`, `limit_exceeded` (naming the ceiling), `forbidden` (naming the setting), `image_not_found`,
   * `out_of_disk`; `over_capacity` and
   * `host_exhausted` when there is no room for it now.
   */
  async create(options: CreateOptions = {}, { signal, madeFor, tenant }: CreateCallOptions = {}): Promise<Sandbox> {
    this.#checkOpen();
    const given = parseInput(createOptionsSchema, options, 'create options');
    if (tenant !== undefined) parseInput(fields.tenant, tenant, 'tenant');
    return new Sandbox(this.#context, await this.#making.make(given, { signal, madeFor, tenant }));
  }

  /** A handle of a sandbox. Throws `sandbox_not_found` when there is none of this owner's. */
  async get(id: string, options: TenantOptions = {}): Promise<Sandbox> {
    this.#checkOpen();
    return new Sandbox(this.#context, await this.#directory.find(id, options));
  }

  /** Sandboxes of this owner, the newest first, `limit` (100) at a time; `cursor` goes on where a list ended. */
  async list(options: ListOptions = {}, { signal, tenant }: TenantOptions = {}): Promise<SandboxList> {
    this.#checkOpen();
    const { leases } = this.#context;
    const { records, cursor } = listPage(await this.#directory.all({ signal }), options, { tenant });
    return { sandboxes: records.map((record) => toInfo(record, { expiresAt: leases.endOf(record) })), cursor };
  }

  /**
   * What happens to the sandboxes of this owner, whoever does it, from `open` on: after the event `after`, or from now on.
   * Throws `output_lost` when what came after that one isn't remembered any more.
   */
  events(options: EventsOptions = {}): AsyncGenerator<LifecycleEvent> {
    return this.#context.lifecycle.read(options);
  }

  async inspect(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).inspect(options);
  }

  async start(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).start(options);
  }

  async stop(id: string, options: StopOptions = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).stop(options);
  }

  async restart(id: string, options: StopOptions = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).restart(options);
  }

  async pause(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).pause(options);
  }

  async unpause(id: string, options: CallOptions = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).unpause(options);
  }

  async wait(id: string, options: CallOptions = {}): Promise<SandboxInfo | null> {
    return (await this.get(id, options)).wait(options);
  }

  async renew(id: string, options: CallOptions & { ttlMs?: number | undefined } = {}): Promise<SandboxInfo> {
    return (await this.get(id, options)).renew(options);
  }

  async stats(id: string, options: CallOptions = {}): Promise<SandboxStats> {
    return (await this.get(id, options)).stats(options);
  }

  async attest(id: string, options: CallOptions = {}): Promise<Attestation> {
    return (await this.get(id, options)).attest(options);
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

  /**
   * Removes what has expired, and volumes and networks that nothing needs any more, now; a dry run only tells what it would
   * remove.
   */
  async prune(options: ReapOptions = {}): Promise<PruneResult> {
    this.#checkOpen();
    return this.#reaper.prune(options);
  }

  /** The id of the last event: whoever reads `after` it later misses nothing. */
  get eventPosition(): string {
    return this.#context.lifecycle.position;
  }

  /** How things stand, to be counted. */
  async gauges(): Promise<ManagerGauges> {
    const { ready, filling } = this.#warm;
    return { ...(await this.#directory.gauges()), pool: { ready, filling }, queueLength: this.#admission.waiting };
  }

  async engineInfo(options: CallOptions = {}): Promise<EngineInfo> {
    return this.#context.engine.info(options);
  }

  /**
   * What the engine can and can't enforce, also what can only be tried: it makes and removes a container for each of its
   * runtimes, which takes seconds. An engine that isn't there is in what it says, not thrown.
   */
  async doctor(options: CallOptions = {}): Promise<Diagnosis> {
    this.#checkOpen();
    return this.#doctor.diagnose(options);
  }

  /** Whether the engine has the default image. */
  async hasImage(options: CallOptions = {}): Promise<boolean> {
    try {
      await this.#context.engine.inspectImage(this.image, options);
      return true;
    } catch (error) {
      if (isSandyardError(error, 'image_not_found')) return false;
      throw error;
    }
  }

  /** How what sandboxes write is bounded there; throws `image_not_found` where there is nothing to try it with. */
  async diskMode(options: CallOptions = {}): Promise<DiskMode> {
    return toDiskMode(await this.#disk.read(this.image, options));
  }

  /**
   * Stops the reaper, ends the calls that wait for a command or a file operation, with what they run, and removes the warm sandboxes
   * that it has made and nobody has. The sandboxes live on, and so does what was spawned in them.
   */
  async close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#closed = true;
    this.#admission.close();
    this.#context.lifecycle.close();
    await this.#reaper.stop();
    await this.#warm.close();
    await this.#context.egress.close();
    await this.#context.inventory.close();
    await this.#context.connections.close();
    this.#context.engine.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** What happens to a sandbox, as the engine tells it. */
  #changed(change: InventoryChange): void {
    const { type, record, exitCode, found } = change;
    const { connections, lifecycle, telemetry } = this.#context;
    if (!this.#adopted && found) return; // was there before
    const ending = this.#endings.reasonOf(change);
    const reason = type !== 'stopped' ? 'elsewhere' : found ? 'lost' : ending;
    lifecycle.tell({ type, record, exitCode, reason });
    telemetry.event(type);
    if (type === 'destroyed') this.#forget(record.id, record);
    if (type === 'stopped' || type === 'paused') connections.cut(record.id);
  }

  #forget(id: string, record?: SandboxRecord): void {
    if (typeof record?.network === 'object') void this.#context.egress.release(id);
    const { connections, leases, inventory } = this.#context;
    connections.destroyed(id);
    leases.forget(id);
    inventory.remove(id);
    this.#making.forget(id);
  }

  async #remove(record: SandboxRecord): Promise<void> {
    this.#context.lifecycle.intend(record.id, 'requested', ['stopped', 'destroyed']);
    await this.#context.engine.removeContainer(record.containerId);
    this.#forget(record.id, record);
  }

  #checkOpen(): void {
    if (!this.#closed) return;
    throw new SandyardError('manager_closed', 'The manager is closed.', { hint: 'Make a new SandboxManager.' });
  }
}
