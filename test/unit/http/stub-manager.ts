import { EventEmitter, once } from 'node:events';

import { SandyardError } from '../../../src/errors.js';
import type {
  CreateOptions,
  ExecOptions,
  ExecResult,
  SandboxInfo,
  SandboxManager,
  SpawnOptions,
} from '../../../src/index.js';
import { stubFiles, withoutSignal, type StubTree } from './stub-files.js';
import { exitOf, StubProcess, type SpawnScript } from './stub-processes.js';

/*
 * A manager in memory, for what the HTTP layer itself does: it shows which calls and signals arrive, and fails and
 * stalls on demand. How the real manager behaves is tested with the real one.
 */

export interface Recorded {
  readonly call: string;
  readonly args: readonly unknown[];
}

const MEMORY_CEILING = 8 * 1024 ** 3;

interface StubSandbox {
  info: SandboxInfo;
  readonly files: StubTree;
  readonly processes: Map<string, StubProcess>;
}

export class StubManager {
  readonly image = 'sandyard-sandbox:latest';
  readonly owner = 'default';
  readonly calls: Recorded[] = [];
  readonly aborted: string[] = [];
  readonly sandboxes = new Map<string, StubSandbox>();
  engineFault: SandyardError | undefined;
  imagePresent = true;
  fault: Error | undefined;
  script: SpawnScript = { chunks: [] };
  execResult: Partial<ExecResult> = {};
  /** What `exec` waits for before it answers. */
  execGate: Promise<unknown> = Promise.resolve();
  /** What files say of their time. */
  modifiedAt = new Date('2026-01-01T00:00:00Z');
  /** Emits `change` for whoever watches. */
  readonly changes = new EventEmitter();
  /** Programs that no sandbox has. */
  readonly missing = new Set(['no-such-program']);
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
    this.sandboxes.set(id, {
      info: makeInfo(id, options),
      files: new Map([['/workspace', 'directory']]),
      processes: new Map(),
    });
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

  async stop(id: string, options: object = {}): Promise<SandboxInfo> {
    this.calls.push({ call: 'stop', args: [withoutSignal(options)] });
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
      oomKills: 2,
      at,
    };
  }

  async exec(id: string, command: unknown, { signal, ...options }: ExecOptions = {}): Promise<ExecResult> {
    this.#findRunning(id);
    this.calls.push({ call: 'exec', args: [command, options] });
    this.#requireProgram(command);
    if (Array.isArray(command) && command[0] === 'hang') await this.#untilAborted('exec', signal);
    await this.execGate;
    return {
      ...exitOf(0),
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
      spawn: (command: unknown, options: SpawnOptions) => this.#spawn(id, command, options),
      processes: {
        list: async () => [...this.#findRunning(id).processes.values()].map((process) => process.info()),
        get: async (pid: string) => this.#handleOf(this.#findProcess(id, pid), true),
        forget: async (pid: string) => {
          this.#findProcess(id, pid);
          this.#findRunning(id).processes.delete(pid);
        },
      },
      files: stubFiles(this, () => this.#findRunning(id).files),
    };
  }

  /** The process that was started last. */
  get latest(): StubProcess {
    const process = [...this.sandboxes.values()].flatMap(({ processes }) => [...processes.values()]).at(-1);
    if (process === undefined) throw new Error('No process was started.');
    return process;
  }

  async #spawn(id: string, command: unknown, { signal, ...options }: SpawnOptions) {
    const { processes } = this.#findRunning(id);
    this.calls.push({ call: 'spawn', args: [command, options] });
    this.#requireProgram(command);
    if (Array.isArray(command) && command[0] === 'slow-start') await this.#untilAborted('spawn', signal);
    const known = processes.get(options.id ?? '');
    if (known !== undefined) return this.#handleOf(known, true);
    const pid = processes.size + 1;
    const process = new StubProcess(options.id ?? `p${pid}`, { pid, command, options, script: this.script });
    processes.set(process.id, process);
    const onAbort = () => {
      this.aborted.push('spawn');
      process.end(exitOf(143, { outcome: 'killed' }));
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    return this.#handleOf(process, false);
  }

  #handleOf(process: StubProcess, existing: boolean) {
    return process.handle({ existing, disposed: () => (this.disposed += 1) });
  }

  #findProcess(id: string, pid: string): StubProcess {
    const found = this.#findRunning(id).processes.get(pid);
    if (found !== undefined) return found;
    throw new SandyardError('process_not_found', `There is no process ${pid}.`, { hint: 'List them.' });
  }

  #requireProgram(command: unknown): void {
    const [program] = Array.isArray(command) ? (command as string[]) : [];
    if (program === undefined || !this.missing.has(program)) return;
    throw new SandyardError('command_not_found', `${program} was not found.`, { hint: 'Look at PATH.' });
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
    runtime: options.runtime ?? null,
    metadata: options.metadata ?? {},
  };
}
