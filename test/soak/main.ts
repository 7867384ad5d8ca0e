import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type Docker from 'dockerode';

import { connect } from '../../scripts/images.mjs';
import { readConfig } from '../../src/config.js';
import { discoverEngine } from '../../src/engine/discovery.js';
import { startService } from '../../src/http/service.js';
import { SandboxManager } from '../../src/index.js';
import { createLog } from '../../src/log.js';
import { containerName, POOL_NAME_PREFIX } from '../../src/record/record.js';
import { removeLabelled } from '../bench/by-hand.js';
import { Random } from '../fixtures/many/random.js';
import type { Ground } from './ground.js';
import { live, Tally } from './lives.js';
import { judge, measure, type Sample, type Verdict } from './measures.js';

/*
 * Uses one manager, and a service of it, for as long as it is told, as hard as the machine can; and looks again and again,
 * while nothing is under way, whether it holds on to anything.
 */

const HELP = `Usage: npm run soak -- [--minutes N] [--at-once N] [--seed N] [--json FILE]

  --minutes N   how long; 3 unless told otherwise
  --at-once N   how many sandboxes live at once; 8 unless told otherwise
  --seed N      to do the same as a run that told its seed
  --json FILE   write the result there, too

How many files PID 1 of a sandbox has open is looked at where its engine is on this machine, and whoever looks is root.
`;

const LEAST_ROUND_MS = 10_000;
const MOST_ROUND_MS = 60_000;
const ROUNDS = 12;
const REAPER_SCHEDULE = '*/2 * * * * *';
/** A few of the reaper's turns. */
const REAPED_MS = 10_000;

interface Outcome {
  readonly seed: number;
  readonly minutes: number;
  readonly cores: number;
  readonly counts: Readonly<Record<string, number>>;
  readonly faults: readonly string[];
  /** What was there of it when all of it had ended. */
  readonly left: readonly string[];
  readonly samples: readonly Sample[];
  readonly verdicts: readonly Verdict[];
}

export async function soak(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      minutes: { type: 'string', default: '3' },
      'at-once': { type: 'string', default: '8' },
      seed: { type: 'string', default: String(randomBytes(4).readUInt32LE()) },
      json: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  const [minutes, atOnce, seed] = [values.minutes, values['at-once'], values.seed].map(Number) as [
    number,
    number,
    number,
  ];
  if (values.help || !(minutes > 0) || !(atOnce >= 1) || !Number.isSafeInteger(seed)) {
    console.error(HELP);
    process.exitCode = values.help ? 0 : 1;
    return;
  }
  const outcome = await run({ minutes, atOnce, seed });
  console.log(format(outcome));
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(outcome, undefined, 2)}\n`);
  const isFlat = outcome.verdicts.every(({ flat }) => flat);
  if (!isFlat || outcome.faults.length > 0 || outcome.left.length > 0) process.exitCode = 1;
}

/** Whatever happens, nothing that was made for this run is left. */
async function run({ minutes, atOnce, seed }: { minutes: number; atOnce: number; seed: number }): Promise<Outcome> {
  const { address, attempts } = await discoverEngine(process.env);
  if (address === undefined) throw new Error(`No Docker engine answers: ${JSON.stringify(attempts)}`);
  const docker = await connect(address);
  const owner = `soak-${randomBytes(4).toString('hex')}`;
  const directory = await mkdtemp(join(tmpdir(), 'sandyard-soak-'));
  const label = `sandyard.owner=${owner}`;
  const config = readConfig({ ...process.env, SANDBOX_OWNER: owner, PORT: '0', HOST: '127.0.0.1' });
  const manager = new SandboxManager({
    owner,
    pool: { size: 3 },
    reaper: { schedule: REAPER_SCHEDULE },
    log: createLog({ level: 'error' }, process.stderr),
  });
  try {
    await mkdir(join(directory, 'in'));
    for (let n = 0; n < 20; n += 1) await writeFile(join(directory, 'in', `${n}`), 'x'.repeat(n * 500));
    await manager.open();
    const service = await startService(config, { manager, log: createLog({ level: 'silent' }, process.stderr) });
    const ground: Ground = {
      manager,
      url: service.url,
      directory,
      resident: await manager.create({ ttlMs: (minutes + 10) * 60_000, pidsLimit: 1024 }),
      random: new Random(seed),
      signal: new AbortController().signal,
    };
    const tally = new Tally();
    const samples = await soakThrough(ground, tally, { minutes, atOnce, docker });
    const left = await waitForNothing(() => findLeft(ground, docker, label));
    await ground.resident.destroy();
    await service.close();
    return {
      seed,
      minutes,
      cores: cpus().length,
      counts: Object.fromEntries([...tally.counts].toSorted(([one], [other]) => one.localeCompare(other))),
      faults: tally.faults,
      left,
      samples,
      verdicts: judge(samples),
    };
  } finally {
    await manager.close();
    await removeLabelled(docker, label);
    await rm(directory, { recursive: true, force: true });
  }
}

/** The first round warms up what is filled by use, and isn't measured. */
async function soakThrough(
  ground: Ground,
  tally: Tally,
  { minutes, atOnce, docker }: { minutes: number; atOnce: number; docker: Docker },
): Promise<Sample[]> {
  const { State } = await docker.getContainer(containerName(ground.resident.id)).inspect();
  const roundMs = Math.min(MOST_ROUND_MS, Math.max(LEAST_ROUND_MS, (minutes * 60_000) / ROUNDS));
  const ends = performance.now() + minutes * 60_000;
  const samples: Sample[] = [];
  for (let isFirst = true; performance.now() < ends; isFirst = false) {
    const until = Math.min(ends, performance.now() + roundMs);
    await Promise.all(Array.from({ length: atOnce }, () => live(ground, tally, until)));
    const sample = await measure(ground, State.Pid);
    if (!isFirst) samples.push(sample);
    const left = Math.max(0, Math.round((ends - performance.now()) / 1000));
    console.error(`${left} s left; ${Object.entries(sample).map(formatQuantity).join(', ')}`);
  }
  return samples;
}

/** What is left when the reaper, which runs by its schedule, has had the time to remove what has expired at the last moment. */
async function waitForNothing(find: () => Promise<string[]>): Promise<string[]> {
  const until = performance.now() + REAPED_MS;
  for (;;) {
    const left = await find();
    if (left.length === 0 || performance.now() > until) return left;
    await sleep(500);
  }
}

/** What is there of all that was made and has ended: containers that are neither the resident's nor waiting, processes, files. */
async function findLeft({ resident, directory }: Ground, docker: Docker, label: string): Promise<string[]> {
  const containers = await docker.listContainers({ all: true, filters: { label: [label] } });
  const named = containers.flatMap(({ Names, Status }) => Names.map((name) => ({ name: name.slice(1), Status })));
  const processes = await resident.processes.list();
  const files = await resident.files.list('/workspace');
  return [
    ...named
      .filter(({ name }) => name !== containerName(resident.id) && !name.startsWith(POOL_NAME_PREFIX))
      .map(({ name, Status }) => `${name}: ${Status}`),
    ...processes
      .filter(({ state }) => state === 'running')
      .map(({ id, command }) => `process ${id}: ${command.join(' ')}`),
    ...files.map(({ path }) => path),
    ...(await readdir(directory)).filter((name) => name !== 'in'),
  ];
}

function format({ seed, minutes, cores, counts, faults, left, verdicts }: Outcome): string {
  const rows = [
    ['seed', seed],
    ['minutes', minutes],
    ['cores', cores],
    ...Object.entries(counts).filter(([what]) => what !== 'faults'),
    ['faults', counts['faults'] ?? 0],
    ['left', left.length],
    ...verdicts.map(({ quantity, begin, end, growth, flat }) => [
      quantity,
      `${round(begin)} at first, ${round(end)} at last${flat ? '' : `: grows by more than ${round(growth)}`}`,
    ]),
  ];
  const width = Math.max(...rows.map(([name]) => String(name).length)) + 2;
  const lines = rows.map(([name, value]) => `${String(name).padEnd(width)}${value}`);
  return [...lines, ...left, ...faults].join('\n');
}

function formatQuantity([quantity, value]: [string, number]): string {
  return `${quantity} ${round(value)}`;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
