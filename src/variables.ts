import { z } from 'zod';

import { hostRuleSchema } from './egress-schemas.js';
import { NETWORK_KINDS, PROFILES } from './isolation.js';
import { fields, OWNER_PATTERN } from './schemas.js';
import {
  amount,
  duration,
  integer,
  list,
  MIN_TOKEN_SECRET,
  MIN_WEBHOOK_SECRET,
  nameServer,
  originPattern,
  origins,
  patterns,
  proxies,
  range,
  someOf,
  webhookUrls,
} from './variable-schemas.js';

/*
 * The variables of the environment. Each is described once, here: its schema parses it, and its text goes into
 * `.env.example`, which a test compares with this table. Whose they are and what they become is in config.ts.
 */

/** Name, schema, default as it would be written, and one line for `.env.example`. */
export const VARIABLES = {
  HOST: variable(z.string(), '127.0.0.1', 'Address to bind to. Anything but loopback needs a token.'),
  PORT: variable(integer(0, 65_535), '8888', 'Port to listen on; 0 takes a free one.'),
  SANDBOX_TOKEN: variable(
    z.string().min(16, 'must have at least 16 characters'),
    undefined,
    'Bearer token that every request must carry.',
  ),
  SANDBOX_TOKEN_FILE: variable(z.string(), undefined, 'File that holds the token, instead of SANDBOX_TOKEN.'),
  SANDBOX_TOKEN_SECRET: variable(
    z.string().refine((value) => Buffer.byteLength(value) >= MIN_TOKEN_SECRET, 'must have at least 32 bytes'),
    undefined,
    'What tokens and links to files are signed with; without it none can be issued.',
  ),
  SANDBOX_TOKEN_SECRET_FILE: variable(
    z.string(),
    undefined,
    'File that holds that secret, instead of SANDBOX_TOKEN_SECRET.',
  ),
  SANDBOX_TOKEN_MAX_AGE: variable(duration, '24h', 'How long a token or a link may last at the most.'),
  SANDBOX_API_KEYS_FILE: variable(
    z.string(),
    undefined,
    'File of more keys: a line for each, "NAME OWNER SCOPE[,SCOPE] sha256:HEX".',
  ),
  SANDBOX_STATE_DIR: variable(
    z.string(),
    undefined,
    'Directory in which it is noted which tokens for a single use were used; without it there are none.',
  ),
  SANDBOX_RATE_LIMIT_OWNER: variable(
    integer(1, 10_000_000),
    undefined,
    'Requests a minute that are answered to one owner; no limit unless it is set.',
  ),
  SANDBOX_RATE_LIMIT_ADDRESS: variable(
    integer(1, 10_000_000),
    undefined,
    'Requests a minute that are answered to one address; no limit unless it is set.',
  ),
  SANDBOX_TRUSTED_PROXIES: variable(
    proxies,
    undefined,
    'Addresses of proxies, comma-separated, that are believed whose requests they pass on (X-Forwarded-For).',
  ),
  SANDBOX_ALLOW_ORIGINS: variable(
    origins,
    undefined,
    'Origins, comma-separated, whose pages may use the service from a browser (CORS).',
  ),
  SANDBOX_ALLOW_ORIGIN_REGEX: variable(
    originPattern,
    undefined,
    'The same as a regular expression for the whole origin, such as https://[a-z0-9-]+[.]app[.]example',
  ),
  SANDBOX_ALLOWED_HOSTS: variable(
    list,
    undefined,
    'Host names, comma-separated, that a request may be addressed to besides loopback ones.',
  ),
  SANDBOX_OWNER: variable(
    z.string().regex(OWNER_PATTERN, 'must be lower-case letters, digits and "._-"'),
    'default',
    'Whose sandboxes these are; a manager sees and removes only its own.',
  ),
  SANDBOX_IMAGE: variable(
    fields.image,
    'sandyard-sandbox:latest',
    'Image that sandboxes run unless a request names one.',
  ),
  SANDBOX_PROFILE: variable(
    fields.profile,
    'standard',
    'Profile of a sandbox unless a request names one: standard, strict or dev.',
  ),
  SANDBOX_RUNTIME: variable(
    fields.runtime,
    undefined,
    "Runtime of a sandbox unless a request names one, such as runsc; auto is the strongest; the engine's own unless it is set.",
  ),
  SANDBOX_ALLOWED_PROFILES: variable(
    someOf(PROFILES),
    undefined,
    'Profiles, comma-separated, that a request may ask for; all unless it is set.',
  ),
  SANDBOX_ALLOWED_NETWORKS: variable(
    someOf(NETWORK_KINDS),
    undefined,
    'Networks, comma-separated, of none, bridge and egress, that a request may ask for; all unless it is set.',
  ),
  SANDBOX_ALLOWED_IMAGES: variable(
    patterns,
    undefined,
    'Images, comma-separated, such as ubuntu:*, that a request may ask for besides SANDBOX_IMAGE; all unless it is set.',
  ),
  SANDBOX_ALLOWED_RUNTIMES: variable(
    list.pipe(z.array(fields.runtime).min(1, 'must name one at least')),
    undefined,
    'Runtimes, comma-separated, that sandboxes may have; all unless it is set.',
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
  SANDBOX_DISK: variable(
    fields.diskLimit,
    '1792m',
    'How much a sandbox may write to the disk unless a request says otherwise.',
  ),
  SANDBOX_MAX_DISK: variable(fields.diskLimit, '16g', 'The most disk that a request may ask for.'),
  SANDBOX_INODES: variable(
    integer(1000, 100_000_000),
    '262144',
    'How many files and directories a sandbox may make unless a request says otherwise.',
  ),
  SANDBOX_MAX_INODES: variable(
    integer(1000, 100_000_000),
    '4194304',
    'The most files and directories that a request may ask for.',
  ),
  SANDBOX_MAX_SANDBOXES: variable(
    integer(1, 100_000),
    undefined,
    'The most sandboxes that the owner may have at once; no ceiling unless it is set.',
  ),
  SANDBOX_MAX_TOTAL_MEMORY: variable(
    fields.memoryLimit,
    undefined,
    "The most memory of all the owner's sandboxes together, by their limits; no ceiling unless it is set.",
  ),
  SANDBOX_MAX_TOTAL_CPUS: variable(
    fields.cpuLimit,
    undefined,
    "The most CPUs of all the owner's sandboxes together, by their limits; no ceiling unless it is set.",
  ),
  SANDBOX_MAX_TOTAL_PIDS: variable(
    integer(8, 100_000_000),
    undefined,
    "The most processes of all the owner's sandboxes together, by their limits; no ceiling unless it is set.",
  ),
  SANDBOX_TENANT_MAX_SANDBOXES: variable(
    integer(1, 100_000),
    undefined,
    "The same for each owner of a token or key other than the service's own: sandboxes at once.",
  ),
  SANDBOX_TENANT_MAX_MEMORY: variable(fields.memoryLimit, undefined, 'For each of them: memory of all its sandboxes.'),
  SANDBOX_TENANT_MAX_CPUS: variable(fields.cpuLimit, undefined, 'For each of them: CPUs of all its sandboxes.'),
  SANDBOX_TENANT_MAX_PIDS: variable(
    integer(8, 100_000_000),
    undefined,
    'For each of them: processes of all its sandboxes.',
  ),
  SANDBOX_CREATE_CONCURRENCY: variable(integer(1, 64), '4', 'How many sandboxes are made at once; others wait.'),
  SANDBOX_CREATE_QUEUE: variable(
    integer(0, 10_000),
    '64',
    'How many may wait to be made; a request beyond that is refused.',
  ),
  SANDBOX_KEEP_FREE_MEMORY: variable(
    amount,
    '512m',
    "Memory of the engine's machine that must stay free; nothing is made below that.",
  ),
  SANDBOX_KEEP_FREE_DISK: variable(
    amount,
    '1g',
    "Disk of the engine's machine that must stay free; nothing is made below that.",
  ),
  SANDBOX_POOL_SIZE: variable(integer(0, 1000), '0', 'How many sandboxes are kept ready before anybody asks.'),
  SANDBOX_POOL_MAX: variable(
    integer(0, 1000),
    undefined,
    'How many are kept ready at the most, while many are asked for; the size when it is not set.',
  ),
  SANDBOX_SOCKET_DIR: variable(
    z.string(),
    'auto',
    'Where managers that are root on the machine of the engine listen for wardens: a directory, "auto" for the usual one where that is possible, or "none".',
  ),
  SANDBOX_ALLOWED_DOMAINS: variable(
    list.pipe(z.array(hostRuleSchema)),
    undefined,
    'Hosts, comma-separated, that a request may ask egress to at the most, such as "pypi.org,*.npmjs.org:443", or "*"; a service refuses egress unless it is set.',
  ),
  SANDBOX_EGRESS_SUBNETS: variable(
    range.refine((value) => Number(value.split('/')[1]) <= 24, 'must be a /24 or larger'),
    '10.217.0.0/16',
    'Range that the networks of sandboxes with egress are taken from, eight addresses each.',
  ),
  SANDBOX_EGRESS_DNS: variable(
    list.pipe(z.array(nameServer)),
    undefined,
    "Name servers, comma-separated, that the egress proxy asks; the engine's own unless it is set.",
  ),
  SANDBOX_EGRESS_NETWORK: variable(
    z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]*$/, 'must be the name of a network'),
    undefined,
    "The engine's network by which the egress proxy reaches the outside; one of its own unless it is set.",
  ),
  SANDBOX_EGRESS_UNSAFE_DESTINATIONS: variable(
    list.pipe(z.array(range)),
    undefined,
    'Ranges, comma-separated, that sandboxes may reach by an allowed name though they are not public, such as "10.1.2.0/24". Whatever is there must withstand hostile code.',
  ),
  SANDBOX_EGRESS_CA_FILE: variable(
    z.string(),
    undefined,
    'File of certificates, PEM, of authorities that the egress proxy trusts besides the usual ones where it opens TLS for secrets.',
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
  SANDBOX_WEBHOOK_URLS: variable(
    webhookUrls,
    undefined,
    'URLs, comma-separated, that each event of a sandbox is sent to.',
  ),
  SANDBOX_WEBHOOK_SECRET: variable(
    z.string().min(MIN_WEBHOOK_SECRET, 'must have at least 24 characters'),
    undefined,
    'What webhooks are signed with, by the Standard Webhooks specification: "whsec_" and base64, or any text.',
  ),
  SANDBOX_WEBHOOK_SECRET_FILE: variable(
    z.string(),
    undefined,
    'File that holds that secret, instead of SANDBOX_WEBHOOK_SECRET.',
  ),
  SANDBOX_LOG_LEVEL: variable(
    z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']),
    'info',
    'How much is logged.',
  ),
} as const;

export type VariableName = keyof typeof VARIABLES;

/** What they are set to, parsed; `undefined` where one is not set and has no default. */
export type Values = { [Name in VariableName]: z.output<(typeof VARIABLES)[Name]['schema']> | undefined };

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
