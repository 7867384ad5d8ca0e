import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { formatChecks } from '../check-report.js';
import { EXIT_CODES } from '../exit-codes.js';
import { presentAttestation } from '../../wire/check-presenters.js';

const NOTES = `
Each setting is read back from the engine, and a probe in the sandbox, with the rights of its user,
tries what it must not be able to do. "drift" is what isn't as the sandbox was made.

Exit codes:
  0    all that it was made with is in force
  1    something is not, or could not be found out

Examples:
  sandyard attest $id
  sandyard attest --json $id | jq '.checks[] | select(.status != "ok")'`;

export function addAttest(program: Command, cli: Cli): void {
  program
    .command('attest')
    .summary('Say what is really enforced of a sandbox')
    .description('Say what is really enforced of a sandbox that runs.')
    .usage('[options] ID')
    .argument('<id>')
    .option('--json', 'print a JSON document')
    .addHelpText('after', NOTES)
    .action((id: string, { json }: { json?: boolean }) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const attestation = await manager.attest(id, { signal });
        if (json === true) await cli.printJson(presentAttestation(attestation));
        else {
          const rows = attestation.checks.map(({ status, ...check }) => ({ verdict: status, ...check }));
          await cli.print(formatChecks(rows, { columns: cli.context.stdout.columns }));
        }
        return attestation.ok ? 0 : EXIT_CODES.someFailed;
      }),
    );
}
