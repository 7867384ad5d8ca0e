import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { planCopy, targetInSandbox, targetOnHost, type Copy } from '../copy-paths.js';
import { SandyardError } from '../../errors.js';
import { collect } from '../flags.js';
import type { CopyResult, Sandbox } from '../../index.js';
import { formatBytes, write } from '../output.js';

const EXAMPLES = `
One of the two has the form ID:PATH, with an absolute path. As with docker cp, a directory goes into
a target that is a directory, under its own name; ending in "/.", only its content does. "-" is a
tar on standard input or output. A path of this machine with a colon in it has "./" before it.

Examples:
  sandyard cp ./project $id:/workspace --exclude node_modules --exclude '*.log'
  sandyard cp $id:/workspace/out/. ./out
  tar -c . | sandyard cp - $id:/workspace
  sandyard cp $id:/workspace - | gzip > workspace.tar.gz`;

interface CpFlags {
  readonly exclude?: readonly string[];
  readonly quiet?: boolean;
  readonly json?: boolean;
}

interface CopyCall {
  readonly sandbox: Sandbox;
  readonly cli: Cli;
  readonly options: { readonly exclude?: readonly string[]; readonly signal: AbortSignal };
}

export function addCp(program: Command, cli: Cli): void {
  program
    .command('cp')
    .summary('Copy into a sandbox, or out of one')
    .description('Copy files and directories into a sandbox, or out of one.')
    .usage('[options] SOURCE TARGET')
    .argument('<source>')
    .argument('<target>')
    .option('--exclude <pattern>', 'leave out what has such a name, or path from the top; repeatable', collect)
    .option('-q, --quiet', "don't say what was copied")
    .option('--json', 'print how many entries and bytes were copied')
    .addHelpText('after', EXAMPLES)
    .action(async (source: string, target: string, { exclude, quiet, json }: CpFlags) => {
      const plan = planCopy(source, target);
      checkStream(plan, { cli, counted: exclude !== undefined || json === true });
      await cli.run(async ({ manager, interrupt: { signal } }) => {
        const sandbox = await manager.get(plan.id, { signal });
        const result = await copy(plan, { sandbox, cli, options: { signal, ...(exclude && { exclude }) } });
        if (result === undefined) return;
        if (json === true) await cli.printJson(result);
        else if (quiet !== true) await cli.note(`Copied ${describeResult(result)}.\n`);
      });
    });
}

/** A stream is passed on as it is, and counted by nobody. */
async function copy(plan: Copy, { sandbox, cli, options }: CopyCall): Promise<CopyResult | undefined> {
  const { signal } = options;
  const { from, to } = plan;
  if (plan.direction === 'in') {
    if (from !== null) {
      const sandboxPath = await targetInSandbox({ hostPath: from, sandboxPath: plan.to }, sandbox);
      return sandbox.copyTo(from, sandboxPath, options);
    }
    await sandbox.files.writeArchive(plan.to, cli.context.stdin, { signal });
    return undefined;
  }
  if (to !== null) {
    return sandbox.copyFrom(plan.from, await targetOnHost({ hostPath: to, sandboxPath: plan.from }, sandbox), options);
  }
  for await (const data of await sandbox.files.readArchive(plan.from, { signal })) {
    await write(cli.context.stdout, data as Uint8Array);
  }
  return undefined;
}

function checkStream({ from, to }: Copy, { cli, counted }: { cli: Cli; counted: boolean }): void {
  if (from !== null && to !== null) return;
  const { stdin, stdout } = cli.context;
  if (counted) {
    throw new SandyardError('validation_failed', 'With "-" there is neither --exclude nor --json.', {
      hint: 'Have tar leave files out.',
    });
  }
  if ((from === null ? stdin : stdout).isTTY === true) {
    throw new SandyardError('validation_failed', 'A tar is not for a terminal.', {
      hint: 'Redirect "-" from or to a file or another program.',
    });
  }
}

function describeResult({ entries, bytes }: CopyResult): string {
  return `${entries} ${entries === 1 ? 'entry' : 'entries'}, ${formatBytes(bytes)}`;
}
