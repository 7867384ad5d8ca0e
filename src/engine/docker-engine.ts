import type Docker from 'dockerode';
import type { Duplex } from 'node:stream';

import type { EngineEnvironment } from '../config.js';
import type { Telemetry } from '../telemetry.js';
import { EngineConnection, QUICK_MS } from './connection.js';
import { makeEndable, pauseContainer, renameContainer, unpauseContainer, updateContainer } from './docker-changes.js';
import {
  createContainer,
  inspectContainer,
  listContainers,
  removeContainer,
  startContainer,
  stopContainer,
  verifyContainer,
} from './docker-containers.js';
import { compareContainer } from './docker-comparison.js';
import { watchContainers } from './docker-events.js';
import { readContainerFile, readContainerLink } from './docker-file.js';
import { examineEngine, readInfo, tryDiskQuota } from './docker-info.js';
import { connectNetwork, createNetwork, createProxy, findSubnet } from './docker-networks.js';
import { listNetworks, listVolumes, removeNetwork, removeVolume } from './docker-objects.js';
import { attachTunnel, openTunnel } from './docker-tunnel.js';
import { fillVolume } from './docker-volume.js';
import type {
  CallOptions,
  ContainerComparison,
  ContainerDetails,
  ContainerEvent,
  ContainerLimits,
  ContainerSpec,
  ContainerSummary,
  Engine,
  EngineExamination,
  EngineInfo,
  ImageInfo,
  NamedObject,
  NetworkSpec,
  ProxySpec,
  VolumeContent,
} from './engine.js';

/** An Engine that is a real one, by dockerode: Docker, or what speaks its API. */
export class DockerEngine implements Engine {
  readonly #connection: EngineConnection;
  /** Containers that are being renamed or removed: what is renamed while it is removed, an engine may half forget. */
  readonly #changes = new Map<string, Promise<void>>();

  /** A ready dockerode client, or the environment in which to look for an engine. Does no I/O. */
  constructor(source: { docker: Docker } | { env: EngineEnvironment }, options: { telemetry?: Telemetry } = {}) {
    this.#connection = new EngineConnection(source, options);
  }

  info(options: CallOptions = {}): Promise<EngineInfo> {
    return readInfo(this.#connection, options);
  }

  examine(options: CallOptions = {}): Promise<EngineExamination> {
    return examineEngine(this.#connection, options);
  }

  tryDiskQuota(image: string, options: CallOptions = {}): Promise<string | undefined> {
    return tryDiskQuota(this.#connection, image, options);
  }

  async ping(options: CallOptions = {}): Promise<void> {
    await this.#connection.call(
      { operation: 'ping', doing: 'answer a ping', deadlineMs: QUICK_MS, idempotent: true, ...options },
      (docker) => docker.ping(),
    );
  }

  async inspectImage(reference: string, options: CallOptions = {}): Promise<ImageInfo> {
    const about = { doing: 'inspect the image', image: reference };
    const found = await this.#connection.call(
      { operation: 'inspect_image', ...about, deadlineMs: QUICK_MS, idempotent: true, ...options },
      (docker) => docker.getImage(reference).inspect(),
    );
    return { id: found.Id, labels: found.Config.Labels ?? {}, bytes: found.Size };
  }

  createContainer(spec: ContainerSpec, options: CallOptions = {}): Promise<string> {
    return createContainer(this.#connection, spec, options);
  }

  inspectContainer(reference: string, options: CallOptions = {}): Promise<ContainerDetails> {
    return inspectContainer(this.#connection, reference, options);
  }

  listContainers(labels: readonly string[], options: CallOptions = {}): Promise<ContainerSummary[]> {
    return listContainers(this.#connection, labels, options);
  }

  verifyContainer(reference: string, spec: ContainerSpec, options: CallOptions = {}): Promise<void> {
    return verifyContainer(this.#connection, reference, { ...options, spec });
  }

  compareContainer(reference: string, spec: ContainerSpec, options: CallOptions = {}): Promise<ContainerComparison> {
    return compareContainer(this.#connection, reference, { ...options, spec });
  }

  startContainer(reference: string, options: CallOptions = {}): Promise<void> {
    return startContainer(this.#connection, reference, options);
  }

  async stopContainer(reference: string, options: CallOptions & { graceSeconds?: number } = {}): Promise<void> {
    await makeEndable(this.#connection, reference, { signal: options.signal });
    await stopContainer(this.#connection, reference, options);
  }

  removeContainer(reference: string, options: CallOptions & { unlessRunning?: boolean } = {}): Promise<void> {
    const { unlessRunning = false, signal } = options;
    return this.#alone(reference, async () => {
      if (!unlessRunning) await makeEndable(this.#connection, reference, { signal });
      await removeContainer(this.#connection, reference, options);
    });
  }

  pauseContainer(reference: string, options: CallOptions = {}): Promise<void> {
    return pauseContainer(this.#connection, reference, options);
  }

  unpauseContainer(reference: string, options: CallOptions = {}): Promise<void> {
    return unpauseContainer(this.#connection, reference, options);
  }

  renameContainer(reference: string, name: string, options: CallOptions = {}): Promise<void> {
    return this.#alone(reference, () => renameContainer(this.#connection, reference, { ...options, name }));
  }

  updateContainer(reference: string, limits: ContainerLimits, options: CallOptions = {}): Promise<void> {
    return updateContainer(this.#connection, reference, { ...options, limits });
  }

  readContainerFile(
    reference: string,
    path: string,
    options: CallOptions & { readonly maxBytes: number },
  ): Promise<Buffer | undefined> {
    return readContainerFile(this.#connection, reference, { ...options, path });
  }

  readContainerLink(reference: string, path: string, options: CallOptions = {}): Promise<string | undefined> {
    return readContainerLink(this.#connection, reference, { ...options, path });
  }

  watchContainers(
    labels: readonly string[],
    options: CallOptions & { readonly ready?: () => void } = {},
  ): AsyncIterable<ContainerEvent> {
    return watchContainers(this.#connection, labels, options);
  }

  listVolumes(labels: readonly string[], options: CallOptions = {}): Promise<NamedObject[]> {
    return listVolumes(this.#connection, labels, options);
  }

  listNetworks(labels: readonly string[], options: CallOptions = {}): Promise<NamedObject[]> {
    return listNetworks(this.#connection, labels, options);
  }

  removeVolume(name: string, options: CallOptions = {}): Promise<boolean> {
    return removeVolume(this.#connection, name, options);
  }

  removeNetwork(name: string, options: CallOptions & { disconnect?: string } = {}): Promise<boolean> {
    return removeNetwork(this.#connection, name, options);
  }

  createNetwork(network: NetworkSpec, options: CallOptions = {}): Promise<string> {
    return createNetwork(this.#connection, network, options);
  }

  findSubnet(name: string, options: CallOptions = {}): Promise<string | undefined> {
    return findSubnet(this.#connection, name, options);
  }

  connectNetwork(
    name: string,
    options: CallOptions & { container: string; address: string; aliases: readonly string[] },
  ): Promise<void> {
    return connectNetwork(this.#connection, name, options);
  }

  createProxy(spec: ProxySpec, options: CallOptions = {}): Promise<string> {
    return createProxy(this.#connection, spec, options);
  }

  attachTunnel(reference: string, options: CallOptions = {}): Promise<Duplex> {
    return attachTunnel(this.#connection, reference, options);
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

  /** Acts when what is being done with the container by these means is done. */
  async #alone(reference: string, act: () => Promise<void>): Promise<void> {
    const before = this.#changes.get(reference);
    const change = before === undefined ? act() : before.catch(() => {}).then(act);
    this.#changes.set(reference, change);
    try {
      await change;
    } finally {
      if (this.#changes.get(reference) === change) this.#changes.delete(reference);
    }
  }
}
