import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '../images.mjs';
import { SetupFailure, findProgram } from './common.mjs';
import { aptInstall, describeHost } from './host.mjs';

const PROGRAM = 'runsc';
/**
 * Each runtime's name with its arguments. gVisor's own network stack doesn't start on every kernel. What has no network
 * needs none; what has one is given the sockets of the engine's kernel, in the network that its container is in.
 */
const RUNTIMES = { runsc: ['--network=none'], 'runsc-net': ['--network=host'] };
const PID_FILES = ['/var/run/docker.pid', '/run/docker.pid'];
const RELOAD_MS = 15_000;

/**
 * Makes sure that the engine has gVisor's runtime as `runsc`, without a network, and as `runsc-net`, with one: installs
 * it and registers it with an engine on this machine, where that is possible. The registration stays.
 */
export async function ensureGvisor(address, { log }) {
  const docker = await connect(address);
  if (await isRegistered(docker)) return;
  const pid = address.kind === 'unix' ? findDaemon() : undefined;
  const { isRoot, hasApt } = describeHost();
  if (pid === undefined || !isRoot) throw registrationFailure();
  if (!findProgram(PROGRAM)) {
    if (!hasApt) throw registrationFailure();
    await aptInstall([PROGRAM], { log });
  }
  log(`Registering ${Object.keys(RUNTIMES).join(' and ')} with the Docker engine …`);
  addRuntimes(configFile(pid));
  process.kill(pid, 'SIGHUP'); // has it read its file again; nothing that runs is touched
  const deadline = Date.now() + RELOAD_MS;
  while (!(await isRegistered(docker))) {
    if (Date.now() > deadline) throw registrationFailure();
    await sleep(100);
  }
}

async function isRegistered(docker) {
  const { Runtimes = {} } = await docker.info();
  return Object.keys(RUNTIMES).every((name) => name in Runtimes);
}

/** The process id of a dockerd of this machine. */
function findDaemon() {
  for (const file of PID_FILES.filter((path) => existsSync(path))) {
    const pid = Number(readFileSync(file, 'utf8'));
    if (Number.isInteger(pid) && readProcess(pid, 'comm').trim() === 'dockerd') return pid;
  }
  return undefined;
}

function configFile(pid) {
  const given = /\0--config-file[=\0]([^\0]+)/.exec(readProcess(pid, 'cmdline'))?.[1];
  return given ?? '/etc/docker/daemon.json';
}

/** Adds what isn't in the file. It is replaced whole, so that an engine that starts meanwhile can read it. */
function addRuntimes(file) {
  const config = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  config.runtimes = { ...registrations(findProgram(PROGRAM)), ...config.runtimes };
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, `${JSON.stringify(config, undefined, 2)}\n`);
  renameSync(`${file}.new`, file);
}

function readProcess(pid, name) {
  const path = `/proc/${pid}/${name}`;
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

function registrations(path) {
  return Object.fromEntries(Object.entries(RUNTIMES).map(([name, runtimeArgs]) => [name, { path, runtimeArgs }]));
}

function registrationFailure() {
  const runtimes = JSON.stringify({ runtimes: registrations(`/usr/bin/${PROGRAM}`) });
  return new SetupFailure(
    `The engine doesn't have both of ${Object.keys(RUNTIMES).join(' and ')} (gVisor), and they can't be registered from here.`,
    `On the engine's machine: \`apt-get install ${PROGRAM}\`, ${runtimes} into /etc/docker/daemon.json, and SIGHUP to dockerd.
SANDYARD_TEST_WITHOUT_GVISOR=1 leaves out the tests that need it.`,
  );
}
