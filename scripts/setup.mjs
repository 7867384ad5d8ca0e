import { build } from './build.mjs';
import { isMain, loadSettings, reportFailure } from './setup/common.mjs';
import { ensureEngine, stopEngine } from './setup/engine.mjs';
import { checkNode, ensurePackages } from './setup/packages.mjs';
import { ensureSandboxImage } from './setup/sandbox-image.mjs';

export { stopEngine };

/**
 * Makes a machine ready to run Sandyard: packages, dist, an engine, the sandbox image. Each step says what it does before
 * it does it, and nothing when it is done already.
 *
 * Gives `dockerHost` and `image`, for DOCKER_HOST and SANDBOX_IMAGE, and `startedEngine`: false, or what `stopEngine`
 * takes to stop the engine that this call has started.
 */
export async function setup({ log = console.log } = {}) {
  checkNode();
  await ensurePackages({ log });
  await build({ log });
  const { address, startedEngine } = await ensureEngine({ log });
  const { describeAddress } = await import('../dist/engine/discovery.js');
  const image = await ensureSandboxImage(address, { log });
  return { dockerHost: describeAddress(address), image, startedEngine };
}

if (isMain(import.meta.url)) {
  try {
    checkNode();
    loadSettings();
    console.log('Sandyard set-up: packages, build, Docker engine, sandbox image. What is done already is skipped.');
    const { dockerHost, image } = await setup();
    console.log(`Ready. Engine: ${dockerHost}  Image: ${image}`);
  } catch (error) {
    reportFailure(error);
  }
}
