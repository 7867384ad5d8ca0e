import { CommanderError } from 'commander';

import { isSandyardError, type SandyardError } from '../errors.js';
import { escapeForTerminal, formatJson } from './output.js';

/** The flags by which the fields of the library's options are given here. */
const FLAGS: Readonly<Record<string, string>> = {
  projectName: '--project',
  image: '--image',
  memoryLimit: '--memory',
  cpuLimit: '--cpus',
  pidsLimit: '--pids',
  env: '--env',
  network: '--network',
  ttlMs: '--ttl',
  idleTimeoutMs: '--idle-timeout',
  maxLifetimeMs: '--max-lifetime',
  onExpiry: '--on-expiry',
  wakeOnUse: '--wake-on-use',
  workdir: '--workdir',
  cwd: '--workdir',
  user: '--user',
  runtime: '--runtime',
  labels: '--label',
  metadata: '--metadata',
  state: '--state',
  timeoutMs: '--timeout',
};

interface Report {
  readonly code: string;
  readonly messages: readonly string[];
  readonly hint: string | undefined;
}

export interface ReportOptions {
  readonly json: boolean;
  /** Whether to say where in the program it happened, and what made it happen. */
  readonly debug: boolean;
  /** What was called; its help tells how to. */
  readonly command?: string | undefined;
}

/** What to print on standard error for an error: no stack trace, unless that is asked for. */
export function formatError(error: unknown, { json, debug, command }: ReportOptions): string {
  const { code, messages, hint } = describe(error, command);
  const stack = debug ? stackOf(error) : undefined;
  if (json)
    return formatJson({ error: { code, message: messages.join(' '), hint: hint ?? null, ...(stack && { stack }) } });
  const lines = messages.map((message) => `sandyard: ${escapeForTerminal(message)}`);
  if (hint !== undefined) lines.push(`hint: ${escapeForTerminal(hint)}`);
  return `${[...lines, ...(stack ?? []).map(escapeForTerminal)].join('\n')}\n`;
}

function describe(error: unknown, command: string | undefined): Report {
  if (error instanceof CommanderError) return describeUsageError(error, command);
  if (isSandyardError(error)) return describeOurs(error);
  const message = error instanceof Error ? error.message : String(error);
  return {
    code: 'internal',
    messages: [`An unexpected error: ${message}`],
    hint: 'Run it again with --debug to see where it comes from.',
  };
}

function describeOurs(error: SandyardError): Report {
  const { code, message, hint, issues } = error;
  const faults = issues.map(({ path: [field, ...rest], message }) => {
    const flag = FLAGS[String(field)];
    return flag === undefined ? undefined : `${[flag, ...rest].join(' ')} ${message}.`;
  });
  const named = faults.filter((fault) => fault !== undefined);
  // The library's own sentence names the fields as a program gives them, and its hint tells a program where they are.
  if (code !== 'validation_failed' || issues.length === 0) return { code, messages: [message], hint };
  return { code, messages: named.length < faults.length ? [message] : named, hint: undefined };
}

/** Commander's sentences, `error: unknown command 'sl'` and below it `(Did you mean ls?)`, in our form. */
function describeUsageError({ message }: CommanderError, command: string | undefined): Report {
  const [first = '', suggestion] = message.replace(/^error: /, '').split('\n');
  const text = first.charAt(0).toUpperCase() + first.slice(1);
  return {
    code: 'usage',
    messages: [/[.?!]$/.test(text) ? text : `${text}.`],
    hint:
      suggestion === undefined
        ? `Run: ${['sandyard', ...(command === undefined ? [] : [command]), '--help'].join(' ')}`
        : suggestion.replace(/^\((.*)\)$/, '$1'),
  };
}

const MAX_CAUSES = 8;

function stackOf(error: unknown): string[] {
  const lines: string[] = [];
  let current = error;
  for (let depth = 0; depth < MAX_CAUSES && current instanceof Error; depth += 1) {
    const stack = current.stack ?? `${current.name}: ${current.message}`;
    lines.push(...`${depth === 0 ? '' : 'caused by: '}${stack}`.split('\n'));
    current = current.cause;
  }
  return lines;
}
