import type Docker from 'dockerode';

import type { Sandbox } from '../../src/index.js';
import { createByHand, execByHand, type ByHandOptions } from './by-hand.js';

/*
 * To the first output: when the first byte that a command prints is here, on either side. What comes after that, its end
 * among it, is waited for, but isn't counted.
 */

const COMMAND = ['echo', 'ready'];

/** When the first output of a command came, by `performance.now()`. */
export async function firstOutputOf(sandbox: Sandbox): Promise<number> {
  const process = await sandbox.spawn(COMMAND);
  let first: number | null = null;
  for await (const { data } of process.output()) if (data.length > 0) first ??= performance.now();
  await process.wait();
  return printed(first);
}

/** How long it takes, in milliseconds, from a container's creation on. */
export async function createToFirstOutputByHand(docker: Docker, byHand: ByHandOptions): Promise<number> {
  const start = performance.now();
  const container = await createByHand(docker, byHand);
  const { firstOutputAt } = await execByHand(container, COMMAND);
  await container.remove({ force: true });
  return printed(firstOutputAt) - start;
}

function printed(at: number | null): number {
  if (at === null) throw new Error(`${COMMAND.join(' ')} printed nothing.`);
  return at;
}
