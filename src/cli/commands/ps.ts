import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import type { ProcessInfo } from '../../index.js';
import { formatTime } from '../output.js';
import { presentProcess } from '../../wire/presenters.js';

const EXAMPLES = `
Examples:
  sandyard ps $id
  sandyard ps --json $id`;

const HEADER = ['PROCESS', 'PID', 'STATE', 'STARTED', 'COMMAND'];
const COMMAND_LENGTH = 60;

export function addPs(program: Command, cli: Cli): void {
  program
    .command('ps')
    .summary('List what was started in a sandbox')
    .description('List what was started in a sandbox: what runs, and what has ended and is remembered.')
    .usage('[options] ID')
    .argument('<id>')
    .option('-q, --quiet', 'print ids only')
    .option('--json', 'print an array of their descriptions')
    .addHelpText('after', EXAMPLES)
    .action((id: string, flags: { quiet?: boolean; json?: boolean }) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const sandbox = await manager.get(id, { signal });
        const processes = await sandbox.processes.list();
        await cli.printList(processes, { flags, header: HEADER, toRow, present: presentProcess });
      }),
    );
}

function toRow(process: ProcessInfo): string[] {
  const { id, pid, startedAt, command } = process;
  const words = command.join(' ');
  const shown = words.length > COMMAND_LENGTH ? `${words.slice(0, COMMAND_LENGTH)}…` : words;
  return [id, pid === null ? '' : String(pid), describeState(process), formatTime(startedAt), shown];
}

function describeState({ state, outcome, exitCode, signal }: ProcessInfo): string {
  if (state === 'running' || outcome === null) return state;
  if (outcome === 'exited') return `exited (${exitCode ?? '?'})`;
  return signal === null ? outcome : `${outcome} (${signal})`;
}
