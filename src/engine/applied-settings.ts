import type Docker from 'dockerode';

import { SandyardError } from '../errors.js';
import { toCreateOptions } from './container-spec.js';
import type { AppliedSetting, ContainerSpec, EgressEndpoint, SettingsSeenInside } from './engine.js';
import { SECCOMP_PROFILE } from './seccomp-profile.js';

/* What the engine says that it made, beside what was asked for. */

type Setting = string | number | boolean | undefined;
type Comparison = [setting: string, asked: Setting, found: Setting];

/**
 * Compares what the engine says it made with what was asked for: an engine may leave out a limit with no more than a
 * warning. Throws `engine_error` naming each setting that isn't in force.
 */
export function verifyApplied(spec: ContainerSpec, found: Docker.ContainerInspectInfo): void {
  const wrong = compareSettings(spec, found).filter((setting) => setting.asked !== setting.found);
  if (wrong.length === 0) return;
  const list = wrong.map((setting) => `${setting.setting}: asked ${setting.asked}, found ${setting.found}`);
  throw new SandyardError('engine_error', `The engine did not apply what was asked for (${list.join('; ')}).`, {
    hint: 'The engine or its kernel lacks a feature that Sandyard depends on; `docker info` lists warnings about it.',
  });
}

/** The settings that a sandbox depends on: what was asked for, and what the engine says is in force. */
export function compareSettings(spec: ContainerSpec, found: Docker.ContainerInspectInfo): AppliedSetting[] {
  const { HostConfig: asked = {}, ...made } = toCreateOptions(spec);
  const host = found.HostConfig;
  const checks: Comparison[] = [
    ['User', made.User, found.Config.User],
    ['Privileged', false, host.Privileged ?? false],
    ['StopSignal', made.StopSignal, (found.Config as { StopSignal?: string }).StopSignal],
    ['CapDrop', 'ALL', host.CapDrop?.join() ?? ''],
    ['CapAdd', describeCapabilities(asked.CapAdd), describeCapabilities(host.CapAdd)],
    ['SecurityOpt', true, isHardened(host.SecurityOpt ?? [])],
    ['Binds', 0, host.Binds?.length ?? 0],
    ['StorageOpt', asked.StorageOpt?.['size'], (host.StorageOpt as Record<string, string> | null)?.['size']],
    ['ReadonlyRootfs', asked.ReadonlyRootfs, host.ReadonlyRootfs ?? false],
    ['Tmpfs', describeTmpfs(asked.Tmpfs), describeTmpfs(host.Tmpfs)],
    ['Mounts', describeAsked(spec), describeMounts(found, spec.readOnly?.kept)],
    ['Runtime', spec.runtime, spec.runtime === undefined ? undefined : host.Runtime],
    ['NetworkMode', asked.NetworkMode, host.NetworkMode],
    ...(spec.egress === undefined ? [] : compareEgress(spec.egress, asked, found)),
    ['PidMode', '', host.PidMode ?? ''],
    ['IpcMode', 'private', host.IpcMode],
    ['CgroupnsMode', 'private', (host as { CgroupnsMode?: string }).CgroupnsMode],
    ['MaskedPaths', asked.MaskedPaths?.join(), host.MaskedPaths?.join()],
    ['Ulimits', describeUlimits(asked.Ulimits), describeUlimits(host.Ulimits)],
    ['LogConfig', 'none', host.LogConfig?.Type],
    ['Memory', asked.Memory, host.Memory],
    ['MemorySwap', asked.MemorySwap, host.MemorySwap],
    ['NanoCpus', asked.NanoCpus, host.NanoCpus],
    ['PidsLimit', asked.PidsLimit, host.PidsLimit],
    ['ShmSize', atMost(asked.ShmSize, host.ShmSize), host.ShmSize],
    ['OomScoreAdj', asked.OomScoreAdj, host.OomScoreAdj ?? 0],
    ['Init', false, host.Init ?? false],
  ];
  return checks.map(([setting, askedValue, foundValue]) => ({
    setting,
    asked: String(askedValue ?? ''),
    found: String(foundValue ?? ''),
  }));
}

/** Those of the settings that show inside. */
export function settingsSeenInside(spec: ContainerSpec): SettingsSeenInside {
  const { HostConfig: host = {} } = toCreateOptions(spec);
  const limits = (host.Ulimits ?? []) as { Name: string; Soft: number; Hard: number }[];
  return {
    memoryBytes: host.Memory ?? 0,
    swapBytes: (host.MemorySwap ?? 0) - (host.Memory ?? 0),
    pids: host.PidsLimit ?? 0,
    cpus: (host.NanoCpus ?? 0) / 1e9,
    // What user code may open, the warden sets when it starts it.
    ulimits: limits.map(({ Name, Hard }) => ({ name: Name, value: Name === 'nofile' ? spec.nofile : Hard })),
    network: host.NetworkMode ?? 'none',
    readOnlyRoot: host.ReadonlyRootfs === true,
    ownSeccompProfile: ((host.SecurityOpt ?? []) as string[]).some((option) =>
      /^seccomp[:=](?!unconfined$)/.test(option),
    ),
    maskedPaths: host.MaskedPaths ?? [],
    writable: Object.keys(host.Tmpfs ?? {}),
  };
}

/** A warm one was made for as much memory as it was claimed with, or for less. */
function atMost(asked = 0, found = 0): number {
  return found === 0 ? asked : Math.min(asked, found);
}

/** Newer engines answer with Linux's own names. */
function describeCapabilities(capabilities: readonly string[] | undefined): string {
  return (capabilities ?? [])
    .map((name) => name.replace(/^CAP_/, ''))
    .toSorted()
    .join();
}

function compareEgress(
  { network }: EgressEndpoint,
  asked: Docker.HostConfig,
  found: Docker.ContainerInspectInfo,
): Comparison[] {
  const host = found.HostConfig;
  return [
    ['Networks', network, Object.keys(found.NetworkSettings.Networks).join()],
    ['Dns', asked.Dns?.join(), host.Dns?.join()],
    ['Sysctls', describeSysctls(asked.Sysctls), describeSysctls(host.Sysctls)],
  ];
}

function describeSysctls(sysctls: Readonly<Record<string, string>> | undefined): string | undefined {
  return (
    sysctls &&
    Object.entries(sysctls)
      .map(([name, value]) => `${name}=${value}`)
      .toSorted()
      .join(';')
  );
}

function describeAsked({ volume, readOnly, directory }: ContainerSpec): string {
  return [
    ...(volume === undefined ? [] : [`volume ${volume.name} on ${volume.target}, read-only`]),
    ...(readOnly === undefined ? [] : [`${OWN_VOLUME} on ${readOnly.kept}, writable`]),
    ...(directory === undefined ? [] : [`bind ${directory.source} on ${directory.target}, read-only`]),
  ]
    .toSorted()
    .join('; ');
}

const OWN_VOLUME = 'volume of its own';

function describeTmpfs(tmpfs: unknown): string {
  return Object.entries((tmpfs ?? {}) as Record<string, string>)
    .map(([target, options]) => `${target}:${options}`)
    .toSorted()
    .join('; ');
}

/** But for the volumes of its own that an image may declare, which are empty, nobody else's, and go with the sandbox. */
function describeMounts({ Mounts, Config }: Docker.ContainerInspectInfo, kept: string | undefined): string {
  const declared = Object.keys(Config.Volumes ?? {});
  return (Mounts ?? [])
    .filter((mount) => mount.Destination === kept || !(isAnonymous(mount) && declared.includes(mount.Destination)))
    .map((mount) => {
      const { Type, Name = '', Source, Destination, RW } = mount;
      const what =
        Destination === kept && isAnonymous(mount) ? OWN_VOLUME : `${Type} ${Type === 'bind' ? Source : Name}`;
      return `${what} on ${Destination}, ${RW ? 'writable' : 'read-only'}`;
    })
    .toSorted()
    .join('; ');
}

function isAnonymous({ Type, Name = '' }: Docker.ContainerInspectInfo['Mounts'][number]): boolean {
  return Type === 'volume' && /^[0-9a-f]{64}$/.test(Name);
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
  const filters = options.filter((option) => /^seccomp[:=]/.test(option));
  return (
    !loosened &&
    options.some((option) => /^no-new-privileges([:=]true)?$/.test(option)) &&
    filters.length > 0 &&
    filters.every((option) => option.slice('seccomp='.length) === SECCOMP_PROFILE)
  );
}
