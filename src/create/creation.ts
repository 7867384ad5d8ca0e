import { RemoteError } from '../channel/messages.js';
import type { SandboxConnections } from '../connections.js';
import type { EngineClock } from '../record/engine-clock.js';
import type { Egress } from '../egress/egress.js';
import { installTrust } from '../egress/trust.js';
import type { CallOptions, ContainerSpec, Engine } from '../engine/engine.js';
import { isSandyardError, SandyardError } from '../errors.js';
import { isGvisor } from '../isolation.js';
import { SandboxFiles } from '../files/files.js';
import { translateRecord } from '../fleet/records.js';
import type { Log } from '../log.js';
import { toSpec, type SandboxPlan } from './plan.js';
import { giveUpOn } from '../process/giving-up.js';
import { toUserIds } from '../process/users.js';
import { toRecord, type SandboxRecord } from '../record/record.js';
import type { SandboxSockets } from '../sandbox-sockets.js';
import { silentTelemetry } from '../telemetry.js';
import type { WardenDelivery } from '../warden.js';

/** How long each thing that is done in a sandbox which was just made may take. */
const CALL_MS = 30_000;
/** What could not be removed is tried again after so long, and then after twice as long each time. */
const RETRY_MS = 1000;
const MAX_RETRY_MS = 10_000;

interface CreationParts {
  readonly engine: Engine;
  readonly connections: SandboxConnections;
  readonly sockets: SandboxSockets;
  readonly warden: WardenDelivery;
  readonly egress: Egress;
  readonly clock: EngineClock;
  readonly log: Log;
  /** Called with what was made and removed again. */
  readonly removed: (id: string) => void;
  /** Throws when the manager is closed. */
  readonly checkOpen: () => void;
}

/**
 * Makes the sandboxes of one manager. Either one is there, runs, and has its lease, or nothing is left of it. Where the
 * manager dies in the middle, what it has left ends by itself: until its lease is set a sandbox has no more than two
 * minutes.
 */
export class Creation {
  readonly #parts: CreationParts;

  constructor(parts: CreationParts) {
    this.#parts = parts;
  }

  /** Throws `image_not_found`, `out_of_disk`, `aborted`, and what else the engine says. */
  async make(plan: SandboxPlan, signal?: AbortSignal): Promise<SandboxRecord> {
    const { sockets } = this.#parts;
    const listens = mayListen(plan);
    const isTrial = listens && sockets.isTried;
    try {
      return await this.#make(plan, { listens, signal });
    } catch (error) {
      if (!isTrial || !isRefusal(error)) throw error;
      // An engine on another machine has no such directory. Whether it was that is told by its making one without.
      const record = await this.#make(plan, { listens: false, signal });
      sockets.giveUp(error);
      return record;
    }
  }

  /** `listens`: whether its warden is to connect to managers, where those can have it do so. */
  async #make(plan: SandboxPlan, { listens, signal }: { listens: boolean } & CallOptions): Promise<SandboxRecord> {
    const { engine, connections, sockets, warden, clock, checkOpen, log } = this.#parts;
    const image = await engine.inspectImage(plan.image, { signal });
    const volume = await warden.volumeFor(image, { fromRoot: plan.traits.profile === 'dev' });
    const directory = listens ? await sockets.prepare(plan.id) : undefined;
    const { endpoint, authority } = (await this.#prepareEgress(plan)) ?? {};
    const spec = toSpec(plan, image, { volume, egress: endpoint, directory, madeAt: clock.now() });
    let shared = false;
    const checkWanted = () => {
      throwIfAborted(signal);
      checkOpen(); // close() may have come meanwhile
    };
    try {
      // The engine's calls aren't aborted half-way, so that what they made is there to be removed.
      throwIfAborted(signal);
      const containerId = await engine.createContainer(spec);
      throwIfAborted(signal);
      const record = toRecord({ ...spec, id: containerId, state: 'running', createdAt: clock.now() });
      if (record === undefined) {
        throw new SandyardError('internal', `The labels of the sandbox ${plan.id} are not a record.`);
      }
      // Where its warden connects to managers it needn't come to this one by way of the engine.
      if (directory === undefined) connections.enter(record, await engine.attachTunnel(containerId));
      await engine.startContainer(containerId);
      if (record.warm) {
        // With its lease anybody may claim it, so that comes last, and what has one is not removed.
        await engine.verifyContainer(containerId, spec);
        await this.#tryOut(record);
        checkWanted();
        shared = true;
        await this.#lease(record);
        return record;
      }
      await this.#verify(spec, record, signal);
      if (authority !== undefined) await installTrust(this.#filesOf(record), authority);
      checkWanted();
      return record;
    } catch (error) {
      if (shared) {
        log.warn({ container: spec.name, error }, 'a warm sandbox may have no lease, and is left to end by itself');
        throw error;
      }
      // The one that has the name is somebody else's.
      if (!isSandyardError(error, 'name_conflict')) await this.#rollBack(plan, spec);
      throw error;
    }
  }

  async #prepareEgress(plan: SandboxPlan) {
    const { egress, sockets } = this.#parts;
    try {
      return await egress.prepare(plan);
    } catch (error) {
      await sockets.remove(plan.id);
      throw error;
    }
  }

  /** Makes sure that it is what it should be and can be talked to, and gives it its lease. */
  async #verify(spec: ContainerSpec, record: SandboxRecord, signal: AbortSignal | undefined): Promise<void> {
    const { engine } = this.#parts;
    const leased = this.#lease(record);
    leased.catch(() => {}); // awaited below, when it is known that the container runs
    await engine.verifyContainer(record.containerId, spec);
    try {
      await (signal === undefined ? leased : giveUpOn(leased, signal));
    } catch (error) {
      // It ended after it was looked at: another look tells why.
      if (isSandyardError(error, 'wrong_state')) await engine.verifyContainer(record.containerId, spec);
      throw error;
    }
  }

  /**
   * Runs a command in a warm one: so one that there is no way into is found while nobody can have it, and its caller's first
   * command needn't wait for a file system of layers to look up what programs need. An image may have no shell.
   */
  async #tryOut(record: SandboxRecord): Promise<void> {
    const held = this.#parts.connections.hold(record);
    const remote = held.channel.spawn({
      id: 'try-out',
      argv: ['sh', '-c', ':'],
      cwd: record.workdir,
      env: [],
      ...toUserIds(record.user),
      timeoutMs: CALL_MS,
      graceMs: 0,
      forget: true,
    });
    remote.discard();
    try {
      await remote.exit;
    } catch (error) {
      if (!(error instanceof RemoteError)) throw error;
    } finally {
      remote.detach();
      held.release();
    }
  }

  #filesOf(record: SandboxRecord): SandboxFiles {
    const { connections } = this.#parts;
    return new SandboxFiles({
      hold: () => connections.hold(record),
      user: toUserIds(record.user),
      rootAllowed: record.profile === 'dev',
      workdir: record.workdir,
      env: {},
      disk: record.limits,
      telemetry: silentTelemetry,
      execTimeoutMs: CALL_MS,
      calls: connections.calls,
      whyDied: () => Promise.resolve(null),
    });
  }

  async #lease(record: SandboxRecord): Promise<void> {
    const held = this.#parts.connections.hold(record);
    try {
      await held.channel.setRecord({ ttlMs: record.ttlMs });
    } catch (error) {
      throw translateRecord(error, record.id);
    } finally {
      held.release();
    }
  }

  async #rollBack(plan: SandboxPlan, spec: ContainerSpec): Promise<void> {
    const { connections, warden, log } = this.#parts;
    connections.destroyed(plan.id);
    if (spec.volume !== undefined) warden.forget(spec.volume);
    try {
      await this.#remove(plan, spec);
    } catch (error) {
      log.error({ container: spec.name, error }, 'could not remove a half-made sandbox; will try again');
      this.#removeLater(plan, spec);
    }
  }

  async #remove(
    { id, traits }: SandboxPlan,
    { name, egress: endpoint }: ContainerSpec,
    { unlessRunning = false } = {},
  ): Promise<void> {
    const { engine, egress, removed } = this.#parts;
    await engine.removeContainer(name, { unlessRunning });
    if (endpoint !== undefined) await egress.release(id, traits);
    removed(id);
  }

  /**
   * Tries until it is gone, or runs, or the manager is closed. Nobody else could tell that one which was started, and then
   * stopped by an engine that ended, was never handed out. One that runs ends by itself where that is so; where it has
   * its lease, whoever repeats the request may have got it since.
   */
  #removeLater(plan: SandboxPlan, spec: ContainerSpec, delayMs = RETRY_MS): void {
    const { checkOpen, log } = this.#parts;
    const tryAgain = async () => {
      try {
        checkOpen();
        await this.#remove(plan, spec, { unlessRunning: true });
      } catch (error) {
        if (isSandyardError(error, 'manager_closed') || isSandyardError(error, 'wrong_state')) return;
        log.debug({ container: spec.name, error }, 'could not remove a half-made sandbox; will try again');
        this.#removeLater(plan, spec, Math.min(2 * delayMs, MAX_RETRY_MS));
      }
    };
    setTimeout(() => void tryAgain(), delayMs).unref();
  }
}

/** Where commands are root's they could pretend to be the warden. Under gVisor nobody is told what comes into a directory. */
function mayListen({ traits: { profile, runtime } }: SandboxPlan): boolean {
  return profile !== 'dev' && !isGvisor(runtime);
}

/** What engines say of a mount that they can't make, each in words of its own. */
function isRefusal(error: unknown): boolean {
  return isSandyardError(error, 'engine_error') || isSandyardError(error, 'validation_failed');
}

/** Throws `aborted`. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return;
  throw new SandyardError('aborted', 'The caller gave up while the sandbox was being created.', {
    cause: signal.reason,
  });
}
