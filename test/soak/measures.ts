import { getEventListeners } from 'node:events';
import { readdir } from 'node:fs/promises';
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { queryObjects, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import type { Ground } from './ground.js';

const MIB = 1024 * 1024;
/** What has just ended closes its sockets. */
const QUIET_MS = 1500;

/**
 * What may grow while it should not, of this process and of the resident sandbox's PID 1; and how far two looks at it may be
 * apart by chance. That is what a minute leaves open for the next, mostly: connections that are kept alive, with the timers
 * of both their ends, of which the bounds are three times the deviation in an hour. What is held on to once in a hundred uses
 * grows by more.
 */
export const QUANTITIES = {
  'heap, MiB': 8,
  'outside the heap, MiB': 8,
  'resident, MiB': 64,
  'file descriptors': 16,
  timers: 54,
  sockets: 18,
  functions: 1500,
  'listeners to a signal': 0,
  warnings: 0,
  'PID 1: resident, MiB': 6,
  'PID 1: file descriptors': 2,
} as const;

export type Quantity = keyof typeof QUANTITIES;
export type Sample = Readonly<Record<Quantity, number>>;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
const Timer = timerClass();

let warnings = 0;
process.on('warning', (warning) => {
  if (warning.name === 'ExperimentalWarning') return; // of queryObjects
  warnings += 1;
  console.error(warning);
});

/** While nothing is under way. `pid1`: of the resident sandbox, as the engine knows it; on another machine it is nobody's here. */
export async function measure({ resident, signal }: Ground, pid1: number): Promise<Sample> {
  const { stdout: status } = await resident.exec(['grep', '^VmRSS:', '/proc/1/status'], { signal });
  await sleep(QUIET_MS);
  for (let times = 0; times < 3; times += 1) {
    collect();
    await sleep(50); // finalizers have a turn of their own
  }
  const { heapUsed, external, rss } = process.memoryUsage();
  return {
    'heap, MiB': heapUsed / MIB,
    'outside the heap, MiB': external / MIB,
    'resident, MiB': rss / MIB,
    'file descriptors': (await readdir('/proc/self/fd')).length,
    timers: queryObjects(Timer, { format: 'count' }),
    sockets: queryObjects(Socket, { format: 'count' }),
    functions: queryObjects(Function, { format: 'count' }),
    'listeners to a signal': getEventListeners(signal, 'abort').length,
    warnings,
    'PID 1: resident, MiB': Number(/\d+/.exec(status)?.[0]) / 1024,
    'PID 1: file descriptors': (await readdir(`/proc/${pid1}/fd`).catch(() => [])).length,
  };
}

export interface Verdict {
  readonly quantity: Quantity;
  /** The mean of the first third of all looks, and of the last. */
  readonly begin: number;
  readonly end: number;
  /** How much more that may be: the mean of many has less of chance in it than one look. */
  readonly growth: number;
  readonly flat: boolean;
}

export function judge(samples: readonly Sample[]): Verdict[] {
  const third = Math.max(1, Math.floor(samples.length / 3));
  return (Object.keys(QUANTITIES) as Quantity[]).map((quantity) => {
    const mean = (of: readonly Sample[]) => of.reduce((sum, sample) => sum + sample[quantity], 0) / of.length;
    const [begin, end] = [mean(samples.slice(0, third)), mean(samples.slice(-third))];
    const growth = QUANTITIES[quantity] / Math.sqrt(third);
    return { quantity, begin, end, growth, flat: end - begin <= growth };
  });
}

function timerClass(): new () => NodeJS.Timeout {
  const timer = setTimeout(() => {}, 0);
  clearTimeout(timer);
  return timer.constructor as new () => NodeJS.Timeout;
}
