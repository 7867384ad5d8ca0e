import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** A failure that was foreseen: it is told by its message and by what to do next, without a stack trace. */
export class SetupFailure extends Error {
  constructor(message, hint, options) {
    super(message, options);
    this.name = 'SetupFailure';
    this.hint = hint;
  }
}

/** Prints a failure for the person who typed the command, and makes the process end with 1. */
export function reportFailure(error) {
  const foreseen = error.name === 'SetupFailure' || error.name === 'SandyardError';
  console.error(`\nerror: ${foreseen ? error.message : error.stack}`);
  if (error.hint) console.error(`\n${error.hint}`);
  process.exitCode = 1;
}

/** Reads the settings in .env. What the environment has already stays as it is. */
export function loadSettings() {
  const path = join(ROOT, '.env');
  if (existsSync(path)) process.loadEnvFile(path);
}

/** Whether a module was started by its name rather than imported. */
export function isMain(moduleUrl) {
  return process.argv[1] !== undefined && fileURLToPath(moduleUrl) === realpathSync(process.argv[1]);
}

/** The files at and below `paths`, which are relative to the root, in an order that is always the same. */
function listFiles(paths) {
  return paths.flatMap((path) => {
    const absolute = join(ROOT, path);
    if (!existsSync(absolute)) return [];
    if (!statSync(absolute).isDirectory()) return [path];
    return listFiles(
      readdirSync(absolute)
        .sort()
        .map((name) => join(path, name)),
    );
  });
}

/** A hash over names and contents of the files, and over `extra`. */
export function hashContents(paths, extra = []) {
  const hash = createHash('sha256');
  for (const path of listFiles(paths)) {
    const content = readFileSync(join(ROOT, path));
    hash.update(`${path}\0${content.length}\0`).update(content);
  }
  return hash.update(JSON.stringify(extra)).digest('hex');
}

/** The path of a program that PATH has, or undefined. Also looks where root's programs are, which PATH may leave out. */
export function findProgram(name) {
  return [...(process.env.PATH ?? '').split(':'), '/usr/local/sbin', '/usr/sbin', '/sbin']
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path));
}

/**
 * Something that takes each line of a long output, and shows `log` one of them every now and then, and each that is
 * `important`. What led to a failure is in its `tail()`.
 */
export function progress(log, { important = () => false, everyMs = 2000 } = {}) {
  const lines = [];
  let shownAt = Date.now();
  const show = (line) => {
    lines.push(line);
    if (lines.length > 40) lines.shift();
    if (!important(line) && Date.now() - shownAt < everyMs) return;
    shownAt = Date.now();
    const short = line.replaceAll(/\s+/g, ' ').trim();
    log?.(`  ${short.length > 110 ? `${short.slice(0, 109)}…` : short}`);
  };
  return Object.assign(show, { tail: (count = 20) => lines.slice(-count).join('\n') });
}

/** Runs a program to its end. Throws with the end of its output in the message when it fails. */
export async function run(command, args, { log, env } = {}) {
  const child = spawn(command, args, {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const show = progress(log);
  for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', show);
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} failed with ${code}:\n${show.tail()}`);
}

/** What to do about a full disk, or undefined when `text` tells of something else. */
export function diskHint(text) {
  if (!/ENOSPC|no space left on device|disk quota exceeded/i.test(text)) return undefined;
  return 'Make room on the disk: `docker system df` shows what Docker holds there, `docker image prune` removes images that nothing uses.';
}
