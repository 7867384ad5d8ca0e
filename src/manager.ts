import type { CopyResult } from './archive/archive.js';
import type { Attestation } from './attest/attestation.js';
import type { Limits } from './config.js';
import type { CopyFromOptions, CopyOptions } from './copy.js';
import { toDiskMode } from './create/disk-bounds.js';
import type { Diagnosis } from './doctor/doctor.js';
import type { CallOptions, EngineInfo } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import { Endings } from './fleet/endings.js';
import type { InventoryChange } from './fleet/inventory.js';
import type { EventsOptions, LifecycleEvent } from './fleet/lifecycle.js';
import { listPage } from './fleet/listing.js';
import type { PruneResult, ReapOptions } from './fleet/reaper.js';
import type { DiskMode } from './isolation.js';
import type { CreateCallOptions, ManagerOptions, SandboxList, TenantOptions } from './manager-options.js';
import { assemble, type ManagerParts } from './manager-parts.js';
import type { Command, ExecOptions, ExecResult } from './process/process.js';
import type { SandboxRecord } from './record/record.js';
import { Sandbox, type SandboxContext, type SandboxStats, type StopOptions } from './sandbox.js';
import { toInfo, type SandboxInfo } from './sandbox-info.js';
import { createOptionsSchema, fields, parseInput, type CreateOptions, type ListOptions } from './schemas.js';
import type { ManagerGauges } from './telemetry.js';

/**
 * Makes and keeps sandboxes on one Docker engine. Any number of managers can share an engine; all that is to be
 * remembered is on the engine itself. Every method rejects with a SandyardError, with `engine_unavailable` when there is
 * no engine, and works again when there is.
 */
export class SandboxManager implements AsyncDisposable {
  readonly image: string;
  readonly owner: string;
  readonly limits: Limits;
  readonly #parts: ManagerParts;
  readonly #context: SandboxContext;
  readonly #endings = new Endings();
  #adopted = false;
  #closed = false;
  #closing: Promise<void> | undefined;

  /** Does no I/O. */
  constructor(options: ManagerOptions = {}) {
    this.#parts = assemble(options, {
      changed: (change) => this.#changed(change),
      remove: (record) => this.#remove(record),
      removed: (id, record) => this.#forget(id, record),
      checkOpen: () => this.#checkOpen(),
    });
    const { image, owner, context } = this.#parts;
    this.image = image;
    this.owner = owner;
    this.limits = context.limits;
    this.#context = context;
  }

  /**
   * Connects to the engine, finds what is ours on it, and from then on follows what becomes of it; starts the reaper, and fills the
   * pools. The other methods work without it; only nothing expires then, nothing is warm, and each list asks the engine. May be
   * tried again after it failed.
   */
  async open({ signal }: CallOptions = {}): Promise<void> {
    this.#checkOpen();
    const { version, address, found } = await this.#adopt(signal).finally(() => this.#checkOpen());
    if (this.#parts.schedule !== undefined) this.#parts.reaper.start(this.#parts.schedule);
    this.#parts.warm.start();
    this.#context.egress.start();
    this.#parts.log.info({ engine: address, version, owner: this.owner, expired: found.length }, 'manager is open');
  }

  async #adopt(signal: AbortSignal | undefined) {
    const { version, address } = await this.#parts.facts.readAnew({ signal });
    this.#checkOpen(); // close() may have come meanwhile
    await this.#context.inventory.open(signal);
    this.#checkOpen();
    this.#adopted = true;
    return {
      version,
      address,
      found: this.#parts.schedule === undefined ? [] : await this.#parts.reaper.run({ signal }),
    };
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
    return new Sandbox(this.#context, await this.#parts.making.make(given, { signal, madeFor, tenant }));
  }

  /** A handle of a sandbox. Throws `sandbox_not_found` when there is none of this owner's. */
  async get(id: string, options: TenantOptions = {}): Promise<Sandbox> {
    this.#checkOpen();
    return new Sandbox(this.#context, await this.#parts.directory.find(id, options));
  }

  /** Sandboxes of this owner, the newest first, `limit` (100) at a time; `cursor` goes on where a list ended. */
  async list(options: ListOptions = {}, { signal, tenant }: TenantOptions = {}): Promise<SandboxList> {
    this.#checkOpen();
    const { leases } = this.#context;
    const { records, cursor } = listPage(await this.#parts.directory.all({ signal }), options, { tenant });
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
    this.#parts.log.info({ sandbox: id, owner: this.owner }, 'destroyed a sandbox');
  }

  /**
   * Removes what has expired, and volumes and networks that nothing needs any more, now; a dry run only tells what it would
   * remove.
   */
  async prune(options: ReapOptions = {}): Promise<PruneResult> {
    this.#checkOpen();
    return this.#parts.reaper.prune(options);
  }

  /** The id of the last event: whoever reads `after` it later misses nothing. */
  get eventPosition(): string {
    return this.#context.lifecycle.position;
  }

  /** How things stand, to be counted. */
  async gauges(): Promise<ManagerGauges> {
    const { ready, filling } = this.#parts.warm;
    return {
      ...(await this.#parts.directory.gauges()),
      pool: { ready, filling },
      queueLength: this.#parts.admission.waiting,
    };
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
    return this.#parts.doctor.diagnose(options);
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
    return toDiskMode(await this.#parts.disk.read(this.image, options));
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
    this.#parts.admission.close();
    this.#context.lifecycle.close();
    await this.#parts.reaper.stop();
    await this.#parts.warm.close();
    await this.#context.egress.close();
    await this.#context.inventory.close();
    await this.#context.sockets.close();
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
    void this.#context.sockets.remove(id);
    this.#parts.making.forget(id);
  }

  async #remove(record: SandboxRecord): Promise<void> {
    this.#context.lifecycle.intend(record.id, 'requested', ['stopped', 'destroyed']);
    await this.#context.engine.removeContainer(record.containerId);
    this.#forget(record.id, record);
    await this.#context.sockets.remove(record.id); // as it has begun to
  }

  #checkOpen(): void {
    if (!this.#closed) return;
    throw new SandyardError('manager_closed', 'The manager is closed.', { hint: 'Make a new SandboxManager.' });
  }
}
