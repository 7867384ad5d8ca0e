import { setTimeout as sleep } from 'node:timers/promises';

import { createByHand } from './by-hand.js';
import { createToFirstOutputByHand, firstOutputOf } from './first-output.js';
import { interleave, timed, type Pair } from './measure.js';
import type { Row } from './row.js';
import type { ServiceProcess } from './services.js';

/** Making sandboxes, with nothing prepared. */
export const createRows: readonly Row[] = [
  {
    name: 'create-cold',
    title: 'create (cold) to the first output',
    unit: 'ms',
    bar: { kind: 'slower', value: 1 },
    async measure({ docker, manager, byHand, quick }) {
      const pair: Pair = {
        async ours() {
          const start = performance.now();
          await using sandbox = await manager.create();
          return (await firstOutputOf(sandbox)) - start;
        },
        byHand: () => createToFirstOutputByHand(docker, byHand),
      };
      return interleave(pair, { rounds: quick ? 5 : 30 });
    },
  },
  {
    name: 'create-10',
    title: '10 creates at once, cold',
    unit: 'ms',
    bar: { kind: 'slower', value: 1.1 },
    async measure({ docker, manager, byHand, quick }) {
      const ten = Array.from({ length: 10 });
      const pair: Pair = {
        async ours() {
          const start = performance.now();
          const made = await Promise.all(ten.map(() => manager.create()));
          const ms = performance.now() - start;
          await Promise.all(made.map((sandbox) => sandbox.destroy()));
          return ms;
        },
        async byHand() {
          const start = performance.now();
          const made = await Promise.all(ten.map(() => createByHand(docker, byHand)));
          const ms = performance.now() - start;
          await Promise.all(made.map((container) => container.remove({ force: true })));
          return ms;
        },
      };
      return interleave(pair, { rounds: quick ? 3 : 30, warmUps: 0 });
    },
  },
  ...[10, 50].map((count): Row => ({
    name: `healthz-${count}`,
    title: `GET /healthz during ${count} creates, p99`,
    unit: 'ms',
    part: 0.99,
    bar: { kind: 'below', value: 50 },
    async measure({ service, quick }) {
      const ours: number[] = [];
      const rounds = quick || count > 10 ? 1 : 4;
      for (let round = 0; round < rounds; round += 1) ours.push(...(await pollDuringCreates(service, count)));
      return { ours, byHand: [] };
    },
  })),
];

/** How long each `GET /healthz` takes while so many sandboxes are made. */
async function pollDuringCreates(service: ServiceProcess, count: number): Promise<number[]> {
  const took: number[] = [];
  const made = new AbortController();
  const polling = (async () => {
    while (!made.signal.aborted) {
      took.push(await timed(() => service.send('GET', '/healthz')));
      await sleep(2);
    }
  })();
  const all = Array.from({ length: count }, () => service.send('POST', '/api/sandboxes', {}));
  const sandboxes = await Promise.all(all).finally(() => made.abort());
  await polling;
  const ids = sandboxes.map((sandbox) => (sandbox as { id: string }).id);
  await Promise.all(ids.map((id) => service.send('DELETE', `/api/sandboxes/${id}`)));
  return took;
}
