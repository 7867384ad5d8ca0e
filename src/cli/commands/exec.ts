import type { Command } from 'commander';

import { runAttached } from '../attached-command.js';
import type { Cli } from '../cli.js';
import { SandyardError } from '../../errors.js';
import { addAttachFlags, addCommandFlags, toMs, type AttachFlags, type CommandFlags } from '../flags.js';
import { checkTerminal } from '../terminal.js';

const EXAMPLES = `
Options stand before the ID; all that follows it is the command. There are no keys to detach.

Examples:
  sandyard exec $id -- node --version
  sandyard exec -it $id -- bash
  tar -c src | sandyard exec -i -w /workspace $id -- tar -x
  sandyard exec --timeout 30s $id -- sh -c 'npm ci && npm test'
  sandyard exec -d $id -- npm run dev`;

interface ExecFlags extends AttachFlags, CommandFlags {
  readonly detach?: boolean;
}

export function addExec(program: Command, cli: Cli): void {
  const command = program
    .command('exec')
    .summary('Run a command in a sandbox')
    .description('Run a command in a sandbox, with its output here and its exit code.')
    .usage('[options] ID -- COMMAND [ARG...]')
    .argument('<id>')
    .argument('<command...>')
    .option('-d, --detach', "don't wait for it: print the id of its process and leave it running");
  addCommandFlags(addAttachFlags(command))
    .passThroughOptions()
    .addHelpText('after', EXAMPLES)
    .action(async (id: string, words: readonly string[], flags: ExecFlags) => {
      const { interactive, tty, detach, workdir: cwd, env, user } = flags;
      const command = words[0] === '--' ? words.slice(1) : words;
      if (cli.args[cli.args.length - words.length - 2] === '--') throw noId();
      if (command.length === 0) throw noCommand();
      if (detach === true && (interactive === true || tty === true)) throw detachedTerminal();
      if (tty === true) checkTerminal(cli.context);
      const timeoutMs = await toMs('--timeout', flags.timeout);
      await cli.run(async ({ manager, interrupt }) => {
        const { signal } = interrupt;
        const sandbox = await manager.get(id, { signal });
        const options = { cwd, env, user, timeoutMs };
        if (detach !== true) {
          return runAttached(sandbox, command, { ...options, interactive, tty, interrupt, context: cli.context });
        }
        const process = await sandbox.spawn(command, { ...options, whenUnread: 'run', signal });
        await cli.print(`${process.id}\n`);
        process.detach();
        return 0;
      });
    });
}

export function noCommand(): SandyardError {
  return new SandyardError('validation_failed', 'There is no command to run.', {
    hint: 'Write it after "--": -- COMMAND [ARG...]',
  });
}

/** As where a shell's variable is empty: the first word of the command would be taken for the id. */
function noId(): SandyardError {
  return new SandyardError('validation_failed', 'There is no ID before "--".', {
    hint: 'sandyard ls tells which sandboxes there are.',
  });
}

function detachedTerminal(): SandyardError {
  return new SandyardError('validation_failed', '--detach leaves nobody to type, so it goes with neither -i nor -t.', {
    hint: 'Leave out one or the other.',
  });
}
