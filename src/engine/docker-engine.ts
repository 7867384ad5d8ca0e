import type Docker from 'dockerode';
import type { Duplex } from 'node:stream';

import type { EngineEnvironment } from '../config.js';
import { isSandyardError, SandyardError } from '../errors.js';
import { EngineConnection, type CallSettings } from './connection.js';
import { toCreateOptions, verifyApplied } from './container-spec.js';
import { openTunnel } from './docker-tunnel.js';
import { fillVolume } from './docker-volume.js';
import { WARDEN_HINT } from './engine-errors.js';
import type {
  CallOptions,
  ContainerDetails,
  ContainerSpec,
  ContainerState,
  ContainerSummary,
  Engine,
  EngineInfo,
  ImageInfo,
  VolumeContent,
} from './engine.js';

/** How long the engine may take for each kind of call, in milliseconds. It is given more than it needs under load. */
const DEADLINES = { quick: 15_000, create: 60_000, start: 60_000, remove: 60_000 } as const;

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
    throw endedAtOnce(spec, found.State);
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

  openTunnel(reference: string, command: readonly string[], options: CallOptions = {}): Promise<Duplex> {
    return openTunnel(this.#connection, reference, { command, ...options });
  }

  fillVolume(volume: VolumeContent, options: CallOptions = {}): Promise<void> {
    return fillVolume(this.#connection, volume, options);
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

function endedAtOnce({ entrypoint }: ContainerSpec, state: { ExitCode: number; Error: string }): SandyardError {
  const [program = 'its program'] = entrypoint;
  const meaning: Readonly<Record<number, string>> = {
    90: 'its lease had run out',
    91: 'its idle timeout had passed',
    92: 'the warden could not get what it needs, such as /var/lib/sandyard',
    93: 'the warden does not know an argument that it was given',
    126: `${program} can't be executed there`,
    127: `there is no ${program} in it`,
    137: 'it was killed, as for too little memory',
  };
  const why = state.Error === '' ? meaning[state.ExitCode] : state.Error.replaceAll(/\s+/g, ' ').slice(0, 500);
  const told = why === undefined ? `exit code ${state.ExitCode}` : `exit code ${state.ExitCode}: ${why}`;
  return new SandyardError('engine_error', `The sandbox ended as soon as it was started (${told}).`, {
    hint: WARDEN_HINT,
  });
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
