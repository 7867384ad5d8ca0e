import { isMain, loadSettings, reportFailure } from './setup/common.mjs';
import { checkNode } from './setup/packages.mjs';
import { setup, stopEngine } from './setup.mjs';

/**
 * Measures Sandyard against the raw engine on this machine: `npm run bench -- --help`. It measures what is in dist, which
 * set-up builds first; the measuring itself is in test/bench.
 */
async function main() {
  checkNode();
  loadSettings();
  // Standard output is for the results alone
  const { dockerHost, image, startedEngine } = await setup({ log: console.error });
  process.env.DOCKER_HOST ||= dockerHost;
  process.env.SANDBOX_IMAGE ||= image;
  try {
    const { register } = await import('tsx/esm/api');
    register();
    const { bench } = await import('../test/bench/main.ts');
    await bench(process.argv.slice(2));
  } finally {
    await stopEngine(startedEngine);
  }
}

if (isMain(import.meta.url)) await main().catch(reportFailure);
