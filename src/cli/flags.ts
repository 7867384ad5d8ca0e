import { InvalidArgumentError, Option, type Command } from 'commander';

import { SandyardError } from '../errors.js';
import type { CreateOptions } from '../index.js';
import type { Context } from './context.js';
import { toSecrets, type SecretFlags } from './secret-flags.js';

/** For a flag that may be given several times, each with `NAME=VALUE`. */
function collectPairs(text: string, before: Readonly<Record<string, string>> = {}): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('It must be NAME=VALUE.');
  // A name such as __proto__ is one like others.
  return Object.fromEntries([...Object.entries(before), [text.slice(0, at), text.slice(at + 1)]]);
}

/** For a flag that may be given several times. */
export function collect(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}

function parseCount(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It must be a whole number.');
}

/** What a flag with a duration says, in milliseconds; `undefined` without one. */
export async function toMs(
  flag: string,
  text: string | undefined,
  { orNone = false }: { orNone?: boolean } = {},
): Promise<number | undefined> {
  if (text === undefined) return undefined;
  const { parseDuration } = await import('../schemas.js');
  const ms = parseDuration(text);
  if (ms !== undefined && (ms > 0 || orNone)) return ms;
  throw new SandyardError('validation_failed', `${flag} is ${JSON.stringify(text)}, which is no duration.`, {
    hint: 'Write a number and a unit, such as 500ms, 30s, 15m, 2h or 1d.',
  });
}

/** How a command is run, by all that run one. */
export interface CommandFlags {
  readonly workdir?: string;
  readonly env?: Record<string, string>;
  readonly user?: string;
}

export function addCommandFlags(command: Command): Command {
  return command
    .option('-w, --workdir <path>', 'where commands run')
    .option('-e, --env <name=value>', 'environment variable; repeatable', collectPairs)
    .option('-u, --user <user>', '"sandbox", a numeric uid or uid:gid, or "root" with --profile dev');
}

/** What a command has of us while we wait for it. */
export interface AttachFlags {
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly timeout?: string;
}

export function addAttachFlags(command: Command): Command {
  return command
    .option('-i, --interactive', 'pass standard input on')
    .option('-t, --tty', 'give it a terminal; needs one here')
    .option('--timeout <duration>', 'end it, with all that it started, after so long (exit code 124)');
}

export interface CreateFlags extends CommandFlags, SecretFlags {
  readonly project?: string;
  readonly image?: string;
  readonly memory?: string;
  readonly cpus?: string;
  readonly pids?: number;
  readonly disk?: string;
  readonly inodes?: number;
  readonly network?: string;
  readonly egress?: string[];
  readonly ttl?: string;
  readonly idleTimeout?: string;
  readonly maxLifetime?: string;
  readonly onExpiry?: CreateOptions['onExpiry'];
  readonly wakeOnUse?: boolean;
  readonly runtime?: string;
  readonly profile?: CreateOptions['profile'];
  readonly label?: Record<string, string>;
  readonly metadata?: Record<string, string>;
}

/** The flags that say what a sandbox is to be. */
export function addCreateFlags(command: Command): Command {
  command
    .option('--name, --project <name>', 'what it is for; several may have the same')
    .option('--image <image>', 'what it runs (default: SANDBOX_IMAGE, or sandyard-sandbox:latest)')
    .option('-m, --memory <size>', 'memory, swap included, such as 512m or 1g')
    .option('--cpus <number>', 'CPUs, such as 0.5 or 2')
    .option('--pids <number>', 'processes and threads at once', parseCount)
    .option('--disk <size>', 'how much it may write, such as 512m or 2g')
    .option('--inodes <number>', 'files and directories that it may make', parseCount)
    .option('--network <mode>', 'none, or bridge to reach the network (default: none)')
    .option('--egress <host>', 'reach this by a proxy, and nothing else, such as pypi.org; repeatable', collect)
    .option(
      '--secret <name=hosts>',
      'a secret that only these hosts get, comma-separated; its value is that of the variable NAME here; repeatable',
      collectPairs,
    )
    .option('--secret-file <name=path>', 'a file that has the value instead; repeatable', collectPairs)
    .option('--intercept-tls', 'secrets go into HTTPS: TLS to their hosts is opened by the proxy')
    .option('--ttl <duration>', 'lease, such as 90s, 30m or 2h; it expires after that')
    .option('--idle, --idle-timeout <duration>', 'it expires, too, when nothing was done in it for so long')
    .addOption(
      new Option('--on-expiry <action>', 'what becomes of it then (default: destroy)').choices([
        'destroy',
        'stop',
        'pause',
      ]),
    )
    .option('--wake-on-use', 'have it start again when it is used after it has expired')
    .option('--max-lifetime <duration>', 'how old it may become, however often its lease is renewed')
    .addOption(
      new Option('--profile <name>', 'how much it is cut off (default: standard)').choices([
        'standard',
        'strict',
        'dev',
      ]),
    )
    .option('--runtime <name>', "the engine's runtime, such as runsc, or auto for the strongest")
    .option('--label <name=value>', 'label of the container; repeatable', collectPairs)
    .option('--metadata <name=value>', 'what you want to find again in its description; repeatable', collectPairs);
  return addCommandFlags(command);
}

function toNetwork({ network, egress }: CreateFlags): CreateOptions['network'] {
  if (egress === undefined) return network as CreateOptions['network'];
  if (network === undefined) return { egress: { allow: egress } };
  throw new SandyardError('validation_failed', '--network and --egress are given, and there is one network.', {
    hint: 'Give one of them.',
  });
}

/** As the library takes it, which checks it. */
export async function toCreateOptions(flags: CreateFlags, context: Context): Promise<CreateOptions> {
  return {
    projectName: flags.project,
    image: flags.image,
    memoryLimit: flags.memory,
    cpuLimit: flags.cpus,
    pidsLimit: flags.pids,
    diskLimit: flags.disk,
    inodesLimit: flags.inodes,
    env: flags.env,
    network: toNetwork(flags),
    secrets: await toSecrets(flags, context),
    ttlMs: await toMs('--ttl', flags.ttl),
    idleTimeoutMs: await toMs('--idle-timeout', flags.idleTimeout),
    maxLifetimeMs: await toMs('--max-lifetime', flags.maxLifetime),
    onExpiry: flags.onExpiry,
    wakeOnUse: flags.wakeOnUse,
    workdir: flags.workdir,
    user: flags.user,
    runtime: flags.runtime,
    profile: flags.profile,
    labels: flags.label,
    metadata: flags.metadata,
  };
}
