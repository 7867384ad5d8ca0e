import { afterAll, beforeAll, describe, expect } from 'vitest';

import { isSandyardError, type SandboxManager } from '../../src/index.js';
import { dockerClient, eventually, removeAll, RUNTIMES, sleep, testManager } from '../fixtures/run.js';
import { attemptsOn } from './attempts.js';

const TTL_MS = 3000;

/** 64 KiB each fiftieth of a second, for as long as it is asked for more. */
async function* upload(): AsyncGenerator<Uint8Array> {
  for (;;) {
    yield Buffer.alloc(64 * 1024);
    await sleep(20);
  }
}

/** What a call came to: `done`, or the code of its error, which must be one of ours. */
async function settled(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'done';
  } catch (error) {
    if (isSandyardError(error)) return error.code;
    throw error;
  }
}

describe.each(RUNTIMES)('the end of a sandbox of %s', (runtime) => {
  const attempt = attemptsOn(runtime);
  const docker = dockerClient();
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  /** All that has the labels of this owner's sandboxes. */
  const left = async () => {
    const filters = { label: [`sandyard.owner=${manager.owner}`] };
    const containers = await docker.listContainers({ all: true, filters });
    const { Volumes: volumes } = await docker.listVolumes({ filters });
    return containers.length + (volumes ?? []).length + (await docker.listNetworks({ filters })).length;
  };

  attempt(41, async () => {
    // Its record is on a volume, which is to go with it.
    const sandbox = await manager.create({ runtime, memoryLimit: '256m', profile: 'strict' });
    const running = sandbox.exec('touch /workspace/begun; sleep 600');
    const uploading = settled(sandbox.files.write('/tmp/upload', upload()));
    await eventually(async () => ((await sandbox.files.list('/workspace')).length > 0 ? true : undefined));
    expect(await left()).toBeGreaterThanOrEqual(2);
    const destroyed = await Promise.all([settled(sandbox.destroy()), settled(manager.destroy(sandbox.id))]);
    for (const end of destroyed) expect(['done', 'sandbox_not_found']).toContain(end);
    expect(destroyed).toContain('done');
    const { outcome, exitCode } = await running;
    expect([outcome, exitCode]).toEqual(['sandbox_died', null]);
    expect(await uploading).not.toBe('done');
    expect(await settled(manager.destroy(sandbox.id))).toBe('sandbox_not_found');
    expect(await settled(sandbox.exec(['true']))).toBe('sandbox_not_found');
    const count = await left();
    expect(count).toBe(0);
    return `both end; the command is \`${outcome}\`, the upload fails, ${count} objects are left`;
  });

  attempt(42, async () => {
    const sandbox = await manager.create({ runtime, memoryLimit: '256m', ttlMs: TTL_MS });
    const ends = Date.now() + TTL_MS;
    const reaping = await testManager({ owner: manager.owner, reaper: { schedule: '* * * * * *' } });
    try {
      const command =
        "date -s '2001-01-01' > /dev/null 2>&1 && echo set; trap '' TERM HUP INT; while :; do sleep 600; done";
      const result = await sandbox.exec(command, { timeoutMs: 60_000 });
      expect(result).toMatchObject({ outcome: 'sandbox_died', exitCode: null, stdout: '' });
      expect(Date.now()).toBeGreaterThan(ends - 1000);
      const gone = async () =>
        (await manager.list()).sandboxes.some(({ id }) => id === sandbox.id) ? undefined : true;
      await eventually(gone, { what: 'the removal by the reaper' });
      expect(await settled(manager.get(sandbox.id))).toBe('sandbox_not_found');
      return `the clock can not be set; \`${result.outcome}\` at the end of the lease, and removed`;
    } finally {
      await reaping.close();
    }
  });
});
