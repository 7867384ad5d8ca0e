import { loadSettings, reportFailure } from './setup/common.mjs';
import { checkNode } from './setup/packages.mjs';
import { setup } from './setup.mjs';

try {
  checkNode();
  loadSettings();
  const { dockerHost, image } = await setup();
  process.env.DOCKER_HOST ||= dockerHost;
  process.env.SANDBOX_IMAGE ||= image;
  // In this very process, so that signals and the exit code are the service's own
  await import('../dist/http/main.js');
} catch (error) {
  reportFailure(error);
}
