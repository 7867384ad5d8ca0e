import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { EXIT_CODES } from '../exit-codes.js';
import type { PruneResult } from '../../index.js';
import { formatTable } from '../output.js';
import { presentPrune } from '../../wire/presenters.js';

const NOTES = `
Only what has provably expired or is left over goes: sandboxes whose lease, idle timeout or longest
lifetime has run out, that were stopped for too long or never handed out; volumes and networks that
no sandbox needs. A service that runs does the same by itself.

Examples:
  sandyard prune --dry-run
  sandyard prune --json | jq -r '.sandboxes[].id'`;

const HEADER = ['KIND', 'NAME', 'WHY', 'DONE'];

type Reason = PruneResult['sandboxes'][number]['reason'] | PruneResult['volumes'][number]['reason'];

const REASONS: Readonly<Record<Reason, string>> = {
  lease_expired: 'its lease has run out',
  idle: 'nothing was done in it for its idle timeout',
  max_lifetime: 'it is older than its longest lifetime',
  stopped_too_long: 'it has been stopped for too long',
  lost: 'the engine was started again, and has stopped it',
  half_created: 'it was never handed out',
  image_gone: 'its image is gone',
  sandbox_gone: 'its sandbox is gone',
  unused: 'nothing uses it',
};

interface PruneFlags {
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export function addPrune(program: Command, cli: Cli): void {
  program
    .command('prune')
    .summary('Remove what has expired')
    .description('Remove what has expired or was left over, and say what and why.')
    .option('--dry-run', 'only say what would be removed, and why')
    .option('--json', 'print an object with what was found')
    .addHelpText('after', NOTES)
    .action(({ dryRun = false, json }: PruneFlags) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const result = await manager.prune({ dryRun, signal });
        if (json === true) await cli.printJson(presentPrune(result, { dryRun }));
        else await cli.print(formatTable(HEADER, toRows(result, { dryRun })));
        const { sandboxes, volumes, networks } = result;
        return [...sandboxes, ...volumes, ...networks].some(({ error }) => error !== undefined)
          ? EXIT_CODES.someFailed
          : 0;
      }),
    );
}

function toRows({ sandboxes, volumes, networks }: PruneResult, { dryRun }: { dryRun: boolean }): string[][] {
  const describe = (done: string | undefined, error: string | undefined) =>
    error === undefined ? (done ?? (dryRun ? 'nothing: a dry run' : 'nothing')) : `failed: ${error}`;
  const orphan = (kind: string) => (found: PruneResult['volumes'][number]) => {
    const { name, reason, removed, error } = found;
    return [kind, name, REASONS[reason], describe(removed ? 'removed' : undefined, error)];
  };
  return [
    ...sandboxes.map(({ id, reason, action, error }) => {
      return ['sandbox', id, REASONS[reason], describe(action === 'none' ? undefined : action, error)];
    }),
    ...volumes.map(orphan('volume')),
    ...networks.map(orphan('network')),
  ];
}
