import { readFile } from 'node:fs/promises';
import * as http from 'node:http';
import * as https from 'node:https';
import { join } from 'node:path';
import { anySignal } from '../any-signal.js';
import type { EngineEnvironment } from '../config.js';
import { SandyardError } from '../errors.js';

/** Where an engine listens. The TLS fields are PEM texts. */
export type EngineAddress =
  | { readonly kind: 'unix'; readonly socketPath: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number; readonly tls?: EngineTls };

export interface EngineTls {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/** A place where no engine answered, and what was found there instead. */
interface EngineAttempt {
  readonly where: string;
  readonly problem: 'absent' | 'permission' | 'refused' | 'timeout' | 'unusable';
  readonly detail: string;
}

export interface DiscoveryOptions {
  readonly signal?: AbortSignal | undefined;
  /** How long each candidate has to answer. Default 3000. */
  readonly timeoutMs?: number | undefined;
  /** Sockets to try when DOCKER_HOST is not set. Default {@link usualSockets}. */
  readonly sockets?: readonly string[] | undefined;
}

export interface DiscoveryResult {
  /** Absent when no candidate answered. */
  readonly address?: EngineAddress;
  /** The candidates that were tried before, in order. */
  readonly attempts: readonly EngineAttempt[];
}

const DEFAULT_SOCKET = '/var/run/docker.sock';
const PLAIN_PORT = 2375;
const TLS_PORT = 2376;
const FORMS = 'Use unix:///path/to/docker.sock or tcp://host:port.';

/**
 * Finds an engine that answers. DOCKER_HOST, when it is set, is the only candidate, as it is for every Docker client.
 *
 * @throws SandyardError `config_invalid` when DOCKER_HOST or its certificates can't be used, `aborted`.
 */
export async function discoverEngine(env: EngineEnvironment, options: DiscoveryOptions = {}): Promise<DiscoveryResult> {
  const candidates = env.DOCKER_HOST
    ? [await addressFromEnvironment(env, env.DOCKER_HOST)]
    : (options.sockets ?? usualSockets(env)).map((socketPath) => ({ kind: 'unix', socketPath }) as const);

  const attempts: EngineAttempt[] = [];
  for (const address of candidates) {
    const attempt = await ping(address, options);
    if (attempt === undefined) return { address, attempts };
    attempts.push(attempt);
  }
  return { attempts };
}

/** The sockets of Docker, Docker Desktop, Colima, OrbStack, Rancher Desktop and Podman, in the order to try them. */
export function usualSockets(env: EngineEnvironment): string[] {
  const uid = process.getuid?.();
  const runtimeDirs = [env.XDG_RUNTIME_DIR, uid === undefined ? undefined : `/run/user/${uid}`].filter(isSet);
  const homes = [env.HOME].filter(isSet);
  return [
    ...new Set([
      DEFAULT_SOCKET,
      ...runtimeDirs.map((dir) => join(dir, 'docker.sock')),
      ...homes.flatMap((home) =>
        [
          '.docker/run/docker.sock',
          '.docker/desktop/docker.sock',
          '.colima/default/docker.sock',
          '.config/colima/default/docker.sock',
          '.orbstack/run/docker.sock',
          '.rd/docker.sock',
        ].map((path) => join(home, path)),
      ),
      ...runtimeDirs.map((dir) => join(dir, 'podman/podman.sock')),
      '/run/podman/podman.sock',
    ]),
  ];
}

/** The address in the form that DOCKER_HOST takes. */
export function describeAddress(address: EngineAddress): string {
  if (address.kind === 'unix') return `unix://${address.socketPath}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `tcp://${host}:${address.port}`;
}

/**
 * Reads a value of DOCKER_HOST. With `tls` a TCP address is one that is spoken to over TLS, and its default port is 2376
 * instead of 2375.
 *
 * @throws SandyardError `config_invalid`.
 */
export function parseDockerHost(dockerHost: string, tls?: EngineTls): EngineAddress {
  const value = dockerHost.trim();
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(value)?.[1]?.toLowerCase();
  const rest = scheme === undefined ? value : value.slice(scheme.length + '://'.length);
  switch (scheme) {
    case 'unix':
      return parseSocket(value, rest);
    case 'tcp':
    case 'http':
    case 'https':
      return parseTcp(value, rest, tls);
    case 'ssh':
      throw unusableHost(
        value,
        'ssh is not supported',
        'Forward its socket, for example with `ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock user@host`, and set ' +
          'DOCKER_HOST=unix:///tmp/docker.sock.',
      );
    case 'npipe':
      throw unusableHost(
        value,
        'Windows named pipes are not supported',
        'Run Sandyard inside WSL 2, where Docker Desktop offers unix:///var/run/docker.sock.',
      );
    case undefined:
    default:
      throw unusableHost(value, scheme === undefined ? 'it has no scheme' : `${scheme} is not supported`, FORMS);
  }
}

function parseSocket(value: string, path: string): EngineAddress {
  const socketPath = path === '' ? DEFAULT_SOCKET : path;
  if (!socketPath.startsWith('/')) throw unusableHost(value, 'the path of its socket is not absolute', FORMS);
  return { kind: 'unix', socketPath };
}

function parseTcp(value: string, rest: string, tls: EngineTls | undefined): EngineAddress {
  // Read as tcp, because a URL drops the port that is its scheme's default
  const url = URL.canParse(`tcp://${rest}`) ? new URL(`tcp://${rest}`) : undefined;
  if (url === undefined || url.hostname === '') throw unusableHost(value, 'it names no host', FORMS);
  if (url.username !== '' || (url.pathname !== '' && url.pathname !== '/') || url.search !== '' || url.hash !== '') {
    throw unusableHost(value, 'it has more than a host and a port', FORMS);
  }
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const port = url.port === '' ? (tls ? TLS_PORT : PLAIN_PORT) : Number(url.port);
  return tls ? { kind: 'tcp', host, port, tls } : { kind: 'tcp', host, port };
}

function unusableHost(value: string, reason: string, hint: string): SandyardError {
  return new SandyardError('config_invalid', `DOCKER_HOST=${value} can't be used: ${reason}`, { hint });
}

async function addressFromEnvironment(env: EngineEnvironment, dockerHost: string): Promise<EngineAddress> {
  const plain = parseDockerHost(dockerHost);
  if (plain.kind === 'unix') return plain;
  const wantsTls =
    isSet(env.DOCKER_TLS_VERIFY) ||
    /^https:/i.test(dockerHost.trim()) ||
    (plain.port === TLS_PORT && isSet(env.DOCKER_CERT_PATH));
  return wantsTls ? parseDockerHost(dockerHost, await readCertificates(env)) : plain;
}

async function readCertificates(env: EngineEnvironment): Promise<EngineTls> {
  const folder = env.DOCKER_CERT_PATH || join(env.HOME ?? '/', '.docker');
  const read = async (name: string): Promise<string> => {
    const path = join(folder, name);
    try {
      return await readFile(path, 'utf8');
    } catch (cause) {
      throw new SandyardError('config_invalid', `The engine's TLS needs ${path}, which can't be read`, {
        hint: 'Set DOCKER_CERT_PATH to the folder that has ca.pem, cert.pem and key.pem.',
        cause,
      });
    }
  };
  const [ca, cert, key] = await Promise.all([read('ca.pem'), read('cert.pem'), read('key.pem')]);
  return { ca, cert, key };
}

/** Undefined when the engine answers, else why it doesn't count. */
async function ping(address: EngineAddress, options: DiscoveryOptions): Promise<EngineAttempt | undefined> {
  const timeoutMs = options.timeoutMs ?? 3000;
  const timeout = AbortSignal.timeout(timeoutMs);
  const signal = options.signal ? anySignal([timeout, options.signal]) : timeout;
  const where = describeAddress(address);
  try {
    const status = await getPing(address, signal);
    if (status === 200) return undefined;
    return { where, problem: 'unusable', detail: `it answers /_ping with ${status}` };
  } catch (error) {
    if (options.signal?.aborted) {
      throw new SandyardError('aborted', 'The search for a Docker engine was aborted', { cause: error });
    }
    if (timeout.aborted) return { where, problem: 'timeout', detail: `no answer within ${timeoutMs} ms` };
    return { where, ...classify(error) };
  }
}

function getPing(address: EngineAddress, signal: AbortSignal): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const common = { path: '/_ping', agent: false, signal } as const;
    const request =
      address.kind === 'unix'
        ? http.get({ ...common, socketPath: address.socketPath })
        : address.tls
          ? https.get({ ...common, host: address.host, port: address.port, ...address.tls })
          : http.get({ ...common, host: address.host, port: address.port });
    request.on('error', reject);
    request.on('response', (response) => {
      resolve(response.statusCode);
      response.destroy();
    });
  });
}

function classify(error: unknown): Pick<EngineAttempt, 'problem' | 'detail'> {
  const { code, message } = error as NodeJS.ErrnoException;
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return { problem: 'absent', detail: 'there is no such socket' };
    case 'EACCES':
    case 'EPERM':
      return { problem: 'permission', detail: 'this user may not open the socket' };
    case 'ECONNREFUSED':
      return { problem: 'refused', detail: 'nothing listens there' };
    case 'ECONNRESET':
    case 'EPIPE':
      return { problem: 'unusable', detail: 'it closed the connection' };
    case undefined:
    default:
      return { problem: 'unusable', detail: message };
  }
}

function isSet(value: string | undefined): value is string {
  return value !== undefined && value !== '';
}
