import type Docker from 'dockerode';

import { QUICK_MS, type EngineConnection } from './connection.js';
import { toCreationDate } from './docker-dates.js';
import { saysThat } from './engine-errors.js';
import type { CallOptions, NamedObject } from './engine.js';

/* Volumes and networks. */

interface Found {
  readonly Name: string;
  readonly CreatedAt?: string;
  readonly Created?: string;
  readonly Labels?: Readonly<Record<string, string>> | null;
}

export async function listVolumes(
  connection: EngineConnection,
  labels: readonly string[],
  options: CallOptions,
): Promise<NamedObject[]> {
  const { Volumes } = await connection.call(
    { operation: 'list_volumes', doing: 'list volumes', deadlineMs: QUICK_MS, idempotent: true, ...options },
    (docker, abortSignal) => docker.listVolumes({ filters: { label: [...labels] }, abortSignal }),
  );
  return ((Volumes as Found[] | null) ?? []).map(toNamedObject);
}

export async function listNetworks(
  connection: EngineConnection,
  labels: readonly string[],
  options: CallOptions,
): Promise<NamedObject[]> {
  const found = await connection.call(
    { operation: 'list_networks', doing: 'list networks', deadlineMs: QUICK_MS, idempotent: true, ...options },
    (docker, abortSignal) => docker.listNetworks({ filters: { label: [...labels] }, abortSignal }),
  );
  return (found as Found[]).map(toNamedObject);
}

export function removeVolume(connection: EngineConnection, name: string, options: CallOptions): Promise<boolean> {
  const about = { doing: `remove the volume ${name}` };
  return connection.call(
    { operation: 'remove_volume', ...about, deadlineMs: QUICK_MS, idempotent: true, ...options },
    (docker, abortSignal) => isGone(docker.getVolume(name).remove({ abortSignal })),
  );
}

export function removeNetwork(
  connection: EngineConnection,
  name: string,
  { disconnect, ...options }: CallOptions & { disconnect?: string },
): Promise<boolean> {
  const about = { doing: `remove the network ${name}` };
  return connection.call(
    { operation: 'remove_network', ...about, deadlineMs: QUICK_MS, idempotent: true, ...options },
    async (docker, abortSignal) => {
      const network = docker.getNetwork(name);
      if (disconnect !== undefined) await disconnectFrom(network, { disconnect, abortSignal });
      return isGone(network.remove({ abortSignal }));
    },
  );
}

/** What is in it otherwise keeps it there, and the engine's refusal says so. */
async function disconnectFrom(
  network: Docker.Network,
  { disconnect, abortSignal }: { disconnect: string; abortSignal: AbortSignal },
): Promise<void> {
  try {
    const { Containers } = (await (network.inspect({ abortSignal } as never) as unknown)) as {
      Containers?: Record<string, { Name: string }>;
    };
    for (const [id, { Name }] of Object.entries(Containers ?? {})) {
      if (Name.startsWith(disconnect)) await network.disconnect({ Container: id, Force: true, abortSignal });
    }
  } catch {
    // Somebody else is at it, or what is in it stays: the removal tells.
  }
}

async function isGone(removed: Promise<unknown>): Promise<boolean> {
  try {
    await removed;
    return true;
  } catch (error) {
    if (saysThat.hasNone(error)) return true;
    if (saysThat.isUsed(error)) return false;
    throw error;
  }
}

function toNamedObject({ Name, CreatedAt, Created, Labels }: Found): NamedObject {
  return { name: Name, createdAt: toCreationDate(CreatedAt ?? Created), labels: Labels ?? {} };
}
