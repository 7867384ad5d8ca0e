import { randomBytes } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { build } from './build.mjs';
import { reportFailure, ROOT } from './setup/common.mjs';
import { checkNode, ensurePackages } from './setup/packages.mjs';
import { ensureEngine } from './setup/engine.mjs';
import { ensureGvisor } from './setup/gvisor.mjs';
import { setup, stopEngine } from './setup.mjs';
import { SECURITY_REPORT } from './security-table.mjs';

/*
 * npm test: everything that must hold before a change lands, the quick checks first. Ends with one line,
 * "N passed, N failed": each test counts, and each check as one. `npm test -- lint unit` runs only those.
 */

const RUN_LABEL = 'sandyard.test-run';
/** Volumes that managers fill with the warden, for images that have none. */
const WARDEN_VOLUMES = 'sandyard-warden-';

/** Of what a failed test says at the end: the log has the rest. */
const MESSAGE_LINES = 6;
const LINE_CHARACTERS = 1000;

/** Checks that need no engine. */
const CHECKS = {
  format: ['prettier', ['--check', '--log-level', 'warn', '.']],
  lint: ['oxlint', ['--type-aware', '--deny-warnings']],
  types: ['tsc', []],
  knip: ['knip', []],
};
const SUITES = ['unit', 'integration', 'security', 'e2e'];
/** Those that run sandboxes of each runtime. */
const RUNTIME_SUITES = ['integration', 'security'];

/** Each run is told apart, also from one that goes on beside it on the same engine. */
const runId = randomBytes(4).toString('hex');
const reports = mkdtempSync(join(tmpdir(), 'sandyard-reports-'));
const tally = { passed: 0, failed: 0, lines: [] };
const selected = process.argv.slice(2);
let interrupted = false;
const wants = (name) => !interrupted && (selected.length === 0 || selected.includes(name));

// What runs gets the signal as well, and ends; then what it made is still to be removed.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => (interrupted = true));

/** What `stopEngine` takes, when this run has started the engine. */
let startedEngine;
try {
  checkNode();
  await ensurePackages({ log: console.log });
  await build({ log: console.log });
  for (const [name, [program, args]] of Object.entries(CHECKS)) if (wants(name)) await check(name, program, args);
  if (wants('unit')) await suite('unit', {});
  if (SUITES.slice(1).some(wants)) await testOnEngine();
} catch (error) {
  reportFailure(error);
  record('set-up', false, error.message.split('\n')[0]);
} finally {
  rmSync(reports, { recursive: true, force: true });
}

console.log(`\n${tally.lines.join('\n')}\n`);
console.log(`${tally.passed} passed, ${tally.failed} failed`);
process.exitCode = tally.failed === 0 && tally.passed > 0 && !interrupted ? 0 : 1;

async function testOnEngine() {
  // By itself first, so that it is known who started it, should the rest of the set-up fail.
  const { address, startedEngine: started } = await ensureEngine({ log: console.log });
  startedEngine = started || undefined;
  const { describeAddress } = await import('../dist/engine/discovery.js');
  const dockerHost = describeAddress(address);
  try {
    await testOn(dockerHost, await prepareRuntimes(address));
  } finally {
    await stopOwnEngine({ DOCKER_HOST: dockerHost });
  }
}

/**
 * The runtimes that tests run sandboxes with. Where gVisor can't be had, its tests fail, unless they are left out by name:
 * a run that quietly tests less is worse than one that fails.
 */
async function prepareRuntimes(address) {
  if (process.env.SANDYARD_TEST_WITHOUT_GVISOR === '1') return 'runc';
  if (RUNTIME_SUITES.some(wants)) await ensureGvisor(address, { log: console.log }).catch(reportFailure);
  return 'runc,runsc';
}

async function testOn(dockerHost, runtimes) {
  const { image } = await setup();
  const env = {
    DOCKER_HOST: process.env.DOCKER_HOST ?? dockerHost,
    SANDBOX_IMAGE: image,
    SANDYARD_TEST_RUNTIMES: runtimes,
  };
  const found = await wardenVolumes(await connectTo(env.DOCKER_HOST));
  try {
    for (const name of SUITES.slice(1)) if (wants(name)) await suite(name, env);
  } finally {
    await checkNothingLeft(env);
    if (found.length === 0) await removeWardenVolumes(env);
  }
}

async function check(name, program, args) {
  const { code, seconds } = await run(program, args);
  record(name, code === 0, `${seconds} s`);
}

/** Runs a suite and adds up its tests. A test that was skipped wasn't passed. */
async function suite(name, env) {
  const report = join(reports, `${name}.json`);
  const args = ['run', '--project', name, '--reporter=default', '--reporter=json', `--outputFile=${report}`];
  const { code, seconds } = await run('vitest', args, { ...env, SANDYARD_TEST_RUN: runId });
  if (name === 'security') keepReport(report);
  const counted = readReport(report);
  const skipped = counted.numPendingTests + counted.numTodoTests;
  // A file that can't be loaded has no tests, and yet has failed.
  const unloaded = counted.numFailedTests === 0 && code !== 0 ? 1 : 0;
  tally.passed += counted.numPassedTests;
  tally.failed += counted.numFailedTests + skipped + unloaded;
  const failed = counted.numFailedTests + unloaded;
  tally.lines.push(`${name}: ${counted.numPassedTests} passed, ${failed} failed, ${skipped} skipped (${seconds} s)`);
  tally.lines.push(...describeFailures(counted.testResults));
}

/** What failed, once more beside the sums: who reads the end of a long log should see it. */
function describeFailures(files) {
  return files.flatMap(({ name, message, assertionResults }) => [
    ...(assertionResults.length === 0 ? [`  ${relative(ROOT, name)}: ${beginning(message)}`] : []),
    ...assertionResults
      .filter(({ status }) => status === 'failed')
      .map(
        ({ fullName, failureMessages: [said = ''] }) => `  ${relative(ROOT, name)}: ${fullName}: ${beginning(said)}`,
      ),
  ]);
}

/** What it says, but for where: of a property also the seed, and for what it didn't hold, which may be long. */
function beginning(text) {
  const [said] = text.trim().split(/\n\s+at /, 1);
  const lines = said.split('\n').map((line) => line.slice(0, LINE_CHARACTERS));
  return lines.slice(0, MESSAGE_LINES).join('\n    ');
}

/** For the table in SANDBOX.md. */
function keepReport(path) {
  if (!existsSync(path)) return;
  mkdirSync(dirname(SECURITY_REPORT), { recursive: true });
  copyFileSync(path, SECURITY_REPORT);
}

function readReport(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return { numPassedTests: 0, numFailedTests: 0, numPendingTests: 0, numTodoTests: 0, testResults: [] };
  }
}

/** What this run made must be gone; what is not is removed now, and counts as a failure. */
async function checkNothingLeft({ DOCKER_HOST }) {
  const docker = await connectTo(DOCKER_HOST);
  const ours = { filters: { label: [`${RUN_LABEL}=${runId}`] } };
  const sandboxes = (await docker.listContainers({ all: true, filters: { label: ['sandyard.managed'] } })).filter(
    ({ Labels }) => Labels['sandyard.owner']?.includes(runId),
  );
  const fillers = await docker.listContainers({ all: true, filters: { name: ['^/sandyard-fill-'] } });
  const containers = [...sandboxes, ...fillers, ...(await docker.listContainers({ all: true, ...ours }))];
  const { Volumes: volumes } = await docker.listVolumes(ours);
  const networks = await docker.listNetworks(ours);
  const left = [
    ...containers.map(({ Names }) => `container ${Names[0]}`),
    ...(volumes ?? []).map(({ Name }) => `volume ${Name}`),
    ...networks.map(({ Name }) => `network ${Name}`),
  ];
  record('nothing left', left.length === 0, left.length === 0 ? 'on the engine' : left.join(', '));
  for (const { Id } of containers) await docker.getContainer(Id).remove({ force: true, v: true }).catch(ignore);
  for (const { Name } of volumes ?? []) await docker.getVolume(Name).remove().catch(ignore);
  for (const { Id } of networks) await docker.getNetwork(Id).remove().catch(ignore);
}

async function wardenVolumes(docker) {
  const { Volumes: volumes } = await docker.listVolumes({ filters: { name: [WARDEN_VOLUMES] } });
  return (volumes ?? []).map(({ Name }) => Name).filter((name) => name.startsWith(WARDEN_VOLUMES));
}

/** They are every manager's on this engine, and stay for the next one: unless there were none before this run. */
async function removeWardenVolumes({ DOCKER_HOST }) {
  const docker = await connectTo(DOCKER_HOST);
  for (const name of await wardenVolumes(docker)) await docker.getVolume(name).remove().catch(ignore); // one in use stays
}

/** An engine that this run started is stopped again, unless somebody else has begun to use it. */
async function stopOwnEngine({ DOCKER_HOST }) {
  if (startedEngine === undefined) return;
  const docker = await connectTo(DOCKER_HOST);
  if ((await docker.listContainers()).length > 0) return;
  console.log('Stopping the Docker engine that this run has started …');
  await stopEngine(startedEngine);
}

async function connectTo(dockerHost) {
  const { connect } = await import('./images.mjs');
  const { discoverEngine } = await import('../dist/engine/discovery.js');
  const { address } = await discoverEngine({ ...process.env, DOCKER_HOST: dockerHost });
  return connect(address);
}

function run(program, args, env = {}) {
  console.log(`\n── ${program} ${args.filter((argument) => !argument.startsWith('--outputFile')).join(' ')}`);
  const started = Date.now();
  return new Promise((resolve, reject) => {
    const child = spawn(join(ROOT, 'node_modules/.bin', program), args, {
      cwd: ROOT,
      stdio: ['ignore', 'inherit', 'inherit'],
      env: { ...neutral(process.env), ...env },
    });
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, seconds: Math.round((Date.now() - started) / 1000) }));
  });
}

/** The environment without settings of a service that somebody may run beside: tests set their own. */
function neutral(env) {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !/^(HOST|PORT|SANDBOX_\w+)$/.test(name)));
}

function record(name, passed, detail) {
  tally[passed ? 'passed' : 'failed'] += 1;
  tally.lines.push(`${name}: ${passed ? 'passed' : 'failed'} (${detail})`);
}

function ignore() {}
