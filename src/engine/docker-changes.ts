import type Docker from 'dockerode';

import { isSandyardError, SandyardError } from '../errors.js';
import { isGvisor } from '../isolation.js';
import type { EngineConnection } from './connection.js';
import { inspect } from './docker-containers.js';
import { LESS_MEMORY_HINT, saysThat, translateEngineError } from './engine-errors.js';
import type { CallOptions, ContainerLimits } from './engine.js';

/* What is changed of a container that is there. */

const CHANGE_MS = 30_000;

export async function pauseContainer(
  connection: EngineConnection,
  reference: string,
  options: CallOptions,
): Promise<void> {
  const about = { doing: 'pause', container: reference };
  await connection.call(
    { operation: 'pause_container', ...about, deadlineMs: CHANGE_MS, idempotent: true, ...options },
    (docker, abortSignal) => docker.getContainer(reference).pause({ abortSignal }).catch(unless(saysThat.isPaused)),
  );
}

export async function unpauseContainer(
  connection: EngineConnection,
  reference: string,
  options: CallOptions,
): Promise<void> {
  const about = { doing: 'unpause', container: reference };
  const wasPaused = await connection.call(
    { operation: 'unpause_container', ...about, deadlineMs: CHANGE_MS, idempotent: true, ...options },
    (docker, abortSignal) =>
      docker
        .getContainer(reference)
        .unpause({ abortSignal })
        .then(() => true)
        .catch(unless(saysThat.isNotPaused)),
  );
  if (wasPaused === true) return;
  const { State } = await inspect(connection, reference, options);
  if (!State.Running) throw translateEngineError(notRunning(reference), about);
}

/**
 * Unpauses a container that could not be ended while it is paused. gVisor has nothing killed that is: the engine gives up
 * after ten seconds, with the container neither running nor removed, and a process of the runtime left for ever.
 */
export async function makeEndable(
  connection: EngineConnection,
  reference: string,
  options: CallOptions,
): Promise<void> {
  try {
    const { State, HostConfig } = await inspect(connection, reference, options);
    if (State.Paused && isGvisor(HostConfig.Runtime ?? null)) await unpauseContainer(connection, reference, options);
  } catch (error) {
    // Somebody else has ended or removed it meanwhile, which is told by what comes next.
    if (!isSandyardError(error, 'sandbox_not_found') && !isSandyardError(error, 'wrong_state')) throw error;
  }
}

export async function renameContainer(
  connection: EngineConnection,
  reference: string,
  { name, ...options }: CallOptions & { name: string },
): Promise<void> {
  const about = { doing: 'rename', container: reference, newName: name };
  await connection.call(
    { operation: 'rename_container', ...about, deadlineMs: CHANGE_MS, idempotent: true, ...options },
    (docker, abortSignal) =>
      docker.getContainer(reference).rename({ name, abortSignal }).catch(unless(saysThat.hasThatName)),
  );
}

export async function updateContainer(
  connection: EngineConnection,
  reference: string,
  { limits, ...options }: CallOptions & { limits: ContainerLimits },
): Promise<void> {
  const asked = {
    Memory: limits.memoryBytes,
    MemorySwap: limits.memoryBytes, // memory and swap together: no swap
    NanoCpus: Math.round(limits.cpus * 1e9),
    PidsLimit: limits.pids,
  };
  const settings = Object.keys(asked) as (keyof typeof asked)[];
  const { State, HostConfig } = await inspect(connection, reference, options);
  if (settings.every((setting) => HostConfig[setting] === asked[setting])) return; // also where the runtime couldn't
  if (State.Running && asked.Memory < (HostConfig.Memory ?? 0)) {
    await refuseLessThanUsed(connection, reference, { memoryBytes: asked.Memory, ...options });
  }
  const about = { doing: 'change the limits of', container: reference };
  await connection.call(
    { operation: 'update_container', ...about, deadlineMs: CHANGE_MS, idempotent: true, ...options },
    (docker, abortSignal) => docker.getContainer(reference).update({ ...asked, abortSignal }),
  );
  const { HostConfig: found } = await inspect(connection, reference, options);
  const missing = settings.filter((setting) => found[setting] !== asked[setting]);
  if (missing.length === 0) return;
  const told = missing.map((setting) => `${setting} is ${String(found[setting])}, not ${asked[setting]}`).join('; ');
  throw new SandyardError('engine_error', `The engine did not apply limits of ${reference}: ${told}.`, {
    hint: 'The engine or its kernel lacks a feature that Sandyard depends on; `docker info` lists warnings about it.',
  });
}

/** Asked beforehand: some kernels (cgroup v2) rather kill what is in a container than refuse it less than it uses. */
async function refuseLessThanUsed(
  connection: EngineConnection,
  reference: string,
  { memoryBytes, ...options }: CallOptions & { memoryBytes: number },
): Promise<void> {
  const about = { doing: 'measure', container: reference };
  const measured = await connection.call(
    { operation: 'container_stats', ...about, deadlineMs: CHANGE_MS, idempotent: true, ...options },
    (docker, abortSignal): Promise<Docker.ContainerStats> => {
      const query = { stream: false, 'one-shot': true, abortSignal } as const;
      return docker.getContainer(reference).stats(query);
    },
  );
  const used = usedBytes(measured.memory_stats);
  if (used <= memoryBytes) return;
  throw new SandyardError(
    'wrong_state',
    `The container ${reference} uses ${used} bytes of memory, more than the ${memoryBytes} it is to be limited to.`,
    { hint: LESS_MEMORY_HINT },
  );
}

/** Without what the kernel can drop at once, by its names in cgroup v1 and v2. */
function usedBytes({ usage = 0, stats }: Partial<Docker.MemoryStats> = {}): number {
  const { total_inactive_file, inactive_file = 0 } = (stats ?? {}) as Partial<Record<string, number>>;
  return Math.max(0, usage - (total_inactive_file ?? inactive_file));
}

function notRunning(reference: string): unknown {
  return { statusCode: 409, message: `Container ${reference} is not running` };
}

function unless(isFine: (error: unknown) => boolean): (error: unknown) => void {
  return (error) => {
    if (!isFine(error)) throw error;
  };
}
