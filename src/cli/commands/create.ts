import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { addCreateFlags, toCreateOptions, type CreateFlags } from '../flags.js';
import { presentSandbox } from '../../wire/presenters.js';

const EXAMPLES = `
Examples:
  id=$(sandyard create)
  sandyard create --project demo --memory 512m --cpus 0.5 --ttl 30m
  sandyard create --network bridge -e LANG=C.UTF-8 --json
  sandyard create --egress api.github.com --secret GITHUB_TOKEN=api.github.com --intercept-tls`;

export function addCreate(program: Command, cli: Cli): void {
  const command = program
    .command('create')
    .summary('Make a sandbox')
    .description('Make a sandbox, start it, and print its id.');
  addCreateFlags(command)
    .option('--json', 'print its whole description')
    .addHelpText('after', EXAMPLES)
    .action((flags: CreateFlags & { json?: boolean }) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const sandbox = await manager.create(await toCreateOptions(flags, cli.context), { signal });
        try {
          if (flags.json === true) await cli.printJson(presentSandbox(await sandbox.inspect({ signal })));
          else await cli.print(`${sandbox.id}\n`);
        } catch (error) {
          await sandbox.destroy(); // nobody has learnt its id
          throw error;
        }
      }),
    );
}
