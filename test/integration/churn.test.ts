import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { isSandyardError, type SandboxManager } from '../../src/index.js';
import { dockerClient, removeAll, testManager } from '../fixtures/run.js';

const ROUNDS = 200;
const AT_ONCE = 8;

describe('many creates and destroys', () => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  it(
    `makes and destroys ${ROUNDS}, ${AT_ONCE} at a time, some given up half-way, and leaves nothing`,
    { timeout: 600_000 },
    async () => {
      const ended = { destroyed: 0, aborted: 0 };
      const memory: number[] = [];
      let next = 0;
      const worker = async () => {
        for (let round = next++; round < ROUNDS; round = next++) {
          const giveUp = round % 5 === 0 ? AbortSignal.timeout((round * 7) % 600) : undefined;
          try {
            const sandbox = await manager.create({ memoryLimit: '64m' }, { signal: giveUp });
            if (round % 10 === 3) await sandbox.exec(['true']);
            await sandbox.destroy();
            ended.destroyed += 1;
          } catch (error) {
            if (!isSandyardError(error, 'aborted')) throw error;
            ended.aborted += 1;
          }
          if (round % 20 === 19) memory.push(process.memoryUsage().heapUsed);
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, worker));

      expect(ended.destroyed + ended.aborted).toBe(ROUNDS);
      expect(ended.aborted).toBeGreaterThan(0);
      expect(ended.destroyed).toBeGreaterThan(ROUNDS / 2);
      const left = await dockerClient().listContainers({
        all: true,
        filters: { label: [`sandyard.owner=${manager.owner}`] },
      });
      expect(left).toEqual([]);
      // The least of each half: a leak raises it, the collector's timing doesn't.
      const half = memory.length / 2;
      const growth = Math.min(...memory.slice(half)) - Math.min(...memory.slice(0, half));
      expect(growth / 1024 ** 2).toBeLessThan(20);
    },
  );
});
