import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { isSandyardError } from '../../errors.js';
import { succeededAndFailed } from '../in-batches.js';

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
        const { succeeded, faults } = await succeededAndFailed(ids, async (id) => {
          await manager.destroy(id, { signal });
          return id;
        });
        await cli.print(succeeded.map((id) => `${id}\n`).join(''));
        return cli.reportAll(faults.filter((fault) => force !== true || !isSandyardError(fault, 'sandbox_not_found')));
      }),
    );
}
