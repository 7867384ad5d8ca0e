import type { Limits } from '../config.js';
import { proxyVariables } from '../egress/endpoint.js';
import { planSecrets, toTraits, toVariables, type PlannedSecret } from '../egress/secrets.js';
import { trustVariables } from '../egress/trust.js';
import type { ContainerSpec, DirectoryMount, EgressEndpoint, ImageInfo, VolumeMount } from '../engine/engine.js';
import { SandyardError } from '../errors.js';
import { isRoot, toUserIds } from '../process/users.js';
import { boundDisk } from './disk-bounds.js';
import { toPidsLimit, type SettledOptions } from './isolating.js';
import { toReadOnlyRoot } from './strict.js';
import { containerName, poolName, quotaLabel, toLabels, type MadeFor, type SandboxTraits } from '../record/record.js';
import { formatSize, type ParsedCreateOptions } from '../schemas.js';
import { WARDEN_PATH } from '../warden.js';

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

/** How long a sandbox has to be given to somebody: much longer than all that is to be done until then takes. */
const SETUP_MS = 120_000;

export interface PlanDefaults {
  readonly id: string;
  readonly owner: string;
  readonly image: string;
  readonly limits: Limits;
  /** The pool that it is for: nobody has asked for it yet. */
  readonly pool?: string | undefined;
  readonly madeFor?: MadeFor | undefined;
  readonly tenant?: string | undefined;
}

export interface SandboxPlan {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly traits: SandboxTraits;
  readonly projectName: string | null;
  readonly tenant: string | null;
  readonly maxLifetimeMs: number;
  readonly labels: Readonly<Record<string, string>>;
  /** With placeholders in it. */
  readonly env: Readonly<Record<string, string>>;
  readonly secrets: readonly PlannedSecret[];
  /** Whether it is to have labels that its caller wants. */
  readonly hasOwnLabels: boolean;
}

/**
 * Of what `Isolating` has settled. Throws `limit_exceeded`, naming each ceiling that is exceeded, and `validation_failed`
 * for what its profile can't have.
 */
export function planSandbox(given: SettledOptions, defaults: PlanDefaults): SandboxPlan {
  const { id, owner, tenant, image, limits, pool, madeFor } = defaults;
  const profile = given.profile ?? 'standard';
  const { mode: disk, diskBytes, inodes } = boundDisk(given, { profile, bounding: given.bounding, limits });
  const maxLifetimeMs = given.maxLifetimeMs ?? limits.maxLifetimeMs;
  const secrets = planSecrets(given);
  const traits: SandboxTraits = {
    limits: { ...applyLimits(given, limits), diskBytes, inodes },
    network: given.network ?? 'none',
    secrets: toTraits(secrets),
    workdir: given.workdir ?? WORKSPACE,
    user: given.user ?? 'sandbox',
    ttlMs: given.ttlMs ?? Math.min(limits.ttlMs, maxLifetimeMs),
    idleTimeoutMs: given.idleTimeoutMs ?? null,
    onExpiry: given.onExpiry ?? 'destroy',
    wakeOnUse: given.wakeOnUse ?? false,
    runtime: given.runtime ?? null,
    profile,
    disk,
    metadata: given.metadata ?? {},
  };
  checkProfile(traits);
  const { projectName } = given;
  const about = { id, owner, tenant, projectName, createdAt: new Date(), maxLifetimeMs, pool, madeFor };
  return {
    id,
    name: pool === undefined ? containerName(id) : poolName(id),
    image: given.image ?? image,
    traits,
    projectName: projectName ?? null,
    tenant: tenant ?? null,
    maxLifetimeMs,
    // Most are planned to be claimed, which makes no container.
    get labels() {
      return { ...given.labels, ...toLabels(traits, about) };
    },
    env: { ...given.env, ...toVariables(secrets) },
    secrets,
    hasOwnLabels: Object.keys(given.labels ?? {}).length > 0,
  };
}

interface SpecParts {
  readonly volume?: VolumeMount | undefined;
  readonly egress?: EgressEndpoint | undefined;
  /** In which managers listen for its warden. */
  readonly directory?: DirectoryMount | undefined;
  /** By the engine's clock: what was changed since then, the sandbox has written. Default: now, by ours. */
  readonly madeAt?: Date | undefined;
}

/** The container of a planned sandbox, on an image that is there; `volume` brings the warden where the image has none. */
export function toSpec(
  plan: SandboxPlan,
  image: ImageInfo,
  { volume, egress, directory, madeAt = new Date() }: SpecParts = {},
): ContainerSpec {
  const { id, name, traits, labels } = plan;
  const { profile, limits, runtime } = traits;
  const user = toUserIds(traits.user);
  const { quotaBytes, ...diskSpec } = toDiskSpec(traits, image);
  const trust = plan.secrets.some(({ interceptTls }) => interceptTls) ? trustVariables() : {};
  const env = { HOME, ...(egress && proxyVariables(egress)), ...trust, ...plan.env };
  return {
    name,
    image: plan.image,
    labels: { ...labels, ...(quotaBytes !== undefined && quotaLabel(quotaBytes)) },
    env: Object.entries(env).map(([variable, value]) => `${variable}=${value}`),
    entrypoint: [
      WARDEN_PATH,
      'init',
      ...wardenArguments(plan, image),
      ...diskArguments(traits, madeAt),
      ...(directory === undefined ? [] : [`--sockets=${directory.target}`]),
    ],
    workdir: traits.workdir,
    hostname: id,
    network: typeof traits.network === 'string' ? traits.network : 'none',
    ...(egress && { egress }),
    memoryBytes: limits.memoryBytes,
    cpus: limits.cpus,
    nofile: limits.nofile,
    pids: toPidsLimit(limits.pids, runtime),
    ...diskSpec,
    ...(quotaBytes !== undefined && { quotaBytes }),
    ...(volume && { volume }),
    ...(directory && { directory }),
    ...(runtime !== null && { runtime }),
    ...(profile === 'dev' && { rootCommands: true }),
    ...(profile === 'strict' && {
      readOnly: toReadOnlyRoot(limits.memoryBytes, { user, workspace: WORKSPACE, home: HOME }),
    }),
  };
}

function toDiskSpec(
  { disk, limits: { diskBytes, inodes } }: SandboxTraits,
  image: ImageInfo,
): Pick<ContainerSpec, 'quotaBytes' | 'watched'> {
  // Where the root is no overlay it is a copy of the image, which counts for its quota.
  const imageBytes = inodes === null ? image.bytes : 0;
  return {
    ...(disk === 'quota' && diskBytes !== null && { quotaBytes: diskBytes + imageBytes }),
    ...(inodes !== null && { watched: true }),
  };
}

function diskArguments({ limits: { diskBytes, inodes } }: SandboxTraits, madeAt: Date): string[] {
  if (diskBytes === null || inodes === null) return [];
  return [`--disk-bytes=${diskBytes}`, `--disk-inodes=${inodes}`, `--disk-since-ms=${madeAt.getTime()}`];
}

/** What can't be kept is refused, and not promised. */
function checkProfile({ profile, user, workdir, onExpiry }: SandboxTraits): void {
  const isWithin = (root: string) => workdir === root || workdir.startsWith(`${root}/`);
  const isLost = OWNED_ROOTS.some(isWithin) && !isWithin(WORKSPACE) && !isWithin(HOME);
  const faults = [
    { path: ['user'], isWrong: isRoot(user) && profile !== 'dev', message: 'may be root only with the profile "dev"' },
    {
      path: ['onExpiry'],
      isWrong: profile === 'strict' && onExpiry === 'stop',
      message: 'can\'t be "stop" with the profile "strict": its files are in memory, and a stop would lose them',
    },
    {
      path: ['workdir'],
      isWrong: profile === 'strict' && isLost,
      message: `must be at or below ${WORKSPACE}, ${HOME} or /tmp with the profile "strict": all else is read-only`,
    },
  ].filter(({ isWrong }) => isWrong);
  const [first] = faults;
  if (first === undefined) return;
  throw new SandyardError('validation_failed', `Invalid create options: ${first.path.join('.')}: ${first.message}.`, {
    hint: 'Use another profile, or leave it out.',
    issues: faults.map(({ path, message }) => ({ path, message })),
  });
}

/** The lease that it is to have, and what else the warden needs to know; later starts go by its own record. */
function wardenArguments({ traits, maxLifetimeMs }: SandboxPlan, image: ImageInfo): string[] {
  const { uid, gid } = toUserIds(traits.user);
  return [
    `--setup-ms=${SETUP_MS}`,
    `--ttl-ms=${traits.ttlMs}`,
    ...(traits.idleTimeoutMs === null ? [] : [`--idle-ms=${traits.idleTimeoutMs}`]),
    `--on-expiry=${traits.onExpiry}`,
    `--last-ms=${maxLifetimeMs}`,
    `--nofile=${traits.limits.nofile}`,
    ...(traits.profile === 'dev' ? ['--root-commands'] : []),
    ...ownedDirectories(traits, image).map((path) => `--own=${uid}:${gid}:${path}`),
  ];
}

/** The directories that the sandbox needs and its image may lack, each after the one that it is in. */
function ownedDirectories({ workdir, user }: SandboxTraits, image: ImageInfo): string[] {
  const prepared = image.labels[PREPARED_IMAGE_LABEL] !== undefined && user === 'sandbox';
  const directories = new Set(prepared ? [] : [WORKSPACE, HOME]);
  const root = OWNED_ROOTS.find((candidate) => workdir === candidate || workdir.startsWith(`${candidate}/`));
  if (root !== undefined && !(prepared && workdir === WORKSPACE)) {
    const below = workdir.slice(root.length).split('/').filter(Boolean);
    for (let depth = 0; depth <= below.length; depth++) directories.add([root, ...below.slice(0, depth)].join('/'));
  }
  return [...directories];
}

interface Ceiling {
  readonly field: keyof ParsedCreateOptions;
  readonly what: string;
  readonly value: number;
  readonly ceiling: number;
  readonly show?: (value: number) => string;
}

function applyLimits(
  given: ParsedCreateOptions,
  limits: Limits,
): Omit<SandboxTraits['limits'], 'diskBytes' | 'inodes'> {
  const asked = {
    memoryBytes: given.memoryLimit ?? Math.min(limits.memoryBytes, limits.maxMemoryBytes),
    cpus: given.cpuLimit ?? Math.min(limits.cpus, limits.maxCpus),
    pids: given.pidsLimit ?? Math.min(limits.pids, limits.maxPids),
    nofile: given.nofileLimit ?? Math.min(limits.nofile, limits.maxNofile),
  };
  const memory = { value: asked.memoryBytes, ceiling: limits.maxMemoryBytes, show: formatSize };
  const disk = { value: given.diskLimit ?? 0, ceiling: limits.maxDiskBytes, show: formatSize };
  const lifetime = { value: given.maxLifetimeMs ?? 0, ceiling: limits.maxLifetimeMs, show: formatMs };
  const lease = { value: given.ttlMs ?? 0, ceiling: given.maxLifetimeMs ?? limits.maxLifetimeMs, show: formatMs };
  const ceilings: Ceiling[] = [
    { field: 'memoryLimit', what: 'Memory', ...memory },
    { field: 'cpuLimit', what: 'CPUs', value: asked.cpus, ceiling: limits.maxCpus },
    { field: 'pidsLimit', what: 'Processes', value: asked.pids, ceiling: limits.maxPids },
    { field: 'nofileLimit', what: 'Open files', value: asked.nofile, ceiling: limits.maxNofile },
    { field: 'diskLimit', what: 'Disk', ...disk },
    { field: 'inodesLimit', what: 'Files', value: given.inodesLimit ?? 0, ceiling: limits.maxInodes },
    { field: 'maxLifetimeMs', what: 'Longest lifetime', ...lifetime },
    { field: 'ttlMs', what: 'Lease', ...lease },
  ];
  const exceeded = ceilings.filter(({ value, ceiling }) => value > ceiling);
  const [first] = exceeded;
  if (first === undefined) return asked;
  const tell = ({ value, ceiling, show = String }: Ceiling) =>
    `${show(value)} is above the ceiling of ${show(ceiling)}`;
  throw new SandyardError('limit_exceeded', `${first.what}: ${tell(first)}.`, {
    hint: 'Ask for less, or have the operator raise the SANDBOX_MAX_ setting.',
    issues: exceeded.map((one) => ({ path: [one.field], message: tell(one) })),
  });
}

function formatMs(ms: number): string {
  return `${ms} ms`;
}
