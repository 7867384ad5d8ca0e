import { randomInt } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { ROOT } from '../fixtures/service.js';
import { removeAll, testManager } from '../fixtures/run.js';

const FUZZ_SECONDS = 20;

/* The warden's own tests, built and run where there is a compiler on every machine: in a sandbox. */
describe('the warden, built with sanitizers', () => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ memoryLimit: '1g', cpuLimit: 2 });
    await sandbox.copyTo(`${ROOT}/warden`, '/workspace/warden', { exclude: ['build'] });
  });
  afterAll(async () => {
    if (manager !== undefined) await removeAll(manager);
  });

  const inSources = (command: string[]) => sandbox.exec(command, { cwd: '/workspace/warden', timeoutMs: 110_000 });

  it('compiles without a warning, and so do its tests', async () => {
    const { stdout, stderr, exitCode } = await inSources(['make', '-j2', 'sanitize', 'test']);
    expect({ stderr, exitCode }, stdout).toEqual({ stderr: '', exitCode: 0 });
  });

  it('reads what managers say, and says what they read, as warden/vectors.txt has it', async () => {
    const { stdout, stderr, exitCode } = await inSources(['build/test/vectors', 'vectors.txt']);
    expect(stdout).toMatch(/^\d+ vectors, 0 failures\n$/);
    expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: 0 });
  });

  it.concurrent.each([['a fixed', 20_240_607] as const, ['a random', randomInt(1, 2 ** 31)] as const])(
    'takes whatever frames come, by %s seed (%i)',
    async (_which, seed) => {
      console.log(`fuzz ${FUZZ_SECONDS} ${seed}`);
      const { stdout, stderr, exitCode } = await inSources(['build/test/fuzz', String(FUZZ_SECONDS), String(seed)]);
      expect({ stderr, exitCode }, stdout).toEqual({ stderr: '', exitCode: 0 });
      const [, frames, tunnels] = /^(\d+) frames in (\d+) tunnels\n$/.exec(stdout) ?? [];
      expect(Number(frames)).toBeGreaterThan(1000);
      expect(Number(tunnels)).toBeGreaterThan(100);
    },
  );
});
