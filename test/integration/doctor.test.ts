import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { SandboxManager } from '../../src/index.js';
import { dockerClient, removeAll, RUNTIMES, testManager } from '../fixtures/run.js';

describe('the doctor on a real engine', () => {
  const docker = dockerClient();
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  const trials = async () => docker.listContainers({ all: true, filters: { label: ['sandyard.temporary'] } });

  it(
    'tells what is there, runs each runtime that is tested with, and leaves nothing',
    { timeout: 120_000 },
    async () => {
      const { checks } = await manager.doctor();
      const severity = new Map(checks.map((one) => [one.check, one.severity]));
      for (const runtime of RUNTIMES) expect(severity.get(`runtime ${runtime}`)).toBe('ok');
      for (const check of ['engine', 'way to the engine', 'seccomp', 'limits', 'sandbox image']) {
        expect([check, severity.get(check)]).toEqual([check, 'ok']);
      }
      const info = await manager.engineInfo();
      expect(severity.get('live restore')).toBe(info.liveRestore ? 'ok' : 'warn');
      expect(checks.find(({ check }) => check === 'disk quota')?.found).toMatch(/^it can/);
      expect(await trials()).toEqual([]);
      const { sandboxes } = await manager.list();
      expect(sandboxes).toEqual([]);
    },
  );

  it('leaves nothing either when it is given up on', async () => {
    await expect(manager.doctor({ signal: AbortSignal.timeout(300) })).rejects.toMatchObject({ code: 'aborted' });
    expect(await trials()).toEqual([]);
  });
});
