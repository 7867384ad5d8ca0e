import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';

import { SandyardError } from '../../src/errors.js';
import { SandboxManager } from '../../src/manager.js';
import type { CreateOptions } from '../../src/schemas.js';
import { FakeEngine } from '../fixtures/fake-engine.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const LEASE_FILE = '/var/lib/sandyard/lease.json';

afterEach(() => {
  vi.useRealTimers();
});

async function create(options: CreateOptions = {}) {
  const engine = new FakeEngine();
  const manager = new SandboxManager({ engine, owner: 'me', reaper: false });
  const sandbox = await manager.create(options);
  const container = engine.containers.get(`sandyard-${sandbox.id}`);
  if (container === undefined) throw new Error('There is no container.');
  return { engine, manager, sandbox, container };
}

/** From now on the clock stands, `ms` from where it was. */
function later(ms: number): number {
  const now = Date.now() + ms;
  vi.useFakeTimers({ toFake: ['Date'], now });
  return now;
}

describe('start and stop', () => {
  it('keep the sandbox', async () => {
    const { sandbox, container } = await create();
    expect(await sandbox.stop()).toMatchObject({ state: 'exited', exitCode: 137, finishedAt: expect.any(Date) });
    expect(container.state).toBe('exited');
    expect(await sandbox.start()).toMatchObject({ state: 'running', exitCode: null, finishedAt: null });
  });

  it('succeed where it is so already', async () => {
    const { sandbox } = await create();
    expect(await sandbox.start()).toMatchObject({ state: 'running' });
    await sandbox.stop();
    expect(await sandbox.stop()).toMatchObject({ state: 'exited' });
  });

  it('end what runs', async () => {
    const { engine, sandbox } = await create();
    const process = await sandbox.spawn(['sleep', 'infinity']);
    await sandbox.stop();
    expect(engine.running).toBe(0);
    expect(await process.wait()).toMatchObject({ outcome: 'sandbox_died' });
    await expect(sandbox.exec(['true'])).rejects.toMatchObject({ code: 'wrong_state' });
  });

  it('leave the lease as it is', async () => {
    const { sandbox } = await create();
    const { expiresAt } = await sandbox.inspect();
    later(MINUTE);
    expect((await sandbox.stop()).expiresAt).toEqual(expiresAt);
    expect((await sandbox.start()).expiresAt).toEqual(expiresAt);
  });
});

describe('destroy', () => {
  it('removes it, and succeeds again', async () => {
    const { engine, sandbox } = await create();
    await sandbox.destroy();
    expect(engine.containers.size).toBe(0);
    await sandbox.destroy();
    await expect(sandbox.inspect()).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });

  it('comes with the end of the block', async () => {
    const { engine, manager } = await create();
    {
      await using _second = await manager.create();
      expect(engine.containers.size).toBe(2);
    }
    expect(engine.containers.size).toBe(1);
  });

  it('tells what kept it from being removed', async () => {
    const { engine, sandbox } = await create();
    engine.before.removeContainer = () => {
      throw new SandyardError('engine_timeout', 'Too slow.');
    };
    await expect(sandbox.destroy()).rejects.toMatchObject({ code: 'engine_timeout' });
  });
});

describe('renew', () => {
  it('has the lease end that long from now, later or earlier', async () => {
    const { sandbox } = await create({ ttlMs: HOUR });
    const now = later(10 * MINUTE);
    expect((await sandbox.renew({ ttlMs: 2 * HOUR })).expiresAt).toEqual(new Date(now + 2 * HOUR));
    expect((await sandbox.renew({ ttlMs: MINUTE })).expiresAt).toEqual(new Date(now + MINUTE));
  });

  it('is by what it was created with unless told otherwise', async () => {
    const { sandbox } = await create({ ttlMs: 5 * MINUTE });
    const now = later(4 * MINUTE);
    expect((await sandbox.renew()).expiresAt).toEqual(new Date(now + 5 * MINUTE));
  });

  it('is seen by other managers', async () => {
    const { engine, sandbox } = await create();
    const { expiresAt } = await sandbox.renew({ ttlMs: 3 * HOUR });
    const other = new SandboxManager({ engine, owner: 'me', reaper: false });
    expect((await other.inspect(sandbox.id)).expiresAt).toEqual(expiresAt);
    later(2 * HOUR);
    expect(await other.reap()).toEqual([]);
  });

  it('works on a stopped one', async () => {
    const { sandbox } = await create();
    await sandbox.stop();
    expect(await sandbox.renew({ ttlMs: 2 * HOUR })).toMatchObject({ state: 'exited' });
  });

  it('ends no later than the longest lifetime, and says when that is', async () => {
    const { sandbox } = await create();
    const { createdAt } = await sandbox.inspect();
    await sandbox.renew({ ttlMs: 24 * HOUR - MINUTE });
    const error = await sandbox.renew({ ttlMs: 24 * HOUR + 1 }).catch((error: unknown) => error);
    expect(error).toMatchObject({ code: 'limit_exceeded' });
    expect((error as SandyardError).hint).toContain(new Date(createdAt.getTime() + 24 * HOUR).toISOString());
  });

  it.each([{ ttlMs: 0 }, { ttlMs: 1.5 }, { ttlMs: '1h' }, { forever: true }])('refuses %j', async (options) => {
    const { sandbox, container } = await create();
    await expect(sandbox.renew(options as object)).rejects.toMatchObject({ code: 'validation_failed' });
    expect(container.files.size).toBe(0);
  });

  it('tells that it is gone', async () => {
    const { sandbox } = await create();
    await sandbox.destroy();
    await expect(sandbox.renew()).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });

  it('is not undone by the note of an activity that began before it', async () => {
    const { engine, sandbox, container } = await create({ idleTimeoutMs: MINUTE, ttlMs: 10 * MINUTE });
    later(MINUTE);
    let writes = 0;
    engine.before.putArchive = () => ((writes += 1) === 1 ? sleep(30) : undefined);
    await sandbox.exec(['true']);
    await vi.waitFor(() => expect(writes).toBe(1));
    const { expiresAt } = await sandbox.renew({ ttlMs: 5 * HOUR });
    await sleep(50);
    expect(JSON.parse(String(container.files.get(LEASE_FILE)))).toMatchObject({ expiresAt: expiresAt.toISOString() });
  });
});

describe('activity', () => {
  const uses: [string, (sandbox: Awaited<ReturnType<typeof create>>['sandbox']) => Promise<unknown>][] = [
    ['exec', (sandbox) => sandbox.exec(['true'])],
    ['spawn', async (sandbox) => (await sandbox.spawn(['true'])).wait()],
    ['a file operation', (sandbox) => sandbox.files.stat('/workspace').catch(() => {})],
  ];

  it.each(uses)('by %s keeps a sandbox with an idle timeout', async (_, use) => {
    const { manager, sandbox, container } = await create({ idleTimeoutMs: 4 * MINUTE });
    const now = later(3 * MINUTE);
    await use(sandbox);
    await vi.waitFor(() => expect(container.files.has(LEASE_FILE)).toBe(true));
    const lease = JSON.parse(String(container.files.get(LEASE_FILE))) as { lastActiveAt: string };
    expect(lease.lastActiveAt).toBe(new Date(now).toISOString());
    later(4 * MINUTE);
    expect(await manager.reap()).toEqual([]);
    later(2 * MINUTE);
    expect(await manager.reap()).toMatchObject([{ reason: 'idle' }]);
  });

  it('is not recorded more often than it has to be', async () => {
    const { engine, sandbox } = await create({ idleTimeoutMs: 4 * MINUTE });
    for (let n = 0; n < 20; n++) await sandbox.exec(['true']);
    expect(engine.count('putArchive')).toBe(0);
    later(90_000);
    for (let n = 0; n < 20; n++) await sandbox.exec(['true']);
    await sleep(5);
    expect(engine.count('putArchive')).toBeLessThanOrEqual(2);
  });

  it('is not recorded where nothing depends on it', async () => {
    const { engine, sandbox } = await create();
    later(30 * MINUTE);
    await sandbox.exec(['true']);
    await sleep(5);
    expect(engine.count('putArchive') + engine.count('readFile')).toBe(0);
  });

  it('does not make a command fail or wait when it cannot be recorded', async () => {
    const { engine, sandbox } = await create({ idleTimeoutMs: 4 * MINUTE });
    later(3 * MINUTE);
    engine.before.readFile = () => new Promise(() => {});
    expect(await sandbox.exec(['true'])).toMatchObject({ exitCode: 0 });
    engine.before.readFile = () => {
      throw new SandyardError('engine_unavailable', 'Gone.');
    };
    expect(await sandbox.exec(['true'])).toMatchObject({ exitCode: 0 });
  });
});

describe('stats', () => {
  it('tells what it uses, in seconds and bytes', async () => {
    const { sandbox } = await create();
    const stats = await sandbox.stats();
    expect(stats).toMatchObject({ memoryBytes: 4e6, memoryLimitBytes: 1e9, cpuSeconds: 2.5, pids: 2 });
    expect(stats.at).toBeInstanceOf(Date);
    expect(stats).not.toHaveProperty('cpuNanoseconds');
  });

  it('refuses where it does not run', async () => {
    const { sandbox } = await create();
    await sandbox.stop();
    await expect(sandbox.stats()).rejects.toMatchObject({ code: 'wrong_state' });
  });
});

describe('copyTo', () => {
  it('tells of a source that is not there', async () => {
    const { engine, sandbox } = await create();
    const copied = sandbox.copyTo('/no/such/thing', '/workspace/x');
    await expect(copied).rejects.toMatchObject({
      code: 'file_not_found',
      message: expect.stringContaining('/no/such/thing'),
    });
    expect(engine.count('exec')).toBe(0);
  });

  it.each([
    ['/workspace/b.txt', false, '/workspace/b.txt'],
    ['/workspace/dir/', false, '/workspace/dir/a.txt'],
    ['/workspace/dir', true, '/workspace/dir/a.txt'],
  ])('writes a file to %s, a directory: %s, as %s', async (sandboxPath, isDirectory, written) => {
    const { engine, sandbox } = await create();
    const content: string[] = [];
    const paths: (string | undefined)[] = [];
    engine.command = async ({ command, stdin }, io) => {
      const [path] = command.slice(4);
      if (!stdin) {
        if (isDirectory) return void io.print(`${['d', 4096, 755, '1700000000.0', 1000, 1000, '', ''].join('\0')}\0`);
        void io.printError(`find: '${path}': No such file or directory\n`);
        return 1;
      }
      paths.push(path);
      for await (const chunk of io.stdin) content.push(String(chunk));
      return 0;
    };
    const directory = await mkdtemp(join(tmpdir(), 'sandyard-copy-'));
    try {
      await writeFile(join(directory, 'a.txt'), 'hello');
      const copied = await sandbox.copyTo(join(directory, 'a.txt'), sandboxPath);
      expect(copied).toEqual({ entries: 1, bytes: 5 });
    } finally {
      await rm(directory, { recursive: true });
    }
    expect(paths).toEqual([written]);
    expect(content.join('')).toMatch(/^hello/);
  });
});
