import { readFileSync } from 'node:fs';
import { z } from 'zod';

import { SandyardError } from './errors.js';
import { fields, parseDuration } from './schemas.js';

/*
 * The only reader of process.env. Each variable is described once, here: its schema parses it, and its text goes into
 * `.env.example`, which a test compares with this table.
 */

const duration = z.string().transform((value, context) => {
  const ms = parseDuration(value);
  if (ms !== undefined && ms >= 1000) return ms;
  context.addIssue({ code: 'custom', message: 'must be a duration of a second or more, such as "90s", "30m" or "2h"' });
  return z.NEVER;
});

const integer = (min: number, max: number) =>
  z.string().regex(/^\d+$/, 'must be a whole number').transform(Number).pipe(z.number().min(min).max(max));

const list = z.string().transform((value) =>
  value
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== ''),
);

/** Name, schema, default as it would be written, and one line for `.env.example`. */
const VARIABLES = {
  HOST: variable(z.string(), '127.0.0.1', 'Address to bind to. Anything but loopback needs a token.'),
  PORT: variable(integer(0, 65_535), '8888', 'Port to listen on; 0 takes a free one.'),
  SANDBOX_TOKEN: variable(
    z.string().min(16, 'must have at least 16 characters'),
    undefined,
    'Bearer token that every request must carry.',
  ),
  SANDBOX_TOKEN_FILE: variable(z.string(), undefined, 'File that holds the token, instead of SANDBOX_TOKEN.'),
  SANDBOX_ALLOWED_HOSTS: variable(
    list,
    undefined,
    'Host names, comma-separated, that a request may be addressed to besides loopback ones.',
  ),
  SANDBOX_OWNER: variable(
    z.string().regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, 'must be lower-case letters, digits and "._-"'),
    'default',
    'Whose sandboxes these are; a manager sees and removes only its own.',
  ),
  SANDBOX_IMAGE: variable(
    fields.image,
    'sandyard-sandbox:latest',
    'Image that sandboxes run unless a request names one.',
  ),
  SANDBOX_MEMORY: variable(fields.memoryLimit, '1g', 'Memory of a sandbox unless a request says otherwise.'),
  SANDBOX_MAX_MEMORY: variable(fields.memoryLimit, '8g', 'The most memory that a request may ask for.'),
  SANDBOX_CPUS: variable(fields.cpuLimit, '1', 'CPUs of a sandbox unless a request says otherwise.'),
  SANDBOX_MAX_CPUS: variable(fields.cpuLimit, '8', 'The most CPUs that a request may ask for.'),
  SANDBOX_PIDS: variable(integer(8, 1_000_000), '256', 'Processes of a sandbox unless a request says otherwise.'),
  SANDBOX_MAX_PIDS: variable(integer(8, 1_000_000), '4096', 'The most processes that a request may ask for.'),
  SANDBOX_NOFILE: variable(integer(64, 1_048_576), '4096', 'Open files per process unless a request says otherwise.'),
  SANDBOX_MAX_NOFILE: variable(
    integer(64, 1_048_576),
    '65536',
    'The most open files per process that a request may ask for.',
  ),
  SANDBOX_TTL: variable(duration, '1h', 'Lease of a sandbox unless a request says otherwise.'),
  SANDBOX_MAX_LIFETIME: variable(
    duration,
    '24h',
    'How long a sandbox may live at the most, however often it is renewed.',
  ),
  SANDBOX_STOPPED_RETENTION: variable(duration, '24h', 'How long a stopped sandbox is kept.'),
  SANDBOX_REAPER_SCHEDULE: variable(
    z.string(),
    '*/30 * * * * *',
    'When the reaper runs, as a cron expression (seconds first).',
  ),
  SANDBOX_REAPER_DRY_RUN: variable(
    z.enum(['true', 'false']).transform((value) => value === 'true'),
    'false',
    'Whether the reaper only says what it would remove.',
  ),
  SANDBOX_EXEC_TIMEOUT: variable(duration, '5m', 'How long a command may run unless a request says otherwise.'),
  SANDBOX_MAX_UPLOAD: variable(
    fields.memoryLimit,
    '2g',
    'The largest file or archive that can be sent in one request.',
  ),
  SANDBOX_LOG_LEVEL: variable(
    z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']),
    'info',
    'How much is logged.',
  ),
} as const;

interface Variable<Schema extends z.ZodType> {
  readonly schema: Schema;
  readonly fallback: string | undefined;
  readonly text: string;
}

function variable<Schema extends z.ZodType>(
  schema: Schema,
  fallback: string | undefined,
  text: string,
): Variable<Schema> {
  return { schema, fallback, text };
}

type Environment = Readonly<Record<string, string | undefined>>;
type VariableName = keyof typeof VARIABLES;
/** What a manager goes by. The rest is the service's, or another program's: PORT is nobody's own name. */
const VARIABLE_NAMES = Object.keys(VARIABLES) as VariableName[];
const SERVICE_ONLY = /^(HOST|PORT|SANDBOX_(TOKEN|TOKEN_FILE|ALLOWED_HOSTS|MAX_UPLOAD|LOG_LEVEL|REAPER_\w+))$/;
const MANAGER_VARIABLES = VARIABLE_NAMES.filter((name) => !SERVICE_ONLY.test(name));

type Values = { [Name in VariableName]: z.output<(typeof VARIABLES)[Name]['schema']> | undefined };

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
  readonly ttlMs: number;
  readonly maxLifetimeMs: number;
  readonly stoppedRetentionMs: number;
  readonly execTimeoutMs: number;
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
  readonly allowedHosts: readonly string[];
  readonly owner: string;
  readonly image: string;
  readonly limits: Limits;
  readonly reaper: { readonly schedule: string; readonly dryRun: boolean };
  readonly maxUploadBytes: number;
  readonly logLevel: z.output<(typeof VARIABLES)['SANDBOX_LOG_LEVEL']['schema']>;
  /** Sentences about what is odd but not wrong, such as an unknown `SANDBOX_` variable. */
  readonly warnings: readonly string[];
}

/** The service's configuration. Throws `config_invalid`, naming the variable. */
export function readConfig(env: Environment = process.env): ServiceConfig {
  const values = readVariables(env, VARIABLE_NAMES);
  const host = required(values, 'HOST');
  const token = readToken(values);
  if (token === undefined && !isLoopback(host)) {
    throw new SandyardError('config_invalid', `HOST is ${host}, which others can reach, and there is no token.`, {
      hint: 'Set SANDBOX_TOKEN or SANDBOX_TOKEN_FILE, or bind to 127.0.0.1.',
    });
  }
  return {
    host,
    port: required(values, 'PORT'),
    token,
    allowedHosts: values.SANDBOX_ALLOWED_HOSTS ?? [],
    owner: required(values, 'SANDBOX_OWNER'),
    image: required(values, 'SANDBOX_IMAGE'),
    limits: toLimits(values),
    reaper: {
      schedule: required(values, 'SANDBOX_REAPER_SCHEDULE'),
      dryRun: required(values, 'SANDBOX_REAPER_DRY_RUN'),
    },
    maxUploadBytes: required(values, 'SANDBOX_MAX_UPLOAD'),
    logLevel: required(values, 'SANDBOX_LOG_LEVEL'),
    warnings: unknownVariables(env),
  };
}

/** The defaults of a manager that is made without options: the environment's image, owner and limits. */
export function readManagerDefaults(env: Environment = process.env): Pick<ServiceConfig, 'image' | 'owner' | 'limits'> {
  const values = readVariables(env, MANAGER_VARIABLES);
  return {
    image: required(values, 'SANDBOX_IMAGE'),
    owner: required(values, 'SANDBOX_OWNER'),
    limits: toLimits(values),
  };
}

export function readEngineEnvironment(env: Environment = process.env): EngineEnvironment {
  const { DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH, XDG_RUNTIME_DIR, HOME } = env;
  return { DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH, XDG_RUNTIME_DIR, HOME };
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
    const shown = name === 'SANDBOX_TOKEN' ? 'set to what can not be a token' : `"${raw}"`;
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

function required<Name extends VariableName>(values: Values, name: Name): NonNullable<Values[Name]> {
  const value = values[name];
  if (value === undefined || value === null) throw new SandyardError('config_invalid', `${name} is not set.`);
  return value;
}

function readToken(values: Values): string | undefined {
  const file = values.SANDBOX_TOKEN_FILE;
  if (file === undefined) return values.SANDBOX_TOKEN;
  let token: string;
  try {
    token = readFileSync(file, 'utf8').trim();
  } catch (error) {
    throw new SandyardError('config_invalid', `SANDBOX_TOKEN_FILE is ${file}, which can't be read.`, { cause: error });
  }
  if (token.length < 16) {
    throw new SandyardError('config_invalid', `SANDBOX_TOKEN_FILE is ${file}, whose token has under 16 characters.`);
  }
  return token;
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
    ttlMs: required(values, 'SANDBOX_TTL'),
    maxLifetimeMs: required(values, 'SANDBOX_MAX_LIFETIME'),
    stoppedRetentionMs: required(values, 'SANDBOX_STOPPED_RETENTION'),
    execTimeoutMs: required(values, 'SANDBOX_EXEC_TIMEOUT'),
  };
  const pairs = [
    ['SANDBOX_MEMORY', limits.memoryBytes, 'SANDBOX_MAX_MEMORY', limits.maxMemoryBytes],
    ['SANDBOX_CPUS', limits.cpus, 'SANDBOX_MAX_CPUS', limits.maxCpus],
    ['SANDBOX_PIDS', limits.pids, 'SANDBOX_MAX_PIDS', limits.maxPids],
    ['SANDBOX_NOFILE', limits.nofile, 'SANDBOX_MAX_NOFILE', limits.maxNofile],
    ['SANDBOX_TTL', limits.ttlMs, 'SANDBOX_MAX_LIFETIME', limits.maxLifetimeMs],
  ] as const;
  for (const [name, value, ceilingName, ceiling] of pairs) {
    if (value > ceiling) throw new SandyardError('config_invalid', `${name} is above its own ceiling ${ceilingName}.`);
  }
  return limits;
}

function unknownVariables(env: Environment): string[] {
  return Object.keys(env)
    .filter((name) => name.startsWith('SANDBOX_') && !(name in VARIABLES))
    .map((name) => `${name} is not a variable that Sandyard knows; see .env.example.`);
}
