import type { Command } from 'commander';

import type { Cli } from '../cli.js';

const NOTES = `
It is set up by the environment: HOST and PORT (127.0.0.1 and 8888), SANDBOX_TOKEN or
SANDBOX_TOKEN_FILE, and the other SANDBOX_ variables; .env.example has them all. SIGTERM and SIGINT
end it in order; sandboxes live on.

Examples:
  sandyard serve
  PORT=9000 sandyard serve`;

export function addServe(program: Command, cli: Cli): void {
  program
    .command('serve')
    .summary('Serve the REST API')
    .description('Serve the REST API, and remove sandboxes whose lease has run out.')
    .addHelpText('after', NOTES)
    .action(async () => {
      await cli.context.serve();
      cli.exitCode = undefined;
    });
}
