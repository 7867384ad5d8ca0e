import { Readable } from 'node:stream';
import { pack } from 'tar-stream';

import type { Limits } from './config.js';
import type { ContainerSpec, ImageInfo } from './engine/engine.js';
import { SandyardError, type InputIssue } from './errors.js';
import { toUidGid } from './process.js';
import { containerName, toLabels, type SandboxTraits } from './record.js';
import { formatSize, type ParsedCreateOptions } from './schemas.js';

/*
 * What a sandbox is made as: from what was asked for and the manager's defaults and ceilings. Pure; the manager makes it
 * so.
 */

const HOME = '/home/sandbox';
const WORKSPACE = '/workspace';
/** An image with this label has the user, its home and /workspace already. */
const PREPARED_IMAGE_LABEL = 'sandyard.image';
/** Below these a working directory is made, and given to the sandbox's user; elsewhere it stays as the image has it. */
const OWNED_ROOTS = [WORKSPACE, HOME, '/app', '/data', '/srv'];

export interface PlanDefaults {
  readonly id: string;
  readonly owner: string;
  readonly image: string;
  readonly limits: Limits;
}

/** Throws `limit_exceeded`, naming each ceiling that is exceeded. */
export function planSandbox(
  given: ParsedCreateOptions,
  { id, owner, image, limits }: PlanDefaults,
): { spec: ContainerSpec; traits: SandboxTraits } {
  const traits: SandboxTraits = {
    limits: applyLimits(given, limits),
    network: given.network ?? 'none',
    workdir: given.workdir ?? WORKSPACE,
    user: given.user ?? 'sandbox',
    ttlMs: given.ttlMs ?? Math.min(limits.ttlMs, limits.maxLifetimeMs),
    idleTimeoutMs: given.idleTimeoutMs ?? null,
    metadata: given.metadata ?? {},
  };
  const labels = toLabels(traits, {
    id,
    owner,
    projectName: given.projectName,
    createdAt: new Date(),
    maxLifetimeMs: limits.maxLifetimeMs,
  });
  const spec: ContainerSpec = {
    name: containerName(id),
    image: given.image ?? image,
    labels: { ...given.labels, ...labels },
    env: Object.entries({ HOME, ...given.env }).map(([name, value]) => `${name}=${value}`),
    entrypoint: ['sleep', 'infinity'],
    workdir: traits.workdir,
    hostname: id,
    network: traits.network,
    ...traits.limits,
  };
  return { spec, traits };
}

/** The directories that the sandbox needs and its image may lack, as a tar; `undefined` where it lacks none. */
export function packHome({ workdir, user }: SandboxTraits, image: ImageInfo): Readable | undefined {
  const prepared = image.labels[PREPARED_IMAGE_LABEL] !== undefined && user === 'sandbox';
  if (prepared && workdir === WORKSPACE) return undefined;
  const directories = new Set(prepared ? [] : [WORKSPACE, HOME]);
  const root = OWNED_ROOTS.find((candidate) => workdir === candidate || workdir.startsWith(`${candidate}/`));
  if (root !== undefined) {
    const below = workdir.slice(root.length).split('/').filter(Boolean);
    // Each one above it, too: what an archive leaves out the engine makes for root alone.
    for (let depth = 0; depth <= below.length; depth++) directories.add([root, ...below.slice(0, depth)].join('/'));
  }
  if (directories.size === 0) return undefined;
  const [uid = 1000, gid = 1000] = toUidGid(user).split(':').map(Number);
  const tar = pack();
  for (const path of directories) tar.entry({ name: path.slice(1), type: 'directory', mode: 0o755, uid, gid });
  tar.finalize();
  return Readable.from(tar);
}

function applyLimits(given: ParsedCreateOptions, limits: Limits): SandboxTraits['limits'] {
  const asked = {
    memoryBytes: given.memoryLimit ?? Math.min(limits.memoryBytes, limits.maxMemoryBytes),
    cpus: given.cpuLimit ?? Math.min(limits.cpus, limits.maxCpus),
    pids: given.pidsLimit ?? Math.min(limits.pids, limits.maxPids),
    nofile: given.nofileLimit ?? Math.min(limits.nofile, limits.maxNofile),
  };
  const ceilings: [field: string, asked: number, ceiling: number, show?: (value: number) => string][] = [
    ['memoryLimit', asked.memoryBytes, limits.maxMemoryBytes, formatSize],
    ['cpuLimit', asked.cpus, limits.maxCpus],
    ['pidsLimit', asked.pids, limits.maxPids],
    ['nofileLimit', asked.nofile, limits.maxNofile],
    ['ttlMs', given.ttlMs ?? 0, limits.maxLifetimeMs, (ms) => `${ms} ms`],
  ];
  const issues: InputIssue[] = ceilings
    .filter(([, value, ceiling]) => value > ceiling)
    .map(([field, value, ceiling, show = String]) => ({
      path: [field],
      message: `${show(value)} is above the ceiling of ${show(ceiling)}`,
    }));
  const [first] = issues;
  if (first === undefined) return asked;
  throw new SandyardError('limit_exceeded', `${first.path.join('.')}: ${first.message}.`, {
    hint: 'Ask for less, or have the operator raise the SANDBOX_MAX_ setting.',
    issues,
  });
}
