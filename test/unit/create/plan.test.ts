import { describe, expect, it } from 'vitest';

import { readManagerDefaults } from '../../../src/config.js';
import { planSandbox, toSpec } from '../../../src/create/plan.js';
import { createOptionsSchema, parseInput, type CreateOptions } from '../../../src/schemas.js';

const MIB = 1024 ** 2;
const { limits } = readManagerDefaults({});
const OURS = { id: 'sha256:a', labels: { 'sandyard.image': '1', 'sandyard.warden': '1' }, bytes: 1000 };

const plan = (options: CreateOptions) =>
  planSandbox(parseInput(createOptionsSchema, options, 'create options'), { id: 'a', owner: 'me', image: 'i', limits });
const spec = (options: CreateOptions) => toSpec(plan(options), OURS, undefined);

describe('the profile', () => {
  it('is standard, which has a writable root and no root commands, unless another is asked for', () => {
    expect(plan({}).traits.profile).toBe('standard');
    expect(spec({})).not.toHaveProperty('readOnly');
    expect(spec({})).not.toHaveProperty('rootCommands');
    expect(spec({}).entrypoint).not.toContain('--root-commands');
  });

  it('dev has root commands', () => {
    expect(spec({ profile: 'dev' })).toMatchObject({ rootCommands: true });
    expect(spec({ profile: 'dev' }).entrypoint).toContain('--root-commands');
  });

  it.each([16 * MIB, 64 * MIB, 1024 * MIB, 8192 * MIB])(
    'strict leaves half of %d bytes of memory to what runs, but for what files take of the kernel',
    (memoryBytes) => {
      const { readOnly } = spec({ profile: 'strict', memoryLimit: memoryBytes });
      const tmpfs = readOnly?.tmpfs ?? [];
      const bytes = tmpfs.reduce((sum, mount) => sum + mount.bytes, 0);
      expect(bytes).toBeLessThanOrEqual(memoryBytes / 2);
      const inodes = tmpfs.reduce((sum, mount) => sum + mount.inodes, 0);
      expect(bytes + inodes * 1024).toBeLessThanOrEqual(memoryBytes * 0.75);
      expect(tmpfs.map(({ target }) => target)).toEqual(['/workspace', '/tmp', '/home/sandbox', '/dev/shm']);
      expect(readOnly?.kept).toBe('/var/lib/sandyard');
    },
  );

  it("gives strict's directories to its user, but /tmp to all", () => {
    expect(spec({ profile: 'strict', user: '2000:3000' }).readOnly?.tmpfs).toMatchObject([
      { target: '/workspace', uid: 2000, gid: 3000, mode: 0o755 },
      { target: '/tmp', uid: 0, gid: 0, mode: 0o1777 },
      { target: '/home/sandbox', uid: 2000, gid: 3000, mode: 0o755 },
      { target: '/dev/shm', uid: 0, gid: 0, mode: 0o1777 },
    ]);
  });

  it.each<[options: CreateOptions, path: string]>([
    [{ user: 'root' }, 'user'],
    [{ user: '0' }, 'user'],
    [{ user: '0:0', profile: 'strict' }, 'user'],
    [{ profile: 'strict', onExpiry: 'stop' }, 'onExpiry'],
    [{ profile: 'strict', workdir: '/app' }, 'workdir'],
    [{ profile: 'strict', workdir: '/srv/www' }, 'workdir'],
  ])('refuses %j, which it could not keep', (options, path) => {
    expect(() => plan(options)).toThrow(
      expect.objectContaining({ code: 'validation_failed', issues: [expect.objectContaining({ path: [path] })] }),
    );
  });

  it.each<CreateOptions>([
    { user: 'root', profile: 'dev' },
    { profile: 'strict', onExpiry: 'pause', wakeOnUse: true },
    { profile: 'strict', workdir: '/workspace/a' },
    { profile: 'strict', workdir: '/tmp/a' },
    { profile: 'strict', workdir: '/usr/src' },
  ])('takes %j', (options) => {
    expect(() => plan(options)).not.toThrow();
  });
});

describe('the limit on processes', () => {
  it('is remembered as it was asked for, and fitted to gVisor for the engine', () => {
    expect(spec({ runtime: 'runsc', pidsLimit: 100 }).pids).toBe(2048);
    expect(plan({ runtime: 'runsc', pidsLimit: 100 }).traits.limits.pids).toBe(100);
    expect(spec({ pidsLimit: 100 }).pids).toBe(100);
  });
});
