import { setTimeout as sleep } from 'node:timers/promises';

import { Channel } from '../channel/channel.js';
import type { EgressSettings } from '../egress-settings.js';
import type { Engine, ImageInfo } from '../engine/engine.js';
import { isSandyardError, SandyardError, unlessGone } from '../errors.js';
import { SandboxFiles } from '../files/files.js';
import { exec, spawn } from '../process/process.js';
import { SandboxProcesses } from '../process/processes.js';
import { PendingCalls, type ProcessTarget } from '../process/remote-run.js';
import type { SandboxProcess } from '../process/sandbox-process.js';
import { silentTelemetry } from '../telemetry.js';
import { WARDEN_PATH } from '../warden.js';
import { PROXY_PREFIX, subnetsOf } from './endpoint.js';
import { makeFolders } from './state.js';
import { PROGRAM_PATH, SETTINGS_PATH, STATE_PATH, type ProxyProgram } from './program.js';

/*
 * The container of the proxy: one for each owner, made by whichever manager needs it first, used by all of them, and
 * talked to as a sandbox is, by the warden that is its PID 1. Sandboxes can't reach that.
 */

const LABEL_EGRESS = 'sandyard.egress';
/** An image with this label has a Node.js that runs the program. */
const LABEL_PREPARED = 'sandyard.image';

/** Whose the program's process is: nobody else's, as nothing else runs there. */
const USER = 1000;
const PROCESS_ID = 'proxy';
const MEMORY_BYTES = 256 * 1024 * 1024;
const TRIES = 8;
/** How long one that was made and isn't started may belong to a manager that is about to. */
const MAKING_MS = 15_000;
const LOOK_EVERY_MS = 100;
const LISTEN_MS = 15_000;
const CALL_MS = 10_000;

interface ProxyParts {
  readonly engine: Engine;
  readonly owner: string;
  readonly settings: EgressSettings;
  /** Which images may have a Node.js, the best first. */
  readonly images: readonly string[];
  /** Without any manager that renews it, it ends after so long. */
  readonly leaseMs: number;
}

export function proxyLabel(owner: string): string {
  return `${LABEL_EGRESS}=${owner}`;
}

/** The volume of an owner's policies and logs, and the network by which its proxies reach the outside. */
export function sharedName(owner: string): string {
  return `${PROXY_PREFIX}${owner}`;
}

/** A proxy that runs. */
export class ProxyContainer {
  readonly id: string;
  readonly files: SandboxFiles;
  readonly #channel: Channel;
  readonly #target: ProcessTarget;
  readonly #main: string;
  #process: SandboxProcess | undefined;

  private constructor(id: string, engine: Engine, { main }: ProxyProgram) {
    this.id = id;
    this.#main = main;
    this.#channel = new Channel({ connect: (options) => engine.openTunnel(id, [WARDEN_PATH, 'connect'], options) });
    this.#target = {
      hold: () => ({ channel: this.#channel, release: () => {} }),
      user: { uid: USER, gid: USER },
      rootAllowed: false,
      workdir: '/',
      env: {},
      telemetry: silentTelemetry,
      disk: { diskBytes: null, inodes: null },
      execTimeoutMs: CALL_MS,
      calls: new PendingCalls(),
      whyDied: () => Promise.resolve(null),
    };
    this.files = new SandboxFiles(this.#target);
  }

  /** The owner's proxy with this program, made and started where there is none. */
  static async open(parts: ProxyParts, program: ProxyProgram): Promise<ProxyContainer> {
    const id = await ensureContainer(parts, program);
    const proxy = new ProxyContainer(id, parts.engine, program);
    try {
      await proxy.renew(parts.leaseMs);
      await proxy.#run(program);
      return proxy;
    } catch (error) {
      await proxy.close();
      throw error;
    }
  }

  async renew(ttlMs: number): Promise<void> {
    const { leaseLeftMs } = await this.#channel.record();
    // Another manager's sandboxes may live longer.
    if (leaseLeftMs === null || leaseLeftMs < ttlMs) await this.#channel.setRecord({ ttlMs });
  }

  /** Settles when the program has ended, or can no longer be watched. */
  async ended(): Promise<unknown> {
    try {
      return await this.#process?.wait();
    } catch (error) {
      return error;
    }
  }

  /** What the proxy would decide on what comes from this address. */
  async check(source: string, { host, port }: { host: string; port: number }, signal?: AbortSignal): Promise<string> {
    const command = ['node', this.#main, SETTINGS_PATH, 'check', source, host, String(port)];
    const { exitCode, stdout, stderr } = await exec(this.#target, command, { signal });
    if (exitCode === 0) return stdout;
    throw new SandyardError('internal', `The egress proxy could not check a host: ${stderr.slice(0, 500)}`);
  }

  async close(): Promise<void> {
    await this.#target.calls.close();
    this.#channel.close();
  }

  async #run(program: ProxyProgram): Promise<void> {
    const processes = new SandboxProcesses(this.#target);
    const known = await processes.list();
    const running = known.find(({ id }) => id === PROCESS_ID);
    if (running?.state === 'running') {
      this.#process = await processes.get(PROCESS_ID);
      return;
    }
    if (running !== undefined) await processes.forget(PROCESS_ID).catch(() => {}); // another manager has
    await makeFolders(this.files);
    for (const [name, content] of program.files) await this.files.write(`${PROGRAM_PATH}/${name}`, content);
    const permissions = [
      `--allow-fs-read=${PROGRAM_PATH}`,
      `--allow-fs-read=${STATE_PATH}`,
      `--allow-fs-write=${STATE_PATH}`,
    ];
    const flags = ['--no-warnings', '--permission', ...permissions, '--max-old-space-size=128'];
    const command = ['node', ...flags, program.main, SETTINGS_PATH, 'serve'];
    this.#process = await spawn(this.#target, command, { id: PROCESS_ID, whenUnread: 'run' });
    await listening(this.#process);
  }
}

async function listening(process: SandboxProcess): Promise<void> {
  let printed = '';
  const read = async () => {
    for await (const { data } of process.output()) {
      printed += Buffer.from(data).toString();
      if (printed.includes('listening\n')) return true;
    }
    return false;
  };
  const late = sleep(LISTEN_MS, false, { ref: false });
  if (await Promise.race([read(), late])) return;
  throw new SandyardError('internal', `The egress proxy did not start: ${printed.slice(0, 1000)}`, {
    hint: 'The sandbox image must have Node.js 22.18 or newer; `npm run setup` builds it.',
  });
}

async function ensureContainer(parts: ProxyParts, program: ProxyProgram): Promise<string> {
  const { engine, owner } = parts;
  const name = `${PROXY_PREFIX}${owner}-${program.hash}`;
  const until = Date.now() + MAKING_MS;
  for (let tries = 0; tries < TRIES;) {
    const found = await unlessGone(engine.inspectContainer(name));
    if (found?.state === 'running') return found.id;
    if (found === undefined) {
      tries += 1;
      const id = await make(parts, name).catch(unlessTaken);
      if (id === undefined) continue;
      await engine.startContainer(id);
      return id;
    }
    // One that was only made may be about to be started; one that has ended, or waits, is of no use to anybody.
    if (found.state === 'created' && Date.now() < until) await sleep(LOOK_EVERY_MS);
    else await engine.removeContainer(found.id);
  }
  throw new SandyardError('engine_error', `The egress proxy ${name} can't be started.`, {
    hint: `Look at it with \`docker inspect ${name}\`, or remove it: it is made anew.`,
  });
}

function unlessTaken(error: unknown): undefined {
  if (!isSandyardError(error, 'name_conflict')) throw error;
}

async function make(parts: ProxyParts, name: string): Promise<string> {
  const { engine, owner, settings, leaseMs } = parts;
  const labels = { [LABEL_EGRESS]: owner };
  const image = await findImage(parts);
  if (settings.network === undefined) {
    const outside = { name: sharedName(owner), labels, subnets: subnetsOf(settings.subnets), isolated: false };
    if ((await engine.findSubnet(outside.name)) === undefined) await engine.createNetwork(outside).catch(unlessTaken);
  }
  return engine.createProxy({
    name,
    image: image.id,
    labels,
    entrypoint: [
      WARDEN_PATH,
      'init',
      `--setup-ms=${LISTEN_MS * 4}`,
      `--ttl-ms=${leaseMs}`,
      '--on-expiry=destroy',
      '--nofile=16384',
      `--own=${USER}:${USER}:${STATE_PATH}`,
    ],
    hostname: 'egress-proxy',
    memoryBytes: MEMORY_BYTES,
    cpus: 1,
    pids: 64,
    nofile: 16_384,
    outside: settings.network ?? sharedName(owner),
    volume: { name: sharedName(owner), target: STATE_PATH, labels },
    tmpfs: {
      [PROGRAM_PATH]: `rw,nosuid,nodev,noexec,size=4m,mode=0755,uid=${USER},gid=${USER}`,
      '/var/lib/sandyard': 'rw,nosuid,nodev,noexec,size=1m,mode=0700',
      '/tmp': 'rw,nosuid,nodev,noexec,size=4m,mode=1777',
    },
  });
}

async function findImage({ engine, images }: ProxyParts): Promise<ImageInfo> {
  for (const reference of new Set(images)) {
    try {
      const image = await engine.inspectImage(reference);
      if (image.labels[LABEL_PREPARED] !== undefined) return image;
    } catch (error) {
      if (!isSandyardError(error, 'image_not_found')) throw error;
    }
  }
  throw new SandyardError(
    'image_not_found',
    `The engine has no image that the egress proxy could run, such as ${images.join(', ')}.`,
    {
      hint: 'Run `npm run setup` to build it.',
    },
  );
}
