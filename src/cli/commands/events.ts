import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { SandyardError } from '../../errors.js';
import { collect } from '../flags.js';
import type { EventsOptions, LifecycleEvent, LifecycleEventType } from '../../index.js';
import { escapeForTerminal, formatJson } from '../output.js';
import { presentLifecycleEvent } from '../../wire/presenters.js';

const TYPES: Readonly<Record<LifecycleEventType, true>> = {
  created: true,
  started: true,
  stopped: true,
  paused: true,
  unpaused: true,
  renewed: true,
  oom: true,
  disk_full: true,
  destroyed: true,
};

const NOTES = `
From now on, until Ctrl-C. Of what others do, the engine tells that it happened, not who did it;
that they renew a lease it doesn't tell at all.

Filters:
  type=TYPE        one of ${Object.keys(TYPES).join(' ')};
                   repeatable, for any of them
  sandbox=ID       what happens to that sandbox
  project=NAME     what happens to those of that name

Examples:
  sandyard events
  sandyard events --filter type=stopped --filter type=oom --filter project=demo
  sandyard events --json | jq -r 'select(.reason == "idle") | .sandbox_id'`;

export function addEvents(program: Command, cli: Cli): void {
  program
    .command('events')
    .summary('Tell what happens to sandboxes')
    .description('Print what happens to sandboxes, whoever does it, as it happens.')
    .option('-f, --filter <name=value>', 'only such events; repeatable', collect)
    .option('--json', 'print each event as an object, one a line')
    .addHelpText('after', NOTES)
    .action(async ({ filter = [], json }: { filter?: readonly string[]; json?: boolean }) => {
      const wanted = parseFilters(filter);
      await cli.run(async ({ manager, interrupt: { signal } }) => {
        await manager.open({ signal });
        for await (const event of manager.events({ ...wanted, signal })) {
          await cli.print(json === true ? formatJson(presentLifecycleEvent(event)) : formatEvent(event));
        }
      });
    });
}

function formatEvent(event: LifecycleEvent): string {
  const { at, type, sandboxId, reason, by, exitCode, projectName } = event;
  const more = [
    `reason=${reason}`,
    ...(by === null ? [] : [`by=${by}`]),
    ...(exitCode === null ? [] : [`exit_code=${exitCode}`]),
    ...(projectName === null ? [] : [`project=${projectName}`]),
  ];
  return `${escapeForTerminal(`${at.toISOString()} ${type} ${sandboxId} (${more.join(', ')})`)}\n`;
}

function parseFilters(texts: readonly string[]): Pick<EventsOptions, 'types' | 'sandboxId' | 'projectName'> {
  const types: LifecycleEventType[] = [];
  const names: { sandbox?: string; project?: string } = {};
  for (const text of texts) {
    const [name = '', value = ''] = text.split(/=(.*)/s);
    if (name === 'type' && isType(value)) types.push(value);
    else if ((name === 'sandbox' || name === 'project') && value !== '' && names[name] === undefined)
      names[name] = value;
    else throw noFilter(text);
  }
  return { types: types.length === 0 ? undefined : types, sandboxId: names.sandbox, projectName: names.project };
}

function isType(text: string): text is LifecycleEventType {
  return Object.hasOwn(TYPES, text);
}

function noFilter(text: string): SandyardError {
  return new SandyardError('validation_failed', `--filter ${JSON.stringify(text)} is no filter, or is one too many.`, {
    hint: `Write type=TYPE, with one of ${Object.keys(TYPES).join(', ')}; and once each sandbox=ID and project=NAME.`,
  });
}
