import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { formatTable } from '../output.js';
import { readSecret } from '../secret-flags.js';
import { presentSecrets } from '../../wire/presenters.js';

const EXAMPLES = `
A value is read from the variable of that name here, or from a file; it is never printed.

Examples:
  sandyard secrets $id
  GITHUB_TOKEN=$(gh auth token) sandyard secrets $id --set GITHUB_TOKEN
  sandyard secrets $id --set GITHUB_TOKEN --file token.txt
  sandyard secrets $id --remove GITHUB_TOKEN`;

interface SecretsFlags {
  readonly set?: string;
  readonly file?: string;
  readonly remove?: string;
  readonly json?: boolean;
}

export function addSecrets(program: Command, cli: Cli): void {
  program
    .command('secrets')
    .summary('Print where the secrets of a sandbox go, or change them')
    .description('Print where the secrets of a sandbox go, give one another value, or take one away.')
    .usage('[options] ID')
    .argument('<id>')
    .option('--set <name>', 'from now on it has another value')
    .option('--file <path>', 'with --set: the file that has the value')
    .option('--remove <name>', 'from now on it has none')
    .option('--json', 'print a document')
    .addHelpText('after', EXAMPLES)
    .action((id: string, flags: SecretsFlags) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const { secrets } = await manager.get(id, { signal });
        if (flags.set !== undefined) {
          await secrets.set(flags.set, { value: await readSecret(flags.set, flags.file, cli.context), signal });
        }
        if (flags.remove !== undefined) await secrets.remove(flags.remove, { signal });
        const found = await secrets.list({ signal });
        if (flags.json === true) await cli.printJson({ secrets: presentSecrets(found) });
        else await cli.print(formatTable(HEADER, Object.entries(found).map(toRow)));
        return 0;
      }),
    );
}

const HEADER = ['NAME', 'HOSTS', 'OVER'];

function toRow([name, { hosts, interceptTls }]: [string, { hosts: readonly string[]; interceptTls: boolean }]) {
  return [name, hosts.join(', '), interceptTls ? 'TLS, which is opened' : 'plain HTTP'];
}
