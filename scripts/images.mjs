import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { stripVTControlCharacters } from 'node:util';
import { findProgram } from './setup/common.mjs';

const STALL_MS = 120_000;

/** A dockerode client for an address as src/engine/discovery.ts gives it. dockerode is loaded only here: set-up starts without it. */
export async function connect(address) {
  const { default: Docker } = await import('dockerode');
  if (address.kind === 'unix') return new Docker({ socketPath: address.socketPath });
  const { host, port, tls } = address;
  return new Docker({ host, port, protocol: tls ? 'https' : 'http', ...tls });
}

export async function hasImage(docker, name) {
  try {
    await docker.getImage(name).inspect();
    return true;
  } catch (error) {
    if (error.statusCode === 404) return false;
    throw error;
  }
}

/** Pulls an image. Rejects when the engine says why it can't, or says nothing for `stallMs`. */
export async function pullImage(docker, { name, onProgress, stallMs = STALL_MS }) {
  const tagged = /[:@][^/]*$/.test(name) ? name : `${name}:latest`;
  await follow((abortSignal) => docker.pull(tagged, { abortSignal }), { onProgress, stallMs });
}

/**
 * Builds an image through the engine's API, which needs no docker program.
 *
 * @param options.context    folder that the paths are relative to
 * @param options.include    files and folders of it that are sent; the Dockerfile is always among them
 * @param options.dockerfile path of the Dockerfile in the context
 * @param options.target     stage to stop at; the last one when absent
 * @param options.onProgress gets each line of output
 */
export async function buildImage(docker, options) {
  const {
    context,
    dockerfile,
    tag,
    target,
    include = [],
    buildArgs = {},
    stallMs = 10 * STALL_MS,
    onProgress,
  } = options;
  const { default: tar } = await import('tar-fs');
  // Owner and group of this checkout must not decide whether the engine's build cache applies
  const pack = tar.pack(context, {
    entries: [...new Set([dockerfile, ...include])],
    map: (header) => Object.assign(header, { uid: 0, gid: 0 }),
  });
  const settings = { t: tag, dockerfile, buildargs: buildArgs, rm: true, forcerm: true, ...(target && { target }) };
  const stages = [];
  await follow((abortSignal) => docker.buildImage(pack, { ...settings, abortSignal }), {
    stallMs,
    onProgress: (line) => {
      noteStage(stages, line);
      onProgress?.(line);
    },
  });
  await removeStages(docker, stages);
}

/** Keeps in `stages` the ids of the images that the classic builder prints; a FROM begins the next stage. */
function noteStage(stages, line) {
  if (/^Step \d+\/\d+ : FROM /i.test(line)) stages.push(undefined);
  const id = /^ ---> ([0-9a-f]{12})$/.exec(line)?.[1];
  if (id !== undefined && stages.length > 0) stages[stages.length - 1] = id;
}

/** The classic builder leaves each earlier stage behind as an image without a name, which nobody would ever look for. */
async function removeStages(docker, stages) {
  for (const id of stages.slice(0, -1)) {
    // One that has a name (a stage may be a bare FROM) or is in use by another build stays
    const tags =
      id &&
      (
        await docker
          .getImage(id)
          .inspect()
          .catch(() => undefined)
      )?.RepoTags;
    if (tags?.length === 0)
      await docker
        .getImage(id)
        .remove()
        .catch(() => undefined);
  }
}

/**
 * Makes a base image out of a Debian or Ubuntu package mirror, where no registry can be reached. Needs root and
 * mmdebstrap.
 *
 * @param options.suite   such as `bookworm`
 * @param options.mirror  apt source lines or addresses; one or more
 * @param options.include packages beyond the smallest set that has apt
 */
export async function bootstrapBase(docker, { suite, mirror, include = [], tag, onProgress }) {
  const program = findProgram('mmdebstrap');
  if (program === undefined) throw new Error('mmdebstrap is not installed');
  const excludes = ['doc', 'man', 'info', 'locale', 'lintian'].map(
    (name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`,
  );
  const child = spawn(
    program,
    [
      '--variant=minbase',
      '--format=tar',
      // Ubuntu doesn't count apt among what a system can't be without
      `--include=${['apt', ...include].join(',')}`,
      ...excludes,
      '--dpkgopt=path-include=/usr/share/doc/*/copyright',
      suite,
      '-',
      ...[mirror].flat(),
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const lines = [];
  createInterface({ input: child.stderr }).on('line', (line) => {
    lines.push(line);
    onProgress?.(line);
  });
  const closed = once(child, 'close');
  const [repo, version] = tag.split(':');
  try {
    // The archive goes from one to the other without touching the disk
    const imported = follow(
      (abortSignal) => docker.importImage(child.stdout, { repo, tag: version ?? 'latest', abortSignal }),
      { stallMs: 10 * STALL_MS },
    );
    const [, [code]] = await Promise.all([imported, closed]);
    if (code === 0) return;
  } catch (error) {
    child.kill();
    throw new Error(`The base image could not be imported: ${error.message}\n${lines.slice(-10).join('\n')}`, {
      cause: error,
    });
  }
  // The engine takes an archive that breaks off for a whole one
  await docker
    .getImage(tag)
    .remove()
    .catch(() => undefined);
  throw new Error(`mmdebstrap failed:\n${lines.slice(-10).join('\n')}`);
}

/**
 * Reads one of the engine's progress streams to its end. An `error` in it is the only sign of a failure; what dockerode
 * offers for this takes it for a success.
 */
async function follow(start, { onProgress, stallMs }) {
  const controller = new AbortController();
  let timer;
  const touch = () => {
    clearTimeout(timer);
    timer = setTimeout(() => controller.abort(new Error(`The engine said nothing for ${stallMs / 1000} s`)), stallMs);
  };
  const aborted = once(controller.signal, 'abort').then(() => Promise.reject(controller.signal.reason));
  touch();
  try {
    const reading = start(controller.signal).then((stream) => readEvents(stream, { onProgress, touch }));
    await Promise.race([reading, aborted]);
  } catch (error) {
    // The client puts a preface before what the engine says
    error.message = error.message.replace(/^\(HTTP code \d+\) [^-]*- /, '').trim();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

async function readEvents(stream, { onProgress, touch }) {
  const show = lineReader((line) => line.trim() !== '' && onProgress?.(stripVTControlCharacters(line).trimEnd()));
  const readEvent = lineReader((line) => {
    if (line.trim() === '') return;
    const { error, errorDetail, stream: output, id, status } = JSON.parse(line);
    if (error) throw new Error(errorDetail?.message ?? error);
    // A command's output comes in pieces that may end anywhere
    if (output !== undefined) show(output);
    else if (status) show(`${[id, status].filter(Boolean).join(': ')}\n`);
  });
  for await (const chunk of stream.setEncoding('utf8')) {
    touch();
    readEvent(chunk);
  }
  readEvent('\n');
  show('\n');
}

/** Takes text in pieces and hands on whole lines, but not the same line twice in a row: a pull repeats its status. */
function lineReader(onLine) {
  let rest = '';
  let previous;
  return (piece) => {
    const lines = (rest + piece).split(/\r?\n|\r/);
    rest = lines.pop();
    for (const line of lines) {
      if (line !== previous) onLine(line);
      previous = line;
    }
  };
}
