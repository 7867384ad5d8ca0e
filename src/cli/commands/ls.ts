import { Option, type Command } from 'commander';

import type { Cli } from '../cli.js';
import type { ListOptions, SandboxInfo } from '../../index.js';
import { listSandboxes } from '../listed-sandboxes.js';
import { formatTable, formatTime } from '../output.js';
import { presentSandbox } from '../../wire/presenters.js';

const EXAMPLES = `
Examples:
  sandyard ls
  sandyard ls --state running --project demo --json
  sandyard rm $(sandyard ls -q)`;

const HEADER = ['ID', 'PROJECT', 'STATE', 'IMAGE', 'CREATED', 'EXPIRES'];

interface LsFlags {
  readonly state?: ListOptions['state'];
  readonly project?: string;
  readonly quiet?: boolean;
  readonly json?: boolean;
}

export function addLs(program: Command, cli: Cli): void {
  program
    .command('ls')
    .summary('List sandboxes')
    .description('List sandboxes, the newest first.')
    .addOption(new Option('--state <state>', 'only those').choices(['created', 'running', 'paused', 'exited']))
    .option('--name, --project <name>', 'only those of that name')
    .option('-q, --quiet', 'print ids only')
    .option('--json', 'print an array of their descriptions')
    .addHelpText('after', EXAMPLES)
    .action(({ state, project, quiet, json }: LsFlags) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const sandboxes = await listSandboxes(manager, { state, projectName: project, signal });
        if (json === true) await cli.printJson(sandboxes.map(presentSandbox));
        else if (quiet === true) await cli.print(sandboxes.map(({ id }) => `${id}\n`).join(''));
        else await cli.print(formatTable(HEADER, sandboxes.map(toRow)));
      }),
    );
}

function toRow({ id, projectName, state, image, createdAt, expiresAt }: SandboxInfo): string[] {
  return [id, projectName ?? '', state, image, formatTime(createdAt), formatTime(expiresAt)];
}
