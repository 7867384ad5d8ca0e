import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, SetupFailure, diskHint, run } from './common.mjs';

const MINIMUM = [20, 19];

export function checkNode(version = process.versions.node) {
  const [major, minor] = version.split('.').map(Number);
  if (major > MINIMUM[0] || (major === MINIMUM[0] && minor >= MINIMUM[1])) return;
  throw new SetupFailure(
    `Sandyard needs Node.js ${MINIMUM.join('.')} or newer, and this is ${version}.`,
    'Install a newer one, for example with `nvm install 22` or from https://nodejs.org, and run this again.',
  );
}

/** Installs what package-lock.json asks for, unless it is there. */
export async function ensurePackages({ log }) {
  if (packagesAreCurrent()) return;
  log('Installing the packages of package-lock.json (npm ci) …');
  try {
    // Under NODE_ENV=production npm would leave out the compiler
    await run('npm', ['ci', '--include=dev', '--no-audit', '--no-fund'], { log });
  } catch (error) {
    throw new SetupFailure(`The packages could not be installed.\n${error.message}`, hintFor(error), { cause: error });
  }
}

/**
 * Compares the lock with the copy of it that npm leaves in node_modules. A package that is optional may be absent: it is
 * for another platform.
 */
function packagesAreCurrent() {
  const wanted = readLock(join(ROOT, 'package-lock.json'));
  const found = readLock(join(ROOT, 'node_modules/.package-lock.json'));
  if (wanted === undefined || found === undefined) return false;
  return Object.entries(wanted).every(([path, entry]) => {
    if (path === '') return true;
    const installed = found[path];
    if (installed === undefined) return entry.optional === true || entry.devOptional === true;
    return (
      installed.version === entry.version && installed.integrity === entry.integrity && existsSync(join(ROOT, path))
    );
  });
}

function readLock(path) {
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')).packages : undefined;
}

function hintFor(error) {
  const text = error.message;
  if (error.code === 'ENOENT') return 'npm was not found. It comes with Node.js; install it and run this again.';
  if (/can only install .* in sync|EUSAGE/.test(text)) {
    return 'package.json and package-lock.json disagree: run `npm install` and run this again.';
  }
  if (/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ECONNRESET/.test(text)) {
    return 'The package registry could not be reached. Check the network, or set a proxy or mirror with `npm config set`.';
  }
  if (/SELF_SIGNED_CERT|UNABLE_TO_GET_ISSUER|UNABLE_TO_VERIFY/.test(text)) {
    return 'A proxy opens TLS here: set NODE_EXTRA_CA_CERTS to the file with its certificate, and run this again.';
  }
  return diskHint(text) ?? 'Run `npm ci` by itself to see more.';
}
