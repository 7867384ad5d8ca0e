import { spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { SetupFailure, findProgram, run } from './common.mjs';
import { aptInstall, describeHost } from './host.mjs';

const LOG_FILE = '/var/log/sandyard-dockerd.log';
const START_MS = 60_000;
const STOP_MS = 60_000;

/**
 * Finds an engine that answers, and installs or starts one where that is possible.
 *
 * Gives its `address`, and `startedEngine`: false, or the `{ pid }` of the daemon that this call has started, or `{}` when
 * systemd has started it.
 */
export async function ensureEngine({ log }) {
  const { address, attempts } = await discover();
  if (address) return { address, startedEngine: false };
  if (process.env.DOCKER_HOST) throw hostFailure(attempts[0]);

  const denied = attempts.find(({ problem }) => problem === 'permission');
  if (denied) throw permissionFailure(denied);

  const host = describeHost();
  if (!findProgram('dockerd')) await installEngine(host, { log, attempts });
  else if (!host.isRoot) throw notRunningFailure(host, attempts);
  return startEngine(host, { log });
}

async function discover() {
  const { discoverEngine } = await import('../../dist/engine/discovery.js');
  return discoverEngine(process.env);
}

async function installEngine(host, { log, attempts }) {
  if (!host.isRoot || !host.hasApt) throw notInstalledFailure(host, attempts);
  log('No Docker engine was found: the one of the distribution will be installed and started.');
  const packages = ['docker.io', 'ca-certificates', 'iptables'];
  // Where the kernel has AppArmor on, no container starts without its parser
  if (isAppArmorOn()) packages.push('apparmor');
  // Without systemd nobody else mounts the control groups
  if (!existsSync('/sys/fs/cgroup/cgroup.controllers') && !existsSync('/sys/fs/cgroup/memory')) {
    packages.push('cgroupfs-mount');
  }
  await aptInstall(packages, { log });
  if (!findProgram('docker-init')) await aptInstall(['tini'], { log });
}

function isAppArmorOn() {
  const path = '/sys/module/apparmor/parameters/enabled';
  return existsSync(path) && readFileSync(path, 'utf8').startsWith('Y');
}

async function startEngine(host, { log }) {
  if (!host.hasSystemd) return spawnEngine({ log });
  log('Starting the Docker engine (systemctl start docker) …');
  try {
    await run('systemctl', ['start', 'docker'], { log });
  } catch (error) {
    throw new SetupFailure(
      `systemd could not start the engine.\n${error.message}`,
      'See `journalctl -u docker -n 50`.',
      {
        cause: error,
      },
    );
  }
  return { address: await waitForEngine(), startedEngine: {} };
}

/**
 * Starts dockerd by itself. The distribution's init script is no help without systemd: it raises a limit that a confined
 * root may not raise, and gives up.
 */
async function spawnEngine({ log }) {
  log(`Starting the Docker engine (dockerd, its log is ${LOG_FILE}) …`);
  const logFd = openSync(LOG_FILE, 'w');
  const child = spawn(findProgram('dockerd'), [], {
    detached: true,
    stdio: ['ignore', logFd, logFd],
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/local/sbin:/usr/sbin:/sbin` },
  });
  closeSync(logFd);
  child.unref();
  let ended;
  child.once('error', (error) => (ended = error.message));
  child.once('exit', (code, signal) => (ended = `it ended with ${signal ?? code}`));
  const address = await waitForEngine(() => ended);
  return { address, startedEngine: { pid: child.pid } };
}

async function waitForEngine(ended = () => undefined) {
  const deadline = Date.now() + START_MS;
  for (;;) {
    const { address } = await discover();
    if (address) return address;
    const reason = ended() ?? (Date.now() > deadline ? `it did not answer within ${START_MS / 1000} s` : undefined);
    if (reason !== undefined) throw startFailure(reason);
    await sleep(200);
  }
}

/** Stops an engine that `ensureEngine` started as a process of its own, and waits until it has ended. */
export async function stopEngine(startedEngine) {
  const pid = startedEngine?.pid;
  if (pid === undefined || !isAlive(pid)) return;
  process.kill(pid, 'SIGTERM');
  const deadline = Date.now() + STOP_MS;
  while (isAlive(pid)) {
    if (Date.now() > deadline) throw new Error(`dockerd (pid ${pid}) did not end within ${STOP_MS / 1000} s`);
    await sleep(100);
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    // One that has ended counts as dead even before anyone has asked for its status
    const state = /^State:\s+(\w)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return state !== 'Z';
  } catch {
    return false;
  }
}

function startFailure(reason) {
  const tail = existsSync(LOG_FILE) ? readFileSync(LOG_FILE, 'utf8').trimEnd().split('\n').slice(-15).join('\n') : '';
  const confined = /operation not permitted|permission denied|iptables.*failed|cgroup.*(mounted|not found)/i.test(tail);
  return new SetupFailure(
    `The Docker engine could not be started: ${reason}. Its log ends so:\n${tail}`,
    confined
      ? 'This machine does not let an engine run; it may be a container itself. Set DOCKER_HOST to an engine elsewhere.'
      : `The whole log is ${LOG_FILE}. When another dockerd is at work, stop it, or set DOCKER_HOST to its socket.`,
  );
}

function hostFailure({ where, detail }) {
  return new SetupFailure(
    `No Docker engine answers at DOCKER_HOST (${where}): ${detail}.`,
    'Start the engine that it names, correct it, or unset it to have the usual sockets tried.',
  );
}

function permissionFailure({ where }) {
  return new SetupFailure(
    `There is a Docker engine at ${where}, which this user may not use.`,
    'Join its group with `sudo usermod -aG docker "$USER"` and log in again, or run this with sudo.',
  );
}

function notRunningFailure(host, attempts) {
  const start = host.hasSystemd ? 'sudo systemctl start docker' : 'sudo dockerd';
  return new SetupFailure(
    `A Docker engine is installed, but none is running.\n${tried(attempts)}`,
    `Start it with \`${start}\`, or run this with sudo.`,
  );
}

function notInstalledFailure(host, attempts) {
  const advice = host.isDebianLike
    ? 'Install one with `sudo apt-get install docker.io` and `sudo usermod -aG docker "$USER"`, then log in again.'
    : process.platform === 'darwin'
      ? 'Start Docker Desktop, OrbStack or Colima (`colima start`), then run this again.'
      : `Install Docker (https://docs.docker.com/engine/install) and start it; for ${host.name} that is not done here.`;
  return new SetupFailure(
    `No Docker engine was found.\n${tried(attempts)}`,
    `${advice}\nAn engine elsewhere can be named with DOCKER_HOST.`,
  );
}

function tried(attempts) {
  return attempts.map(({ where, detail }) => `  ${where}: ${detail}`).join('\n');
}
