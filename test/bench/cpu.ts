import { readdir, readFile } from 'node:fs/promises';
import { cpus } from 'node:os';

import type { Pair } from './measure.js';

/** What the kernel counts in, for whoever reads /proc (`USER_HZ`): on every machine that Node.js runs on. */
const TICKS_PER_SECOND = 100;
const MS_PER_TICK = 1000 / TICKS_PER_SECOND;

/** Whose time it is. What has ended counts as its parent's children, once that has waited for it. */
const KINDS = {
  program: 'this program',
  service: 'service',
  dockerd: 'dockerd',
  containerd: 'containerd',
  shim: 'shims',
  engineChildren: "the engine's children: runc, execs",
  warden: 'wardens',
  wardenChildren: "the wardens' children",
  ended: 'shims that ended, with all of theirs',
} as const;

type Kind = keyof typeof KINDS;

/** By the name of the program, as the kernel cuts it at 15 characters: whose its time is, and whose its children's. */
const OF_PROGRAM: Readonly<Record<string, readonly [own: Kind, children: Kind]>> = {
  dockerd: ['dockerd', 'engineChildren'],
  containerd: ['containerd', 'engineChildren'],
  'containerd-shim': ['shim', 'engineChildren'],
  warden: ['warden', 'wardenChildren'],
};

/** What a call of one side takes, in milliseconds, on average. */
export interface SideCpu {
  readonly calls: number;
  readonly wallMs: number;
  /** The part of the machine that had nothing to do: 0 to 1. */
  readonly idle: number;
  readonly cpuMs: Readonly<Record<Kind, number>>;
  /**
   * What else the machine did meanwhile: the kernel's own threads, and programs that aren't part of this. Below zero where
   * what ended had been there before: others who use the engine at the same time spoil it.
   */
  readonly elsewhereMs: number;
}

export interface RowCpu {
  readonly ours: SideCpu;
  readonly byHand: SideCpu;
}

export interface ProfileOptions {
  /** The processes of services. */
  readonly services: readonly (number | undefined)[];
  /** How long each side is run. */
  readonly forMs: number;
}

/**
 * Runs each side for a while, alone, and tells whose CPU time that took; `undefined` where the engine isn't on this
 * machine, or this isn't Linux. The kernel counts in hundredths of a second: so it is told of many calls together, apart from
 * the measuring, where they alternate.
 */
export async function profile(pair: Pair, options: ProfileOptions): Promise<RowCpu | undefined> {
  if (!(await readProcesses(options.services)).engineHere) return undefined;
  const { ours = 1, byHand = 1 } = pair.callsPerSample ?? {};
  return {
    ours: await profileSide(pair.ours, { ...options, callsEach: ours }),
    byHand: await profileSide(pair.byHand, { ...options, callsEach: byHand }),
  };
}

async function profileSide(
  work: () => Promise<unknown>,
  { services, forMs, callsEach }: ProfileOptions & { callsEach: number },
): Promise<SideCpu> {
  const before = await readProcesses(services);
  const idleBefore = await readIdleMs();
  const start = performance.now();
  let calls = 0;
  do {
    await work();
    calls += callsEach;
  } while (performance.now() - start < forMs);
  const wallMs = performance.now() - start;
  const idle = ((await readIdleMs()) - idleBefore) / (wallMs * cpus().length);
  const after = await readProcesses(services);
  const cpuMs = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, 0])) as Record<Kind, number>;
  for (const [key, { kind, ms }] of after.times) cpuMs[kind] += (ms - (before.times.get(key)?.ms ?? 0)) / calls;
  const busyMs = ((1 - idle) * wallMs * cpus().length) / calls;
  return { calls, wallMs: wallMs / calls, idle, cpuMs, elsewhereMs: busyMs - sum(cpuMs) };
}

interface Processes {
  readonly engineHere: boolean;
  /** By process and by whether it is its own or its children's. */
  readonly times: ReadonlyMap<string, { readonly kind: Kind; readonly ms: number }>;
}

async function readProcesses(services: readonly (number | undefined)[]): Promise<Processes> {
  const times = new Map<string, { kind: Kind; ms: number }>();
  let engineHere = false;
  const names = await readdir('/proc').catch(() => []);
  const pids = names.map(Number).filter(Number.isInteger);
  for (const stat of await Promise.all(pids.map(readStat))) {
    const kinds = stat === undefined ? undefined : kindsOf(stat, services);
    if (stat === undefined || kinds === undefined) continue;
    engineHere ||= kinds[0] === 'dockerd';
    if (kinds[0] !== undefined) times.set(`${stat.key} own`, { kind: kinds[0], ms: stat.ownMs });
    if (kinds[1] !== undefined) times.set(`${stat.key} children`, { kind: kinds[1], ms: stat.childrenMs });
  }
  return { engineHere, times };
}

function kindsOf(
  { pid, program }: Stat,
  services: readonly (number | undefined)[],
): readonly (Kind | undefined)[] | undefined {
  if (pid === process.pid) return ['program'];
  // A shim outlives what started it, and is handed to the first process
  if (pid === 1) return [undefined, 'ended'];
  return services.includes(pid) ? ['service'] : OF_PROGRAM[program];
}

interface Stat {
  readonly pid: number;
  /** Of no other process, also when the number is given again. */
  readonly key: string;
  readonly program: string;
  readonly ownMs: number;
  readonly childrenMs: number;
}

/** See proc_pid_stat(5); `undefined` when it is gone. */
async function readStat(pid: number): Promise<Stat | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const [, program, rest] = /^\d+ \((.*)\) (.*)/s.exec(text) ?? [];
  if (program === undefined || rest === undefined) return undefined;
  const fields = rest.split(' ').map(Number);
  const [user = 0, system = 0, childrenUser = 0, childrenSystem = 0] = fields.slice(11);
  return {
    pid,
    key: `${pid}-${fields[19]}`,
    program,
    ownMs: (user + system) * MS_PER_TICK,
    childrenMs: (childrenUser + childrenSystem) * MS_PER_TICK,
  };
}

/** Of all CPUs together. See proc_stat(5): unlike what they were busy with, this is exact. */
async function readIdleMs(): Promise<number> {
  const [line = ''] = (await readFile('/proc/stat', 'utf8')).split('\n', 1);
  const [, , , , idle = 0, ioWait = 0] = line.split(/\s+/).map(Number);
  return (idle + ioWait) * MS_PER_TICK;
}

/** A table for each row: a line for each kind, as far as it took any time. */
export function formatProfile(title: string, { ours, byHand }: RowCpu): string {
  const kinds = (Object.keys(KINDS) as Kind[]).map(
    (kind) => [KINDS[kind], byHand.cpuMs[kind], ours.cpuMs[kind]] as const,
  );
  const lines = [
    [title, 'by hand', 'Sandyard'],
    ['  calls', String(byHand.calls), String(ours.calls)],
    ['  time of one, ms', toText(byHand.wallMs), toText(ours.wallMs)],
    ['  machine idle', `${(100 * byHand.idle).toFixed(0)} %`, `${(100 * ours.idle).toFixed(0)} %`],
    ['  CPU time of one, ms', toText(sum(byHand.cpuMs)), toText(sum(ours.cpuMs))],
    ...kinds
      .filter(([, ...ms]) => ms.some((value) => value >= 0.005))
      .map(([kind, hand, us]) => [`    ${kind}`, toText(hand), toText(us)]),
    ['  not for these: kernel, others', toText(byHand.elsewhereMs), toText(ours.elsewhereMs)],
  ];
  return lines
    .map(([what = '', ...cells]) => what.padEnd(44) + cells.map((cell) => cell.padStart(12)).join(''))
    .join('\n');
}

function sum(cpuMs: SideCpu['cpuMs']): number {
  return Object.values(cpuMs).reduce((total, ms) => total + ms, 0);
}

function toText(ms: number): string {
  return ms.toFixed(ms < 10 ? 2 : 1);
}
