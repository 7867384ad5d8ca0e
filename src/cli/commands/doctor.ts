import type { Command } from 'commander';

import type { Cli } from '../cli.js';
import { formatChecks } from '../check-report.js';
import { EXIT_CODES } from '../exit-codes.js';
import { presentDiagnosis } from '../../wire/check-presenters.js';

const NOTES = `
It runs a sandbox on each runtime of the engine, and removes it; that takes some seconds.

Exit codes:
  0    nothing fails; there may be warnings
  1    something fails: do not run hostile code on this engine, or not with these settings

Examples:
  sandyard doctor
  sandyard doctor --json | jq -r '.checks[] | select(.severity != "ok") | .check'`;

export function addDoctor(program: Command, cli: Cli): void {
  program
    .command('doctor')
    .summary('Say what the engine can and cannot enforce')
    .description(
      'Say what the engine, and the service with its settings, can and cannot enforce, and what to do about it.',
    )
    .option('--json', 'print a JSON document')
    .addHelpText('after', NOTES)
    .action(({ json }: { json?: boolean }) =>
      cli.run(async ({ manager, interrupt: { signal } }) => {
        const { checkService, isHealthy } = await import('../../index.js');
        const { readConfig } = await import('../../config.js');
        const { at, checks: engine } = await manager.doctor({ signal });
        const checks = [...engine, ...checkService(readConfig)];
        const ok = isHealthy(checks);
        if (json === true) await cli.printJson(presentDiagnosis({ at, ok, checks }));
        else {
          const rows = checks.map(({ severity, ...check }) => ({ verdict: severity, ...check }));
          await cli.print(formatChecks(rows, { columns: cli.context.stdout.columns }));
        }
        return ok ? 0 : EXIT_CODES.someFailed;
      }),
    );
}
