import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { succeededAndFailed } from '../in-batches.js';
import type { SandboxInfo } from '../../index.js';
import { formatBytes, formatDuration, formatFields, formatTime } from '../output.js';
import { presentSandbox } from '../../wire/presenters.js';

const EXAMPLES = `
Examples:
  sandyard inspect $id
  sandyard inspect --json $id | jq -r '.[0].expires_at'`;

export function addInspect(program: Command, cli: Cli): void {
  program
    .command('inspect')
    .summary('Describe sandboxes')
    .description('Describe sandboxes: what they are, how they are, and how long they have left.')
    .usage('[options] ID...')
    .argument('<id...>')
    .option('--json', 'print an array of their descriptions')
    .addHelpText('after', EXAMPLES)
    .action((ids: readonly string[], { json }: { json?: boolean }) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const { succeeded, faults } = await succeededAndFailed(ids, (id) => manager.inspect(id, { signal }));
        if (json === true) await cli.printJson(succeeded.map(presentSandbox));
        else await cli.print(succeeded.map((info) => formatFields(toFields(info))).join('\n'));
        return cli.reportAll(faults);
      }),
    );
}

function toFields(info: SandboxInfo): [label: string, text: string][] {
  const { limits, ttlMs, idleTimeoutMs, onExpiry, wakeOnUse } = info;
  const fields: [string, string | null][] = [
    ['ID', info.id],
    ['PROJECT', info.projectName],
    ['STATE', info.exitCode === null ? info.state : `${info.state} (${info.exitCode})`],
    ['IMAGE', info.image],
    ['OWNER', info.owner],
    ['CONTAINER', `${info.name} (${info.containerId.slice(0, 12)})`],
    ['CREATED', describeTime(info.createdAt)],
    ['STARTED', info.startedAt && describeTime(info.startedAt)],
    ['FINISHED', info.finishedAt && describeTime(info.finishedAt)],
    ['EXPIRES', describeTime(info.expiresAt)],
    ['LEASE', formatDuration(ttlMs)],
    ['IDLE TIMEOUT', idleTimeoutMs === null ? 'none' : formatDuration(idleTimeoutMs)],
    ['MAX LIFETIME', formatDuration(info.maxLifetimeMs)],
    ['ON EXPIRY', wakeOnUse ? `${onExpiry}, and start again on use` : onExpiry],
    ['MEMORY', formatBytes(limits.memoryBytes)],
    ['CPUS', String(limits.cpus)],
    ['PIDS', String(limits.pids)],
    ['OPEN FILES', String(limits.nofile)],
    ['DISK', describeDisk(info)],
    ['NETWORK', typeof info.network === 'string' ? info.network : `egress (${info.network.egress.allow.join(', ')})`],
    ['PROFILE', info.profile],
    ['RUNTIME', info.runtime],
    ['USER', info.user],
    ['WORKDIR', info.workdir],
    ...Object.entries(info.metadata).map(([name, value]): [string, string] => ['METADATA', `${name}=${value}`]),
  ];
  return fields.filter((field): field is [string, string] => field[1] !== null);
}

function describeDisk({ disk, limits: { diskBytes, inodes } }: SandboxInfo): string {
  if (disk === 'memory') return 'in memory';
  if (diskBytes === null) return 'not bounded';
  return `${formatBytes(diskBytes)}${inodes === null ? '' : `, ${inodes} files`} (${disk})`;
}

function describeTime(time: Date): string {
  return `${time.toISOString()} (${formatTime(time)})`;
}
