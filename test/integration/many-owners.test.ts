import { mkdir, readdir, rm, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type Docker from 'dockerode';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { SandboxManager } from '../../src/index.js';
import { formatLedger } from '../fixtures/many/ledger.js';
import { Life, USUAL_MEMORY_BYTES } from '../fixtures/many/life.js';
import { startLibrary } from '../fixtures/many/library-party.js';
import { Random } from '../fixtures/many/random.js';
import { startService } from '../fixtures/many/service-party.js';
import { Town } from '../fixtures/many/town.js';
import { Witness } from '../fixtures/many/witness.js';
import {
  dockerClient,
  eventually,
  IMAGE,
  makeSocketDirectory,
  newOwner,
  RUN_ID,
  sleep,
  testDirectory,
} from '../fixtures/run.js';

/** How many sandboxes. The full size is 2000, which takes two CPUs ten minutes: so each change is tested with fewer. */
const SANDBOXES = Number(process.env['SANDYARD_TEST_SANDBOXES'] ?? 150);
const SEED = Number(process.env['SANDYARD_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
const KILL_EVERY_MS = 10_000;
/** Enough for the machine to be busy all the time, little enough for it to keep the leases in mind. */
const ASKING_AT_ONCE = 6;
const LIVING_AT_ONCE = 120;
/** What was half made by a manager that was killed ends itself after two minutes. */
const ALL_ENDED_MS = 180_000;
const HALF_CREATED_MS = 60_000;
const LONG_AGO = new Date(0);
/** How many it may have been about to begin: for callers, and for its pool. */
const LEFT_BY_A_KILL = ASKING_AT_ONCE + 2;
/** How many of the library's managers don't share the directory. */
const THROUGH_ENGINE = 0.25;
const REAPER = '*/3 * * * * *';
const RUN_MS = 120_000 + SANDBOXES * 600;

describe('many managers of one owner', () => {
  const docker = dockerClient();
  const owner = newOwner();
  let town: Town | undefined;
  let witness: Witness;
  let socketDirectory: string;
  beforeAll(async () => {
    socketDirectory = await makeSocketDirectory();
    witness = await Witness.begin(docker, owner);
  });
  afterAll(async () => {
    await town?.destroy();
    witness.end();
    for (const { Id } of await ownContainers(docker, owner)) await docker.getContainer(Id).remove({ force: true });
    await rm(socketDirectory, { recursive: true });
  });

  it(
    `lose, leak and mix up none of ${SANDBOXES} sandboxes while each of them is killed again and again`,
    { timeout: RUN_MS + 2 * ALL_ENDED_MS + 240_000 },
    async () => {
      console.log(`seed ${SEED}: SANDYARD_TEST_SEED=${SEED} SANDYARD_TEST_SANDBOXES=${SANDBOXES}`);
      const began = Date.now();
      const faults: string[] = [];
      const temporary = join(await testDirectory(), 'tmp');
      await mkdir(temporary);
      const there = openTown(owner, { temporary, socketDirectory });
      town = there;
      await there.open();
      const pids = there.pids;

      const haunting = new AbortController();
      const haunted = there.names.map((name, index) =>
        there.haunt(name, { random: new Random(SEED + index), everyMs: KILL_EVERY_MS, signal: haunting.signal }),
      );
      const lives = Array.from(
        { length: SANDBOXES },
        (_, number) => new Life(there, { seed: SEED, number, run: `${RUN_ID}-${SEED}` }),
      );
      faults.push(...(await leadAll(lives)));
      const ledSeconds = secondsSince(began);
      haunting.abort();
      await Promise.all(haunted);

      const kept = lives.filter(({ isKept }) => isKept);
      faults.push(...(await waitForTheEnd(docker, { owner, kept, town: there, witness })));
      await Promise.all(kept.map((life) => life.proveKept()));
      const ends = await there.close();
      if (Object.values(ends).some((end) => end !== 0)) faults.push(`closed with ${JSON.stringify(ends)}`);
      for (const { id = '', memoryBytes } of kept) faults.push(...(await checkOnEngine(docker, { id, memoryBytes })));
      const drained = await drain(docker, { owner, socketDirectory });
      const left = await destroyAll({ owner, socketDirectory }, kept);
      if (left > there.counts.kills * LEFT_BY_A_KILL) faults.push(`${left} directories had no sandbox`);

      faults.push(...(await findLeftovers(docker, { owner, temporary, socketDirectory, pids })));
      faults.push(...findGivenTwice(lives), ...findEndedEarly(lives, witness), ...there.faults);
      for (const life of lives) faults.push(...explain(life, { town: there, witness }));
      const seconds = { led: ledSeconds, all: secondsSince(began) };
      console.log(`\n${formatLedger({ seed: SEED, seconds, lives, town: there, witness, drained })}\n`);
      // Each with its history; all of them would be more than anybody reads.
      expect(faults.length, `${faults.slice(0, 20).join('\n\n')}\n`).toBe(0);
    },
  );
});

function secondsSince(began: number): number {
  return Math.round((Date.now() - began) / 1000);
}

function openTown(owner: string, { temporary, socketDirectory }: { temporary: string; socketDirectory: string }): Town {
  const env = {
    SANDBOX_OWNER: owner,
    SANDBOX_IMAGE: IMAGE,
    SANDBOX_MEMORY: String(USUAL_MEMORY_BYTES),
    SANDBOX_POOL_SIZE: '4',
    SANDBOX_POOL_MAX: '12',
    TMPDIR: temporary,
  };
  const direct = { ...env, SANDBOX_SOCKET_DIR: socketDirectory };
  const service = { ...direct, SANDBOX_REAPER_SCHEDULE: REAPER };
  const settings = { MANY_REAPER: REAPER, MANY_HALF_CREATED_MS: String(HALF_CREATED_MS) };
  const random = new Random(SEED);
  // One that has the engine make its ways in, as the services must into what it has made.
  const byEngine = { ...env, SANDBOX_SOCKET_DIR: 'none' };
  const library = () => ({ ...(random.next() < THROUGH_ENGINE ? byEngine : direct), ...settings });
  return new Town({
    'service one': () => startService('service one', service),
    'service two': () => startService('service two', service),
    library: () => startLibrary('library', library()),
  });
}

/** Begins them as fast as it goes, and leads each to its end. */
async function leadAll(lives: readonly Life[]): Promise<string[]> {
  const until = Date.now() + RUN_MS;
  const waiting = [...lives];
  const living = new Set<Promise<void>>();
  const ask = async () => {
    for (let life = waiting.shift(); life !== undefined; life = Date.now() < until ? waiting.shift() : undefined) {
      while (living.size >= LIVING_AT_ONCE) await Promise.race(living);
      if (!(await life.begin())) continue;
      const lived: Promise<void> = life.live().finally(() => living.delete(lived));
      living.add(lived);
    }
  };
  await Promise.all(Array.from({ length: ASKING_AT_ONCE }, ask));
  await Promise.all(living);
  return waiting.length === 0 ? [] : [`${waiting.length} sandboxes were not asked for in time`];
}

/** What managers must have in common to leave nothing of each other's. */
interface Shared {
  readonly owner: string;
  readonly socketDirectory: string;
}

interface Ending {
  readonly owner: string;
  readonly kept: readonly Life[];
  readonly town: Town;
  readonly witness: Witness;
}

/** Waits until there are only those that are kept, and warm ones; what else there is then is a fault. */
async function waitForTheEnd(docker: Docker, { owner, kept, town, witness }: Ending): Promise<string[]> {
  const keptIds = new Set(kept.map(({ id }) => id));
  const until = Date.now() + ALL_ENDED_MS;
  for (;;) {
    const containers = await ownContainers(docker, owner);
    const others = containers.filter(
      (container) =>
        !keptIds.has(container.Labels['sandyard.id']) && !(isWarm(container) && container.State === 'running'),
    );
    if (others.length === 0) return [];
    if (Date.now() > until) {
      return others.map(({ Labels, Names, Status }) => {
        const id = Labels['sandyard.id'] ?? '';
        return `left over: ${Names[0]} (${Status})\n${tell(id, { town, witness })}`;
      });
    }
    await sleep(1000);
  }
}

/** By the engine itself, once no manager is there any more. */
async function checkOnEngine(
  docker: Docker,
  { id, memoryBytes }: { id: string; memoryBytes: number },
): Promise<string[]> {
  const container = docker.getContainer(`sandyard-${id}`);
  const found = await eventually(
    async () => {
      const { State, HostConfig, ExecIDs } = await container.inspect();
      // Of one that a manager made and didn't live to start, the engine keeps the id for some minutes.
      const execs = await Promise.all(((ExecIDs as string[] | null) ?? []).map((exec) => isExecRunning(docker, exec)));
      return execs.includes(true) ? undefined : { State, HostConfig };
    },
    { what: `the end of all execs of ${id}` },
  ).catch((error: unknown) => String(error));
  if (typeof found === 'string') return [found];
  const { Processes: processes } = (await container.top()) as { Processes: string[][] };
  return [
    ...(found.State.Running ? [] : [`${id} does not run`]),
    ...(found.HostConfig.Memory === memoryBytes ? [] : [`${id} has ${found.HostConfig.Memory} bytes of memory`]),
    ...(processes.length === 1 ? [] : [`${id} runs ${JSON.stringify(processes)}`]),
  ];
}

async function isExecRunning(docker: Docker, id: string): Promise<boolean> {
  try {
    return (await docker.getExec(id).inspect()).Running;
  } catch (error) {
    if ((error as { statusCode?: number }).statusCode === 404) return false;
    throw error;
  }
}

/**
 * Gives out and destroys the warm ones that managers which were killed have made: their lease is longer than this test. What
 * was half made ends by itself meanwhile.
 */
async function drain(docker: Docker, { owner, socketDirectory }: Shared): Promise<number> {
  const size = { memoryLimit: USUAL_MEMORY_BYTES };
  const limits = { memoryBytes: USUAL_MEMORY_BYTES };
  const until = Date.now() + ALL_ENDED_MS;
  let drained = 0;
  for (;;) {
    const warm = (await ownContainers(docker, owner)).filter(isWarm);
    if (warm.length === 0 || Date.now() > until) return drained;
    // One for each look: as long as it is asked it makes new ones.
    await using manager = new SandboxManager({
      image: IMAGE,
      owner,
      socketDirectory,
      limits,
      reaper: false,
      pool: { ...size, size: 0, max: 1 },
    });
    await manager.open();
    await sleep(2000);
    const { ready } = (await manager.gauges()).pool;
    for (let left = ready; left > 0; left--) await (await manager.create(size)).destroy();
    await manager.prune();
    drained += ready;
  }
}

/** Gives how many directories were left of sandboxes that never came. */
async function destroyAll(shared: Shared, lives: readonly Life[]): Promise<number> {
  await using manager = new SandboxManager({ image: IMAGE, ...shared, pool: [], reaper: false });
  await manager.open();
  for (const { id = '' } of lives) await manager.destroy(id);
  // A manager that was killed may have made one for a sandbox that it hadn't begun to make. It goes when it is old.
  const left = await directoriesIn(shared.socketDirectory);
  for (const directory of left) await utimes(directory, LONG_AGO, LONG_AGO);
  await manager.prune();
  return left.length;
}

/** Those of sandboxes. */
async function directoriesIn(socketDirectory: string): Promise<string[]> {
  const owners = await readdir(socketDirectory);
  const found = owners.map(async (name) => (await readdir(join(socketDirectory, name))).map((id) => join(name, id)));
  return (await Promise.all(found)).flat().map((path) => join(socketDirectory, path));
}

async function findLeftovers(
  docker: Docker,
  { owner, temporary, socketDirectory, pids }: Shared & { temporary: string; pids: readonly number[] },
): Promise<string[]> {
  const filters = { label: [`sandyard.owner=${owner}`] };
  const { Volumes: volumes } = await docker.listVolumes({ filters });
  const networks = await docker.listNetworks({ filters });
  // tsx keeps what it has compiled there.
  const files = (await readdir(temporary)).filter((name) => !name.startsWith('tsx-') && name !== 'node-compile-cache');
  const directories = await directoriesIn(socketDirectory);
  return [
    ...(await ownContainers(docker, owner)).map(({ Names, Status }) => `container left over: ${Names[0]} (${Status})`),
    ...(volumes ?? []).map(({ Name }) => `volume left over: ${Name}`),
    ...networks.map(({ Name }) => `network left over: ${Name}`),
    ...files.map((name) => `file left over: ${name}`),
    ...directories.map((name) => `directory left over: ${name}`),
    ...pids.filter(isRunning).map((pid) => `process left over: ${pid}`),
  ];
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

function findGivenTwice(lives: readonly Life[]): string[] {
  const owners = new Map<string, string>();
  return lives.flatMap(({ id, name }) => {
    if (id === undefined) return [`${name} never got a sandbox`];
    const other = owners.get(id);
    owners.set(id, name);
    return other === undefined ? [] : [`${id} was given to ${other} and to ${name}`];
  });
}

/** By the engine's own word: what nobody has looked at must not have ended before its lease either. */
function findEndedEarly(lives: readonly Life[], witness: Witness): string[] {
  return lives
    .filter(({ fate }) => ['kept', 'expired', 'renewed', 'shortened'].includes(fate))
    .flatMap(({ id = '', name, isKept, promisedUntil }) => {
      const end = witness.seen.get(id)?.happenings.find(({ action }) => action === 'die' || action === 'destroy');
      if (end === undefined || isKept || end.at >= promisedUntil) return [];
      return [`${name}: ${id} has ended ${Math.round(promisedUntil - end.at)} ms early\n${witness.history(id)}`];
    });
}

/** The faults of one, with what the engine and the managers have told of it. */
function explain({ id = '', faults }: Life, about: { town: Town; witness: Witness }): string[] {
  return faults.map((fault) => `${fault}\n${tell(id, about)}`);
}

function tell(id: string, { town, witness }: { town: Town; witness: Witness }): string {
  return [`engine:\n${witness.history(id)}`, 'managers:', ...town.logged(id)].join('\n');
}

function isWarm({ Names }: Docker.ContainerInfo): boolean {
  return Names[0]?.startsWith('/sandyard-pool-') === true;
}

async function ownContainers(docker: Docker, owner: string): Promise<Docker.ContainerInfo[]> {
  return docker.listContainers({ all: true, filters: { label: [`sandyard.owner=${owner}`] } });
}
