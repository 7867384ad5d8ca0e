import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { isSandyardError } from '../../errors.js';
import { EXIT_CODES } from '../exit-codes.js';
import { inBatches } from '../in-batches.js';
import type { SandboxStats } from '../../index.js';
import { listSandboxes } from '../listed-sandboxes.js';
import { formatBytes, formatTable } from '../output.js';
import { presentStats } from '../../wire/presenters.js';

const EXAMPLES = `
Examples:
  sandyard stats
  sandyard stats --json $id`;

const HEADER = ['ID', 'CPU SECONDS', 'MEMORY / LIMIT', 'MEMORY %', 'PIDS', 'NET IN / OUT'];

export function addStats(program: Command, cli: Cli): void {
  program
    .command('stats')
    .summary('Print what sandboxes use')
    .description('Print what sandboxes use now: those given, or all that run.')
    .usage('[options] [ID...]')
    .argument('[id...]')
    .option('--json', 'print an array')
    .addHelpText('after', EXAMPLES)
    .action((given: readonly string[], { json }: { json?: boolean }) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const all = given.length === 0;
        const ids = all ? (await listSandboxes(manager, { state: 'running', signal })).map(({ id }) => id) : given;
        const results = await inBatches(ids, async (id) => ({ id, stats: await manager.stats(id, { signal }) }));
        const found = results.filter((result) => result.status === 'fulfilled').map(({ value }) => value);
        if (json === true) await cli.printJson(found.map(({ id, stats }) => ({ id, ...presentStats(stats) })));
        else await cli.print(formatTable(HEADER, found.map(toRow)));
        const faults = results
          .filter((result) => result.status === 'rejected')
          .map(({ reason }): unknown => reason)
          .filter((reason) => !(all && hasEnded(reason)));
        for (const fault of faults) await cli.report(fault);
        return faults.length === 0 ? 0 : EXIT_CODES.someFailed;
      }),
    );
}

/** Since it was listed. */
function hasEnded(error: unknown): boolean {
  return isSandyardError(error, 'sandbox_not_found') || isSandyardError(error, 'wrong_state');
}

function toRow({ id, stats }: { id: string; stats: SandboxStats }): string[] {
  const { cpuSeconds, memoryBytes, memoryLimitBytes, pids, networkReceivedBytes, networkSentBytes } = stats;
  const percent = memoryLimitBytes > 0 ? `${((100 * memoryBytes) / memoryLimitBytes).toFixed(1)}%` : '-';
  return [
    id,
    cpuSeconds.toFixed(2),
    `${formatBytes(memoryBytes)} / ${formatBytes(memoryLimitBytes)}`,
    percent,
    String(pids),
    `${formatBytes(networkReceivedBytes)} / ${formatBytes(networkSentBytes)}`,
  ];
}
