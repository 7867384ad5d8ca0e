import type { Command } from 'commander';

import { runAttached } from '../attached-command.js';
import type { Cli } from '../cli.js';
import { SandyardError } from '../../errors.js';
import { addAttachFlags, addCreateFlags, toCreateOptions, toMs, type AttachFlags, type CreateFlags } from '../flags.js';
import { checkTerminal } from '../terminal.js';
import { noCommand } from './exec.js';
import type { Sandbox } from '../../index.js';

const EXAMPLES = `
The first word is the image, unless "--" stands before it. Without --rm the sandbox stays until its
lease has run out.

Examples:
  sandyard run --rm -- node -e 'console.log(6 * 7)'
  sandyard run --rm -it -- bash
  sandyard run --rm --memory 256m --timeout 30s ubuntu:24.04 -- sh -c 'echo hello'`;

interface RunFlags extends AttachFlags, CreateFlags {
  readonly rm?: boolean;
}

export function addRun(program: Command, cli: Cli): void {
  const command = program
    .command('run')
    .summary('Make a sandbox and run a command in it')
    .description('Make a sandbox and run a command in it.')
    .usage('[options] [IMAGE] -- COMMAND [ARG...]')
    .argument('<command...>')
    .option('--rm', 'remove the sandbox afterwards, whatever happens');
  addCreateFlags(addAttachFlags(command))
    .passThroughOptions()
    .addHelpText('after', EXAMPLES)
    .action(async (words: readonly string[], flags: RunFlags) => {
      const { image, command } = splitWords(words, cli.args);
      if (image !== undefined && flags.image !== undefined) throw twoImages();
      if (flags.tty === true) checkTerminal(cli.context);
      const options = await toCreateOptions({ ...flags, ...(image !== undefined && { image }) }, cli.context);
      const timeoutMs = await toMs('--timeout', flags.timeout);
      await cli.run(async ({ manager, interrupt }) => {
        const sandbox = await manager.create(options, { signal: interrupt.signal });
        const { interactive, tty, rm = false } = flags;
        const attached = { timeoutMs, interactive, tty, interrupt, context: cli.context };
        try {
          interrupt.lastWords = () => void cli.context.stderr.write(leftBehind(sandbox));
          return await runAttached(sandbox, command, attached);
        } finally {
          await (rm ? remove(sandbox, cli) : cli.note(`The sandbox ${sandbox.id} stays: sandyard rm ${sandbox.id}\n`));
        }
      });
    });
}

/**
 * `IMAGE -- COMMAND`, `IMAGE COMMAND` or `-- COMMAND`. The words are the end of all arguments, so what stands before
 * them there tells the last one from the others.
 */
function splitWords(words: readonly string[], args: readonly string[]) {
  if (args[args.length - words.length - 1] === '--') return { image: undefined, command: words };
  const [image, ...rest] = words;
  const command = rest[0] === '--' ? rest.slice(1) : rest;
  if (command.length === 0) throw noCommand();
  return { image, command };
}

/** Its failure doesn't hide how the command ended. */
async function remove(sandbox: Sandbox, cli: Cli): Promise<void> {
  try {
    await sandbox.destroy();
  } catch (error) {
    await cli.report(error);
    await cli.note(leftBehind(sandbox));
  }
}

function leftBehind({ id }: Sandbox): string {
  return `sandyard: The sandbox ${id} may be left.\nhint: Remove it with: sandyard rm ${id}\n`;
}

function twoImages(): SandyardError {
  return new SandyardError('validation_failed', 'The image is given twice, by --image and as the first word.', {
    hint: 'Leave one out. A command that is to run in the default image stands after "--".',
  });
}
