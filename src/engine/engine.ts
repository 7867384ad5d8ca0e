import type { Duplex } from 'node:stream';

/*
 * The one seam to Docker. A real engine stands behind it (docker-engine.ts), and in tests one that runs in memory.
 * Everything here is in the engine's terms: containers, images, volumes. Every method throws SandyardError only, settles
 * within a deadline of its own even when the engine never answers, and is safe to call many times at once.
 */

export interface CallOptions {
  /** Gives up, with `aborted`. What the engine has begun by then may still come about. */
  readonly signal?: AbortSignal | undefined;
}

export interface EngineInfo {
  /** Where it was found: `unix:///var/run/docker.sock`, `tcp://host:2376`. */
  readonly address: string;
  readonly version: string;
  /** The API version that was agreed on. */
  readonly apiVersion: string;
  readonly operatingSystem: string;
  readonly architecture: string;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly storageDriver: string;
  /** Where it keeps its data, such as `/var/lib/docker`. */
  readonly dataRoot: string;
  readonly cgroupVersion: string;
  readonly runtimes: readonly string[];
  /** Those that were registered to have no network but a loopback interface, whatever a container is made with. */
  readonly runtimesWithoutNetwork: readonly string[];
  readonly defaultRuntime: string;
  readonly securityOptions: readonly string[];
  readonly liveRestore: boolean;
  /** What its clock says, which needn't be what ours says. */
  readonly systemTime: Date;
}

/** What is known of the parts of an engine, and of what it can enforce. */
export interface EngineExamination extends EngineInfo {
  /** Each with the fullest version that is told: `{ name: 'runc', version: '1.1.5+ds1-1+deb12u1' }`. */
  readonly components: readonly { readonly name: string; readonly version: string }[];
  readonly kernelVersion: string;
  /** Whether the kernel lets it limit each. */
  readonly limits: Readonly<Record<'memory' | 'swap' | 'pids' | 'cpu', boolean>>;
  /** Its own, about its kernel or how it is run. */
  readonly warnings: readonly string[];
  /** By which way it is reached. */
  readonly transport: 'socket' | 'tls' | 'plain';
}

/** A setting of a container, as it was asked for and as the engine has it. */
export interface AppliedSetting {
  readonly setting: string;
  readonly asked: string;
  readonly found: string;
}

/** What can be seen inside of what a container was made as. */
export interface SettingsSeenInside {
  readonly memoryBytes: number;
  readonly swapBytes: number;
  readonly pids: number;
  readonly cpus: number;
  /** Of user code, soft and hard. */
  readonly ulimits: readonly { readonly name: string; readonly value: number }[];
  readonly network: string;
  readonly readOnlyRoot: boolean;
  /** Whether it has a seccomp profile of ours; else it is the engine's. */
  readonly ownSeccompProfile: boolean;
  readonly maskedPaths: readonly string[];
  /** Where something is mounted to be written to. */
  readonly writable: readonly string[];
}

/** A container as it is, beside what it should be. */
export interface ContainerComparison {
  readonly state: ContainerState;
  /** The engine's name for it. */
  readonly runtime: string;
  readonly settings: readonly AppliedSetting[];
  readonly inside: SettingsSeenInside;
  /** Where the engine has mounted something for it, and whether that can be written to. */
  readonly mounts: readonly { readonly target: string; readonly writable: boolean }[];
}

export interface ImageInfo {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  /** All of its layers together. */
  readonly bytes: number;
}

/** What a container is made of, in Docker's words; container-spec.ts says what each is set to and why. */
export interface ContainerSpec {
  readonly name: string;
  readonly image: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly workdir: string;
  readonly hostname: string;
  readonly memoryBytes: number;
  readonly cpus: number;
  readonly pids: number;
  /** Open files of PID 1 at the least; what user code may open is set when it is started. */
  readonly nofile: number;
  readonly network: 'none' | 'bridge';
  /** A network that is its own, instead of that: with a proxy in it, and no other way out. */
  readonly egress?: EgressEndpoint | undefined;
  /** Mounted read-only. */
  readonly volume?: VolumeMount | undefined;
  /** A directory of the engine's machine that is mounted read-only. */
  readonly directory?: DirectoryMount | undefined;
  /** One of `EngineInfo.runtimes`; the engine's own default when absent. */
  readonly runtime?: string | undefined;
  /** What there is where the root file system is read-only; it is writable when absent. */
  readonly readOnly?: ReadOnlyRoot | undefined;
  /** Whether commands may be root's, with what it takes to install packages. */
  readonly rootCommands?: boolean | undefined;
  /** What its root may take by the storage driver's quota; none when absent. */
  readonly quotaBytes?: number | undefined;
  /** Whether PID 1 watches what is written, and so looks into each directory. */
  readonly watched?: boolean | undefined;
}

/** What can be written to in a container whose root file system can't. */
export interface ReadOnlyRoot {
  /** In memory, which is the container's, and gone when it stops. */
  readonly tmpfs: readonly TmpfsMount[];
  /** A directory of root's with a volume of its own, which outlives a stop and goes with the container. */
  readonly kept: string;
}

interface TmpfsMount {
  readonly target: string;
  readonly bytes: number;
  /** How many files and directories it may have. */
  readonly inodes: number;
  readonly uid: number;
  readonly gid: number;
  /** Permission bits. */
  readonly mode: number;
}

/** Where a container is in a network that it shares with a proxy only. */
export interface EgressEndpoint {
  readonly network: string;
  readonly address: string;
  /** The proxy's name there, and its address. */
  readonly proxy: { readonly name: string; readonly address: string };
}

/** A network that is to be made. */
export interface NetworkSpec {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Those that it may have, as `10.0.0.0/29`: it gets the first that no other network has. */
  readonly subnets: Iterable<string>;
  /** Whether nothing but its containers is to be reached in it, not even the engine's machine. */
  readonly isolated: boolean;
}

/** The container of a proxy: its root can't be written to. */
export interface ProxySpec extends Pick<
  ContainerSpec,
  'name' | 'image' | 'labels' | 'entrypoint' | 'hostname' | 'memoryBytes' | 'cpus' | 'pids' | 'nofile'
> {
  /** By which it reaches what lies outside. */
  readonly outside: string;
  /** The one that it keeps its state on, made with these labels where there is none. */
  readonly volume: VolumeMount & { readonly labels: Readonly<Record<string, string>> };
  /** What is kept in memory, by its path, with options as those of `mount`. */
  readonly tmpfs: Readonly<Record<string, string>>;
}

export interface VolumeMount {
  readonly name: string;
  /** Where in the container. */
  readonly target: string;
}

export interface DirectoryMount {
  /** On the engine's machine. */
  readonly source: string;
  /** Where in the container. */
  readonly target: string;
}

/** A volume that is to have what an image has at a path. */
export interface VolumeContent {
  readonly name: string;
  readonly image: string;
  /** A directory of the image. */
  readonly path: string;
  readonly labels: Readonly<Record<string, string>>;
}

export type ContainerState = 'created' | 'running' | 'paused' | 'exited';

export interface ContainerSummary {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly state: ContainerState;
  /** By the engine's clock, to the second. */
  readonly createdAt: Date;
  readonly labels: Readonly<Record<string, string>>;
}

export interface ContainerDetails extends ContainerSummary {
  /** `undefined` while it never ran. */
  readonly startedAt: Date | undefined;
  /** `undefined` while it runs or never ran. */
  readonly finishedAt: Date | undefined;
  readonly exitCode: number;
  readonly oomKilled: boolean;
}

/** What can be changed of a container that is there. */
export interface ContainerLimits {
  readonly memoryBytes: number;
  readonly cpus: number;
  readonly pids: number;
}

export type ContainerAction = 'create' | 'start' | 'die' | 'oom' | 'pause' | 'unpause' | 'rename' | 'destroy';

/** Something that happened to a container, whoever did it. */
export interface ContainerEvent {
  readonly action: ContainerAction;
  readonly id: string;
  /** As it is called now. */
  readonly name: string;
  readonly image: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Of `die` only. */
  readonly exitCode: number | undefined;
  /** By the engine's clock. */
  readonly at: Date;
}

/** A volume or network that is there. */
export interface NamedObject {
  readonly name: string;
  /** By the engine's clock; of a volume, when its directory was last changed, which is never before. */
  readonly createdAt: Date;
  readonly labels: Readonly<Record<string, string>>;
}

export interface Engine {
  /** Finds the engine and agrees on a version, anew when it was lost. Throws `engine_unavailable`. */
  info(options?: CallOptions): Promise<EngineInfo>;
  ping(options?: CallOptions): Promise<void>;
  examine(options?: CallOptions): Promise<EngineExamination>;
  /**
   * Tries to make a container whose disk is bounded, which is never started: `undefined` when that works, else why it
   * doesn't. Throws `image_not_found`.
   */
  tryDiskQuota(image: string, options?: CallOptions): Promise<string | undefined>;
  /** Throws `image_not_found`. */
  inspectImage(reference: string, options?: CallOptions): Promise<ImageInfo>;

  /** Returns the container's id. Throws `image_not_found`, `name_conflict`, `limit_exceeded`, `out_of_disk`. */
  createContainer(spec: ContainerSpec, options?: CallOptions): Promise<string>;
  /** Throws `sandbox_not_found`, as all that follow. */
  inspectContainer(reference: string, options?: CallOptions): Promise<ContainerDetails>;
  /** All that carry every one of the labels (`name` or `name=value`), in any state, newest first. */
  listContainers(labels: readonly string[], options?: CallOptions): Promise<ContainerSummary[]>;
  /** Throws `engine_error` when the running container isn't what the spec asked for. */
  verifyContainer(reference: string, spec: ContainerSpec, options?: CallOptions): Promise<void>;
  /** Compares a container with what it should be, setting by setting, whatever comes of that. */
  compareContainer(reference: string, spec: ContainerSpec, options?: CallOptions): Promise<ContainerComparison>;
  /** Starting a running one and stopping a stopped one succeed; so does stopping a paused one. */
  startContainer(reference: string, options?: CallOptions): Promise<void>;
  stopContainer(reference: string, options?: CallOptions & { graceSeconds?: number }): Promise<void>;
  /**
   * Kills it if it runs or is paused, or, with `unlessRunning`, throws `wrong_state`; succeeds when there is none. Where
   * the runtime can't kill what is paused, that goes on for a moment first.
   */
  removeContainer(reference: string, options?: CallOptions & { readonly unlessRunning?: boolean }): Promise<void>;
  /** Pausing a paused one and unpausing one that runs succeed. Throws `wrong_state` when it doesn't run. */
  pauseContainer(reference: string, options?: CallOptions): Promise<void>;
  unpauseContainer(reference: string, options?: CallOptions): Promise<void>;
  /** Succeeds when it is called so already. Throws `name_conflict`. */
  renameContainer(reference: string, name: string, options?: CallOptions): Promise<void>;
  /**
   * Of a container in any state; does nothing to one that has these.
   * Throws `wrong_state` when it uses more memory than it is to have, `limit_exceeded`, and
   * `engine_error` when the engine or the runtime can't, or when it isn't so afterwards.
   */
  updateContainer(reference: string, limits: ContainerLimits, options?: CallOptions): Promise<void>;
  /**
   * What a regular file has, as root sees it; of a container in any state. `undefined` when there is none. Throws
   * `engine_error` when it is larger than `maxBytes`, and when it is no regular file: a link isn't followed.
   */
  readContainerFile(
    reference: string,
    path: string,
    options: CallOptions & { readonly maxBytes: number },
  ): Promise<Buffer | undefined>;
  /**
   * Where a symbolic link in a container leads, whether that runs or not: an absolute path, at which there need be nothing.
   * `undefined` where there is no link, or one of more than some 2000 bytes, or no container. It takes a fiftieth of what
   * `readContainerFile` does.
   */
  readContainerLink(reference: string, path: string, options?: CallOptions): Promise<string | undefined>;

  /**
   * What happens to the containers that carry all of the labels, from when it is first read. It never ends but by
   * throwing: `engine_unavailable` when the engine is lost, `engine_error`, `aborted`. `ready` is called when the engine
   * tells all that happens from then on. To a reader that is slow for long it may tell less, without a word: so nothing
   * slow belongs between two reads.
   */
  watchContainers(
    labels: readonly string[],
    options?: CallOptions & { readonly ready?: () => void },
  ): AsyncIterable<ContainerEvent>;

  /** All that carry every one of the labels. */
  listVolumes(labels: readonly string[], options?: CallOptions): Promise<NamedObject[]>;
  listNetworks(labels: readonly string[], options?: CallOptions): Promise<NamedObject[]>;
  /** Answers whether it is gone; `false` when something uses it. */
  removeVolume(name: string, options?: CallOptions): Promise<boolean>;
  /** Containers whose name begins with `disconnect` are taken out of it first. */
  removeNetwork(name: string, options?: CallOptions & { readonly disconnect?: string }): Promise<boolean>;
  /** Gives the subnet that it has got. Throws `name_conflict`, and `over_capacity` when each subnet is taken. */
  createNetwork(network: NetworkSpec, options?: CallOptions): Promise<string>;
  /** The subnet of a network; `undefined` when there is no such network. */
  findSubnet(name: string, options?: CallOptions): Promise<string | undefined>;
  /** Puts a container into a network, under more names. Succeeds where it is in it. Throws `sandbox_not_found`. */
  connectNetwork(
    name: string,
    options: CallOptions & {
      readonly container: string;
      readonly address: string;
      readonly aliases: readonly string[];
    },
  ): Promise<void>;
  /** Makes the container of a proxy, and gives its id. Throws as `createContainer`. */
  createProxy(spec: ProxySpec, options?: CallOptions): Promise<string>;

  /**
   * Joins the standard streams of PID 1 of a container that was created and not yet started, as `openTunnel` does those of
   * a command. There is one such way to it: when it is destroyed, PID 1 reads the end of its input.
   */
  attachTunnel(reference: string, options?: CallOptions): Promise<Duplex>;
  /**
   * Runs `command` in a running container, as root, and gives the way to it: writing goes to its standard input, and
   * reading yields its standard output. Destroying it closes the connection. It ends when the command ends; what went
   * wrong is a SandyardError, with what the command printed on standard error: `wrong_state` when the container doesn't
   * run, `sandbox_not_found`, `engine_error` when the command can't be started or failed before it printed anything.
   */
  openTunnel(reference: string, command: readonly string[], options?: CallOptions): Promise<Duplex>;

  /**
   * Makes the volume and has the engine copy into it what the image has at the path. Does nothing to one that has been
   * filled. Throws `image_not_found`, `out_of_disk`.
   */
  fillVolume(volume: VolumeContent, options?: CallOptions): Promise<void>;

  close(): void;
}
