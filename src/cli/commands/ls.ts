import { Option, type Command } from 'commander';

import type { Cli } from '../cli.js';
import type { ListOptions, SandboxInfo } from '../../index.js';
import { listSandboxes, tooManyToAsk, withLeases } from '../listed-sandboxes.js';
import { formatTime } from '../output.js';
import { presentSandbox } from '../../wire/presenters.js';

const EXAMPLES = `
Examples:
  sandyard ls
  sandyard ls --state running --project demo --json
  sandyard rm $(sandyard ls -q)`;

const AS_MADE = `So many sandboxes run that they were not asked how long they have left: leases are shown as they were
made. sandyard inspect asks.
`;

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
    .action(({ state, project, ...flags }: LsFlags) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const listed = await listSandboxes(manager, { state, projectName: project, signal });
        const asks = flags.quiet !== true && !tooManyToAsk(listed);
        const sandboxes = asks ? await withLeases(manager, listed, { signal }) : listed;
        await cli.printList(sandboxes, { flags, header: HEADER, toRow, present: presentSandbox });
        if (flags.quiet !== true && !asks) await cli.note(AS_MADE);
      }),
    );
}

function toRow({ id, projectName, state, image, createdAt, expiresAt }: SandboxInfo): string[] {
  return [id, projectName ?? '', state, image, formatTime(createdAt), formatTime(expiresAt)];
}
