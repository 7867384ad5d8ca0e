import { EventEmitter, once } from 'node:events';

import { SandyardError } from '../../../src/errors.js';
import type {
  Attestation,
  CreateCallOptions,
  CreateOptions,
  Diagnosis,
  EventsOptions,
  ExecOptions,
  ExecResult,
  PruneResult,
  SandboxInfo,
  SandboxManager,
  SpawnOptions,
  TenantOptions,
} from '../../../src/index.js';
import { LifecycleEvents } from '../../../src/fleet/lifecycle.js';
import { stubFiles, withoutSignal, type StubTree } from './stub-files.js';
import type { ManagerGauges } from '../../../src/telemetry.js';
import { ATTESTATION, DIAGNOSIS, makeInfo, SAMPLE, STATS, withReason } from './stub-info.js';
import { exitOf, StubProcess, type SpawnScript } from './stub-processes.js';

/*
 * A manager in memory, for what the HTTP layer itself does: it shows which calls and signals arrive, and fails and
 * stalls on demand. How the real manager behaves is tested with the real one.
 */

export interface Recorded {
  readonly call: string;
  readonly args: readonly unknown[];
}

function isTheirs({ tenant, owner }: SandboxInfo, wanted: string | undefined): boolean {
  return wanted === undefined || (tenant ?? owner) === wanted;
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
  /** What a state change waits for. */
  stateGate: Promise<unknown> = Promise.resolve();
  pruned: PruneResult = { sandboxes: [], volumes: [], networks: [] };
  readonly lifecycle = new LifecycleEvents();
  /** The sandboxes that were made for a request that may be repeated. */
  readonly madeFor = new Map<string, { content: string; id: string }>();
  /** Those that whoever waits for is told to be gone. */
  readonly removed = new Set<string>();
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
    this.lifecycle.close();
  }

  get eventPosition(): string {
    return this.lifecycle.position;
  }

  gauges(): Promise<ManagerGauges> {
    const sandboxes = { running: this.sandboxes.size };
    return Promise.resolve({
      sandboxes,
      pool: { ready: 0, filling: 0 },
      queueLength: 0,
      usage: () => Promise.resolve([]),
    });
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
      dataRoot: '/var/lib/docker',
      cgroupVersion: '1',
      runtimes: ['runc', 'runsc'],
      defaultRuntime: 'runc',
      securityOptions: ['name=seccomp,profile=default'],
      liveRestore: false,
    };
  }

  async diskMode() {
    return 'watchdog' as const;
  }

  async hasImage(): Promise<boolean> {
    return this.imagePresent;
  }

  async create(options: CreateOptions, { signal, madeFor, tenant }: CreateCallOptions = {}) {
    this.calls.push({ call: 'create', args: [options] });
    if (this.fault) throw this.fault;
    const made = this.madeFor.get(madeFor?.key ?? '');
    if (made !== undefined) return this.#handle(made.id);
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
    await this.stateGate;
    const id = `sb${this.sandboxes.size + 1}`;
    if (madeFor !== undefined) this.madeFor.set(madeFor.key, { content: madeFor.content, id });
    this.sandboxes.set(id, {
      info: { ...makeInfo(id, options), tenant: tenant ?? null },
      files: new Map([['/workspace', 'directory']]),
      processes: new Map(),
    });
    return this.#handle(id);
  }

  async get(id: string, { tenant }: TenantOptions = {}) {
    this.#find(id, tenant);
    return this.#handle(id);
  }

  async list(options: unknown, { signal, tenant }: TenantOptions = {}) {
    this.calls.push({ call: 'list', args: [options, signal] });
    const infos = [...this.sandboxes.values()].map(({ info }) => info);
    return { sandboxes: infos.filter((info) => isTheirs(info, tenant)), cursor: null };
  }

  async inspect(id: string): Promise<SandboxInfo> {
    if (this.fault) throw this.fault;
    return this.#find(id).info;
  }

  events(options: EventsOptions) {
    return this.lifecycle.read(options);
  }

  async start(id: string): Promise<SandboxInfo> {
    return this.#setState('start', id, { state: 'running' });
  }

  async stop(id: string, options: object = {}): Promise<SandboxInfo> {
    return this.#setState('stop', id, { options, state: 'exited' });
  }

  async restart(id: string, options: object = {}): Promise<SandboxInfo> {
    return this.#setState('restart', id, { options, state: 'running' });
  }

  async pause(id: string): Promise<SandboxInfo> {
    return this.#setState('pause', id, { state: 'paused' });
  }

  async unpause(id: string): Promise<SandboxInfo> {
    return this.#setState('unpause', id, { state: 'running' });
  }

  /** Ends at once, or never. */
  async wait(id: string, { signal }: { signal?: AbortSignal } = {}): Promise<SandboxInfo | null> {
    const { info } = this.#find(id);
    if (info.state === 'exited') return withReason(info);
    return this.removed.has(id) ? null : this.#untilAborted('wait', signal);
  }

  async prune(options: object): Promise<PruneResult> {
    this.calls.push({ call: 'prune', args: [withoutSignal(options)] });
    return this.pruned;
  }

  async renew(id: string, options: { ttlMs?: number }): Promise<SandboxInfo> {
    this.calls.push({ call: 'renew', args: [options] });
    return this.#find(id).info;
  }

  async destroy(id: string): Promise<void> {
    this.#find(id);
    this.sandboxes.delete(id);
  }

  async doctor(): Promise<Diagnosis> {
    if (this.engineFault) throw this.engineFault;
    return DIAGNOSIS;
  }

  async attest(id: string): Promise<Attestation> {
    this.#findRunning(id);
    return { ...ATTESTATION, sandboxId: id };
  }

  async stats(id: string) {
    this.#find(id);
    return STATS;
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
      statsHistory: async () => [SAMPLE],
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

  #find(id: string, tenant?: string) {
    const found = this.sandboxes.get(id);
    if (found && isTheirs(found.info, tenant)) return found;
    throw new SandyardError('sandbox_not_found', `There is no sandbox ${id}.`, {
      hint: 'List them.',
      ...(found && { details: { refused: 'owner' } }),
    });
  }

  #findRunning(id: string) {
    const found = this.#find(id);
    if (found.info.state === 'running') return found;
    throw new SandyardError('wrong_state', `Sandbox ${id} is ${found.info.state}.`, { hint: 'Start it.' });
  }

  async #setState(
    call: string,
    id: string,
    { state, options = {} }: { state: SandboxInfo['state']; options?: object },
  ): Promise<SandboxInfo> {
    this.calls.push({ call, args: [withoutSignal(options)] });
    await this.stateGate;
    if (this.fault) throw this.fault;
    const found = this.#find(id);
    found.info = { ...found.info, state };
    return found.info;
  }
}
