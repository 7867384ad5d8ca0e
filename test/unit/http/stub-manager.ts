import { once } from 'node:events';
import { Readable } from 'node:stream';

import { SandyardError } from '../../../src/errors.js';
import type {
  CreateOptions,
  ExecOptions,
  ExecResult,
  FileInfo,
  ProcessExit,
  ProcessOutput,
  SandboxInfo,
  SandboxManager,
} from '../../../src/index.js';

/*
 * A manager in memory, for what the HTTP layer itself does: it shows which calls and signals arrive, and fails and
 * stalls on demand. How the real manager behaves is tested with the real one.
 */

export interface SpawnScript {
  readonly chunks: readonly { stream: 'stdout' | 'stderr'; data: Uint8Array }[];
  /** Thrown after the chunks. */
  readonly fault?: Error;
  /** Whether it goes on until it is aborted. */
  readonly hangs?: boolean;
}

export interface Recorded {
  readonly call: string;
  readonly args: readonly unknown[];
}

const MEMORY_CEILING = 8 * 1024 ** 3;

export class StubManager {
  readonly image = 'sandyard-sandbox:latest';
  readonly owner = 'default';
  readonly calls: Recorded[] = [];
  readonly aborted: string[] = [];
  readonly sandboxes = new Map<string, { info: SandboxInfo; files: Map<string, Uint8Array | 'directory'> }>();
  engineFault: SandyardError | undefined;
  imagePresent = true;
  fault: Error | undefined;
  script: SpawnScript = { chunks: [] };
  execResult: Partial<ExecResult> = {};
  /** What `exec` waits for before it answers. */
  execGate: Promise<unknown> = Promise.resolve();
  /** Bytes that a download fails after. */
  failAfterBytes = Number.POSITIVE_INFINITY;
  disposed = 0;
  opened = 0;
  closed = 0;

  /** As what it stands in for. */
  get manager(): SandboxManager {
    return this as unknown as SandboxManager;
  }

  async open(): Promise<void> {
    this.opened += 1;
    if (this.engineFault) throw this.engineFault;
  }

  async close(): Promise<void> {
    this.closed += 1;
  }

  async engineInfo() {
    if (this.engineFault) throw this.engineFault;
    return {
      address: 'unix:///var/run/docker.sock',
      version: '20.10.24',
      apiVersion: '1.41',
      operatingSystem: 'Debian',
      architecture: 'x86_64',
      cpus: 4,
      memoryBytes: 8e9,
      storageDriver: 'overlay2',
      cgroupVersion: '1',
      runtimes: ['runc', 'runsc'],
      defaultRuntime: 'runc',
      securityOptions: ['name=seccomp,profile=default'],
      liveRestore: false,
    };
  }

  async hasImage(): Promise<boolean> {
    return this.imagePresent;
  }

  async create(options: CreateOptions, { signal }: { signal?: AbortSignal } = {}) {
    this.calls.push({ call: 'create', args: [options] });
    if (this.fault) throw this.fault;
    if (options.image === 'missing:latest') {
      throw new SandyardError('image_not_found', 'The engine has no image missing:latest.', { hint: 'Build it.' });
    }
    if (Number(options.memoryLimit) > MEMORY_CEILING) {
      throw new SandyardError('limit_exceeded', 'memoryLimit is 16g; the ceiling is 8g.', {
        hint: 'Ask for 8g or less.',
        issues: [{ path: ['memoryLimit'], message: 'must be 8g at most' }],
      });
    }
    if (options.projectName === 'slow') await this.#untilAborted('create', signal);
    const id = `sb${this.sandboxes.size + 1}`;
    this.sandboxes.set(id, { info: makeInfo(id, options), files: new Map([['/workspace', 'directory']]) });
    return this.#handle(id);
  }

  async get(id: string) {
    this.#find(id);
    return this.#handle(id);
  }

  async list(options: unknown, { signal }: { signal?: AbortSignal } = {}) {
    this.calls.push({ call: 'list', args: [options, signal] });
    return { sandboxes: [...this.sandboxes.values()].map(({ info }) => info), cursor: null };
  }

  async inspect(id: string): Promise<SandboxInfo> {
    if (this.fault) throw this.fault;
    return this.#find(id).info;
  }

  async start(id: string): Promise<SandboxInfo> {
    return this.#setState(id, 'running');
  }

  async stop(id: string): Promise<SandboxInfo> {
    return this.#setState(id, 'exited');
  }

  async renew(id: string, options: { ttlMs?: number }): Promise<SandboxInfo> {
    this.calls.push({ call: 'renew', args: [options] });
    return this.#find(id).info;
  }

  async destroy(id: string): Promise<void> {
    this.#find(id);
    this.sandboxes.delete(id);
  }

  async stats(id: string) {
    this.#find(id);
    const at = new Date('2026-01-01T00:00:00Z');
    return {
      memoryBytes: 1000,
      memoryLimitBytes: 2000,
      cpuSeconds: 1.5,
      pids: 3,
      networkReceivedBytes: 0,
      networkSentBytes: 0,
      at,
    };
  }

  async exec(id: string, command: unknown, { signal, ...options }: ExecOptions = {}): Promise<ExecResult> {
    this.#findRunning(id);
    this.calls.push({ call: 'exec', args: [command, options] });
    if (Array.isArray(command) && command[0] === 'no-such-program') throw commandNotFound();
    if (Array.isArray(command) && command[0] === 'hang') await this.#untilAborted('exec', signal);
    await this.execGate;
    return {
      ...exit(0),
      stdout: 'v20.20.2\n',
      stderr: '',
      truncated: false,
      droppedBytes: { stdout: 0, stderr: 0 },
      ...this.execResult,
    };
  }

  #handle(id: string) {
    return {
      id,
      inspect: () => this.inspect(id),
      destroy: () => this.destroy(id),
      spawn: (command: unknown, options: ExecOptions) => this.#spawn(id, command, options),
      files: this.#files(id),
    };
  }

  async #spawn(id: string, command: unknown, { signal, ...options }: ExecOptions) {
    this.#findRunning(id);
    this.calls.push({ call: 'spawn', args: [command, options] });
    const { chunks, fault, hangs = false } = this.script;
    const output = async function* (this: StubManager): AsyncGenerator<ProcessOutput> {
      let seq = 0;
      for (const chunk of chunks) yield { seq: (seq += 1), ...chunk };
      if (fault) throw fault;
      if (hangs) await this.#untilAborted('spawn', signal);
    };
    return {
      id: 'p1',
      output: () => output.call(this),
      wait: async () => {
        if (Array.isArray(command) && command[0] === 'no-such-program') throw commandNotFound();
        return exit(3);
      },
      kill: async () => {},
      [Symbol.asyncDispose]: async () => {
        this.disposed += 1;
      },
    };
  }

  #files(id: string) {
    const entry = (path: string): Uint8Array | 'directory' => {
      const found = this.#findRunning(id).files.get(path);
      if (found === undefined) throw new SandyardError('file_not_found', `There is no ${path}.`, { hint: 'List it.' });
      return found;
    };
    const stat = async (path: string): Promise<FileInfo> => fileInfo(path, entry(path));
    return {
      stat,
      list: async () => [...this.#findRunning(id).files].map(([path, content]) => fileInfo(path, content)),
      readStream: async (path: string) => this.#download(entry(path) as Uint8Array),
      readArchive: async (path: string) => this.#download(Buffer.from(`tar of ${path} ${String(entry(path)).length}`)),
      write: async (path: string, data: AsyncIterable<Uint8Array>, options: object) => {
        this.calls.push({ call: 'write', args: [path, { ...options, signal: undefined }] });
        const { files } = this.#findRunning(id);
        files.set(path, await this.#collect(data));
      },
      writeArchive: async (path: string, tar: Readable) => {
        const bytes = await this.#collect(tar);
        if (bytes.includes('..')) {
          throw new SandyardError('unsafe_archive', 'The archive has ../x.', { hint: 'Leave it out.' });
        }
        this.#findRunning(id).files.set(path, bytes);
      },
      remove: async (path: string, options: object) => {
        entry(path);
        this.calls.push({ call: 'remove', args: [path, { ...options, signal: undefined }] });
        this.#findRunning(id).files.delete(path);
      },
    };
  }

  /** Wraps what goes wrong, as a reader over a tunnel might. */
  async #collect(data: AsyncIterable<Uint8Array>): Promise<Buffer> {
    try {
      const chunks: Uint8Array[] = [];
      for await (const chunk of data) chunks.push(chunk);
      return Buffer.concat(chunks);
    } catch (error) {
      this.aborted.push('upload');
      throw new SandyardError('file_operation_failed', 'The upload broke.', { cause: error });
    }
  }

  #download(bytes: Uint8Array): Readable {
    const limit = this.failAfterBytes;
    return Readable.from(
      (async function* () {
        const size = 64 * 1024;
        for (let at = 0; at < bytes.length; at += size) {
          if (at >= limit) throw new SandyardError('file_operation_failed', 'The disk broke.');
          yield bytes.subarray(at, at + size);
        }
      })(),
      { objectMode: false },
    );
  }

  async #untilAborted(what: string, signal: AbortSignal | undefined): Promise<never> {
    if (signal?.aborted !== true) await once(signal ?? new EventTarget(), 'abort');
    this.aborted.push(what);
    throw new SandyardError('aborted', `The ${what} was aborted.`);
  }

  #find(id: string) {
    const found = this.sandboxes.get(id);
    if (found) return found;
    throw new SandyardError('sandbox_not_found', `There is no sandbox ${id}.`, { hint: 'List them.' });
  }

  #findRunning(id: string) {
    const found = this.#find(id);
    if (found.info.state === 'running') return found;
    throw new SandyardError('wrong_state', `Sandbox ${id} is ${found.info.state}.`, { hint: 'Start it.' });
  }

  #setState(id: string, state: SandboxInfo['state']): SandboxInfo {
    const found = this.#find(id);
    found.info = { ...found.info, state };
    return found.info;
  }
}

function commandNotFound(): SandyardError {
  return new SandyardError('command_not_found', 'no-such-program was not found.', { hint: 'Look at PATH.' });
}

function exit(exitCode: number): ProcessExit {
  return { exitCode, signal: null, durationMs: 12.5, outcome: 'exited', processesLeft: false };
}

function fileInfo(path: string, content: Uint8Array | 'directory'): FileInfo {
  const isDirectory = content === 'directory';
  return {
    path,
    name: path.split('/').at(-1) ?? '',
    type: isDirectory ? 'directory' : 'file',
    sizeBytes: isDirectory ? 4096 : content.length,
    mode: isDirectory ? 0o755 : 0o644,
    modifiedAt: new Date('2026-01-01T00:00:00Z'),
    uid: 1000,
    gid: 1000,
    linkTarget: null,
  };
}

function makeInfo(id: string, options: CreateOptions): SandboxInfo {
  return {
    id,
    name: `sandyard-${id}`,
    containerId: 'c'.repeat(64),
    projectName: options.projectName ?? null,
    state: 'running',
    image: options.image ?? 'sandyard-sandbox:latest',
    owner: 'default',
    createdAt: new Date('2026-01-01T00:00:00Z'),
    expiresAt: new Date('2026-01-01T01:00:00Z'),
    startedAt: new Date('2026-01-01T00:00:01Z'),
    finishedAt: null,
    exitCode: null,
    ttlMs: options.ttlMs ?? 3_600_000,
    idleTimeoutMs: options.idleTimeoutMs ?? null,
    limits: {
      memoryBytes: Number(options.memoryLimit ?? 1024 ** 3),
      cpus: Number(options.cpuLimit ?? 1),
      pids: 256,
      nofile: 4096,
    },
    network: options.network ?? 'none',
    workdir: '/workspace',
    user: 'sandbox',
    metadata: options.metadata ?? {},
  };
}
