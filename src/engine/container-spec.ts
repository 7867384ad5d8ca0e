import type Docker from 'dockerode';

import { SandyardError } from '../errors.js';
import type { ContainerSpec } from './engine.js';

/**
 * The uid and gid of PID 1. It differs from the one that user code has, so that user code can neither signal PID 1, and
 * with it end the sandbox, nor write to its standard streams.
 */
const INIT_USER = '65532:65532';

/** /dev/shm is charged to the sandbox's memory: it must not be able to take all of it. */
const SHM_BYTES = 64 * 1024 * 1024;

/** What Docker masks by default, and what else tells more about the host than a sandbox needs. */
const MASKED_PATHS = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/cmdline',
  '/proc/config.gz',
  '/proc/diskstats',
  '/proc/interrupts',
  '/proc/kallsyms',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/partitions',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
];

/** Every setting that a sandbox is made with: the one place to read what a sandbox may do. */
export function toCreateOptions(spec: ContainerSpec): Docker.ContainerCreateOptions {
  return {
    name: spec.name,
    Image: spec.image,
    Labels: { ...spec.labels },
    Env: [...spec.env],
    Entrypoint: [...spec.entrypoint],
    Cmd: [],
    User: INIT_USER,
    WorkingDir: spec.workdir,
    Hostname: spec.hostname,
    // PID 1 has nothing to finish: commands are ended by the manager, and a stop shouldn't wait for `sleep`.
    StopSignal: 'SIGKILL',
    // A health check of the image's would run commands that nobody asked for.
    Healthcheck: { Test: ['NONE'] },
    OpenStdin: false,
    Tty: false,
    HostConfig: toHostConfig(spec),
  };
}

/** dockerode's types lag behind the API by `CgroupnsMode`. */
function toHostConfig(spec: ContainerSpec): Docker.HostConfig & { CgroupnsMode: string } {
  return {
    Init: true, // reaps what loses its parent
    Privileged: false,
    CapDrop: ['ALL'],
    CapAdd: [],
    SecurityOpt: ['no-new-privileges:true'], // and the engine's own seccomp profile, as nothing else is said
    MaskedPaths: MASKED_PATHS,
    IpcMode: 'private',
    CgroupnsMode: 'private',
    NetworkMode: spec.network,
    Binds: [],
    // Commands answer over their own streams; a log driver would let a sandbox fill the host's disk.
    LogConfig: { Type: 'none', Config: {} },
    RestartPolicy: { Name: 'no' },
    AutoRemove: false,
    Memory: spec.memoryBytes,
    MemorySwap: spec.memoryBytes, // memory and swap together: no swap
    NanoCpus: Math.round(spec.cpus * 1e9),
    PidsLimit: spec.pids,
    ShmSize: Math.min(SHM_BYTES, Math.floor(spec.memoryBytes / 4)),
    OomScoreAdj: 500, // the host's own processes go last
    Ulimits: [
      { Name: 'nofile', Soft: spec.nofile, Hard: spec.nofile },
      { Name: 'core', Soft: 0, Hard: 0 },
      { Name: 'memlock', Soft: 65_536, Hard: 65_536 },
    ],
  };
}

type Setting = string | number | boolean | undefined;

/**
 * Compares what the engine says it made with what was asked for: an engine may leave out a limit with no more than a
 * warning. Throws `engine_error` naming each setting that isn't in force.
 */
export function verifyApplied(spec: ContainerSpec, found: Docker.ContainerInspectInfo): void {
  const asked = toHostConfig(spec);
  const host = found.HostConfig;
  const checks: [setting: string, asked: Setting, found: Setting][] = [
    ['User', INIT_USER, found.Config.User],
    ['Privileged', false, host.Privileged ?? false],
    ['CapDrop', 'ALL', host.CapDrop?.join() ?? ''],
    ['CapAdd', '', host.CapAdd?.join() ?? ''],
    ['SecurityOpt', true, isHardened(host.SecurityOpt ?? [])],
    ['Binds', 0, (host.Binds?.length ?? 0) + (found.Mounts ?? []).filter((mount) => mount.Type === 'bind').length],
    ['NetworkMode', asked.NetworkMode, host.NetworkMode],
    ['PidMode', '', host.PidMode ?? ''],
    ['IpcMode', 'private', host.IpcMode],
    ['CgroupnsMode', 'private', (host as { CgroupnsMode?: string }).CgroupnsMode],
    ['MaskedPaths', MASKED_PATHS.join(), host.MaskedPaths?.join()],
    ['Ulimits', describeUlimits(asked.Ulimits), describeUlimits(host.Ulimits)],
    ['LogConfig', 'none', host.LogConfig?.Type],
    ['Memory', asked.Memory, host.Memory],
    ['MemorySwap', asked.MemorySwap, host.MemorySwap],
    ['NanoCpus', asked.NanoCpus, host.NanoCpus],
    ['PidsLimit', asked.PidsLimit, host.PidsLimit],
    ['ShmSize', asked.ShmSize, host.ShmSize],
    ['Init', true, host.Init ?? false],
  ];
  const wrong = checks.filter(([, askedValue, foundValue]) => askedValue !== foundValue);
  if (wrong.length === 0) return;
  const list = wrong.map(([setting, askedValue, foundValue]) => `${setting}: asked ${askedValue}, found ${foundValue}`);
  throw new SandyardError('engine_error', `The engine did not apply what was asked for (${list.join('; ')}).`, {
    hint: 'The engine or its kernel lacks a feature that Sandyard depends on; `docker info` lists warnings about it.',
  });
}

function describeUlimits(ulimits: Docker.HostConfig['Ulimits']): string {
  const limits = (ulimits ?? []) as { Name: string; Soft: number; Hard: number }[];
  return limits
    .map(({ Name, Soft, Hard }) => `${Name}=${Soft}:${Hard}`)
    .toSorted()
    .join();
}

/** An engine may add options of its own; none of them may take away what was asked for. */
function isHardened(options: readonly string[]): boolean {
  const loosened = options.some((option) => /[:=](false|unconfined|disable)$/.test(option));
  return !loosened && options.some((option) => /^no-new-privileges([:=]true)?$/.test(option));
}
