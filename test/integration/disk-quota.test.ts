import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { SandboxManager } from '../../src/index.js';
import { Btrfs, WITHOUT_BTRFS } from '../fixtures/btrfs.js';
import { OwnEngine } from '../fixtures/own-engine.js';
import { eventually, removeAll, testManager, testSandbox } from '../fixtures/run.js';

const MIB = 1024 ** 2;
const DISK = 64 * MIB;

/** On an engine of its own, as that under test mostly has no quota. Without one, see disk.test.ts. */
describe.skipIf(WITHOUT_BTRFS)('the disk of a sandbox on an engine with quotas', () => {
  let btrfs: Btrfs;
  let engine: OwnEngine;
  let manager: SandboxManager;
  beforeAll(async () => {
    btrfs = await Btrfs.mount();
    engine = await OwnEngine.start({ liveRestore: false, btrfs: btrfs.path });
    manager = await testManager({ docker: engine.docker, image: OwnEngine.IMAGE_NAME });
  }, 600_000);
  afterAll(async () => {
    try {
      if (manager !== undefined) await removeAll(manager);
      await engine?.[Symbol.asyncDispose]();
    } finally {
      await btrfs?.[Symbol.asyncDispose]();
    }
  }, 120_000);

  async function* zeros(bytes: number) {
    for (let left = bytes; left > 0; left -= MIB) yield await Promise.resolve(Buffer.alloc(MIB));
  }

  it('is bounded by its driver, which says so itself', async () => {
    expect(await manager.diskMode()).toBe('quota');
    const sandbox = await testSandbox(manager, { diskLimit: DISK });
    const { disk, limits } = await sandbox.inspect();
    expect({ disk, ...limits }).toMatchObject({ disk: 'quota', diskBytes: DISK, inodes: null });
    const { checks, drift } = await sandbox.attest();
    expect(checks.find(({ check }) => /StorageOpt/.test(check))).toMatchObject({ status: 'ok' });
    expect(drift).toBe(false);
    expect(await sandbox.stats()).toMatchObject({ diskBytes: null, diskLimitBytes: DISK, inodesLimit: null });
  });

  it('holds so much and no more, and again once something was removed; its neighbours have theirs', async () => {
    const sandbox = await testSandbox(manager, { diskLimit: DISK });
    const neighbour = await testSandbox(manager, { diskLimit: DISK });
    await sandbox.files.write('/workspace/half', zeros(DISK / 2));
    await expect(sandbox.files.write('/workspace/more', zeros(DISK))).rejects.toMatchObject({ code: 'out_of_disk' });
    await neighbour.files.write('/workspace/half', zeros(DISK / 2));
    await sandbox.files.remove('/workspace/half');
    // The file system gives room back when it has next written its own state down.
    const written = () => sandbox.files.write('/workspace/other', zeros(DISK / 2)).catch(() => undefined);
    await eventually(written, { timeoutMs: 90_000, everyMs: 1000, what: 'room for a file' });
  }, 180_000);

  it('can not have its files counted, and promises nothing of that', async () => {
    const created = manager.create({ inodesLimit: 5000 });
    await expect(created).rejects.toMatchObject({ code: 'validation_failed', issues: [{ path: ['inodesLimit'] }] });
  });
});
