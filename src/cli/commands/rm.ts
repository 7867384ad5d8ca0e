import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { isSandyardError } from '../../errors.js';
import { EXIT_CODES } from '../exit-codes.js';
import { inBatches } from '../in-batches.js';

const EXAMPLES = `
What runs in them ends at once, and all their files are gone.

Examples:
  sandyard rm $id
  sandyard rm -f $(sandyard ls -q --project demo)`;

export function addRm(program: Command, cli: Cli): void {
  program
    .command('rm')
    .summary('Remove sandboxes')
    .description('Remove sandboxes, and print the ids of those that were.')
    .usage('[options] ID...')
    .argument('<id...>')
    .option('-f, --force', 'one that is gone already is no failure')
    .addHelpText('after', EXAMPLES)
    .action((ids: readonly string[], { force }: { force?: boolean }) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        let failed = false;
        const results = await inBatches(ids, (id) => manager.destroy(id, { signal }));
        for (const [index, result] of results.entries()) {
          if (result.status === 'fulfilled') {
            await cli.print(`${ids[index]}\n`);
          } else if (force !== true || !isSandyardError(result.reason, 'sandbox_not_found')) {
            failed = true;
            await cli.report(result.reason);
          }
        }
        return failed ? EXIT_CODES.someFailed : 0;
      }),
    );
}
