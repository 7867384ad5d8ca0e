import { Command } from 'commander';

import { Cli } from './cli.js';
import { addAttest } from './commands/attest.js';
import { addCp } from './commands/cp.js';
import { addCreate } from './commands/create.js';
import { addDoctor } from './commands/doctor.js';
import { addEgress } from './commands/egress.js';
import { addEvents } from './commands/events.js';
import { addExec } from './commands/exec.js';
import { addInspect } from './commands/inspect.js';
import { addLifecycle } from './commands/lifecycle.js';
import { addLs } from './commands/ls.js';
import { addPs } from './commands/ps.js';
import { addPrune } from './commands/prune.js';
import { addRm } from './commands/rm.js';
import { addRun } from './commands/run.js';
import { addSecrets } from './commands/secrets.js';
import { addServe } from './commands/serve.js';
import { addStats } from './commands/stats.js';
import { addToken } from './commands/token.js';
import { addWait } from './commands/wait.js';
import type { Context } from './context.js';

const DESCRIPTION = `Disposable Linux sandboxes on your own Docker engine.

The engine is found as the docker command finds it, by DOCKER_HOST and at the usual sockets. Defaults and ceilings come \
from the SANDBOX_ variables; SANDBOX_OWNER says whose sandboxes are seen.`;

const NOTES = `
Output:
  Data is on standard output, all else on standard error. --json prints one document with the keys
  and units of the REST service (snake_case, seconds, bytes, ISO times); errors are then JSON, too.

Exit codes:
  those of the command that was run, and 128 + n when signal n ended it
  124  the command ran out of time
  125  Sandyard failed, or was not used as it should be
  126  the command can't be executed
  127  the command was not found
  1    some of what was asked for failed: from the commands that take several ids, and from prune;
       something is not as it should be: from attest and doctor`;

const COMMANDS = [addCreate, addRun, addExec, addLs, addInspect, addPs, addCp, addStats].concat([
  addLifecycle,
  addWait,
  addEvents,
  addEgress,
  addSecrets,
  addPrune,
  addRm,
  addAttest,
  addDoctor,
  addServe,
  addToken,
]);

/** The commands, without anything of the library loaded: that is done by the one that runs. */
export function createProgram(cli: Cli): Command {
  const { context } = cli;
  const program = new Command('sandyard')
    .description(DESCRIPTION)
    .version(context.version, '--version', 'print the version')
    .helpOption('-h, --help', 'print what it does, and how')
    .helpCommand('help [command]', 'print the help of a command')
    .addHelpText('after', NOTES)
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void context.stdout.write(text),
      writeErr: (text) => void context.stderr.write(text),
      // Printed with all other errors.
      outputError: () => {},
      getOutHelpWidth: () => 100,
      getErrHelpWidth: () => 100,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .hook('preSubcommand', (_, command) => {
      cli.command = command.name();
    })
    .hook('preAction', (_, command) => {
      const { json = false, debug = false } = command.optsWithGlobals<{ json?: boolean; debug?: boolean }>();
      Object.assign(cli, { json, debug });
    });
  for (const add of COMMANDS) add(program, cli);
  for (const command of [program, ...program.commands]) {
    command.option('--debug', 'print where an error comes from');
  }
  return program;
}

/** Runs what the arguments (without program and script) say. Gives the exit code, or `undefined` when it goes on. */
export async function runCli(args: readonly string[], context: Context): Promise<number | undefined> {
  const cli = new Cli(context, args);
  // For the errors of the arguments themselves.
  const own = args.includes('--') ? args.slice(0, args.indexOf('--')) : args;
  Object.assign(cli, { json: own.includes('--json'), debug: own.includes('--debug') });
  try {
    await createProgram(cli).parseAsync(args, { from: 'user' });
  } catch (error) {
    await cli.fail(error);
  }
  return cli.exitCode;
}
