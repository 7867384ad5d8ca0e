import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';

import { readManagerDefaults } from '../../../src/config.js';
import {
  boundDisk,
  DiskBounds,
  judgeBounding,
  toDiskMode,
  type DiskBounding,
} from '../../../src/create/disk-bounds.js';
import { planSandbox, toSpec } from '../../../src/create/plan.js';
import { EngineFacts } from '../../../src/engine/facts.js';
import { toCreateOptions } from '../../../src/engine/container-spec.js';
import type { Profile } from '../../../src/isolation.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';

const { limits } = readManagerDefaults({});
const GIB = 1024 ** 3;
const QUOTA = { quota: true, watched: false };
const WATCHED = { quota: false, watched: true };
const BOTH = { quota: true, watched: true };
const NONE = { quota: false, watched: false };

describe('what an engine can do about disks', () => {
  it.each<[driver: string, fault: string | undefined, bounding: DiskBounding, mode: string]>([
    ['overlay2', 'needs pquota', WATCHED, 'watchdog'],
    ['overlay2', undefined, BOTH, 'quota'],
    ['overlayfs', 'unknown option', WATCHED, 'watchdog'],
    ['btrfs', undefined, QUOTA, 'quota'],
    ['btrfs', 'quotas are off', NONE, 'none'],
    ['vfs', 'unknown option', NONE, 'none'],
  ])('%s, which says %s, is %j: %s', (driver, fault, bounding, mode) => {
    expect(judgeBounding(driver, fault)).toEqual(bounding);
    expect(toDiskMode(bounding)).toBe(mode);
  });

  it('is tried once, and again after it could not be', async () => {
    const engine = new FakeEngine();
    const bounds = new DiskBounds(engine, new EngineFacts(engine));
    engine.before.tryDiskQuota = () => {
      throw new Error('no such image');
    };
    await expect(bounds.read('ours:1')).rejects.toThrow('no such image');
    delete engine.before.tryDiskQuota;
    for (let times = 0; times < 3; times++) expect(await bounds.read('ours:1')).toEqual(WATCHED);
    expect(engine.count('tryDiskQuota')).toBe(2);
  });

  it('is tried once for all who ask at once, whoever of them gives up', async () => {
    const engine = new FakeEngine();
    const bounds = new DiskBounds(engine, new EngineFacts(engine));
    const hurried = new AbortController();
    engine.before.tryDiskQuota = () => {
      hurried.abort();
      return sleep(10);
    };
    const asked = [{ signal: hurried.signal }, {}, {}].map((options) => bounds.read('ours:1', options));
    const [gaveUp, ...others] = await Promise.allSettled(asked);
    expect(gaveUp).toMatchObject({ status: 'rejected', reason: { code: 'aborted' } });
    expect(others.map((other) => other.status === 'fulfilled' && other.value)).toEqual([WATCHED, WATCHED]);
    expect(engine.count('tryDiskQuota')).toBe(1);
  });

  it('is tried with another image where one is missing', async () => {
    const engine = new FakeEngine();
    const bounds = new DiskBounds(engine, new EngineFacts(engine));
    engine.before.tryDiskQuota = (image) => {
      if (image === 'missing:1') throw new Error('no such image');
    };
    const [missing, there] = await Promise.allSettled([bounds.read('missing:1'), bounds.read('ours:1')]);
    expect(missing.status).toBe('rejected');
    expect(there).toEqual({ status: 'fulfilled', value: WATCHED });
  });

  it('leaves nothing of a trial that was killed', async () => {
    const engine = new FakeEngine();
    engine.quotaFault = undefined;
    const labels = { 'sandyard.temporary': '1' };
    engine.plant({ name: 'old', labels, createdAt: new Date(Date.now() - 600_000) });
    engine.plant({ name: 'under-way', labels });
    await new DiskBounds(engine, new EngineFacts(engine)).read('ours:1');
    expect([...engine.containers.keys()]).toEqual(['under-way']);
  });
});

describe('the bound of a sandbox', () => {
  const bound = (asked: object, bounding: DiskBounding, profile: Profile = 'standard') =>
    boundDisk(asked, { profile, bounding, limits });

  it.each<[bounding: DiskBounding, profile: Profile, bound: object]>([
    [WATCHED, 'standard', { mode: 'watchdog', diskBytes: 1.75 * GIB, inodes: 262_144 }],
    [BOTH, 'dev', { mode: 'quota', diskBytes: 1.75 * GIB, inodes: 262_144 }],
    [QUOTA, 'standard', { mode: 'quota', diskBytes: 1.75 * GIB, inodes: null }],
    [NONE, 'standard', { mode: 'none', diskBytes: null, inodes: null }],
    [WATCHED, 'strict', { mode: 'memory', diskBytes: null, inodes: null }],
  ])('with %j and the profile %s is %j', (bounding, profile, expected) => {
    expect(bound({}, bounding, profile)).toEqual(expected);
  });

  it('is what was asked for', () => {
    expect(bound({ diskLimit: GIB, inodesLimit: 5000 }, WATCHED)).toMatchObject({ diskBytes: GIB, inodes: 5000 });
  });

  it.each<[asked: object, bounding: DiskBounding, profile: Profile, field: string]>([
    [{ diskLimit: GIB }, NONE, 'standard', 'diskLimit'],
    [{ inodesLimit: 5000 }, NONE, 'dev', 'inodesLimit'],
    [{ inodesLimit: 5000 }, QUOTA, 'standard', 'inodesLimit'],
    [{ diskLimit: GIB }, BOTH, 'strict', 'diskLimit'],
  ])('%j is refused with %j and the profile %s, as it can not be had', (asked, bounding, profile, field) => {
    const refusal = expect.objectContaining({
      code: 'validation_failed',
      issues: [expect.objectContaining({ path: [field] })],
    });
    expect(() => bound(asked, bounding, profile)).toThrow(refusal as Error);
  });

  it.each<[bounding: DiskBounding, size: string | undefined, isWatched: boolean]>([
    [WATCHED, undefined, true],
    [BOTH, String(GIB), true],
    [QUOTA, String(GIB + 1000), false], // its root is a copy of the image
  ])('with %j has the quota %s; watched: %s', (bounding, size, isWatched) => {
    const plan = planSandbox({ diskLimit: GIB, bounding }, { id: 'a', owner: 'me', image: 'i', limits });
    const spec = toSpec(plan, { id: 'x', labels: {}, bytes: 1000 }, { madeAt: new Date(5) });
    const { HostConfig = {} } = toCreateOptions(spec);
    expect(HostConfig.StorageOpt).toEqual(size === undefined ? undefined : { size });
    expect(HostConfig.CapAdd?.includes('DAC_READ_SEARCH')).toBe(isWatched);
    const watching = ['--disk-bytes=1073741824', '--disk-inodes=262144', '--disk-since-ms=5'];
    expect(spec.entrypoint.filter((argument) => argument.startsWith('--disk'))).toEqual(isWatched ? watching : []);
  });
});
