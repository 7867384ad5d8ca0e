import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { collect } from '../flags.js';
import type { EgressInfo, EgressLogEntry } from '../../index.js';
import { formatTable } from '../output.js';
import { presentEgress, presentEgressLog } from '../../wire/presenters.js';

const EXAMPLES = `
Examples:
  sandyard egress $id
  sandyard egress $id --allow pypi.org --allow '*.npmjs.org:443'
  sandyard egress $id --log
  sandyard egress $id --check https://pypi.org/simple/
  sandyard egress $id --learnt`;

interface EgressFlags {
  readonly allow?: string[];
  readonly none?: boolean;
  readonly learn?: boolean;
  readonly learnt?: boolean;
  readonly log?: boolean;
  readonly check?: string;
  readonly json?: boolean;
}

export function addEgress(program: Command, cli: Cli): void {
  program
    .command('egress')
    .summary('Print or change what a sandbox may reach')
    .description('Print what a sandbox may reach, change it, print what it has asked for, or explain a decision.')
    .usage('[options] ID')
    .argument('<id>')
    .option('--allow <host>', 'from now on allow this, and nothing else; repeatable', collect)
    .option('--none', 'from now on allow nothing')
    .option('--learn', 'from now on allow every public host, and remember which were needed')
    .option('--no-learn', 'do so no longer')
    .option('--learnt', 'print the hosts that it has needed, a line each, to be allowed')
    .option('--log', 'print what it has asked for, and what became of it')
    .option('--check <url>', 'print what would be decided on a URL; exit code 1 when it is denied')
    .option('--json', 'print a document')
    .addHelpText('after', EXAMPLES)
    .action((id: string, flags: EgressFlags) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const { egress } = await manager.get(id, { signal });
        const { allow = flags.none === true ? [] : undefined, learn } = flags;
        if (flags.check !== undefined) {
          const decision = await egress.check(flags.check, { signal });
          const { allowed, host, port, reason, detail, rule, address } = decision;
          const why = allowed ? `by the rule ${rule}, at ${address}` : `${reason}: ${detail}`;
          if (flags.json === true) await cli.printJson(decision);
          else await cli.print(`${allowed ? 'allowed' : 'denied'} ${host}:${port}, ${why}\n`);
          return allowed ? 0 : 1;
        }
        if (flags.log === true) {
          const log = await egress.log({ signal });
          if (flags.json === true) await cli.printJson(presentEgressLog(log));
          else await cli.print(formatTable(LOG_HEADER, log.entries.map(toLogRow)));
          return 0;
        }
        const change = { ...(allow !== undefined && { allow }), ...(learn !== undefined && { learn }) };
        const isChanged = Object.keys(change).length > 0;
        const info = await (isChanged ? egress.set(change, { signal }) : egress.get({ signal }));
        if (flags.json === true) await cli.printJson(presentEgress(info));
        else if (flags.learnt === true) await cli.print(info.learnt.map((host) => `${host}\n`).join(''));
        else await cli.print(describe(info));
        return 0;
      }),
    );
}

const LOG_HEADER = ['SEQ', 'TIME', 'METHOD', 'HOST', 'DECISION', 'WHY'];

function toLogRow({ seq, at, method, host, port, decision, reason, rule, detail }: EgressLogEntry): string[] {
  const why = decision === 'allowed' ? `rule ${rule}` : `${reason}: ${detail}`;
  return [String(seq), at.toISOString(), method, `${host}:${port}`, decision, why];
}

function describe({ allow, learn, learnt, maxBytes, bytesPerSecond, maxConnections }: EgressInfo): string {
  const rows = [
    ['ALLOW', allow.length === 0 ? 'nothing' : allow.join(', ')],
    ['LEARN', learn ? `yes: ${learnt.length} hosts so far` : 'no'],
    ['MAX BYTES', maxBytes === null ? 'none' : String(maxBytes)],
    ['BYTES PER SECOND', bytesPerSecond === null ? 'none' : String(bytesPerSecond)],
    ['MAX CONNECTIONS', String(maxConnections)],
  ];
  return rows.map(([name = '', value = '']) => `${name.padEnd(18)}${value}\n`).join('');
}
