import type Docker from 'dockerode';

import type { ContainerSpec, DirectoryMount, EgressEndpoint, ReadOnlyRoot, VolumeMount } from './engine.js';
import { SECCOMP_PROFILE } from './seccomp-profile.js';

/** PID 1 is the warden, and root, so that user code, which never is, can neither signal nor read it. */
const INIT_USER = '0:0';

/**
 * All that the warden has of root's powers, and only it has them: it starts everything else without any. CHOWN gives a
 * sandbox's user its directories, KILL ends that user's processes, SETUID and SETGID make what it starts that user's,
 * and SETPCAP takes the capabilities from what it starts, for good.
 */
const INIT_CAPABILITIES = ['CHOWN', 'KILL', 'SETGID', 'SETPCAP', 'SETUID'];

/**
 * What root commands need besides to install packages, where a sandbox may have such commands: apt fails without any of
 * them. Of the warden's own they get all but SETPCAP.
 */
const ROOT_COMMAND_CAPABILITIES = ['DAC_OVERRIDE', 'FOWNER'];

/** By which it can look into any directory to see what was written there, whatever its mode; with root's commands it can anyway. */
const WATCHING_CAPABILITY = 'DAC_READ_SEARCH';

/** So many files the warden has room for, whatever user code may open: for each process it keeps a few. */
const LEAST_NOFILE = 8192;

const SHM_BYTES = 64 * 1024 * 1024;

/** Has the warden end what runs, and then itself. */
const STOP_SIGNAL = 'SIGTERM';

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
    StopSignal: STOP_SIGNAL,
    // A health check of the image's would run commands that nobody asked for.
    Healthcheck: { Test: ['NONE'] },
    // PID 1 has its first tunnel by these. When whoever has attached to it goes, it reads the end of its input.
    OpenStdin: true,
    StdinOnce: true,
    Tty: false,
    NetworkDisabled: isLeftToRuntime(spec),
    HostConfig: toHostConfig(spec),
    ...(spec.egress && { NetworkingConfig: { EndpointsConfig: { [spec.egress.network]: toEndpoint(spec.egress) } } }),
  };
}

/**
 * Whether the runtime alone makes the network namespace, with loopback in it: all that a sandbox without a network needs.
 * The engine's own network `none` comes to the same, and takes a third to more than half of a start; and where containers
 * come and go at once, engines before 20.10.27 can deadlock in it. But only the engine can put names such as `localhost`
 * into a root that can't be written to.
 */
function isLeftToRuntime({ network, egress, readOnly }: ContainerSpec): boolean {
  return network === 'none' && egress === undefined && readOnly === undefined;
}

/**
 * In a network with nothing in it but a proxy. Names are looked up nowhere: the proxy's is known, and the sandbox's own
 * loopback, where nothing answers, ends all other lookups at once. Without IPv6, by which whatever has an interface there
 * could be reached, the engine's machine among it.
 */
function toEgressSettings({ proxy }: EgressEndpoint): Partial<Docker.HostConfig> {
  return {
    Dns: ['127.0.0.1'],
    DnsOptions: ['timeout:1', 'attempts:1'],
    ExtraHosts: [`${proxy.name}:${proxy.address}`],
    Sysctls: NO_IPV6,
  };
}

/** How large /dev/shm is: it is charged to the sandbox's memory, and must not be able to take all of it. */
export function toShmBytes(memoryBytes: number): number {
  return Math.min(SHM_BYTES, Math.floor(memoryBytes / 4));
}

/** dockerode's types lag behind the API by `CgroupnsMode`. */
function toHostConfig(spec: ContainerSpec): Docker.HostConfig & { CgroupnsMode: string } {
  const nofile = Math.max(spec.nofile, LEAST_NOFILE);
  return {
    Init: false, // the warden is PID 1, and reaps what loses its parent
    Privileged: false,
    CapDrop: ['ALL'],
    CapAdd: capabilitiesOf(spec),
    SecurityOpt: ['no-new-privileges:true', `seccomp=${SECCOMP_PROFILE}`],
    MaskedPaths: MASKED_PATHS,
    IpcMode: 'private',
    CgroupnsMode: 'private',
    NetworkMode: spec.egress?.network ?? spec.network,
    ...(spec.egress && toEgressSettings(spec.egress)),
    Binds: [],
    ...(spec.quotaBytes === undefined ? {} : { StorageOpt: { size: String(spec.quotaBytes) } }),
    ReadonlyRootfs: spec.readOnly !== undefined,
    ...(spec.readOnly === undefined ? {} : { Tmpfs: toTmpfs(spec.readOnly) }),
    Mounts: [
      ...(spec.volume === undefined ? [] : [toMount(spec.volume)]),
      ...(spec.readOnly === undefined ? [] : [toOwnVolume(spec.readOnly, spec.labels)]),
      ...(spec.directory === undefined ? [] : [toBind(spec.directory)]),
    ],
    ...(spec.runtime === undefined ? {} : { Runtime: spec.runtime }),
    // Commands answer over their own streams; a log driver would let a sandbox fill the host's disk.
    LogConfig: { Type: 'none', Config: {} },
    RestartPolicy: { Name: 'no' },
    AutoRemove: false,
    Memory: spec.memoryBytes,
    MemorySwap: spec.memoryBytes, // memory and swap together: no swap
    NanoCpus: Math.round(spec.cpus * 1e9),
    PidsLimit: spec.pids,
    ShmSize: toShmBytes(spec.memoryBytes),
    // PID 1 is the last of its sandbox to go when memory runs out. What it starts, it raises to 500: so that on a host
    // without memory sandboxes' commands go before the host's own processes.
    OomScoreAdj: 0,
    Ulimits: [
      { Name: 'nofile', Soft: nofile, Hard: nofile },
      { Name: 'core', Soft: 0, Hard: 0 },
      { Name: 'memlock', Soft: 65_536, Hard: 65_536 },
    ],
  };
}

/**
 * NoCopy, because the volume is many sandboxes': into an empty one the engine would copy what the sandbox's own image
 * has there.
 */
function toMount({ name, target }: VolumeMount): Docker.MountSettings {
  const VolumeOptions = { NoCopy: true } as NonNullable<Docker.MountSettings['VolumeOptions']>;
  return { Type: 'volume', Source: name, Target: target, ReadOnly: true, VolumeOptions };
}

function toBind({ source, target }: DirectoryMount): Docker.MountSettings {
  return { Type: 'bind', Source: source, Target: target, ReadOnly: true };
}

/** Of no name, so that it is this container's alone, and is removed with it. */
function toOwnVolume({ kept }: ReadOnlyRoot, labels: ContainerSpec['labels']): Docker.MountSettings {
  const VolumeOptions = { NoCopy: true, Labels: { ...labels } } as NonNullable<Docker.MountSettings['VolumeOptions']>;
  return { Type: 'volume', Source: '', Target: kept, ReadOnly: false, VolumeOptions };
}

/** Programs may be run from there, as from any directory; the engine would forbid it unless told so. */
function toTmpfs({ tmpfs }: ReadOnlyRoot): Record<string, string> {
  return Object.fromEntries(
    tmpfs.map(({ target, bytes, inodes, uid, gid, mode }) => [
      target,
      `rw,nosuid,nodev,exec,size=${bytes},nr_inodes=${inodes},uid=${uid},gid=${gid},mode=${mode.toString(8)}`,
    ]),
  );
}

function capabilitiesOf({ rootCommands = false, watched = false }: ContainerSpec): string[] {
  const more = watched ? [WATCHING_CAPABILITY] : [];
  return [...INIT_CAPABILITIES, ...(rootCommands ? ROOT_COMMAND_CAPABILITIES : more)].toSorted();
}

/** Of a container that may be in more networks later, too. */
export const NO_IPV6 = { 'net.ipv6.conf.all.disable_ipv6': '1', 'net.ipv6.conf.default.disable_ipv6': '1' };

function toEndpoint({ address }: EgressEndpoint): Docker.EndpointSettings {
  return { IPAMConfig: { IPv4Address: address } };
}
