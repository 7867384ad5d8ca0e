import type Docker from 'dockerode';
import { pipeline, type Readable } from 'node:stream';
import { extract } from 'tar-stream';

import type { EngineEnvironment } from '../config.js';
import { isSandyardError, SandyardError } from '../errors.js';
import { EngineConnection, type CallSettings } from './connection.js';
import { toCreateOptions, verifyApplied } from './container-spec.js';
import { startExec } from './docker-exec.js';
import type {
  CallOptions,
  ContainerDetails,
  ContainerSpec,
  ContainerState,
  ContainerStats,
  ContainerSummary,
  Engine,
  EngineExec,
  EngineInfo,
  ExecSpec,
  ImageInfo,
} from './engine.js';

/** How long the engine may take for each kind of call, in milliseconds. It is given more than it needs under load. */
const DEADLINES = { quick: 15_000, create: 60_000, start: 60_000, remove: 60_000, archive: 120_000 } as const;

const SMALL_FILE_BYTES = 64 * 1024;

/** What we read of the engine's answer to `GET /info`; dockerode has no type for it. */
interface SystemInfo {
  readonly ServerVersion: string;
  readonly OperatingSystem: string;
  readonly Architecture: string;
  readonly NCPU: number;
  readonly MemTotal: number;
  readonly Driver: string;
  readonly CgroupVersion?: string;
  readonly Runtimes?: Readonly<Record<string, unknown>>;
  readonly DefaultRuntime: string;
  readonly SecurityOptions?: readonly string[];
  readonly LiveRestoreEnabled?: boolean;
}

/** An Engine that is a real one, by dockerode: Docker, or what speaks its API. */
export class DockerEngine implements Engine {
  readonly #connection: EngineConnection;

  /** A ready dockerode client, or the environment in which to look for an engine. Does no I/O. */
  constructor(source: { docker: Docker } | { env: EngineEnvironment }) {
    this.#connection = new EngineConnection(source);
  }

  async info(options: CallOptions = {}): Promise<EngineInfo> {
    const { address, apiVersion } = await this.#connection.connected(options);
    const info = await this.#quick('describe itself', options, (docker) => docker.info() as Promise<SystemInfo>);
    return {
      address,
      apiVersion,
      version: info.ServerVersion,
      operatingSystem: info.OperatingSystem,
      architecture: info.Architecture,
      cpus: info.NCPU,
      memoryBytes: info.MemTotal,
      storageDriver: info.Driver,
      cgroupVersion: info.CgroupVersion ?? '1',
      runtimes: Object.keys(info.Runtimes ?? {}).filter((name) => !name.startsWith('io.containerd.')),
      defaultRuntime: info.DefaultRuntime,
      securityOptions: info.SecurityOptions ?? [],
      liveRestore: info.LiveRestoreEnabled ?? false,
    };
  }

  async ping(options: CallOptions = {}): Promise<void> {
    await this.#quick('answer a ping', options, (docker) => docker.ping());
  }

  async inspectImage(reference: string, options: CallOptions = {}): Promise<ImageInfo> {
    const settings = { doing: 'inspect the image', image: reference, deadlineMs: DEADLINES.quick, idempotent: true };
    const found = await this.#connection.call({ ...settings, ...options }, (docker) =>
      docker.getImage(reference).inspect(),
    );
    return { id: found.Id, labels: found.Config.Labels ?? {} };
  }

  async createContainer(spec: ContainerSpec, options: CallOptions = {}): Promise<string> {
    const settings = {
      doing: 'create a container',
      container: spec.name,
      image: spec.image,
      deadlineMs: DEADLINES.create,
    };
    const { id } = await this.#connection.call({ ...settings, ...options }, (docker, abortSignal) =>
      docker.createContainer({ ...toCreateOptions(spec), abortSignal }),
    );
    return id;
  }

  async inspectContainer(reference: string, options: CallOptions = {}): Promise<ContainerDetails> {
    const found = await this.#inspect(reference, options);
    return {
      id: found.Id,
      name: found.Name.replace(/^\//, ''),
      image: found.Config.Image,
      state: toState(found.State.Status),
      labels: found.Config.Labels ?? {},
      startedAt: toDate(found.State.StartedAt),
      finishedAt: found.State.Running ? undefined : toDate(found.State.FinishedAt),
      exitCode: found.State.ExitCode,
      oomKilled: found.State.OOMKilled,
      busy: ((found as { ExecIDs?: string[] | null }).ExecIDs?.length ?? 0) > 0,
    };
  }

  async listContainers(labels: readonly string[], options: CallOptions = {}): Promise<ContainerSummary[]> {
    const found = await this.#quick('list containers', options, (docker, abortSignal) =>
      docker.listContainers({ all: true, filters: { label: [...labels] }, abortSignal }),
    );
    return found.map((container) => ({
      id: container.Id,
      name: (container.Names[0] ?? '').replace(/^\//, ''),
      image: container.Image,
      state: toState(container.State),
      labels: container.Labels,
    }));
  }

  async verifyContainer(reference: string, spec: ContainerSpec, options: CallOptions = {}): Promise<void> {
    const found = await this.#inspect(reference, options);
    if (found.State.Running) return verifyApplied(spec, found);
    const why = found.State.Error === '' ? `exit code ${found.State.ExitCode}` : found.State.Error;
    throw new SandyardError('engine_error', `The sandbox ended as soon as it was started (${why}).`, {
      hint: `The image ${spec.image} must have /bin/sh, sleep and tar.`,
    });
  }

  async startContainer(reference: string, options: CallOptions = {}): Promise<void> {
    const settings = { doing: 'start', container: reference, deadlineMs: DEADLINES.start, ...options };
    await this.#change(settings, (container, abortSignal) => container.start({ abortSignal }));
  }

  async stopContainer(reference: string, options: CallOptions & { graceSeconds?: number } = {}): Promise<void> {
    const { graceSeconds = 10, ...rest } = options;
    const deadlineMs = DEADLINES.start + graceSeconds * 1000;
    const settings = { doing: 'stop', container: reference, deadlineMs, ...rest };
    await this.#change(settings, (container, abortSignal) => container.stop({ t: graceSeconds, abortSignal }));
  }

  async removeContainer(reference: string, options: CallOptions = {}): Promise<void> {
    const settings = { doing: 'remove', container: reference, deadlineMs: DEADLINES.remove, ...options };
    try {
      await this.#change(settings, (container, abortSignal) => container.remove({ force: true, v: true, abortSignal }));
    } catch (error) {
      if (isSandyardError(error, 'sandbox_not_found')) return;
      // Somebody else is removing it: wait with them, so that it is gone when we answer.
      if (isSandyardError(error, 'wrong_state')) return this.#waitUntilRemoved(reference, options);
      throw error;
    }
  }

  async stats(reference: string, options: CallOptions = {}): Promise<ContainerStats> {
    const settings = { doing: 'read statistics', container: reference, deadlineMs: DEADLINES.quick, idempotent: true };
    const stats = await this.#connection.call({ ...settings, ...options }, (docker) =>
      docker.getContainer(reference).stats({ stream: false, 'one-shot': true }),
    );
    // Absent where the sandbox has no network.
    const networks = Object.values((stats.networks ?? {}) as Record<string, { rx_bytes: number; tx_bytes: number }>);
    return {
      memoryBytes: usedMemory(stats.memory_stats),
      memoryLimitBytes: stats.memory_stats?.limit ?? 0,
      cpuNanoseconds: stats.cpu_stats?.cpu_usage?.total_usage ?? 0,
      pids: stats.pids_stats?.current ?? 0,
      networkReceivedBytes: networks.reduce((sum, { rx_bytes: bytes }) => sum + bytes, 0),
      networkSentBytes: networks.reduce((sum, { tx_bytes: bytes }) => sum + bytes, 0),
    };
  }

  exec(reference: string, spec: ExecSpec, options: CallOptions = {}): Promise<EngineExec> {
    return startExec(this.#connection, reference, { spec, ...options });
  }

  async putArchive(reference: string, tar: Readable, options: CallOptions = {}): Promise<void> {
    const settings = { doing: 'write to', container: reference, deadlineMs: DEADLINES.archive, idempotent: false };
    await this.#connection.call({ ...settings, ...options }, (docker, abortSignal) =>
      docker.getContainer(reference).putArchive(tar, { path: '/', abortSignal }),
    );
  }

  async readFile(
    reference: string,
    path: string,
    { maxBytes = SMALL_FILE_BYTES, signal }: CallOptions & { maxBytes?: number } = {},
  ): Promise<Uint8Array | undefined> {
    const settings = { doing: `read ${path} of`, container: reference, deadlineMs: DEADLINES.quick, signal };
    try {
      return await this.#connection.call({ ...settings, idempotent: true }, async (docker, abortSignal) => {
        const tar = await docker.getContainer(reference).getArchive({ path, abortSignal });
        return firstFile(tar, maxBytes);
      });
    } catch (error) {
      // 404 is the answer for a missing file as for a missing container; the caller's next call tells them apart.
      if (isSandyardError(error, 'sandbox_not_found')) return undefined;
      throw error;
    }
  }

  close(): void {
    this.#connection.close();
  }

  #inspect(reference: string, options: CallOptions): Promise<Docker.ContainerInspectInfo> {
    const settings = { doing: 'inspect', container: reference, deadlineMs: DEADLINES.quick, idempotent: true };
    return this.#connection.call({ ...settings, ...options }, (docker, abortSignal) =>
      docker.getContainer(reference).inspect({ abortSignal }),
    );
  }

  #quick<T>(doing: string, options: CallOptions, run: (docker: Docker, signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#connection.call({ doing, deadlineMs: DEADLINES.quick, idempotent: true, ...options }, run);
  }

  /** A change that is done when it was done before: 304 is the engine's word for that. */
  async #change(
    settings: CallSettings & { container: string },
    run: (container: Docker.Container, signal: AbortSignal) => Promise<unknown>,
  ): Promise<void> {
    await this.#connection.call({ ...settings, idempotent: true }, (docker, abortSignal) =>
      run(docker.getContainer(settings.container), abortSignal).catch((error: unknown) => {
        if ((error as { statusCode?: number }).statusCode !== 304) throw error;
      }),
    );
  }

  async #waitUntilRemoved(reference: string, options: CallOptions): Promise<void> {
    const until = Date.now() + DEADLINES.remove;
    while (Date.now() < until) {
      try {
        await this.#inspect(reference, options);
      } catch (error) {
        if (isSandyardError(error, 'sandbox_not_found')) return;
        throw error;
      }
      await new Promise((resolve) => {
        setTimeout(resolve, 50);
      });
    }
    throw new SandyardError('engine_timeout', `The container ${reference} is being removed but does not go away.`);
  }
}

/** Without the page cache that the kernel can take back at once, as `docker stats` counts: by cgroup v1's or v2's word. */
function usedMemory(memory: Docker.MemoryStats | undefined): number {
  const details = (memory?.stats ?? {}) as { total_inactive_file?: number; inactive_file?: number };
  const usage = memory?.usage ?? 0;
  return Math.max(0, usage - (details.total_inactive_file ?? details.inactive_file ?? 0));
}

/** The first file of a tar; throws when it has more than `maxBytes`. */
async function firstFile(tar: NodeJS.ReadableStream, maxBytes: number): Promise<Uint8Array | undefined> {
  const entries = extract();
  pipeline(tar, entries, () => {}); // a failure is thrown by the loop
  for await (const entry of entries) {
    if (entry.header.type !== 'file') return undefined;
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of entry) {
      bytes += (chunk as Uint8Array).length;
      if (bytes > maxBytes) throw new SandyardError('engine_error', `A file of ours has more than ${maxBytes} bytes.`);
      chunks.push(chunk as Uint8Array);
    }
    return Buffer.concat(chunks);
  }
  return undefined;
}

function toState(status: string): ContainerState {
  if (status === 'created' || status === 'running' || status === 'paused') return status;
  return status === 'restarting' ? 'running' : 'exited';
}

/** The engine says "never" by the first day of year 1. */
function toDate(text: string): Date | undefined {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) || date.getUTCFullYear() < 1971 ? undefined : date;
}
