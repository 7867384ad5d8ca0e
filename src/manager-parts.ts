import { readEngineEnvironment, readManagerDefaults } from './config.js';
import { SandboxConnections } from './connections.js';
import { Admission } from './create/admission.js';
import { Creation } from './create/creation.js';
import { DiskBounds } from './create/disk-bounds.js';
import { Isolating } from './create/isolating.js';
import { MachineRoom } from './create/machine-room.js';
import { Making } from './create/making.js';
import { WarmSandboxes } from './create/warm-sandboxes.js';
import { Doctor } from './doctor/doctor.js';
import { Egress } from './egress/egress.js';
import { DockerEngine } from './engine/docker-engine.js';
import { EngineFacts } from './engine/facts.js';
import { SandboxDirectory } from './fleet/directory.js';
import { DiskAlarms } from './fleet/disk-alarms.js';
import { Inventory, type InventoryChange } from './fleet/inventory.js';
import { LifecycleEvents } from './fleet/lifecycle.js';
import { Pausing } from './fleet/pausing.js';
import { Reaper } from './fleet/reaper.js';
import { Records } from './fleet/records.js';
import { Waking } from './fleet/waking.js';
import { silentLog, type Log } from './log.js';
import { toPools, toReaperSettings, type ManagerOptions } from './manager-options.js';
import { EngineClock } from './record/engine-clock.js';
import { KnownLeases } from './record/leases.js';
import type { SandboxRecord } from './record/record.js';
import type { SandboxContext } from './sandbox.js';
import { SandboxSockets } from './sandbox-sockets.js';
import { silentTelemetry } from './telemetry.js';
import { OUR_IMAGE, WardenDelivery } from './warden.js';

/** What a manager is made of, all of it on one engine. */
export interface ManagerParts {
  readonly image: string;
  readonly owner: string;
  readonly log: Log;
  /** What its sandboxes share. */
  readonly context: SandboxContext;
  readonly directory: SandboxDirectory;
  readonly admission: Admission;
  readonly warm: WarmSandboxes;
  readonly making: Making;
  readonly doctor: Doctor;
  readonly reaper: Reaper;
  /** When the reaper is to run; `undefined` for only when it is told to. */
  readonly schedule: string | undefined;
  readonly disk: DiskBounds;
  readonly facts: EngineFacts;
}

/** What the parts have the manager do. */
interface ManagerCalls {
  /** Something has happened to a sandbox. */
  readonly changed: (change: InventoryChange) => void;
  readonly remove: (record: SandboxRecord) => Promise<void>;
  /** A sandbox is gone. Without its record where it was never given out. */
  readonly removed: (id: string, record?: SandboxRecord) => void;
  /** Throws when the manager is closed. */
  readonly checkOpen: () => void;
}

/** Makes the parts and joins them. Does no I/O. */
export function assemble(options: ManagerOptions, { changed, remove, removed, checkOpen }: ManagerCalls): ManagerParts {
  const defaults = readManagerDefaults();
  const { telemetry = silentTelemetry, log = silentLog } = options;
  const { image = defaults.image, owner = defaults.owner } = options;
  const limits = { ...defaults.limits, ...options.limits };
  const source = options.docker === undefined ? { env: readEngineEnvironment() } : { docker: options.docker };
  const engine = options.engine ?? new DockerEngine(source, { telemetry });
  const facts = new EngineFacts(engine);

  const clock = new EngineClock();
  const leases = new KnownLeases();
  const lifecycle = new LifecycleEvents();
  const sockets = new SandboxSockets({
    directory: options.socketDirectory ?? defaults.socketDirectory,
    dataRoot: async () => (await facts.read()).dataRoot,
    owner,
    log,
  });
  const connections = new SandboxConnections(engine, (record) => waking.wake(record), sockets);
  const records = new Records({ engine, connections, leases, clock, log });
  const waking = new Waking({ engine, sockets, records, clock, lifecycle, log });
  const inventory = new Inventory({
    engine,
    clock,
    log,
    owner,
    readClaim: (record) => records.readClaim(record),
    changed,
    compared: (ids) => {
      connections.keepOnly(ids);
      leases.keepOnly(ids);
    },
  });
  const directory = new SandboxDirectory({ engine, inventory, connections, records, owner, log });
  const isOurs = (id: string) => making.has(id);
  const pausing = new Pausing({ engine, records, leases, lifecycle, isOurs });
  const egress = new Egress({
    engine,
    owner,
    log,
    settings: { ...defaults.egress, ...options.egress },
    images: [image, OUR_IMAGE],
    maxLifetimeMs: limits.maxLifetimeMs,
  });
  const alarms = new DiskAlarms({ lifecycle, telemetry, log });

  const room = new MachineRoom({ inventory, connections });
  const admission = new Admission({
    ...defaults.admission,
    ...options.admission,
    used: (except, tenant) => directory.used(except, { isOurs, tenant }),
    room: () => room.read(),
  });
  const disk = new DiskBounds(engine, facts);
  const settings = { ...defaults.isolation, ...options.isolation };
  const isolating = new Isolating({ facts, disk, settings, defaultImage: image });
  const warden = new WardenDelivery(engine, image);
  const creation = new Creation({ engine, connections, sockets, warden, egress, clock, log, removed, checkOpen });
  const common = {
    engine,
    inventory,
    connections,
    sockets,
    creation,
    clock,
    lifecycle,
    log,
    telemetry,
    owner,
    image,
    limits,
  };
  const warm = new WarmSandboxes({
    ...common,
    isolating,
    look: (record) => records.look(record),
    pools: toPools(options.pool ?? { ...defaults.pool }),
    whenThereIsRoom: (wanted, make) => admission.whenThereIsRoom(wanted, make),
    remove,
    claimed: (id) => lifecycle.intend(id, 'requested', ['created']),
  });
  const making: Making = new Making({
    ...common,
    admission,
    warm,
    isolating,
    all: (call) => directory.all(call),
    readClaim: (record) => directory.readClaim(record),
    isTaken: (record) => records.isTaken(record),
  });

  const { schedule, dryRun, halfCreatedAfterMs } = toReaperSettings(options.reaper);
  const reaper = new Reaper({
    ...common,
    rules: { stoppedRetentionMs: limits.stoppedRetentionMs, halfCreatedAfterMs },
    dryRun,
    candidates: (call) => directory.all(call),
    readLeaseEnd: (record) => records.readLeaseEnd(record),
    readClaim: (record) => directory.readClaim(record),
    outageOf: (record) => inventory.outageOf(record),
    pauseExpired: (record) => pausing.pauseExpired(record),
    removing: ({ id }, reason) => lifecycle.intend(id, reason, ['unpaused', 'stopped', 'destroyed']),
    removed: (record) => removed(record.id, record),
  });
  return {
    image,
    owner,
    log,
    context: {
      egress,
      engine,
      connections,
      sockets,
      pausing,
      records,
      leases,
      inventory,
      lifecycle,
      alarms,
      clock,
      limits,
      telemetry,
    },
    directory,
    admission,
    warm,
    making,
    doctor: new Doctor({ engine, warden, image, limits }),
    reaper,
    schedule,
    disk,
    facts,
  };
}
