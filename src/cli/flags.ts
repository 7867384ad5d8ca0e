import { InvalidArgumentError, type Command } from 'commander';

import { SandyardError } from '../errors.js';
import type { CreateOptions } from '../index.js';

/** For a flag that may be given several times, each with `NAME=VALUE`. */
export function collectPairs(text: string, before: Readonly<Record<string, string>> = {}): Record<string, string> {
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
export async function toMs(flag: string, text: string | undefined): Promise<number | undefined> {
  if (text === undefined) return undefined;
  const { parseDuration } = await import('../schemas.js');
  const ms = parseDuration(text);
  if (ms !== undefined && ms > 0) return ms;
  throw new SandyardError('validation_failed', `${flag} is ${JSON.stringify(text)}, which is no duration.`, {
    hint: 'Write a number and a unit, such as 500ms, 30s, 15m, 2h or 1d.',
  });
}

export interface CreateFlags {
  readonly project?: string;
  readonly image?: string;
  readonly memory?: string;
  readonly cpus?: string;
  readonly pids?: number;
  readonly env?: Record<string, string>;
  readonly network?: string;
  readonly ttl?: string;
  readonly idle?: string;
  readonly workdir?: string;
  readonly user?: string;
  readonly runtime?: string;
  readonly label?: Record<string, string>;
  readonly metadata?: Record<string, string>;
}

/** The flags that say what a sandbox is to be. */
export function addCreateFlags(command: Command): Command {
  return command
    .option('--name, --project <name>', 'what it is for; several may have the same')
    .option('--image <image>', 'what it runs (default: SANDBOX_IMAGE, or sandyard-sandbox:latest)')
    .option('-m, --memory <size>', 'memory, swap included, such as 512m or 1g')
    .option('--cpus <number>', 'CPUs, such as 0.5 or 2')
    .option('--pids <number>', 'processes and threads at once', parseCount)
    .option('-e, --env <name=value>', 'environment variable; repeatable', collectPairs)
    .option('--network <mode>', 'none, or bridge to reach the network (default: none)')
    .option('--ttl <duration>', 'lease, such as 90s, 30m or 2h; it is removed after that')
    .option('--idle <duration>', 'remove it when nothing was done in it for so long')
    .option('-w, --workdir <path>', 'where commands run')
    .option('-u, --user <user>', '"sandbox", or a numeric uid or uid:gid other than root')
    .option('--runtime <name>', "the engine's runtime, such as runsc")
    .option('--label <name=value>', 'label of the container; repeatable', collectPairs)
    .option('--metadata <name=value>', 'what you want to find again in its description; repeatable', collectPairs);
}

/** As the library takes it, which checks it. */
export async function toCreateOptions(flags: CreateFlags): Promise<CreateOptions> {
  return {
    projectName: flags.project,
    image: flags.image,
    memoryLimit: flags.memory,
    cpuLimit: flags.cpus,
    pidsLimit: flags.pids,
    env: flags.env,
    network: flags.network as CreateOptions['network'],
    ttlMs: await toMs('--ttl', flags.ttl),
    idleTimeoutMs: await toMs('--idle', flags.idle),
    workdir: flags.workdir,
    user: flags.user,
    runtime: flags.runtime,
    labels: flags.label,
    metadata: flags.metadata,
  };
}
