import type Docker from 'dockerode';

import type { EngineConnection } from './connection.js';
import { compareSettings, settingsSeenInside } from './applied-settings.js';
import { toCreateOptions } from './container-spec.js';
import { inspect, toState } from './docker-containers.js';
import type { AppliedSetting, CallOptions, ContainerComparison, ContainerSpec } from './engine.js';

/* A container beside what it should be: also in what no spec ever asks for, but somebody else may have given it. */

/** What the engine itself makes read-only, unless it is told otherwise. */
const READ_ONLY_PATHS = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/** Settings that give a container more than it has without them; the types of the client lack some. */
const GIVEN = [
  'Devices',
  'DeviceRequests',
  'DeviceCgroupRules',
  'GroupAdd',
  'VolumesFrom',
  'PortBindings',
  'PublishAllPorts',
  'Sysctls',
  'ExtraHosts',
  'Links',
  'UTSMode',
  'UsernsMode',
  'CgroupParent',
  'OomKillDisable',
  'ReadonlyRootfs',
  'Tmpfs',
] as const;

type Given = Partial<Record<(typeof GIVEN)[number], unknown>>;

export async function compareContainer(
  connection: EngineConnection,
  reference: string,
  { spec, ...options }: CallOptions & { spec: ContainerSpec },
): Promise<ContainerComparison> {
  const found = await inspect(connection, reference, options);
  const binds = (found.Mounts ?? []).map(({ Destination, RW }) => ({ target: Destination, writable: RW }));
  const tmpfs = Object.keys(found.HostConfig.Tmpfs ?? {}).map((target) => ({ target, writable: true }));
  return {
    state: toState(found.State.Status),
    runtime: found.HostConfig.Runtime ?? '',
    settings: withoutRepeats([...compareSettings(spec, found), ...compareGiven(spec, found)]),
    inside: settingsSeenInside(spec),
    mounts: [...binds, ...tmpfs],
  };
}

function compareGiven(spec: ContainerSpec, found: Docker.ContainerInspectInfo): AppliedSetting[] {
  const asked = toCreateOptions(spec).HostConfig ?? {};
  const program = spec.entrypoint.slice(0, 2);
  // One that is called none is none, and an engine may leave it out.
  const networks = Object.keys(found.NetworkSettings?.Networks ?? {}).filter((name) => name !== 'none');
  const readOnly = (found.HostConfig as { ReadonlyPaths?: readonly string[] | null }).ReadonlyPaths ?? [];
  return [
    ...GIVEN.map((setting) => ({
      setting,
      asked: describe((asked as Given)[setting]),
      found: describe((found.HostConfig as Given)[setting]),
    })),
    { setting: 'Entrypoint', asked: program.join(' '), found: [found.Path, ...found.Args].slice(0, 2).join(' ') },
    { setting: 'Networks', asked: asked.NetworkMode ?? '', found: networks.toSorted().join(', ') || 'none' },
    {
      setting: 'ReadonlyPaths',
      asked: READ_ONLY_PATHS.join(', '),
      found: READ_ONLY_PATHS.filter((path) => readOnly.includes(path)).join(', '),
    },
  ];
}

/** What a sandbox is made by is compared where it is made, and counts. */
function withoutRepeats(settings: readonly AppliedSetting[]): AppliedSetting[] {
  return settings.filter(({ setting }, index) => settings.findIndex((one) => one.setting === setting) === index);
}

/** What is empty, false or not there is all the same: nothing. */
function describe(value: unknown): string {
  if (value === undefined || value === null || value === false || value === '') return 'none';
  if (typeof value === 'object' && Object.keys(value).length === 0) return 'none';
  return typeof value === 'string' ? value : JSON.stringify(value).slice(0, 500);
}
