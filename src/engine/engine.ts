import type { Readable, Writable } from 'node:stream';

/*
 * The one seam to Docker. A real engine stands behind it (docker-engine.ts), and in tests one that runs in memory.
 * Everything here is in the engine's terms: containers, images, execs. Every method throws SandyardError only, settles
 * within a deadline of its own even when the engine never answers, and is safe to call many times at once.
 */

export interface CallOptions {
  /** Gives up waiting. What the engine has begun by then may still come about. */
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
  readonly cgroupVersion: string;
  readonly runtimes: readonly string[];
  readonly defaultRuntime: string;
  readonly securityOptions: readonly string[];
  readonly liveRestore: boolean;
}

export interface ImageInfo {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
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
  readonly nofile: number;
  readonly network: 'none' | 'bridge';
}

export type ContainerState = 'created' | 'running' | 'paused' | 'exited';

export interface ContainerSummary {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly state: ContainerState;
  readonly labels: Readonly<Record<string, string>>;
}

export interface ContainerDetails extends ContainerSummary {
  /** `undefined` while it never ran. */
  readonly startedAt: Date | undefined;
  /** `undefined` while it runs or never ran. */
  readonly finishedAt: Date | undefined;
  readonly exitCode: number;
  readonly oomKilled: boolean;
  /** Whether an exec runs in it now. */
  readonly busy: boolean;
}

export interface ContainerStats {
  readonly memoryBytes: number;
  readonly memoryLimitBytes: number;
  /** CPU time used since it started, in nanoseconds. */
  readonly cpuNanoseconds: number;
  readonly pids: number;
  readonly networkReceivedBytes: number;
  readonly networkSentBytes: number;
}

export interface ExecSpec {
  readonly command: readonly string[];
  readonly env: readonly string[];
  readonly user: string;
  readonly workdir: string;
  /** Whether it reads from `stdin`; otherwise its standard input is empty. */
  readonly stdin: boolean;
}

export interface OutputChunk {
  readonly stream: 'stdout' | 'stderr';
  readonly data: Uint8Array;
}

/**
 * How an exec ended. `exited` has the engine's exit code (128 + n after signal n, as the engine can't tell the two
 * apart); `container_died` says that the container ended first.
 */
export type ExecEnd =
  | {
      readonly kind: 'exited';
      readonly exitCode: number;
      readonly oomKilled: boolean;
      readonly outputHeldOpen: boolean;
    }
  | { readonly kind: 'container_died'; readonly oomKilled: boolean };

export interface EngineExec {
  readonly id: string;
  /** Present when the spec asked for `stdin`. */
  readonly stdin: Writable | undefined;
  /**
   * What it prints, in order; may be read once. Not reading makes the command wait when it prints. Ends when the
   * output ended, or a moment after the command exited while something else holds its output open.
   */
  output(): AsyncIterable<OutputChunk>;
  /** Settles once the output was read to its end. */
  end(): Promise<ExecEnd>;
  /** Stops reading. Ends nothing in the container: the engine has no call for that. */
  close(): void;
}

export interface Engine {
  /** Finds the engine and agrees on a version, anew when it was lost. Throws `engine_unavailable`. */
  info(options?: CallOptions): Promise<EngineInfo>;
  ping(options?: CallOptions): Promise<void>;
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
  /** Starting a running one and stopping a stopped one succeed. */
  startContainer(reference: string, options?: CallOptions): Promise<void>;
  stopContainer(reference: string, options?: CallOptions & { graceSeconds?: number }): Promise<void>;
  /** Kills it if it runs; succeeds when there is none. */
  removeContainer(reference: string, options?: CallOptions): Promise<void>;
  stats(reference: string, options?: CallOptions): Promise<ContainerStats>;

  /** Throws `command_not_found` and its kind from `end()`, `wrong_state` when it doesn't run. */
  exec(reference: string, spec: ExecSpec, options?: CallOptions): Promise<EngineExec>;

  /** Unpacks a small tar, as root, below `/`. Works in any state. */
  putArchive(reference: string, tar: Readable, options?: CallOptions): Promise<void>;
  /** A small file, read as root, or `undefined` when there is none. Works in any state. */
  readFile(
    reference: string,
    path: string,
    options?: CallOptions & { maxBytes?: number },
  ): Promise<Uint8Array | undefined>;

  close(): void;
}
