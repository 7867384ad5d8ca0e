import { EventEmitter } from 'node:events';
import { PassThrough } from 'node:stream';

import { Tokens } from '../../../src/access/tokens.js';
import type { Context, Input, InterruptSignal, Output } from '../../../src/cli/context.js';
import { runCli } from '../../../src/cli/program.js';
import { currentContext } from '../../../src/context.js';
import { SandyardError } from '../../../src/errors.js';
import type {
  Attestation,
  DoctorCheck,
  LifecycleEvent,
  PruneResult,
  SandboxInfo,
  SandboxManager,
} from '../../../src/index.js';
import { endedByLease } from '../../../src/record/expiry.js';
import { StubProcess, type Script } from './stub-process.js';

/* The world of the program in memory: standard streams, signals, and a manager that records what it is called with. */

export class FakeTerminal extends PassThrough implements Input {
  readonly isTTY = true;
  readonly modes: boolean[] = [];

  setRawMode(mode: boolean): void {
    this.modes.push(mode);
  }

  get raw(): boolean {
    return this.modes.at(-1) ?? false;
  }
}

export class StubManager {
  readonly calls: { readonly call: string; readonly args: readonly unknown[] }[] = [];
  readonly infos = new Map<string, SandboxInfo>();
  readonly directories = new Set<string>(['/workspace']);
  script: Script = {};
  process: StubProcess | undefined;
  spawnFault: Error | undefined;
  destroyFault: Error | undefined;
  archive: AsyncIterable<Uint8Array> | undefined;
  received = '';
  processes: unknown[] = [];
  pruned: PruneResult = { sandboxes: [], volumes: [], networks: [] };
  /** What `events` gives before it waits for `signal`. */
  happened: LifecycleEvent[] = [];
  samples: unknown[] = [];
  /** What the engine is found to be. */
  found: DoctorCheck[] = [];
  attestation: Partial<Attestation> = {};
  /** What is done to a sandbox as a whole; on whose behalf. */
  actors = new Set<string | undefined>();
  opened = 0;
  closed = 0;

  called(name: string): readonly (readonly unknown[])[] {
    return this.calls.filter(({ call }) => call === name).map(({ args }) => args);
  }

  add(id: string, info: Partial<SandboxInfo> = {}): void {
    const endedBy = (typeof info.exitCode === 'number' && endedByLease(info.exitCode)) || null;
    this.infos.set(id, { ...makeInfo(id), endedBy, ...info });
  }

  async open(): Promise<void> {
    this.opened += 1;
  }

  async create(options: { projectName?: string }) {
    this.calls.push({ call: 'create', args: [options] });
    const id = `sb${this.infos.size + 1}`;
    this.add(id, { projectName: options.projectName ?? null });
    return this.get(id);
  }

  async get(id: string) {
    const info = this.#find(id);
    return {
      id,
      inspect: async () => info,
      destroy: () => this.destroy(id),
      spawn: (...args: unknown[]) => this.#spawn(args),
      copyTo: (...args: unknown[]) => this.#copy('copyTo', args),
      copyFrom: (...args: unknown[]) => this.#copy('copyFrom', args),
      files: {
        stat: async (path: string) => this.#stat(path),
        readArchive: async () => this.archive,
        writeArchive: async (path: string, tar: AsyncIterable<Uint8Array>) => {
          this.calls.push({ call: 'writeArchive', args: [path] });
          for await (const chunk of tar) this.received += Buffer.from(chunk).toString();
        },
      },
      processes: { list: async () => this.processes },
      statsHistory: async () => this.samples,
    };
  }

  /** Two pages, where there are two sandboxes. */
  async list(options: { cursor?: string }) {
    this.calls.push({ call: 'list', args: [options] });
    const all = [...this.infos.values()];
    const at = options.cursor === undefined ? 0 : Number(options.cursor);
    return { sandboxes: all.slice(at, at + 1), cursor: at + 1 < all.length ? String(at + 1) : null };
  }

  async inspect(id: string): Promise<SandboxInfo> {
    return this.#find(id);
  }

  start(id: string, options: unknown) {
    return this.#change('start', { id, options, info: { state: 'running' } });
  }

  stop(id: string, options: unknown) {
    return this.#change('stop', { id, options, info: { state: 'exited', exitCode: 0 } });
  }

  restart(id: string, options: unknown) {
    return this.#change('restart', { id, options, info: { state: 'running' } });
  }

  pause(id: string, options: unknown) {
    return this.#change('pause', { id, options, info: { state: 'paused' } });
  }

  unpause(id: string, options: unknown) {
    return this.#change('unpause', { id, options, info: { state: 'running' } });
  }

  renew(id: string, options: unknown) {
    return this.#change('renew', { id, options, info: {} });
  }

  async wait(id: string): Promise<SandboxInfo | null> {
    return this.#find(id);
  }

  async prune(options: unknown): Promise<PruneResult> {
    this.calls.push({ call: 'prune', args: [options] });
    return this.pruned;
  }

  async *events({ signal, ...filter }: { signal: AbortSignal }): AsyncGenerator<LifecycleEvent> {
    this.calls.push({ call: 'events', args: [filter] });
    yield* this.happened;
    if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  }

  async destroy(id: string): Promise<void> {
    this.#find(id);
    this.calls.push({ call: 'destroy', args: [id] });
    if (this.destroyFault) throw this.destroyFault;
    this.infos.delete(id);
  }

  async doctor() {
    return { at: new Date(0), ok: true, checks: this.found };
  }

  async attest(id: string) {
    this.#find(id);
    return this.attestation;
  }

  async stats(id: string) {
    if (this.#find(id).state !== 'running') throw new SandyardError('wrong_state', `The sandbox ${id} is exited.`);
    return {
      memoryBytes: 3 * 1024 ** 2,
      memoryLimitBytes: 1024 ** 3,
      cpuSeconds: 1.5,
      pids: 3,
      networkReceivedBytes: 0,
      networkSentBytes: 2048,
      oomKills: 0,
      diskBytes: 5 * 1024 ** 2,
      diskLimitBytes: 2 * 1024 ** 3,
      inodes: 12,
      inodesLimit: 1000,
      at: new Date('2026-01-01T00:00:00Z'),
    };
  }

  async close(): Promise<void> {
    this.closed += 1;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #change(
    call: string,
    { id, options, info }: { id: string; options: unknown; info: Partial<SandboxInfo> },
  ): Promise<SandboxInfo> {
    const changed = { ...this.#find(id), ...info };
    this.actors.add(currentContext().actor);
    this.calls.push({ call, args: [id, options] });
    this.infos.set(id, changed);
    return changed;
  }

  #find(id: string): SandboxInfo {
    const info = this.infos.get(id);
    if (info === undefined)
      throw new SandyardError('sandbox_not_found', `There is no sandbox "${id}".`, { hint: 'List.' });
    return info;
  }

  #stat(path: string) {
    if (this.directories.has(path)) return { type: 'directory' };
    throw new SandyardError('file_not_found', `There is no "${path}".`);
  }

  async #copy(call: string, args: readonly unknown[]) {
    this.calls.push({ call, args });
    return { entries: 2, bytes: 1536 };
  }

  async #spawn(args: readonly unknown[]) {
    this.calls.push({ call: 'spawn', args });
    if (this.spawnFault) throw this.spawnFault;
    this.process = new StubProcess(this.script);
    return this.process;
  }
}

export class World {
  readonly stub = new StubManager();
  readonly stdin: Input;
  readonly stdout: Output & PassThrough;
  readonly stderr: Output & PassThrough = new PassThrough();
  readonly exits: number[] = [];
  readonly atExit = new Set<() => void>();
  served = 0;
  /** Of whoever types. */
  variables: Record<string, string> = {};
  /** What tokens are issued by. */
  tokens = new Tokens({ tokenSecret: undefined, maxTokenMs: 3_600_000, stateDirectory: undefined }, 'default');
  opened = 0;
  out = '';
  err = '';
  readonly #signals = new EventEmitter();

  constructor({ stdin = new PassThrough(), stdout = new PassThrough() }: { stdin?: Input; stdout?: PassThrough } = {}) {
    this.stdin = stdin;
    this.stdout = stdout;
    this.stdout.on('data', (chunk: Buffer) => (this.out += chunk.toString()));
    this.stderr.on('data', (chunk: Buffer) => (this.err += chunk.toString()));
  }

  get context(): Context {
    return {
      stdin: this.stdin,
      stdout: this.stdout,
      stderr: this.stderr,
      version: '1.2.3',
      openManager: async () => {
        this.opened += 1;
        return this.stub as unknown as SandboxManager;
      },
      readVariable: async (name) => this.variables[name],
      issueToken: (request) => this.tokens.issue(request),
      serve: async () => void (this.served += 1),
      onSignal: (handler) => {
        this.#signals.on('signal', handler);
        return () => this.#signals.off('signal', handler);
      },
      onExit: (handler) => {
        this.atExit.add(handler);
        return () => this.atExit.delete(handler);
      },
      exit: (code) => this.exits.push(code),
    };
  }

  get listeners(): number {
    return this.#signals.listenerCount('signal');
  }

  signal(name: InterruptSignal): void {
    this.#signals.emit('signal', name);
  }

  run(...args: string[]): Promise<number | undefined> {
    return runCli(args, this.context);
  }
}

export async function until(condition: () => boolean): Promise<void> {
  for (let turn = 0; turn < 200 && !condition(); turn += 1) await new Promise((resolve) => setTimeout(resolve, 5));
  if (!condition()) throw new Error('It did not come true in a second.');
}

function makeInfo(id: string): SandboxInfo {
  return {
    id,
    name: `sandyard-${id}`,
    containerId: 'c0ffee',
    projectName: null,
    state: 'running',
    image: 'sandyard-sandbox:latest',
    owner: 'default',
    tenant: null,
    createdAt: new Date(Date.now() - 300_000),
    expiresAt: new Date(Date.now() + 7_200_500),
    startedAt: null,
    finishedAt: null,
    exitCode: null,
    endedBy: null,
    ttlMs: 7_500_000,
    idleTimeoutMs: null,
    maxLifetimeMs: 86_400_000,
    onExpiry: 'destroy',
    wakeOnUse: false,
    limits: { memoryBytes: 1024 ** 3, cpus: 1, pids: 256, nofile: 4096, diskBytes: 2 * 1024 ** 3, inodes: 1000 },
    disk: 'watchdog',
    network: 'none',
    secrets: {},
    runtime: null,
    profile: 'standard',
    workdir: '/workspace',
    user: 'sandbox',
    metadata: {},
  };
}
