import { randomBytes } from 'node:crypto';
import type Docker from 'dockerode';

import { isSandyardError } from '../errors.js';
import { QUICK_MS, type EngineConnection } from './connection.js';
import { toCreationDate } from './docker-dates.js';
import type { CallOptions, EngineExamination, EngineInfo } from './engine.js';
import { TEMPORARY_LABEL } from './temporary.js';

/* What an engine says of itself, and what can be found out only by trying. */

/** What we read of the engine's answer to `GET /info`; dockerode has no type for it. */
interface SystemInfo {
  readonly ServerVersion: string;
  readonly OperatingSystem: string;
  readonly Architecture: string;
  readonly KernelVersion?: string;
  readonly NCPU: number;
  readonly MemTotal: number;
  readonly Driver: string;
  readonly DockerRootDir: string;
  readonly CgroupVersion?: string;
  readonly Runtimes?: Readonly<Record<string, { readonly runtimeArgs?: readonly string[] | null }>>;
  readonly DefaultRuntime: string;
  readonly SecurityOptions?: readonly string[];
  readonly LiveRestoreEnabled?: boolean;
  readonly SystemTime?: string;
  readonly MemoryLimit?: boolean;
  readonly SwapLimit?: boolean;
  readonly PidsLimit?: boolean;
  readonly CpuCfsQuota?: boolean;
  readonly Warnings?: readonly string[] | null;
}

/** What we read of its answer to `GET /version`. */
interface SystemVersion {
  readonly Components?: readonly {
    readonly Name: string;
    readonly Version: string;
    readonly Details?: Readonly<Record<string, string>>;
  }[];
}

/** Less than any image has, so that nobody could use it. */
const TRIAL_DISK = '64M';

function readSystem(connection: EngineConnection, options: CallOptions): Promise<SystemInfo> {
  return connection.call(
    { operation: 'info', doing: 'describe itself', deadlineMs: QUICK_MS, idempotent: true, ...options },
    (docker) => docker.info() as Promise<SystemInfo>,
  );
}

export async function readInfo(connection: EngineConnection, options: CallOptions): Promise<EngineInfo> {
  const { address, apiVersion } = await connection.connected(options);
  return toInfo(await readSystem(connection, options), { address, apiVersion });
}

function toInfo(info: SystemInfo, { address, apiVersion }: { address: string; apiVersion: string }): EngineInfo {
  // containerd's own names are the same runtimes once more.
  const runtimes = Object.entries(info.Runtimes ?? {}).filter(([name]) => !name.startsWith('io.containerd.'));
  const hasNoNetwork = ([, { runtimeArgs }]: (typeof runtimes)[number]) =>
    runtimeArgs?.some((argument) => /^--?network=none$/.test(argument)) === true;
  return {
    address,
    apiVersion,
    version: info.ServerVersion,
    operatingSystem: info.OperatingSystem,
    architecture: info.Architecture,
    cpus: info.NCPU,
    memoryBytes: info.MemTotal,
    storageDriver: info.Driver,
    dataRoot: info.DockerRootDir,
    cgroupVersion: info.CgroupVersion ?? '1',
    runtimes: runtimes.map(([name]) => name),
    runtimesWithoutNetwork: runtimes.filter(hasNoNetwork).map(([name]) => name),
    defaultRuntime: info.DefaultRuntime,
    securityOptions: info.SecurityOptions ?? [],
    liveRestore: info.LiveRestoreEnabled ?? false,
    systemTime: toCreationDate(info.SystemTime),
  };
}

export async function examineEngine(connection: EngineConnection, options: CallOptions): Promise<EngineExamination> {
  const connected = await connection.connected(options);
  const info = await readSystem(connection, options);
  const version = await connection.call(
    { operation: 'version', doing: 'tell its version', deadlineMs: QUICK_MS, idempotent: true, ...options },
    (docker) => docker.version() as Promise<unknown> as Promise<SystemVersion>,
  );
  return {
    ...toInfo(info, connected),
    components: (version.Components ?? []).map((component) => ({
      name: component.Name,
      version: fullVersion(component.Version, component.Details?.['GitCommit']),
    })),
    kernelVersion: info.KernelVersion ?? '',
    limits: {
      memory: info.MemoryLimit ?? false,
      swap: info.SwapLimit ?? false,
      pids: info.PidsLimit ?? false,
      cpu: info.CpuCfsQuota ?? false,
    },
    warnings: info.Warnings ?? [],
    transport: transportOf(connected.docker),
  };
}

/** Distributions put the version of their package, by which patches are told, where others have a commit. */
function fullVersion(version: string, commit = ''): string {
  const plain = version.replace(/^v/, '');
  return commit.startsWith(plain) ? commit : plain;
}

function transportOf(docker: Docker): EngineExamination['transport'] {
  const { socketPath, protocol } = docker.modem as { socketPath?: unknown; protocol?: unknown };
  if (typeof socketPath === 'string') return 'socket';
  return protocol === 'http' ? 'plain' : 'tls';
}

export async function tryDiskQuota(
  connection: EngineConnection,
  image: string,
  options: CallOptions,
): Promise<string | undefined> {
  const about = { doing: 'bound the disk of a container', image, deadlineMs: QUICK_MS };
  const name = `sandyard-trial-${randomBytes(6).toString('hex')}`;
  const Labels = { [TEMPORARY_LABEL]: '1' };
  const HostConfig = { StorageOpt: { size: TRIAL_DISK }, NetworkMode: 'none' };
  try {
    await connection.call({ operation: 'create_container', ...about, ...options }, (docker, abortSignal) =>
      // An image may name no program, and this is never started.
      docker.createContainer({ name, Image: image, Cmd: ['none'], Labels, HostConfig, abortSignal }),
    );
    return undefined;
  } catch (error) {
    if (isSandyardError(error, 'engine_error')) return error.message;
    throw error;
  } finally {
    await connection
      .call({ operation: 'remove_container', doing: 'remove', container: name, deadlineMs: QUICK_MS }, (docker) =>
        docker.getContainer(name).remove({ force: true, v: true }),
      )
      .catch(() => {}); // there is none where it could not be made
  }
}
