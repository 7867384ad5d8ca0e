import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { SandyardError } from '../../errors.js';
import { presentEnd } from '../../wire/presenters.js';

const NOTES = `
One that is paused or was never started is waited for, too. A sandbox ends with 90 when its lease
has run out, and with 91 when nothing was done in it for its idle timeout.

Examples:
  sandyard wait $id`;

export function addWait(program: Command, cli: Cli): void {
  program
    .command('wait')
    .summary('Wait until sandboxes run no more')
    .description('Wait until sandboxes run no more, and print the exit code of each, in the order of the ids.')
    .usage('[options] ID...')
    .argument('<id...>')
    .option('--json', 'print an array of how they ended, when none of them runs any more')
    .addHelpText('after', NOTES)
    .action((ids: readonly string[], { json }: { json?: boolean }) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        await manager.open({ signal }); // to be told at once
        const waits = ids.map(async (id) => ({ id, info: await manager.wait(id, { signal }) }));
        const settled = Promise.allSettled(waits); // so that each one's failure is heard, whenever it comes
        for (const wait of json === true ? [] : waits) {
          const ended = await wait.catch(() => undefined);
          if (ended?.info) await cli.print(`${ended.info.exitCode ?? '?'}\n`);
        }
        const results = await settled;
        const ended = results.filter((result) => result.status === 'fulfilled').map(({ value }) => value);
        if (json === true) await cli.printJson(ended.map(({ id, info }) => ({ id, ...presentEnd(info) })));
        const faults = results.map((result) => {
          if (result.status === 'rejected') return result.reason as unknown;
          return result.value.info === null ? wasRemoved(result.value.id) : undefined;
        });
        return cli.reportAll(faults.filter((fault) => fault !== undefined));
      }),
    );
}

function wasRemoved(id: string): SandyardError {
  return new SandyardError('sandbox_not_found', `The sandbox ${id} was removed: nobody knows how it ended.`, {
    hint: 'Have it made with --on-expiry stop to be able to look at it afterwards.',
  });
}
