import { setup, stopEngine } from '../setup.mjs';
import { loadSettings } from './common.mjs';
import { checkNode } from './packages.mjs';

/** Sets up what is needed, and runs a program in TypeScript that uses the engine; standard output is for its results alone. */
export async function runOnEngine(load) {
  checkNode();
  loadSettings();
  const { dockerHost, image, startedEngine } = await setup({ log: console.error });
  process.env.DOCKER_HOST ||= dockerHost;
  process.env.SANDBOX_IMAGE ||= image;
  try {
    const { register } = await import('tsx/esm/api');
    register();
    const program = await load();
    await program(process.argv.slice(2));
  } finally {
    await stopEngine(startedEngine);
  }
}
