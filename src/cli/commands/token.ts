import { Option, type Command } from 'commander';

import { collect, toMs } from '../flags.js';
import type { Cli } from '../cli.js';
import type { TokenRequest } from '../../access/tokens.js';

interface TokenFlags {
  readonly owner: string;
  readonly scope: readonly string[];
  readonly sandbox?: string;
  readonly expires?: string;
  readonly singleUse?: boolean;
  readonly json?: boolean;
}

const NOTES = `
It is signed with SANDBOX_TOKEN_SECRET, or what is in SANDBOX_TOKEN_SECRET_FILE, and good for the
services that have the same secret and the same SANDBOX_OWNER. It can't be taken back. A token for
a single use needs SANDBOX_STATE_DIR, here and where the service runs.

Scopes: read looks; exec runs commands; files reads and writes files; lifecycle makes, changes and
ends sandboxes; admin is good for all of that, for the sandboxes of all owners, and for tokens.

Examples:
  sandyard token --owner alice --scope read --scope exec
  sandyard token --owner alice --scope exec --sandbox $id --expires 5m --single-use`;

export function addToken(program: Command, cli: Cli): void {
  program
    .command('token')
    .summary('Issue a token for the REST service')
    .description('Issue a token for the REST service, and print it.')
    .requiredOption('--owner <name>', 'whose sandboxes it is for')
    .addOption(
      new Option('--scope <scope>', 'read, exec, files, lifecycle or admin; repeatable')
        .argParser(collect)
        .makeOptionMandatory(),
    )
    .option('--sandbox <id>', 'the only sandbox that it is good for')
    .option('--expires <duration>', 'for how long it is good (default: 30m)')
    .option('--single-use', 'have it be good for one request only')
    .option('--json', 'print what it is, too')
    .addHelpText('after', NOTES)
    .action(async ({ owner, scope, sandbox, expires, singleUse = false, json }: TokenFlags) => {
      const ttlMs = await toMs('--expires', expires);
      // Only known ones are issued; until then they are whatever was written.
      const scopes = [...new Set(scope)] as TokenRequest['scopes'];
      const { token, id, expiresAt } = await cli.context.issueToken({ owner, scopes, sandbox, ttlMs, singleUse });
      const about = { owner, scopes, sandbox: sandbox ?? null, single_use: singleUse };
      const whole = { token, token_id: id, ...about, expires_at: expiresAt.toISOString() };
      if (json === true) await cli.printJson(whole);
      else await cli.print(`${token}\n`);
    });
}
