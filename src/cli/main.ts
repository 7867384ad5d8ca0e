#!/usr/bin/env node
import { packageVersion } from '../version.js';
import type { Context, InterruptSignal } from './context.js';
import { EXIT_CODES } from './exit-codes.js';
import { formatError } from './error-report.js';
import { runCli } from './program.js';

/* The program `sandyard`: everything about this very process is here. */

const SIGNALS: readonly InterruptSignal[] = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM'];

const context: Context = {
  get stdin() {
    return process.stdin;
  },
  stdout: process.stdout,
  stderr: process.stderr,
  version: packageVersion(),
  async openManager() {
    const { SandboxManager } = await import('../index.js');
    // What only looks must remove nothing, also where it opens the manager; and nobody would ever claim what it keeps warm.
    return new SandboxManager({ reaper: false, pool: [] });
  },
  async readVariable(name) {
    const { readOwnVariable } = await import('../config.js');
    return readOwnVariable(name);
  },
  async issueToken(request) {
    const [{ readTokenSettings }, { Tokens }] = await Promise.all([
      import('../config.js'),
      import('../access/tokens.js'),
    ]);
    const { owner, ...settings } = readTokenSettings();
    return new Tokens(settings, owner).issue(request);
  },
  async serve() {
    process.off('uncaughtException', onUncaught); // a service's log has it whole
    await import('../http/main.js');
  },
  onSignal(handler) {
    for (const signal of SIGNALS) process.on(signal, handler);
    return () => {
      for (const signal of SIGNALS) process.off(signal, handler);
    };
  },
  onExit(handler) {
    process.on('exit', handler);
    return () => process.off('exit', handler);
  },
  exit: (code) => process.exit(code),
};

process.on('uncaughtException', onUncaught);
const code = await runCli(process.argv.slice(2), context);
// Not only set: an input that nobody closes would keep the program.
if (code !== undefined) process.exit(code);

function onUncaught(error: unknown): void {
  process.stderr.write(formatError(error, { json: false, debug: process.argv.includes('--debug') }));
  process.exit(EXIT_CODES.ours);
}
