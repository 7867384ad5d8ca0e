import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';

import { run, testDirectory } from '../fixtures/run.js';
import { ROOT } from '../fixtures/service.js';

const MINUTES = 3;

/** In a process of its own, whose memory, descriptors and timers are nobody else's. */
it(
  `${MINUTES} minutes of all that there is to do leave nothing behind, in the manager, the sandboxes and the engine`,
  { timeout: (MINUTES + 3) * 60_000 },
  async () => {
    const file = join(await testDirectory(), 'soak.json');
    const soak = run(process.execPath, ['scripts/soak.mjs', '--minutes', String(MINUTES), '--json', file], {
      cwd: ROOT,
    });
    const { stdout, stderr } = await soak.catch((error: { stdout: string; stderr: string }) => error);
    expect(stdout, stderr).toMatch(/^seed +\d+$/m);
    const { faults, left, verdicts, counts } = JSON.parse(await readFile(file, 'utf8'));
    expect(faults).toEqual([]);
    expect(left).toEqual([]);
    expect(verdicts.filter(({ flat }: { flat: boolean }) => !flat)).toEqual([]);
    expect(counts).toMatchObject({ destroyed: expect.any(Number), expired: expect.any(Number) });
    expect(counts.destroyed).toBeGreaterThan(50);
  },
);
