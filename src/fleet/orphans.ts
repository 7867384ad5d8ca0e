import type { EngineClock } from '../record/engine-clock.js';
import { PROXY_PREFIX } from '../egress/endpoint.js';
import type { CallOptions, Engine, NamedObject } from '../engine/engine.js';
import { removeOldTemporary } from '../engine/temporary.js';
import { isSandyardError } from '../errors.js';
import type { Log } from '../log.js';
import { ownedBy } from '../record/record.js';
import type { SandboxSockets } from '../sandbox-sockets.js';
import type { Telemetry } from '../telemetry.js';
import { WARDEN_LABEL, wardenVolumeImage } from '../warden.js';

/** Whoever has just made one needs a moment until a container uses it. */
const GRACE_MS = 10 * 60_000;

const LABEL_SANDBOX = 'sandyard.id';

/** A volume or network that is ours, and that nothing needs any more. */
export interface Orphan {
  readonly kind: 'volume' | 'network';
  readonly name: string;
  /**
   * `image_gone`: it brings a warden to sandboxes whose image is no longer there, so that no manager mounts it.
   * `sandbox_gone`: it was made for a sandbox that is no longer there. `unused`: it was made for none in particular.
   */
  readonly reason: 'image_gone' | 'sandbox_gone' | 'unused';
  /** Not in a dry run, nor when the engine failed. */
  readonly removed: boolean;
  /** Why it could not be removed. */
  readonly error?: string;
}

export interface OrphanParts {
  readonly engine: Engine;
  readonly clock: EngineClock;
  readonly log: Log;
  readonly telemetry: Telemetry;
  readonly owner: string;
  /** Has directories of sandboxes, whose orphans are removed, too, and aren't answered. */
  readonly sockets: SandboxSockets;
}

/**
 * What may be removed as far as can be told without trying: ours by its labels, older than a grace by the engine's clock,
 * and of no sandbox that is there. The engine itself has the last word, as it removes nothing that a container uses.
 */
export async function findOrphans(parts: OrphanParts, { signal }: CallOptions = {}): Promise<Orphan[]> {
  const { engine, owner } = parts;
  const [wardens, volumes, networks] = await Promise.all([
    engine.listVolumes([WARDEN_LABEL], { signal }),
    engine.listVolumes(ownedBy(owner), { signal }),
    engine.listNetworks(ownedBy(owner), { signal }),
  ]);
  const orphans: Orphan[] = [];
  for (const { name } of oldOnes(parts, wardens)) {
    if (await isWithoutImage(engine, name, { signal })) {
      orphans.push({ kind: 'volume', name, reason: 'image_gone', removed: false });
    }
  }
  const owned = [
    ...oldOnes(parts, volumes).map((object) => ({ kind: 'volume' as const, ...object })),
    ...oldOnes(parts, networks).map((object) => ({ kind: 'network' as const, ...object })),
  ].filter(({ labels }) => !(WARDEN_LABEL in labels));
  // Listed after them: whose sandbox isn't there now has none, for it is older than any create takes.
  const there = owned.length === 0 ? new Set() : await sandboxIds(parts, { signal });
  for (const { kind, name, labels } of owned) {
    const sandbox = labels[LABEL_SANDBOX];
    if (sandbox !== undefined && there.has(sandbox)) continue;
    orphans.push({ kind, name, reason: sandbox === undefined ? 'unused' : 'sandbox_gone', removed: false });
  }
  return orphans;
}

/**
 * Removes them, and answers which there were. What turns out to be in use isn't among them; a dry run can't tell. What was
 * made for a moment only and left goes first, as it may use one, and isn't answered.
 */
export async function removeOrphans(
  parts: OrphanParts,
  { dryRun = false, signal }: CallOptions & { readonly dryRun?: boolean | undefined } = {},
): Promise<Orphan[]> {
  if (!dryRun) await removeOldTemporary(parts.engine, { signal });
  const found = await findOrphans(parts, { signal });
  const orphans: Orphan[] = [];
  for (const orphan of found) {
    const result = dryRun ? orphan : await removeOne(parts, orphan, { signal });
    if (dryRun) parts.log.info(toFields(parts, orphan), 'is an orphan; kept, because this is a dry run');
    if (result !== undefined) orphans.push(result);
  }
  if (!dryRun) await parts.sockets.removeOrphans(() => sandboxIds(parts, { signal }));
  return orphans;
}

async function removeOne(parts: OrphanParts, orphan: Orphan, options: CallOptions): Promise<Orphan | undefined> {
  const { engine, log, telemetry } = parts;
  const { kind, name, reason } = orphan;
  try {
    const gone = await (kind === 'volume'
      ? engine.removeVolume(name, options)
      : engine.removeNetwork(name, { ...options, disconnect: PROXY_PREFIX }));
    if (!gone) return undefined;
    telemetry.reaped(reason);
    log.info(toFields(parts, orphan), 'removed an orphan');
    return { ...orphan, removed: true };
  } catch (error) {
    if (isSandyardError(error, 'aborted')) throw error;
    log.warn({ ...toFields(parts, orphan), error }, 'could not remove an orphan; will try again');
    return { ...orphan, error: error instanceof Error ? error.message : String(error) };
  }
}

function toFields({ owner }: OrphanParts, { kind, name, reason }: Orphan): object {
  return { [kind]: name, owner, reason };
}

function oldOnes({ clock }: OrphanParts, objects: readonly NamedObject[]): readonly NamedObject[] {
  const now = clock.now().getTime();
  return objects.filter(({ createdAt }) => now - createdAt.getTime() > GRACE_MS);
}

async function sandboxIds({ engine, owner }: OrphanParts, options: CallOptions): Promise<Set<string | undefined>> {
  const containers = await engine.listContainers(ownedBy(owner), options);
  return new Set(containers.map(({ labels }) => labels[LABEL_SANDBOX]));
}

/**
 * Whether no manager can mount it: each mounts the one that is named after an image that is there. All owners share
 * them, and a manager of another version has another: so those of images that are there are left alone, used or not.
 */
async function isWithoutImage(engine: Engine, volume: string, options: CallOptions): Promise<boolean> {
  const image = wardenVolumeImage(volume);
  if (image === undefined) return false; // none that a manager has named
  try {
    await engine.inspectImage(image, options);
    return false;
  } catch (error) {
    if (isSandyardError(error, 'image_not_found')) return true;
    throw error;
  }
}
