import { posix } from 'node:path';
import { customAlphabet } from 'nanoid';
import { z } from 'zod';

import { egressSchema } from './egress-schemas.js';
import { SandyardError, type InputIssue } from './errors.js';
import { PROFILES } from './isolation.js';
import { secretsSchema } from './secret-schemas.js';
import { SIGNAL_NAMES } from './signals.js';

/*
 * The contract in zod: single fields, shared by the library's options (camelCase) and the REST bodies (snake_case), and
 * the library's option objects. Units are converted here, once: sizes become bytes, durations milliseconds.
 */

const KIB = 1024;
const MIB = KIB * KIB;

/** Linux refuses a single argument or variable of 128 KiB (MAX_ARG_STRLEN); the warden a request of 4 MiB in all. */
const MAX_ARG_BYTES = 128 * KIB - 1;
const MAX_ARGS_TOTAL_BYTES = MIB;

/** Variables under this prefix are Sandyard's own marks in a process and can't be set by callers. */
const RESERVED_ENV_PREFIX = 'SANDYARD_';
const RESERVED_LABEL_PREFIX = 'sandyard.';

const SIZE_UNITS = { b: 1, k: KIB, m: MIB, g: 1024 * MIB, t: 1024 * 1024 * MIB } as const;
const SIZE_PATTERN = /^(\d+(?:\.\d+)?)\s*([bkmgt])?(?:i?b)?$/i;
const DURATION_UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
const DURATION_PATTERN = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$/i;

/** `512m`, `1g`, `1.5GiB` (binary units, as in Docker) or a number of bytes, to bytes; `undefined` when it is neither. */
export function parseSize(value: string | number): number | undefined {
  if (typeof value === 'number') return Number.isSafeInteger(value) && value >= 0 ? value : undefined;
  const match = SIZE_PATTERN.exec(value.trim());
  if (match === null) return undefined;
  const unit = (match[2] ?? 'b').toLowerCase() as keyof typeof SIZE_UNITS;
  const bytes = Math.floor(Number(match[1]) * SIZE_UNITS[unit]);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** `1536 MiB`-like text of a number of bytes, for messages. */
export function formatSize(bytes: number): string {
  for (const unit of ['t', 'g', 'm', 'k'] as const) {
    if (bytes >= SIZE_UNITS[unit] && bytes % (SIZE_UNITS[unit] / KIB) === 0) {
      const value = bytes / SIZE_UNITS[unit];
      if (Number.isInteger(value * 100)) return `${value}${unit}`;
    }
  }
  return `${bytes} bytes`;
}

/** `500ms`, `90s`, `15m`, `2h`, `1d` to milliseconds; `undefined` when it is none of these. */
export function parseDuration(value: string): number | undefined {
  const match = DURATION_PATTERN.exec(value.trim());
  if (match === null) return undefined;
  const unit = (match[2] ?? 's').toLowerCase() as keyof typeof DURATION_UNITS;
  return Math.round(Number(match[1]) * DURATION_UNITS[unit]);
}

/** What would arrive as something else: NUL ends a text for Linux, and half a surrogate pair has no UTF-8. */
const plain = (value: string) => !/\0|\p{Surrogate}/u.test(value);
const PLAIN = 'must not contain a NUL character or half a surrogate pair';

const text = (max: number) => z.string().max(max).refine(plain, PLAIN);

const argument = z
  .string()
  .refine(plain, PLAIN)
  .refine((value) => Buffer.byteLength(value) <= MAX_ARG_BYTES, 'must be shorter than 128 KiB (a limit of Linux)');

const absolutePath = text(4096)
  .refine((value) => value.startsWith('/'), 'must be an absolute path')
  .refine((value) => !value.split('/').includes('..'), 'must not contain ".."')
  .refine((value) => value.split('/').every((name) => Buffer.byteLength(name) <= 255), 'has a name of over 255 bytes')
  .refine((value) => !/^\/+(proc|sys)(\/|$)/.test(posix.normalize(value)), 'must not be below /proc or /sys');

const sizeSchema = z
  .union([z.number(), z.string()])
  .transform((value, context) => {
    const bytes = parseSize(value);
    if (bytes !== undefined) return bytes;
    context.addIssue({ code: 'custom', message: 'must be a size such as "512m" or "1g", or a number of bytes' });
    return z.NEVER;
  })
  .pipe(z.number().min(16 * MIB, 'must be at least 16m'));

const cpuSchema = z
  .union([z.number(), z.string().regex(/^\d+(\.\d+)?$/, 'must be a number of CPUs such as 0.5 or "1.0"')])
  .transform(Number)
  .pipe(z.number().min(0.01, 'must be at least 0.01'));

const durationMs = z
  .int()
  .min(1000, 'must be at least 1000 ms')
  .max(366 * DURATION_UNITS.d);

const metadataSchema = z
  .record(text(64).min(1), text(1024))
  .refine((value) => Object.keys(value).length <= 32, 'must have at most 32 entries');

const labelsSchema = z
  .record(text(128).regex(/^[A-Za-z0-9][A-Za-z0-9._/-]*$/, 'must be a Docker label name'), text(1024))
  .refine((value) => Object.keys(value).length <= 32, 'must have at most 32 entries')
  .refine(
    (value) => !Object.keys(value).some((key) => key.startsWith(RESERVED_LABEL_PREFIX)),
    `must not use the reserved prefix "${RESERVED_LABEL_PREFIX}"`,
  );

const envSchema = z
  .record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'must be a name of letters, digits and "_"'), argument)
  .refine((value) => totalBytes(Object.entries(value).flat()) <= MAX_ARGS_TOTAL_BYTES, 'must be 1 MiB at most in all')
  .refine(
    (value) => !Object.keys(value).some((key) => key.startsWith(RESERVED_ENV_PREFIX)),
    `must not use the reserved prefix "${RESERVED_ENV_PREFIX}"`,
  );

const commandSchema = z.union([
  argument.min(1, 'must not be empty'),
  z
    .array(argument)
    .min(1, 'must name a program')
    .refine((value) => value[0] !== '', 'must name a program')
    .refine((value) => totalBytes(value) <= MAX_ARGS_TOTAL_BYTES, 'must be 1 MiB at most in all'),
]);

/**
 * `sandbox` (uid 1000) or a numeric `uid` or `uid:gid`, below 2^30, where the groups begin by which the warden knows what
 * belongs to which process. Root (0) is to be had only where the sandbox has the profile `dev`, which is seen to where
 * that is known: user code must not be able to signal PID 1 or to write the record that carries the lease. 65532 is not to
 * be had, with which it could end the warden's own operations. Names other than `sandbox` and `root` are refused because
 * the image, not we, would decide which uid they are.
 */
const userSchema = z
  .string()
  .regex(
    /^(sandbox|root|0(:0)?|[1-9]\d{0,8}(:[1-9]\d{0,8})?)$/,
    'must be "sandbox", a numeric "uid" or "uid:gid", or "root" with the profile "dev"',
  )
  .refine((value) => !value.split(':').includes('65532'), "must not be 65532, which runs the warden's operations");

const terminalSizeSchema = z.strictObject({
  rows: z.int().min(1).max(65_535),
  columns: z.int().min(1).max(65_535),
});

const imageSchema = text(512).refine(isImageReference, 'must be an image reference such as "ubuntu:24.04"');

const IMAGE_PATH = /^[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*$/;

/**
 * Docker's grammar of a reference: `[HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST]`. Taken apart first, and matched by parts
 * that can match in one way only: the time that it takes doesn't depend on what was sent.
 */
function isImageReference(reference: string): boolean {
  const [name = '', digest = 'sha256:'.padEnd(71, '0'), ...more] = reference.split('@');
  const colon = name.indexOf(':', name.lastIndexOf('/') + 1);
  const tag = colon === -1 ? 'latest' : name.slice(colon + 1);
  const [first = '', ...rest] = (colon === -1 ? name : name.slice(0, colon)).split('/');
  const isHost = /^[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*(?::\d{1,5})?$/.test(first) && rest.length > 0;
  const isTag = /^\w[\w.-]{0,127}$/.test(tag);
  return (
    more.length === 0 &&
    isTag &&
    /^sha256:[a-f0-9]{64}$/.test(digest) &&
    (IMAGE_PATH.test(first) || isHost) &&
    rest.every((part) => IMAGE_PATH.test(part))
  );
}

function totalBytes(values: readonly string[]): number {
  return values.reduce((sum, value) => sum + Buffer.byteLength(value), 0);
}

/** Ids become container names and host names, so they are lower-case letters and digits. */
export const newSandboxId = customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 12);

const NETWORKS = ['none', 'bridge'] as const;

/** Of those who share an engine, or a service. */
export const OWNER_PATTERN = /^[a-z0-9][a-z0-9._-]{0,62}$/;

/** The single fields, with what they mean. Library options and REST bodies are composed of the same ones. */
export const fields = {
  id: z
    .string()
    .regex(/^[a-z0-9]{1,64}$/, 'must be lower-case letters and digits')
    .describe('The id of a sandbox.'),
  projectName: text(64)
    .regex(/^[A-Za-z0-9][A-Za-z0-9 ._-]*$/, 'must start with a letter or digit and have only letters, digits, " ._-"')
    .describe('What the sandbox is for; several sandboxes may have the same.'),
  memoryLimit: sizeSchema.describe('Memory, swap included: "512m", "1g" or a number of bytes.'),
  cpuLimit: cpuSchema.describe('CPUs: 0.5, "1.0", 2.'),
  pidsLimit: z.int().min(8).describe('How many processes and threads it may have at once.'),
  nofileLimit: z.int().min(64).describe('How many files one process may have open.'),
  diskLimit: sizeSchema.describe('How much it may write to the disk: "512m", "2g" or a number of bytes.'),
  inodesLimit: z.int().min(1000).describe('How many files and directories it may make.'),
  env: envSchema.describe('Environment variables.'),
  network: z
    .union([z.enum(NETWORKS), z.strictObject({ egress: egressSchema })])
    .describe(
      '"none" has only a loopback interface; "bridge" reaches the network; "egress" reaches the hosts that it allows.',
    ),
  durationMs,
  onExpiry: z
    .enum(['destroy', 'stop', 'pause'])
    .describe(
      'What becomes of it when its lease or its idle timeout ends: "destroy", "stop" (its files stay), or "pause" (its processes stay).',
    ),
  wakeOnUse: z
    .boolean()
    .describe(
      'Whether a command, a file or a terminal starts it again when its lease or idle timeout has stopped or paused it.',
    ),
  metadata: metadataSchema.describe('Your own key-value pairs; they come back when the sandbox is inspected.'),
  labels: labelsSchema.describe('More labels for the container.'),
  image: imageSchema.describe('The image to run; the engine must have it.'),
  path: absolutePath.describe('An absolute path in the sandbox.'),
  user: userSchema.describe(
    '"sandbox" (uid 1000) or a numeric "uid" or "uid:gid"; "root" only with the profile "dev".',
  ),
  profile: z
    .enum(PROFILES)
    .describe(
      'How much it is cut off: "standard", "strict" (read-only, files in memory, gVisor where it is there), or "dev" ' +
        "(commands may be root's).",
    ),
  command: commandSchema.describe('A program with its arguments, or a string for /bin/sh -c.'),
  maxOutputBytes: z
    .int()
    .min(0)
    .max(64 * MIB)
    .describe('How much of stdout and of stderr is kept, each.'),
  mode: z.int().min(0).max(0o777).describe('Permission bits.'),
  processId: z
    .string()
    // "." and ".." would be steps in a path where an id is a part of one.
    .regex(
      /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/,
      'must be 1 to 64 letters, digits, "_", "." or "-", and begin with no "." or "-"',
    )
    .describe('The id of a process.'),
  seq: z.int().min(0).describe('The number of a piece of output.'),
  signal: z.enum(SIGNAL_NAMES, 'must be the name of a signal, such as SIGTERM or SIGKILL').describe('A signal.'),
  graceMs: z
    .int()
    .min(0)
    .max(10 * DURATION_UNITS.m)
    .describe('How long what gets SIGTERM may take to end before SIGKILL, in milliseconds.'),
  terminalSize: terminalSizeSchema.describe('The size of a terminal, in characters.'),
  whenUnread: z
    .enum(['wait', 'run'])
    .describe('What a process does when nobody reads its output: "wait", or "run" on, where the oldest is lost.'),
  runtime: text(64)
    .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]*$/, 'must be the name of a runtime of the engine')
    .describe('The engine\'s runtime, such as runc or runsc; "auto" for the strongest that it has.'),
  port: z.int().min(1).max(65_535).describe('A TCP port.'),
  etag: z
    .string()
    .regex(/^([0-9a-f]{1,16}(-[0-9a-f]{1,16}){3}|\*)$/, 'must be the tag of a file, or "*"')
    .describe('What stands for the content of a file.'),
  tenant: z
    .string()
    .regex(OWNER_PATTERN, 'must be 1 to 63 lower-case letters, digits and "._-", and begin with no "._-"')
    .describe('Whose sandboxes they are.'),
  state: z.enum(['created', 'running', 'paused', 'exited']).describe("Docker's word for the state."),
} as const;

export const createOptionsSchema = z.strictObject({
  projectName: fields.projectName.optional(),
  image: fields.image.optional(),
  memoryLimit: fields.memoryLimit.optional(),
  cpuLimit: fields.cpuLimit.optional(),
  pidsLimit: fields.pidsLimit.optional(),
  nofileLimit: fields.nofileLimit.optional(),
  diskLimit: fields.diskLimit.optional(),
  inodesLimit: fields.inodesLimit.optional(),
  env: fields.env.optional(),
  network: fields.network.optional(),
  secrets: secretsSchema.optional(),
  ttlMs: fields.durationMs.optional(),
  idleTimeoutMs: fields.durationMs.optional(),
  maxLifetimeMs: fields.durationMs.optional(),
  onExpiry: fields.onExpiry.optional(),
  wakeOnUse: fields.wakeOnUse.optional(),
  metadata: fields.metadata.optional(),
  labels: fields.labels.optional(),
  workdir: fields.path.optional(),
  user: fields.user.optional(),
  runtime: fields.runtime.optional(),
  profile: fields.profile.optional(),
});

/** What `create` takes. All of it is optional; what is left out comes from the manager's `limits` and `image`. */
export type CreateOptions = z.input<typeof createOptionsSchema>;
/** The same with sizes in bytes and CPUs as a number. */
export type ParsedCreateOptions = z.output<typeof createOptionsSchema>;

const commandOptions = {
  cwd: fields.path.optional(),
  env: fields.env.optional(),
  user: fields.user.optional(),
  timeoutMs: z.int().min(1).optional(),
};

export const execOptionsSchema = z.strictObject({
  ...commandOptions,
  maxOutputBytes: fields.maxOutputBytes.optional(),
  execId: fields.processId.optional(),
});

export const spawnOptionsSchema = z.strictObject({
  ...commandOptions,
  id: fields.processId.optional(),
  pty: z.union([z.boolean(), fields.terminalSize]).optional(),
  whenUnread: fields.whenUnread.optional(),
  text: z.boolean().optional(),
  graceMs: fields.graceMs.optional(),
});

export const renewOptionsSchema = z.strictObject({ ttlMs: fields.durationMs.optional() });

export const listOptionsSchema = z.strictObject({
  state: fields.state.optional(),
  projectName: fields.projectName.optional(),
  limit: z.int().min(1).max(1000).optional(),
  cursor: text(256).optional(),
});

/** Which sandboxes to list: by state, by project name; `limit` at most (100), from `cursor` on. */
export type ListOptions = z.input<typeof listOptionsSchema>;

/**
 * Parses, or throws `validation_failed` with every fault and its path. `what` is what the input is, for the message:
 * "create options", "request body".
 */
export function parseInput<Schema extends z.ZodType>(schema: Schema, input: unknown, what: string): z.output<Schema> {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const issues: InputIssue[] = result.error.issues.map((issue) => ({
    path: issue.path.map((part) => (typeof part === 'symbol' ? String(part) : part)),
    message: issue.message,
  }));
  const first = issues[0];
  const where = first === undefined || first.path.length === 0 ? '' : `${first.path.join('.')}: `;
  throw new SandyardError('validation_failed', `Invalid ${what}: ${where}${first?.message ?? 'unknown fault'}.`, {
    hint: 'Correct the fields listed in "errors" and send it again.',
    issues,
  });
}
