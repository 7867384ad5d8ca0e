import type Docker from 'dockerode';
import { setTimeout as sleep } from 'node:timers/promises';

import { isSandyardError, SandyardError } from '../errors.js';
import { QUICK_MS, type EngineConnection } from './connection.js';
import type { CallOptions, VolumeContent } from './engine.js';
import { TEMPORARY_LABEL } from './temporary.js';

const COPY_MS = 60_000;
/** How long another that fills the same volume is waited for: longer than it may take itself. */
const WAIT_MS = COPY_MS + 30_000;
const TRY_EVERY_MS = 25;
const REMOVE_EVERY_MS = 1000;

const LOCK_PREFIX = 'sandyard-fill-';

/**
 * Fills a volume by making a container with it that is never started: the engine then copies what the image has at the
 * mount point into a volume that is empty, and leaves one alone that isn't. The container's name is the lock, as an
 * engine gives a name once: so two managers never copy at once, and none takes a half-copied volume for a full one.
 *
 * Whoever finds the name taken removes that container, as the manager that made it may be dead. Nothing is lost where it
 * isn't: until the engine has copied, it answers that there is no such container to remove, though it may list it.
 */
export async function fillVolume(
  connection: EngineConnection,
  volume: VolumeContent,
  options: CallOptions,
): Promise<void> {
  await makeVolume(connection, volume, options);
  const until = Date.now() + WAIT_MS;
  let removeAt = 0;
  for (;;) {
    try {
      return await copyOnce(connection, volume, options);
    } catch (error) {
      if (!isSandyardError(error, 'name_conflict')) throw error;
      if (Date.now() > until) throw stillFilling(volume, error);
    }
    if (Date.now() >= removeAt) {
      await remove(connection, lockName(volume), options);
      removeAt = Date.now() + REMOVE_EVERY_MS;
    }
    await sleep(TRY_EVERY_MS);
  }
}

async function makeVolume(connection: EngineConnection, volume: VolumeContent, options: CallOptions): Promise<void> {
  const settings = { doing: `make the volume ${volume.name}`, deadlineMs: QUICK_MS, idempotent: true, ...options };
  // Gives the one that is there, whatever its labels, when there is one.
  const { Labels } = await connection.call({ operation: 'fill_volume', ...settings }, async (docker, abortSignal) => {
    await docker.createVolume({ Name: volume.name, Labels: { ...volume.labels }, abortSignal });
    return docker.getVolume(volume.name).inspect({ abortSignal });
  });
  const found = (Labels as Record<string, string> | null) ?? {};
  if (Object.entries(volume.labels).every(([name, value]) => found[name] === value)) return;
  throw new SandyardError('engine_error', `There is a volume ${volume.name} that Sandyard has not made.`, {
    hint: `Sandboxes would run what is in it. Rename or remove it (\`docker volume rm ${volume.name}\`).`,
  });
}

async function copyOnce(connection: EngineConnection, volume: VolumeContent, options: CallOptions): Promise<void> {
  const name = lockName(volume);
  const settings = { doing: `fill the volume ${volume.name}`, container: name, image: volume.image, ...options };
  const { id } = await connection.call(
    { operation: 'fill_volume', ...settings, deadlineMs: COPY_MS },
    (docker, abortSignal) => docker.createContainer({ name, ...toCopyOptions(volume), abortSignal }),
  );
  // Not given up with the caller: others wait for the name.
  await remove(connection, id);
}

function toCopyOptions({ name, image, path, labels }: VolumeContent): Docker.ContainerCreateOptions {
  return {
    Image: image,
    Labels: { ...labels, [TEMPORARY_LABEL]: '1' },
    Entrypoint: [path], // a container must have one; this one is never started
    Cmd: [],
    HostConfig: {
      NetworkMode: 'none',
      // Without VolumeOptions.NoCopy, whose default of false is what fills the volume.
      Mounts: [{ Type: 'volume', Source: name, Target: path, ReadOnly: false }],
    },
  };
}

async function remove(connection: EngineConnection, container: string, options: CallOptions = {}): Promise<void> {
  const settings = { doing: 'remove', container, deadlineMs: COPY_MS, idempotent: true, ...options };
  try {
    // Its anonymous volumes, where the image declares any, go with it; the named one stays.
    await connection.call({ operation: 'remove_container', ...settings }, (docker, abortSignal) =>
      docker.getContainer(container).remove({ force: true, v: true, abortSignal }),
    );
  } catch (error) {
    // There is none yet, or somebody else has removed it or is about to.
    if (!isSandyardError(error, 'sandbox_not_found') && !isSandyardError(error, 'wrong_state')) throw error;
  }
}

function stillFilling(volume: VolumeContent, cause: unknown): SandyardError {
  const hint = `If the engine stays so, restart it: it keeps the name ${lockName(volume)} for a container.`;
  const message = `The volume ${volume.name} has been filled by another manager for more than ${WAIT_MS / 1000} s.`;
  return new SandyardError('engine_timeout', message, { hint, cause });
}

function lockName({ name }: VolumeContent): string {
  return `${LOCK_PREFIX}${name}`;
}
