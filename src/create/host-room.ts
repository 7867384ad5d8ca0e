import type { AdmissionSettings } from '../config.js';
import { SandyardError } from '../errors.js';
import { formatSize } from '../schemas.js';

const MIB = 1024 ** 2;
/**
 * What each sandbox that is being made must find free on the machine, of memory and of disk. Its limit says what it may use
 * at the most, and few ever do: a machine is well used when the limits together are several times what it has. So what is
 * asked for is what it takes to begin: its processes and the runtime's; its layer, its log and the first files. That what
 * runs already may grow is what the floor is for; and it makes up for what is free being known from some seconds ago.
 */
const WORKING_BYTES = 64 * MIB;
const RETRY_S = 10;

/** What is free on the engine's machine; `null` where it isn't known. */
export interface HostRoom {
  readonly memoryBytes: number | null;
  readonly diskBytes: number | null;
}

/** `host_exhausted`, naming what there is too little of for `running` sandboxes to be made at once. */
export function findShortage(
  { memoryBytes, diskBytes }: HostRoom,
  { floor, running }: { floor: AdmissionSettings['floor']; running: number },
): SandyardError | undefined {
  const working = WORKING_BYTES * running;
  const resources = [
    {
      resource: 'memory',
      free: memoryBytes,
      needed: floor.memoryBytes + working,
      variable: 'SANDBOX_KEEP_FREE_MEMORY',
    },
    { resource: 'disk', free: diskBytes, needed: floor.diskBytes + working, variable: 'SANDBOX_KEEP_FREE_DISK' },
  ] as const;
  for (const { resource, free, needed, variable } of resources) {
    if (free === null || free >= needed) continue;
    const message = `The engine's machine has ${show(free)} of ${resource} free, and ${show(needed)} is needed for one more.`;
    return new SandyardError('host_exhausted', message, {
      hint: `Destroy sandboxes that are no longer needed, give the machine more ${resource}, or lower ${variable}.`,
      details: { resource, free, needed, retry_after_s: RETRY_S },
    });
  }
  return undefined;
}

function show(bytes: number): string {
  return formatSize(Math.floor(bytes / MIB) * MIB);
}
