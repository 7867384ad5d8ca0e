import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { isSandyardError } from '../../errors.js';
import { succeededAndFailed } from '../in-batches.js';
import type { Sandbox, SandboxManager, SandboxStats } from '../../index.js';
import { listSandboxes } from '../listed-sandboxes.js';
import { formatBytes, formatTable } from '../output.js';
import { presentStats, presentStatsHistory } from '../../wire/presenters.js';

const EXAMPLES = `
Examples:
  sandyard stats
  sandyard stats --json $id
  sandyard stats --history $id`;

const HEADER = ['ID', 'CPU SECONDS', 'MEMORY / LIMIT', 'MEMORY %', 'DISK / LIMIT', 'PIDS', 'NET IN / OUT'];
const HISTORY_HEADER = ['ID', 'TIME', 'CPU SECONDS', 'MEMORY', 'PIDS', 'NET IN / OUT'];

interface StatsFlags {
  readonly history?: boolean;
  readonly json?: boolean;
}

interface Asked {
  readonly manager: SandboxManager;
  readonly signal: AbortSignal;
}

/** One sandbox's part of what is printed. */
interface Answer {
  readonly json: object;
  readonly rows: readonly string[][];
}

type Sample = Awaited<ReturnType<Sandbox['statsHistory']>>[number];

export function addStats(program: Command, cli: Cli): void {
  program
    .command('stats')
    .summary('Print what sandboxes use')
    .description('Print what sandboxes use now: those given, or all that run.')
    .usage('[options] [ID...]')
    .argument('[id...]')
    .option('--history', 'what they used in the last hour, every ten seconds')
    .option('--json', 'print an array')
    .addHelpText('after', EXAMPLES)
    .action((given: readonly string[], { history, json }: StatsFlags) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const all = given.length === 0;
        const ids = all ? (await listSandboxes(manager, { state: 'running', signal })).map(({ id }) => id) : given;
        const ask = history === true ? askHistory : askNow;
        const { succeeded, faults } = await succeededAndFailed(ids, (id) => ask(id, { manager, signal }));
        if (json === true) await cli.printJson(succeeded.map(({ json }) => json));
        else {
          const rows = succeeded.flatMap(({ rows }) => rows);
          await cli.print(formatTable(history === true ? HISTORY_HEADER : HEADER, rows));
        }
        return cli.reportAll(faults.filter((fault) => !(all && hasEnded(fault))));
      }),
    );
}

async function askNow(id: string, { manager, signal }: Asked): Promise<Answer> {
  const stats = await manager.stats(id, { signal });
  return { json: { id, ...presentStats(stats) }, rows: [toRow(id, stats)] };
}

async function askHistory(id: string, { manager, signal }: Asked): Promise<Answer> {
  const samples = await (await manager.get(id, { signal })).statsHistory({ signal });
  return { json: { id, ...presentStatsHistory(samples) }, rows: samples.map((sample) => toHistoryRow(id, sample)) };
}

/** Since it was listed. */
function hasEnded(error: unknown): boolean {
  return isSandyardError(error, 'sandbox_not_found') || isSandyardError(error, 'wrong_state');
}

function toRow(id: string, stats: SandboxStats): string[] {
  const { cpuSeconds, memoryBytes, memoryLimitBytes, pids } = stats;
  const percent = memoryLimitBytes > 0 ? `${((100 * memoryBytes) / memoryLimitBytes).toFixed(1)}%` : '-';
  const memory = `${formatBytes(memoryBytes)} / ${formatBytes(memoryLimitBytes)}`;
  return [id, cpuSeconds.toFixed(2), memory, percent, describeDisk(stats), String(pids), describeNetwork(stats)];
}

function describeDisk({ diskBytes, diskLimitBytes }: SandboxStats): string {
  return `${showBytes(diskBytes)} / ${showBytes(diskLimitBytes)}`;
}

function showBytes(bytes: number | null): string {
  return bytes === null ? '-' : formatBytes(bytes);
}

function toHistoryRow(id: string, sample: Sample): string[] {
  const { at, cpuSeconds, memoryBytes, processes } = sample;
  const memory = formatBytes(memoryBytes);
  return [id, at.toISOString(), cpuSeconds.toFixed(2), memory, String(processes), describeNetwork(sample)];
}

function describeNetwork(used: Pick<Sample, 'networkReceivedBytes' | 'networkSentBytes'>): string {
  return `${formatBytes(used.networkReceivedBytes)} / ${formatBytes(used.networkSentBytes)}`;
}
