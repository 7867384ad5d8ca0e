import { setTimeout as sleep } from 'node:timers/promises';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { createByHand } from './by-hand.js';
import { createToFirstOutputByHand, firstOutputOf } from './first-output.js';
import { interleave, withoutPair, type Samples } from './measure.js';
import { openManager, type Bench, type Row } from './row.js';

const POOL_SIZE = 20;
const FILL_MS = 60_000;
/** What the engine does after it has answered that the last one has started. */
const QUIET_MS = 300;

/** Sandboxes that were made before anybody asked. By hand there is no such thing: whoever asks waits for the engine. */
export const poolRows: readonly Row[] = [
  {
    name: 'create-warm',
    title: 'create (warm)',
    unit: 'ms',
    bar: { kind: 'faster', value: 60 },
    measure: (bench) =>
      withPool(bench, (manager) => {
        const pair = {
          ours: () => claim(manager, () => performance.now()),
          async byHand() {
            await whenFull(manager);
            const start = performance.now();
            const container = await createByHand(bench.docker, bench.byHand);
            const ms = performance.now() - start;
            await container.remove({ force: true });
            return ms;
          },
        };
        return interleave(pair, { rounds: bench.quick ? 5 : 30, warmUpCalls: 20 });
      }),
  },
  {
    name: 'create-warm-output',
    title: 'create (warm) to the first output',
    unit: 'ms',
    bar: { kind: 'faster', value: 60 },
    measure: (bench) =>
      withPool(bench, (manager) => {
        const pair = {
          ours: () => claim(manager, firstOutputOf),
          async byHand() {
            await whenFull(manager);
            return createToFirstOutputByHand(bench.docker, bench.byHand);
          },
        };
        return interleave(pair, { rounds: bench.quick ? 5 : 30, warmUpCalls: 20 });
      }),
  },
  {
    name: 'claims-20',
    title: '20 claims at once, by two managers',
    unit: 'ms',
    bar: { kind: 'faster', value: 60 },
    measure: (bench) =>
      withPool(bench, async (manager) => {
        await using other = await openManager(bench, { pool: { size: POOL_SIZE } });
        const each = Array.from({ length: POOL_SIZE / 2 });
        const pair = {
          async ours() {
            await Promise.all([whenFull(manager), whenFull(other)]);
            const start = performance.now();
            const made = await Promise.all(each.flatMap(() => [manager.create(), other.create()]));
            const ms = performance.now() - start;
            await Promise.all(made.map((sandbox) => sandbox.destroy()));
            return ms;
          },
          async byHand() {
            await Promise.all([whenFull(manager), whenFull(other)]);
            const start = performance.now();
            const made = await Promise.all([...each, ...each].map(() => createByHand(bench.docker, bench.byHand)));
            const ms = performance.now() - start;
            await Promise.all(made.map((container) => container.remove({ force: true })));
            return ms;
          },
        };
        return await interleave(pair, { rounds: bench.quick ? 2 : 5, warmUps: 0 });
      }),
  },
];

async function withPool(bench: Bench, measure: (manager: SandboxManager) => Promise<Samples>): Promise<Samples> {
  await using manager = await openManager(bench, { pool: { size: POOL_SIZE } });
  return withoutPair(await measure(manager));
}

/** How long it takes to have one and to do `until` with it, which says when. */
async function claim(manager: SandboxManager, until: (sandbox: Sandbox) => number | Promise<number>): Promise<number> {
  await whenFull(manager);
  const start = performance.now();
  await using sandbox = await manager.create();
  return (await until(sandbox)) - start;
}

/** With a full pool, and nothing else going on: either side begins with that. */
async function whenFull(manager: SandboxManager): Promise<void> {
  for (const until = performance.now() + FILL_MS; performance.now() < until; await sleep(20)) {
    const { pool } = await manager.gauges();
    if (pool.ready >= POOL_SIZE && pool.filling === 0) return sleep(QUIET_MS);
  }
  throw new Error(`The pool was not full after ${FILL_MS / 1000} s.`);
}
