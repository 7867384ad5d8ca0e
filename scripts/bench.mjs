import { isMain, reportFailure } from './setup/common.mjs';
import { runOnEngine } from './setup/measuring.mjs';

/**
 * Measures Sandyard against the raw engine on this machine: `npm run bench -- --help`. It measures what is in dist, which
 * set-up builds first; the measuring itself is in test/bench.
 */
async function main() {
  await runOnEngine(async () => (await import('../test/bench/main.ts')).bench);
}

if (isMain(import.meta.url)) await main().catch(reportFailure);
