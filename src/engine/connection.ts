import * as http from 'node:http';
import * as https from 'node:https';
import { inspect } from 'node:util';
import type Docker from 'dockerode';

import { isSandyardError, SandyardError } from '../errors.js';
import type { EngineEnvironment } from '../config.js';
import { allowManyListeners } from '../many-listeners.js';
import { silentTelemetry, type EngineOperation, type OperationStatus, type Telemetry } from '../telemetry.js';
import { describeAddress, discoverEngine, type EngineAddress } from './discovery.js';
import type { CallOptions } from './engine.js';
import {
  engineUnavailable,
  failedToConnect,
  lostConnection,
  translateEngineError,
  type CallSubject,
} from './engine-errors.js';
import { abortedError, Queues } from './queues.js';

/** API versions (of Docker's Engine API) that this code was written for: 19.03 to 28. */
const OLDEST_API = '1.40';
const NEWEST_API = '1.48';

const CONNECT_DEADLINE_MS = 10_000;

/** How long the engine may take for what it only looks up. It is given more than it needs under load. */
export const QUICK_MS = 15_000;

export interface CallSettings extends CallOptions, CallSubject {
  readonly operation: EngineOperation;
  /** How long the engine may take, from when it is asked. */
  readonly deadlineMs: number;
  /**
   * Whether making the call twice is the same as making it once: then it is made again when its connection turns out to
   * be dead. `false` when it can't be made again at all, not even where there was no connection.
   */
  readonly idempotent?: boolean;
}

type Run<T> = (docker: Docker, signal: AbortSignal) => Promise<T>;

export interface Connected {
  readonly docker: Docker;
  readonly address: string;
  readonly apiVersion: string;
  /** Keeps the connections, where the client is ours. */
  readonly agent?: http.Agent;
}

/**
 * The way to the engine: finds it at the first call, agrees on an API version, and finds it again after it was lost.
 * Each call has a deadline of its own, because the client's promise can stay open for ever when the engine dies
 * after its first byte of answer.
 */
export class EngineConnection {
  readonly #source: { docker: Docker } | { env: EngineEnvironment };
  readonly #telemetry: Telemetry;
  readonly #queues = new Queues();
  #connecting: Promise<Connected> | undefined;

  constructor(source: { docker: Docker } | { env: EngineEnvironment }, { telemetry = silentTelemetry } = {}) {
    this.#source = source;
    this.#telemetry = telemetry;
  }

  async connected({ signal }: CallOptions = {}): Promise<Connected> {
    this.#connecting ??= this.#connect().catch((error: unknown) => {
      this.#connecting = undefined;
      throw error;
    });
    const connecting = this.#connecting;
    connecting.catch(() => {}); // told to those who wait, and there may be none left
    return withDeadline(() => connecting, { doing: 'connect', deadlineMs: CONNECT_DEADLINE_MS, signal });
  }

  /**
   * Runs one call, when it is its turn, and translates what it throws. `signal` is for the call's own `abortSignal`.
   */
  call<T>(settings: CallSettings, run: Run<T>): Promise<T> {
    return this.#queues.run(settings, () => this.#measure(settings, () => this.#tryTwice(settings, run)));
  }

  /** Forgets the engine, and ends the connections that are kept for the next call. */
  close(): void {
    void this.#connecting?.then(({ agent }) => agent?.destroy()).catch(() => {});
    this.#connecting = undefined;
  }

  async #measure<T>({ operation }: CallSettings, act: () => Promise<T>): Promise<T> {
    const begun = performance.now();
    let status: OperationStatus = 'ok';
    try {
      return await act();
    } catch (error) {
      status = isSandyardError(error, 'aborted') ? 'aborted' : 'error';
      throw error;
    } finally {
      this.#telemetry.engineCall({ operation, status, seconds: (performance.now() - begun) / 1000 });
    }
  }

  async #tryTwice<T>(settings: CallSettings, run: Run<T>): Promise<T> {
    try {
      return await this.#try(settings, run);
    } catch (error) {
      const again = failedToConnect(error) || (lostConnection(error) && settings.idempotent === true);
      if (!again || settings.idempotent === false || settings.signal?.aborted === true) {
        throw translateEngineError(error, settings);
      }
    }
    try {
      return await this.#try(settings, run);
    } catch (error) {
      throw translateEngineError(error, settings);
    }
  }

  async #try<T>(settings: CallSettings, run: Run<T>): Promise<T> {
    const connected = await this.connected({ signal: settings.signal });
    const connecting = this.#connecting;
    try {
      return await withDeadline((signal) => run(connected.docker, signal), settings);
    } catch (error) {
      // The next call looks for the engine again; unless another has, meanwhile.
      if ((failedToConnect(error) || lostConnection(error)) && this.#connecting === connecting) {
        this.#connecting = undefined;
      }
      throw error;
    }
  }

  async #connect(): Promise<Connected> {
    if ('docker' in this.#source) {
      const { docker } = this.#source;
      return { docker, address: describeClient(docker), apiVersion: await negotiate(docker) };
    }
    const { default: Client } = await import('dockerode'); // late: it takes 0.4 s
    const { address, attempts } = await discoverEngine(this.#source.env);
    if (address === undefined) {
      const tried = attempts.filter((attempt) => attempt.problem !== 'absent');
      const told = (tried.length > 0 ? tried : attempts).map(({ where, detail }) => `${where}: ${detail}`);
      throw engineUnavailable(`none was found (${told.join('; ')})`);
    }
    const where = describeAddress(address);
    const options = toClientOptions(address);
    const apiVersion = await negotiate(new Client(options));
    return {
      docker: new Client({ ...toClientOptions(address), version: `v${apiVersion}` }),
      address: where,
      apiVersion,
    };
  }
}

/**
 * Races `run` with its deadline and the caller's signal. The engine's client gets a signal too, but isn't trusted to
 * heed it.
 */
export async function withDeadline<T>(
  run: (signal: AbortSignal) => Promise<T>,
  { doing, deadlineMs, signal }: { doing: string; deadlineMs: number; signal?: AbortSignal | undefined },
): Promise<T> {
  if (signal?.aborted === true) throw abortedError(signal, doing);
  const controller = new AbortController();
  return new Promise<T>((resolve, reject) => {
    const settle = (act: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      act();
    };
    const giveUp = (error: SandyardError) => {
      settle(() => reject(error));
      controller.abort(error);
    };
    const onAbort = () => giveUp(abortedError(signal, doing));
    const timer = setTimeout(() => {
      giveUp(
        new SandyardError('engine_timeout', `The engine took longer than ${deadlineMs / 1000} s to ${doing}.`, {
          hint: 'The engine may be overloaded or stuck; its own log says more.',
        }),
      );
    }, deadlineMs);
    allowManyListeners(signal);
    signal?.addEventListener('abort', onAbort, { once: true });
    Promise.resolve()
      .then(() => run(controller.signal))
      .then(
        (value) => settle(() => resolve(value)),
        (error: unknown) => settle(() => reject(error)),
      );
  });
}

async function negotiate(docker: Docker): Promise<string> {
  let found: { ApiVersion?: unknown; MinAPIVersion?: string } | undefined;
  try {
    found = await withDeadline(() => docker.version(), {
      doing: 'tell its version',
      deadlineMs: CONNECT_DEADLINE_MS,
    });
  } catch (error) {
    throw translateEngineError(error, { doing: 'tell its version' });
  }
  if (typeof found?.ApiVersion !== 'string') {
    throw new SandyardError('engine_error', 'What answers at the address of the engine is not a Docker engine.', {
      hint: 'Check DOCKER_HOST.',
    });
  }
  if (compareVersions(found.ApiVersion, OLDEST_API) < 0) {
    throw new SandyardError('engine_error', `The engine speaks API ${found.ApiVersion}; ${OLDEST_API} is the least.`, {
      hint: 'Upgrade the engine to Docker 19.03 or newer.',
    });
  }
  const agreed = compareVersions(found.ApiVersion, NEWEST_API) < 0 ? found.ApiVersion : NEWEST_API;
  const least = found.MinAPIVersion ?? OLDEST_API;
  return compareVersions(agreed, least) < 0 ? least : agreed;
}

export function compareVersions(a: string, b: string): number {
  const [aMajor = 0, aMinor = 0] = a.split('.').map(Number);
  const [bMajor = 0, bMinor = 0] = b.split('.').map(Number);
  return aMajor - bMajor || aMinor - bMinor;
}

/** The engine doesn't end a connection that nobody uses: as many would stay as were ever in use at once. */
const MOST_IDLE = 16;

/**
 * The agent of one client, whose connections are its own: those that are kept in Node's are dead after a restart of the
 * engine, one by one. It describes itself in a word, as the client has each request's options described whether anybody
 * reads it or not: with all connections in it, fifty calls at once would take seconds.
 */
function makeAgent(tls: boolean): http.Agent {
  const options = { keepAlive: true, maxFreeSockets: MOST_IDLE };
  const agent = tls ? new https.Agent(options) : new http.Agent(options);
  return Object.assign(agent, { [inspect.custom]: () => 'Agent' });
}

/**
 * Options that leave nothing to the client's own reading of the environment: it fills in whatever isn't named here from
 * DOCKER_HOST, even over a given socket.
 */
function toClientOptions(address: EngineAddress): Docker.DockerOptions {
  const none = { ca: undefined, cert: undefined, key: undefined, timeout: undefined, pathPrefix: undefined };
  const agent = makeAgent(address.kind === 'tcp' && address.tls !== undefined);
  const options =
    address.kind === 'unix'
      ? { ...none, agent, socketPath: address.socketPath, host: undefined, port: undefined, protocol: 'http' }
      : {
          ...none,
          agent,
          socketPath: undefined,
          host: address.host,
          port: address.port,
          protocol: address.tls === undefined ? 'http' : 'https',
          ...address.tls,
        };
  return options as Docker.DockerOptions;
}

function describeClient(docker: Docker): string {
  const modem = docker.modem as { socketPath?: unknown; host?: unknown; port?: unknown };
  if (typeof modem.socketPath === 'string') return `unix://${modem.socketPath}`;
  return typeof modem.host === 'string' ? `tcp://${modem.host}:${String(modem.port)}` : 'the given client';
}
