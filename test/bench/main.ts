import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type Docker from 'dockerode';

import { connect } from '../../scripts/images.mjs';
import { discoverEngine, type EngineAddress } from '../../src/engine/discovery.js';
import type * as Library from '../../src/index.js';
import { rootFor, USUAL_DIRECTORY } from '../../src/sandbox-sockets.js';
import { removeLabelled } from './by-hand.js';
import { formatProfile, profile } from './cpu.js';
import { createSmall, MANY } from './footprint-rows.js';
import { formatTable, toResult, type Result } from './report.js';
import type { Bench, Row } from './row.js';
import { rows } from './rows.js';
import { ServiceProcess } from './services.js';

/*
 * Measures what Sandyard promises to be at least as quick as, side by side with the raw engine, in one run on one machine:
 * the ratios are what counts. A value is the median of 30 samples or more, unless its row says otherwise.
 */

const HELP = `Usage: npm run bench -- [--quick] [--only NAME]... [--json FILE]

  --only NAME   only this row; may be given more than once
  --quick       fewer rounds, and no row that takes minutes: a look, not a measurement
  --profile     also tell whose CPU time a call takes; on Linux, with an engine here that nobody else uses
  --json FILE   write the results there, too

Rows: ${rows.map(({ name }) => name).join(', ')}
`;

const SANDBOXES = 8;
/** How long each side is run for a profile. */
const PROFILE_MS = 5000;
const QUICK_PROFILE_MS = 2000;
const DIST = new URL('../../dist/', import.meta.url);

export async function bench(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      only: { type: 'string', multiple: true, default: [] },
      quick: { type: 'boolean', default: false },
      profile: { type: 'boolean', default: false },
      json: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  const unknown = values.only.find((name) => !rows.some((row) => row.name === name));
  if (values.help || unknown !== undefined) {
    console.error(unknown === undefined ? HELP : `There is no row ${unknown}.\n\n${HELP}`);
    process.exitCode = unknown === undefined ? 0 : 1;
    return;
  }
  const chosen =
    values.only.length === 0 ? defaultRows(values.quick) : rows.filter(({ name }) => values.only.includes(name));
  const { address, attempts } = await discoverEngine(process.env);
  if (address === undefined) throw new Error(`No Docker engine answers: ${JSON.stringify(attempts)}`);
  const results = await measure(chosen, { address, quick: values.quick, profiles: values.profile });
  console.log(formatTable(results));
  for (const { title, cpu } of results) if (cpu !== undefined) console.log(`\n${formatProfile(title, cpu)}`);
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(results, undefined, 2)}\n`);
}

/** A look transfers 64 MB, a measurement 256 MB. */
function defaultRows(quick: boolean): Row[] {
  return rows.filter(({ name, long = false }) => !name.endsWith(quick ? '-256m' : '-64m') && !(quick && long));
}

interface Setting {
  readonly address: EngineAddress;
  readonly quick: boolean;
  readonly profiles: boolean;
}

/** Whatever happens, nothing that was made for this run is left. */
async function measure(chosen: readonly Row[], { address, quick, profiles }: Setting): Promise<Result[]> {
  const run = `bench-${randomBytes(4).toString('hex')}`;
  const docker = await connect(address);
  const directory = await mkdtemp(join(tmpdir(), 'sandyard-bench-'));
  const leave = () => void cleanUp(docker, { run, directory }).finally(() => process.exit(130));
  process.once('SIGINT', leave).once('SIGTERM', leave);
  try {
    const { SandboxManager } = await loadLibrary();
    const newManager = (options: Library.ManagerOptions) =>
      new SandboxManager({ owner: run, reaper: false, pool: [], ...options });
    await using manager = newManager({});
    await using service = await ServiceProcess.start(new URL('http/main.js', DIST), {
      env: { HOST: '127.0.0.1', PORT: '0', SANDBOX_OWNER: run, SANDBOX_TOKEN: '' },
    });
    await using rawService = await ServiceProcess.start(new URL('raw-service.ts', import.meta.url), {
      args: [JSON.stringify(dockerodeOptions(address))],
    });
    const sandboxes = await Promise.all(Array.from({ length: SANDBOXES }, () => manager.create()));
    const byHand = { image: manager.image, labels: { 'sandyard-bench.run': run } };
    let made: Promise<Library.Sandbox[]> | undefined;
    const many = () => (made ??= createSmall({ manager }, MANY));
    const bench = { docker, manager, newManager, many, sandboxes, byHand, service, rawService, directory, quick };
    return await measureAll(chosen, { bench, profiles });
  } finally {
    process.off('SIGINT', leave).off('SIGTERM', leave);
    await cleanUp(docker, { run, directory });
  }
}

async function measureAll(
  chosen: readonly Row[],
  { bench, profiles }: { bench: Bench; profiles: boolean },
): Promise<Result[]> {
  const results: Result[] = [];
  const options = {
    services: [bench.service.pid, bench.rawService.pid],
    forMs: bench.quick ? QUICK_PROFILE_MS : PROFILE_MS,
  };
  for (const row of chosen) {
    console.error(`${row.title} …`);
    try {
      const samples = await row.measure(bench);
      const cpu = profiles && samples.pair !== undefined ? await profile(samples.pair, options) : undefined;
      if (profiles && cpu === undefined)
        console.error('  … has no profile: it needs /proc, two sides, and the engine here');
      if (samples.ours.length > 0) results.push({ ...toResult(row, samples), cpu });
      else console.error('  … can only be measured where the engine runs on this machine');
    } catch (error) {
      // What took minutes to measure is told all the same.
      console.error('  … failed:', error);
      process.exitCode = 1;
    }
  }
  return results;
}

/** What users get, not the sources. */
async function loadLibrary(): Promise<typeof Library> {
  return (await import(new URL('index.js', DIST).href)) as typeof Library;
}

function dockerodeOptions(address: EngineAddress): Docker.DockerOptions {
  if (address.kind === 'unix') return { socketPath: address.socketPath };
  const { host, port, tls } = address;
  return { host, port, protocol: tls === undefined ? 'http' : 'https', ...tls };
}

async function cleanUp(docker: Docker, { run, directory }: { run: string; directory: string }): Promise<void> {
  await rm(directory, { recursive: true, force: true });
  await removeLabelled(docker, `sandyard.owner=${run}`);
  await removeLabelled(docker, `sandyard-bench.run=${run}`);
  const { DockerRootDir: dataRoot } = (await docker.info()) as { DockerRootDir: string };
  await rm(rootFor(USUAL_DIRECTORY, { dataRoot, owner: run }), { recursive: true, force: true });
}
