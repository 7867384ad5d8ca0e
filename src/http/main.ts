import { readConfig } from '../config.js';
import { isSandyardError } from '../errors.js';
import { createLog, openLogOutput } from '../log.js';
import { startService } from './service.js';

/* The program: reads the environment, serves until SIGTERM or SIGINT. A second signal ends it at once. */

try {
  const config = readConfig();
  const output = openLogOutput(process.stdout);
  const service = await startService(config, { log: createLog({ level: config.logLevel }, output) });
  let signalled = false;
  const stop = (signal: 'SIGINT' | 'SIGTERM') => {
    // The shell's convention for a program that a signal ended.
    if (signalled) process.exit(signal === 'SIGINT' ? 130 : 143);
    signalled = true;
    service
      .close()
      .then(() => output.flush())
      .then(() => process.exit(0), fail);
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  process.stdout.write(await service.banner({ showToken: process.stdout.isTTY }));
} catch (error) {
  fail(error);
}

function fail(error: unknown): never {
  if (!isSandyardError(error)) throw error;
  const hint = error.hint === undefined ? '' : `\n  ${error.hint}`;
  process.stderr.write(`sandyard: ${error.message}${hint}\n`);
  process.exit(1);
}
