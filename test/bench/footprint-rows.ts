import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type Docker from 'dockerode';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { createByHand } from './by-hand.js';
import { interleave, percentile, timed, withoutPair, type Pair, type Samples } from './measure.js';
import { containerOf, needed, openManager, type Bench, type Row } from './row.js';

const run = promisify(execFile);
const CLI = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** Of many, small enough that they all fit on a small machine. */
const SMALL = { memoryLimit: '64m' } as const;
const FEW = 10;
export const MANY = 400;
/** How many sandboxes what one of them costs is found by. */
const COUNTED = 100;
const AT_ONCE = 4;
const LOADED = 200;
/** Of how many the memory is looked at. */
const WARDENS = 32;
const LOAD_EXECS = 20_000;

/** What it costs to have sandboxes, and the command line tool. */
export const footprintRows: readonly Row[] = [
  {
    name: 'cli-help',
    title: 'sandyard --help',
    unit: 'ms',
    bar: { kind: 'below', value: 200 },
    async measure({ quick }) {
      const ours: number[] = [];
      for (let round = 0; round < (quick ? 5 : 30); round += 1) {
        ours.push(await timed(() => run(process.execPath, [CLI, '--help'])));
      }
      return { ours, byHand: [] };
    },
  },
  {
    name: 'warden-memory',
    title: "the warden's own memory, after use",
    unit: 'MiB',
    bar: { kind: 'below', value: 1 },
    async measure(bench) {
      const others = await createSmall(bench, WARDENS - bench.sandboxes.length);
      for (const sandbox of others) await useForAWhile(sandbox);
      const ours: number[] = [];
      for (const sandbox of [...bench.sandboxes, ...others]) ours.push(await wardenMemory(bench.docker, sandbox));
      await removeAll(others);
      return { ours, byHand: [] };
    },
  },
  {
    name: 'host-memory',
    title: 'memory of the host for one idle sandbox',
    unit: 'MiB',
    bar: { kind: 'below', value: 6 },
    long: true,
    async measure(bench) {
      if ((await pidHere(bench.docker, bench.sandboxes[0])) === undefined) return { ours: [], byHand: [] };
      const ours = await memoryForEach(() => createSmall(bench, COUNTED), removeAll);
      const byHand = await memoryForEach(
        () => inTurns(COUNTED, () => createByHand(bench.docker, bench.byHand)),
        (containers) => inTurns(containers.length, (index) => needed(containers[index]).remove({ force: true })),
      );
      return { ours: [ours], byHand: [byHand] };
    },
  },
  {
    name: 'exec-at-400',
    title: `exec(['true']) at ${MANY} sandboxes, against at ${FEW}`,
    unit: 'ms',
    bar: { kind: 'slower', value: 1.3 },
    long: true,
    async measure(bench): Promise<Samples> {
      const few = await createSmall(bench, FEW);
      await execInTurn(few, 200);
      const before = await execInTurn(few, 200);
      const more = await createSmall(bench, MANY - FEW);
      await settle();
      const ours = await execInTurn(few, 400);
      await removeAll(more);
      await settle();
      const after = await execInTurn(few, 200);
      await removeAll(few);
      return { ours, byHand: [...before, ...after] };
    },
  },
  {
    name: 'list-at-400',
    title: `list at ${MANY} sandboxes`,
    unit: 'ms',
    bar: { kind: 'faster', value: 10 },
    long: true,
    measure: (bench) =>
      withMany(bench, ({ manager }) => ({
        ours: () => timed(() => manager.list({ limit: MANY })),
        byHand: () =>
          timed(() =>
            bench.docker.listContainers({ all: true, filters: { label: [`sandyard.owner=${manager.owner}`] } }),
          ),
      })),
  },
  {
    name: 'inspect-at-400',
    title: `inspect at ${MANY} sandboxes, with the lease`,
    unit: 'ms',
    bar: { kind: 'slower', value: 2 },
    long: true,
    measure: (bench) =>
      withMany(bench, ({ sandbox, container }) => ({
        ours: () => timed(() => sandbox.inspect()),
        byHand: () => timed(() => container.inspect()),
      })),
  },
  {
    name: 'manager-memory',
    title: `what ${LOAD_EXECS} execs in ${LOADED} sandboxes add to a manager's memory`,
    unit: 'MiB',
    bar: { kind: 'below', value: 16 },
    long: true,
    async measure(bench) {
      const sandboxes = (await bench.many()).slice(0, LOADED);
      // What is compiled, and the heap's own room, grow at first.
      await execInTurn(sandboxes, LOAD_EXECS);
      const before = process.memoryUsage().rss;
      await execInTurn(sandboxes, LOAD_EXECS);
      const after = process.memoryUsage().rss;
      return { ours: [(after - before) / 1024 ** 2], byHand: [] };
    },
  },
];

interface OneOfMany {
  readonly manager: SandboxManager;
  readonly sandbox: Sandbox;
  readonly container: Docker.Container;
}

async function withMany(bench: Bench, toPair: (one: OneOfMany) => Pair): Promise<Samples> {
  await using manager = await openManager(bench, {});
  const sandboxes = await bench.many();
  const sandbox = await manager.get(needed(sandboxes[0]).id);
  const container = await containerOf(bench.docker, sandbox);
  await settle();
  return withoutPair(await interleave(toPair({ manager, sandbox, container }), { rounds: 40, warmUpCalls: 40 }));
}

/** Commands, also at once, a file, and more output than the warden keeps. */
async function useForAWhile(sandbox: Sandbox): Promise<void> {
  for (let round = 0; round < 20; round += 1) await sandbox.exec(['true']);
  await Promise.all(Array.from({ length: 8 }, () => sandbox.exec('echo begun; sleep 0.05; echo done')));
  await sandbox.files.write('/workspace/file', Buffer.alloc(1024 ** 2));
  await sandbox.files.read('/workspace/file');
  await sandbox.exec(['head', '-c', String(4 * 1024 ** 2), '/dev/zero']);
}

/** What is the warden's alone, in MiB; where it can't be seen from outside, all that it has in memory, as it tells itself. */
async function wardenMemory(docker: Docker, sandbox: Sandbox): Promise<number> {
  const pid = await pidHere(docker, sandbox);
  const smaps = pid === undefined ? undefined : await readText(`/proc/${pid}/smaps_rollup`);
  if (smaps !== undefined) return (kilobytes(smaps, 'Private_Clean') + kilobytes(smaps, 'Private_Dirty')) / 1024;
  const { stdout } = await sandbox.exec(['cat', '/proc/1/status']);
  return kilobytes(stdout, 'VmRSS') / 1024;
}

/** The warden's process as this machine numbers it, unless the engine runs elsewhere. */
async function pidHere(docker: Docker, sandbox: Sandbox | undefined): Promise<number | undefined> {
  const { Id, State } = await (await containerOf(docker, sandbox)).inspect();
  const groups = await readText(`/proc/${State.Pid}/cgroup`);
  return groups?.includes(Id) === true ? State.Pid : undefined;
}

async function readText(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch(() => undefined);
}

function kilobytes(table: string, name: string): number {
  const found = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(table)?.[1];
  if (found === undefined) throw new Error(`The kernel doesn't tell ${name}.`);
  return Number(found);
}

/** How much memory of the host each of them takes, in MiB. */
async function memoryForEach<T>(make: () => Promise<T[]>, remove: (made: T[]) => Promise<unknown>): Promise<number> {
  await settle();
  const before = await availableMemory();
  const made = await make();
  await settle();
  const after = await availableMemory();
  await remove(made);
  return (before - after) / made.length;
}

/** In MiB. What the kernel can take back when it is asked for counts as there to be had. */
async function availableMemory(): Promise<number> {
  const found: number[] = [];
  for (let look = 0; look < 9; look += 1) {
    found.push(kilobytes(await readFile('/proc/meminfo', 'utf8'), 'MemAvailable') / 1024);
    await sleep(200);
  }
  return percentile(found, 0.5);
}

/** Lets the engine finish what it does after its answer. */
async function settle(): Promise<void> {
  await sleep(3000);
}

export async function createSmall({ manager }: Pick<Bench, 'manager'>, count: number): Promise<Sandbox[]> {
  return inTurns(count, () => manager.create(SMALL));
}

async function removeAll(sandboxes: readonly Sandbox[]): Promise<void> {
  await inTurns(sandboxes.length, (index) => needed(sandboxes[index]).destroy());
}

/** A few at a time. */
async function inTurns<T>(count: number, work: (index: number) => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  for (let begun = 0; begun < count; begun += AT_ONCE) {
    const size = Math.min(AT_ONCE, count - begun);
    results.push(...(await Promise.all(Array.from({ length: size }, (_, index) => work(begun + index)))));
  }
  return results;
}

async function execInTurn(sandboxes: readonly Sandbox[], count: number): Promise<number[]> {
  const took: number[] = [];
  for (let index = 0; index < count; index += 1) {
    took.push(await timed(() => needed(sandboxes[index % sandboxes.length]).exec(['true'])));
  }
  return took;
}
