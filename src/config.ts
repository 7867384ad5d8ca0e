import type { z } from 'zod';

import {
  readSecret,
  required,
  toAccess,
  toTokenSettings,
  type AccessSettings,
  type TokenSettings,
} from './access-settings.js';
import { toEgress, type EgressSettings } from './egress-settings.js';
import { SandyardError } from './errors.js';
import type { IsolationSettings } from './isolation.js';
import { toIsolation } from './isolation-settings.js';
import { VARIABLES, type VariableName, type Values } from './variables.js';
import { readWebhooks, type WebhookSettings } from './webhook-settings.js';

/* The only reader of process.env: what the variables are is in variables.ts, here is what they become. */

type Environment = Readonly<Record<string, string | undefined>>;
/** What a manager goes by. The rest is the service's, or another program's: PORT is nobody's own name. */
const VARIABLE_NAMES = Object.keys(VARIABLES) as VariableName[];
const SERVICE_ONLY =
  /^(HOST|PORT|SANDBOX_(TOKEN\w*|API_KEYS_FILE|STATE_DIR|RATE_\w+|TRUSTED_PROXIES|ALLOW_ORIGIN\w*|ALLOWED_HOSTS|WEBHOOK_\w+|MAX_UPLOAD|LOG_LEVEL|REAPER_\w+))$/;
const TOKEN_VARIABLES = VARIABLE_NAMES.filter((name) => /^SANDBOX_(TOKEN_\w+|STATE_DIR|OWNER)$/.test(name));
const MANAGER_VARIABLES = VARIABLE_NAMES.filter((name) => !SERVICE_ONLY.test(name));

/** What must not be repeated in a message. The URL of a webhook may be all that it takes to call it. */
const SECRETS: Readonly<Record<string, string>> = {
  SANDBOX_TOKEN: 'a token',
  SANDBOX_TOKEN_SECRET: 'a secret',
  SANDBOX_WEBHOOK_SECRET: 'a secret',
  SANDBOX_WEBHOOK_URLS: 'URLs',
};

/** Ceilings and defaults of what a sandbox may use. Sizes in bytes, durations in milliseconds. */
export interface Limits {
  readonly memoryBytes: number;
  readonly maxMemoryBytes: number;
  readonly cpus: number;
  readonly maxCpus: number;
  readonly pids: number;
  readonly maxPids: number;
  readonly nofile: number;
  readonly maxNofile: number;
  readonly diskBytes: number;
  readonly maxDiskBytes: number;
  /** Files, directories and whatever else has a name. */
  readonly inodes: number;
  readonly maxInodes: number;
  readonly ttlMs: number;
  readonly maxLifetimeMs: number;
  readonly stoppedRetentionMs: number;
  readonly execTimeoutMs: number;
}

/** The most that there may be of each at once; `Infinity` where there is no such ceiling. */
export interface Ceilings {
  readonly sandboxes: number;
  readonly memoryBytes: number;
  readonly cpus: number;
  readonly pids: number;
}

/** How many sandboxes there may be, and how many are made at once. */
export interface AdmissionSettings {
  /** On all sandboxes of the owner, whoever made them, and on those that this manager made. */
  readonly ceilings: {
    readonly owner: Ceilings;
    readonly manager: Ceilings;
    /** On those of each tenant. Default: none. */
    readonly tenant?: Ceilings | undefined;
  };
  /** How many are made at once, and how many may wait for that. */
  readonly atOnce: number;
  readonly queue: number;
  /** What must stay free on the engine's machine. */
  readonly floor: { readonly memoryBytes: number; readonly diskBytes: number };
}

/** How many sandboxes are kept ready: when nobody asks, and at the most. */
interface PoolSettings {
  readonly size: number;
  readonly max: number;
}

/** What names the engine in the environment, by Docker's own variables. */
export interface EngineEnvironment {
  readonly DOCKER_HOST?: string | undefined;
  readonly DOCKER_TLS_VERIFY?: string | undefined;
  readonly DOCKER_CERT_PATH?: string | undefined;
  readonly XDG_RUNTIME_DIR?: string | undefined;
  readonly HOME?: string | undefined;
}

export interface ServiceConfig {
  readonly host: string;
  readonly port: number;
  readonly token: string | undefined;
  readonly access: AccessSettings;
  readonly allowedHosts: readonly string[];
  readonly owner: string;
  readonly image: string;
  readonly limits: Limits;
  readonly isolation: IsolationSettings;
  readonly admission: AdmissionSettings;
  readonly pool: PoolSettings;
  readonly egress: EgressSettings;
  readonly socketDirectory: string;
  readonly reaper: { readonly schedule: string; readonly dryRun: boolean };
  readonly maxUploadBytes: number;
  /** None are called unless there are any. */
  readonly webhooks: WebhookSettings | undefined;
  readonly logLevel: z.output<(typeof VARIABLES)['SANDBOX_LOG_LEVEL']['schema']>;
  /** Sentences about what is odd but not wrong, such as an unknown `SANDBOX_` variable. */
  readonly warnings: readonly string[];
}

/** What a manager that is made without options goes by. */
export type ManagerDefaults = Pick<
  ServiceConfig,
  'image' | 'owner' | 'limits' | 'isolation' | 'admission' | 'pool' | 'egress' | 'socketDirectory'
>;

/** The service's configuration. Throws `config_invalid`, naming the variable. */
export function readConfig(env: Environment = process.env): ServiceConfig {
  const values = readVariables(env, VARIABLE_NAMES);
  const host = required(values, 'HOST');
  const token = readSecret(values, { name: 'SANDBOX_TOKEN', what: 'token', min: 16 });
  const access = toAccess(values);
  if (isOpen({ token, access }) && !isLoopback(host)) {
    throw new SandyardError('config_invalid', `HOST is ${host}, which others can reach, and there is no token.`, {
      hint: 'Set SANDBOX_TOKEN or SANDBOX_TOKEN_FILE, SANDBOX_API_KEYS_FILE or SANDBOX_TOKEN_SECRET, or bind to 127.0.0.1.',
    });
  }
  return {
    host,
    port: required(values, 'PORT'),
    token,
    access,
    allowedHosts: values.SANDBOX_ALLOWED_HOSTS ?? [],
    ...toManagerDefaults(values),
    // What a program may have sandboxes do is its own matter; a client of the service must have been allowed it.
    egress: { ...toEgress(values), allowedDomains: values.SANDBOX_ALLOWED_DOMAINS ?? [] },
    reaper: {
      schedule: required(values, 'SANDBOX_REAPER_SCHEDULE'),
      dryRun: required(values, 'SANDBOX_REAPER_DRY_RUN'),
    },
    maxUploadBytes: required(values, 'SANDBOX_MAX_UPLOAD'),
    webhooks: readWebhooks(values),
    logLevel: required(values, 'SANDBOX_LOG_LEVEL'),
    warnings: unknownVariables(env),
  };
}

/** The same for a manager alone: what only the service goes by isn't read. */
export function readManagerDefaults(env: Environment = process.env): ManagerDefaults {
  return toManagerDefaults(readVariables(env, MANAGER_VARIABLES));
}

/** What tokens for the service are issued by, and whose service that is. */
export function readTokenSettings(env: Environment = process.env): TokenSettings & { readonly owner: string } {
  const values = readVariables(env, TOKEN_VARIABLES);
  return { ...toTokenSettings(values), owner: required(values, 'SANDBOX_OWNER') };
}

/** A variable that a caller names: for what mustn't be in arguments. */
export function readOwnVariable(name: string, env: Environment = process.env): string | undefined {
  return env[name];
}

export function readEngineEnvironment(env: Environment = process.env): EngineEnvironment {
  const { DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH, XDG_RUNTIME_DIR, HOME } = env;
  return { DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH, XDG_RUNTIME_DIR, HOME };
}

/** Whether nobody needs a token. */
export function isOpen({ token, access }: Pick<ServiceConfig, 'token' | 'access'>): boolean {
  return token === undefined && access.tokenSecret === undefined && access.apiKeys.length === 0;
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** The text of `.env.example`. */
export function exampleEnvironment(): string {
  const lines = Object.entries(VARIABLES).map(
    ([name, { fallback, text }]) => `# ${text}\n#${name}=${fallback ?? ''}\n`,
  );
  return [
    '# Copy to .env and uncomment what should differ. Variables of the environment win over this file.',
    '# The engine is found by DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, as by the docker command.\n',
    ...lines,
  ].join('\n');
}

function readVariables(env: Environment, names: readonly VariableName[]): Values {
  const entries = names.map((name) => {
    const { schema, fallback } = VARIABLES[name];
    const given = env[name];
    const raw = given === undefined || given === '' ? fallback : given;
    if (raw === undefined) return [name, undefined];
    const result = schema.safeParse(raw);
    if (result.success) return [name, result.data];
    const shown = name in SECRETS ? `set to what can not be ${SECRETS[name]}` : `"${raw}"`;
    throw new SandyardError(
      'config_invalid',
      `${name} is ${shown}: ${result.error.issues[0]?.message ?? 'not valid'}.`,
      {
        hint: 'See .env.example for what it means and what it may be.',
      },
    );
  });
  return Object.fromEntries(entries) as Values;
}

function toManagerDefaults(values: Values): ManagerDefaults {
  const limits = toLimits(values);
  const admission = toAdmission(values);
  const pool = toPool(values);
  const { owner } = admission.ceilings;
  checkPairs([
    ['SANDBOX_MEMORY', limits.memoryBytes, 'SANDBOX_MAX_TOTAL_MEMORY', owner.memoryBytes],
    ['SANDBOX_CPUS', limits.cpus, 'SANDBOX_MAX_TOTAL_CPUS', owner.cpus],
    ['SANDBOX_PIDS', limits.pids, 'SANDBOX_MAX_TOTAL_PIDS', owner.pids],
    ['SANDBOX_POOL_SIZE', pool.size, 'SANDBOX_POOL_MAX', pool.max],
  ]);
  return {
    owner: required(values, 'SANDBOX_OWNER'),
    image: required(values, 'SANDBOX_IMAGE'),
    limits,
    isolation: toIsolation(values),
    admission,
    pool,
    egress: toEgress(values),
    socketDirectory: required(values, 'SANDBOX_SOCKET_DIR'),
  };
}

function toLimits(values: Values): Limits {
  const limits: Limits = {
    memoryBytes: required(values, 'SANDBOX_MEMORY'),
    maxMemoryBytes: required(values, 'SANDBOX_MAX_MEMORY'),
    cpus: required(values, 'SANDBOX_CPUS'),
    maxCpus: required(values, 'SANDBOX_MAX_CPUS'),
    pids: required(values, 'SANDBOX_PIDS'),
    maxPids: required(values, 'SANDBOX_MAX_PIDS'),
    nofile: required(values, 'SANDBOX_NOFILE'),
    maxNofile: required(values, 'SANDBOX_MAX_NOFILE'),
    diskBytes: required(values, 'SANDBOX_DISK'),
    maxDiskBytes: required(values, 'SANDBOX_MAX_DISK'),
    inodes: required(values, 'SANDBOX_INODES'),
    maxInodes: required(values, 'SANDBOX_MAX_INODES'),
    ttlMs: required(values, 'SANDBOX_TTL'),
    maxLifetimeMs: required(values, 'SANDBOX_MAX_LIFETIME'),
    stoppedRetentionMs: required(values, 'SANDBOX_STOPPED_RETENTION'),
    execTimeoutMs: required(values, 'SANDBOX_EXEC_TIMEOUT'),
  };
  checkPairs([
    ['SANDBOX_MEMORY', limits.memoryBytes, 'SANDBOX_MAX_MEMORY', limits.maxMemoryBytes],
    ['SANDBOX_CPUS', limits.cpus, 'SANDBOX_MAX_CPUS', limits.maxCpus],
    ['SANDBOX_PIDS', limits.pids, 'SANDBOX_MAX_PIDS', limits.maxPids],
    ['SANDBOX_NOFILE', limits.nofile, 'SANDBOX_MAX_NOFILE', limits.maxNofile],
    ['SANDBOX_DISK', limits.diskBytes, 'SANDBOX_MAX_DISK', limits.maxDiskBytes],
    ['SANDBOX_INODES', limits.inodes, 'SANDBOX_MAX_INODES', limits.maxInodes],
    ['SANDBOX_TTL', limits.ttlMs, 'SANDBOX_MAX_LIFETIME', limits.maxLifetimeMs],
  ]);
  return limits;
}

function toAdmission(values: Values): AdmissionSettings {
  const none = { sandboxes: Infinity, memoryBytes: Infinity, cpus: Infinity, pids: Infinity };
  const owner = {
    sandboxes: values.SANDBOX_MAX_SANDBOXES ?? Infinity,
    memoryBytes: values.SANDBOX_MAX_TOTAL_MEMORY ?? Infinity,
    cpus: values.SANDBOX_MAX_TOTAL_CPUS ?? Infinity,
    pids: values.SANDBOX_MAX_TOTAL_PIDS ?? Infinity,
  };
  const tenant = {
    sandboxes: values.SANDBOX_TENANT_MAX_SANDBOXES ?? Infinity,
    memoryBytes: values.SANDBOX_TENANT_MAX_MEMORY ?? Infinity,
    cpus: values.SANDBOX_TENANT_MAX_CPUS ?? Infinity,
    pids: values.SANDBOX_TENANT_MAX_PIDS ?? Infinity,
  };
  return {
    ceilings: { owner, manager: none, tenant },
    atOnce: required(values, 'SANDBOX_CREATE_CONCURRENCY'),
    queue: required(values, 'SANDBOX_CREATE_QUEUE'),
    floor: {
      memoryBytes: required(values, 'SANDBOX_KEEP_FREE_MEMORY'),
      diskBytes: required(values, 'SANDBOX_KEEP_FREE_DISK'),
    },
  };
}

function toPool(values: Values): PoolSettings {
  const size = required(values, 'SANDBOX_POOL_SIZE');
  return { size, max: values.SANDBOX_POOL_MAX ?? size };
}

function checkPairs(pairs: readonly (readonly [name: string, value: number, ceilingName: string, ceiling: number])[]) {
  for (const [name, value, ceilingName, ceiling] of pairs) {
    if (value > ceiling) throw new SandyardError('config_invalid', `${name} is above its own ceiling ${ceilingName}.`);
  }
}

function unknownVariables(env: Environment): string[] {
  return Object.keys(env)
    .filter((name) => name.startsWith('SANDBOX_') && !(name in VARIABLES))
    .map((name) => `${name} is not a variable that Sandyard knows; see .env.example.`);
}
