import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { toMs } from '../flags.js';
import { succeededAndFailed } from '../in-batches.js';
import type { SandboxInfo, SandboxManager } from '../../index.js';
import { presentSandbox } from '../../wire/presenters.js';

interface VerbFlags {
  readonly grace?: string;
  readonly ttl?: string;
  readonly json?: boolean;
}

/** As the library takes it. */
interface VerbOptions {
  readonly graceMs: number | undefined;
  readonly ttlMs: number | undefined;
  readonly signal: AbortSignal;
}

interface Verb {
  readonly name: string;
  readonly summary: string;
  readonly notes: string;
  readonly option?: readonly [flags: string, description: string];
  readonly act: (manager: SandboxManager, id: string, options: VerbOptions) => Promise<SandboxInfo>;
}

const GRACE = ['--grace <duration>', 'how long what runs may take to end before it is killed (default: 2s)'] as const;

/** What is done to a sandbox as a whole, to each of those given. */
const VERBS: readonly Verb[] = [
  {
    name: 'start',
    summary: 'Start sandboxes that were stopped',
    notes: `
Their files are there; what ran in them is not. One that its lease has stopped gets a new lease.

Examples:
  sandyard start $id`,
    act: (manager, id, { signal }) => manager.start(id, { signal }),
  },
  {
    name: 'stop',
    summary: 'Stop sandboxes, and keep their files',
    notes: `
All that runs in them gets SIGTERM, and after the grace SIGKILL.

Examples:
  sandyard stop $id
  sandyard stop --grace 30s $(sandyard ls -q --state running)`,
    option: GRACE,
    act: (manager, id, { signal, graceMs }) => manager.stop(id, { signal, graceMs }),
  },
  {
    name: 'restart',
    summary: 'Stop sandboxes and start them',
    notes: `
Examples:
  sandyard restart $id`,
    option: GRACE,
    act: (manager, id, { signal, graceMs }) => manager.restart(id, { signal, graceMs }),
  },
  {
    name: 'pause',
    summary: 'Halt all that runs in sandboxes',
    notes: `
It stays in memory, and goes on with "unpause". Leases go on meanwhile.

Examples:
  sandyard pause $id`,
    act: (manager, id, { signal }) => manager.pause(id, { signal }),
  },
  {
    name: 'unpause',
    summary: 'Have sandboxes go on that were paused',
    notes: `
One that its lease has paused gets a new lease.

Examples:
  sandyard unpause $id`,
    act: (manager, id, { signal }) => manager.unpause(id, { signal }),
  },
  {
    name: 'renew',
    summary: 'Renew the leases of sandboxes',
    notes: `
A lease counts from now, and may be shorter than what was left of the old one. It never ends after
the longest lifetime of the sandbox.

Examples:
  sandyard renew $id
  sandyard renew --ttl 8h $id`,
    option: ['--ttl <duration>', 'the new lease (default: as long as at first)'],
    act: (manager, id, { signal, ttlMs }) => manager.renew(id, { signal, ttlMs }),
  },
];

export function addLifecycle(program: Command, cli: Cli): void {
  for (const verb of VERBS) addVerb(verb, { program, cli });
}

function addVerb({ name, summary, notes, option, act }: Verb, { program, cli }: { program: Command; cli: Cli }): void {
  const command = program
    .command(name)
    .summary(summary)
    .description(`${summary}. Prints the ids of those where that was done.`)
    .usage('[options] ID...')
    .argument('<id...>');
  if (option !== undefined) command.option(...option);
  command
    .option('--json', 'print an array of their descriptions')
    .addHelpText('after', notes)
    .action(async (ids: readonly string[], { grace, ttl, json }: VerbFlags) => {
      const graceMs = await toMs('--grace', grace, { orNone: true });
      const ttlMs = await toMs('--ttl', ttl);
      await cli.run(async ({ manager, interrupt: { signal } }) => {
        const { succeeded, faults } = await succeededAndFailed(ids, (id) =>
          act(manager, id, { graceMs, ttlMs, signal }),
        );
        if (json === true) await cli.printJson(succeeded.map(presentSandbox));
        else await cli.print(succeeded.map(({ id }) => `${id}\n`).join(''));
        return cli.reportAll(faults);
      });
    });
}
