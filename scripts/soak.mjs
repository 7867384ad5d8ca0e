import { isMain, reportFailure } from './setup/common.mjs';
import { runOnEngine } from './setup/measuring.mjs';

/** Looks for what Sandyard holds on to in long use: `npm run soak -- --help`. The use and the looking are in test/soak. */
async function main() {
  await runOnEngine(async () => (await import('../test/soak/main.ts')).soak);
}

if (isMain(import.meta.url)) await main().catch(reportFailure);
