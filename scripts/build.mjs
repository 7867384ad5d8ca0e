import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { ROOT, SetupFailure, hashContents, isMain, reportFailure } from './setup/common.mjs';
import { bundlePrograms } from './setup/programs.mjs';

const DIST = join(ROOT, 'dist');
const STAMP = join(DIST, '.stamp');
const INPUTS = [
  'src',
  'tsconfig.json',
  'tsconfig.build.json',
  'package-lock.json',
  'scripts/build.mjs',
  'scripts/setup/programs.mjs',
];

const SWAGGER_UI = join(ROOT, 'node_modules/swagger-ui-dist');
const SWAGGER_FILES = [
  'swagger-ui-bundle.js',
  'swagger-ui-bundle.js.LICENSE.txt',
  'swagger-ui.css',
  'favicon-32x32.png',
  'LICENSE',
  'NOTICE',
];

/** Fills dist from src. Does nothing when dist is what these sources give already. Says whether it built. */
export async function build({ log = console.log } = {}) {
  const hash = hashContents(INPUTS);
  if (isBuilt(hash)) return false;
  log('Compiling src into dist …');
  // Without its stamp, a dist that is half written is never taken for a good one
  rmSync(STAMP, { force: true });
  const compiled = [...compile(), ...copyDocs()];
  const { written, replaced } = await bundlePrograms();
  const files = [...compiled.filter((file) => !replaced.includes(file)), ...written];
  makeExecutable();
  removeAllBut(new Set(files));
  writeFileSync(STAMP, JSON.stringify({ hash, files: files.map((file) => relative(DIST, file)) }));
  return true;
}

function isBuilt(hash) {
  if (!existsSync(STAMP)) return false;
  const stamp = JSON.parse(readFileSync(STAMP, 'utf8'));
  return stamp.hash === hash && stamp.files.every((file) => existsSync(join(DIST, file)));
}

/** The files that the compiler wrote. */
function compile() {
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  if (!existsSync(tsc)) throw new SetupFailure('The compiler is not installed.', 'Run `npm ci` first.');
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [tsc, '-p', 'tsconfig.build.json', '--listEmittedFiles', '--pretty', 'false'],
    { cwd: ROOT, encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 },
  );
  const emitted = [...stdout.matchAll(/^TSFILE: +(.+)$/gm)].map((match) => match[1]);
  if (status !== 0) {
    const problems = `${stdout}${stderr}`.replaceAll(/^TSFILE: .*\n/gm, '').trim();
    throw new SetupFailure(`The sources do not compile.\n${problems}`);
  }
  return emitted;
}

/** The programs of the package, which npm makes executable only where it installs them. */
function makeExecutable() {
  const { bin = {} } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  for (const path of Object.values(bin)) chmodSync(join(ROOT, path), 0o755);
}

/** Copies what the page at /docs needs, so that a packed Sandyard needs no package for it. */
function copyDocs() {
  const folder = join(DIST, 'http/docs');
  mkdirSync(folder, { recursive: true });
  return SWAGGER_FILES.map((name) => {
    const target = join(folder, name);
    copyFileSync(join(SWAGGER_UI, name), target);
    return target;
  });
}

/** Files go one by one rather than the folder at once, so that a service that runs from dist keeps what it needs. */
function removeAllBut(keep) {
  for (const entry of readdirSync(DIST, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath ?? entry.path, entry.name);
    if (entry.isFile() && !keep.has(path)) rmSync(path);
  }
  removeEmptyFolders(DIST);
}

function removeEmptyFolders(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) removeEmptyFolders(join(folder, entry.name));
  }
  if (readdirSync(folder).length === 0) rmSync(folder, { recursive: true });
}

if (isMain(import.meta.url)) {
  try {
    if (!(await build())) console.log(`${relative(ROOT, dirname(STAMP))} is up to date.`);
  } catch (error) {
    reportFailure(error);
  }
}
