import { getEventListeners } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';

import { SandyardError } from '../../src/errors.js';
import { SandboxManager } from '../../src/manager.js';
import type { Sandbox } from '../../src/sandbox.js';
import type { CreateOptions } from '../../src/schemas.js';
import { FakeEngine } from '../fixtures/fake-engine.js';
import { settle } from '../fixtures/fake-fleet.js';
import { encodeEntry, type FakeWardenOptions } from '../fixtures/fake-warden.js';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const YEAR = 365 * 24 * HOUR;

afterEach(() => {
  vi.useRealTimers();
});

async function create(options: CreateOptions = {}, wardens: FakeWardenOptions = {}) {
  const engine = new FakeEngine();
  engine.wardens = wardens;
  const log = { debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() };
  const manager = new SandboxManager({ engine, log, owner: 'me', reaper: false });
  const sandbox = await manager.create(options);
  const container = engine.find(`sandyard-${sandbox.id}`);
  return { engine, log, manager, sandbox, container, warden: container.warden };
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
    expect(await sandbox.exec(['true'])).toMatchObject({ exitCode: 0 });
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

  it.each([
    [undefined, 2],
    [0, 0],
    [1, 1],
    [2500, 3],
  ])('give what runs %s ms to end, in whole seconds: %d', async (graceMs, graceSeconds) => {
    const { engine, sandbox } = await create();
    await sandbox.stop({ graceMs });
    expect(engine.calls.find(({ method }) => method === 'stopContainer')?.args[1]).toMatchObject({ graceSeconds });
  });

  it.each([-1, 1.5, 86_400_000])('refuse a grace period of %d ms', async (graceMs) => {
    const { sandbox } = await create();
    await expect(sandbox.stop({ graceMs })).rejects.toMatchObject({ code: 'validation_failed' });
  });

  it('leave the lease as it is', async () => {
    const { sandbox } = await create();
    later(MINUTE);
    const { expiresAt } = await sandbox.inspect();
    expect((await sandbox.stop()).expiresAt).toEqual(expiresAt);
    expect((await sandbox.start()).expiresAt).toEqual(expiresAt);
  });

  it.each(['paused', 'exited'] as const)(
    'have commands refused once it was seen %s, before the engine tells of it',
    async (state) => {
      const { sandbox, container, warden } = await create();
      container.state = state;
      warden.stall();
      expect((await sandbox.inspect()).state).toBe(state);
      await expect(sandbox.exec(['true'])).rejects.toMatchObject({ code: 'wrong_state' });
    },
  );
});

describe('a signal that many calls share', () => {
  it('is no leak', async () => {
    const { sandbox, manager } = await create();
    const { signal } = new AbortController();
    const warned = vi.fn();
    process.on('warning', warned);
    const calls = Array.from({ length: 20 }, () => [
      sandbox.exec(['true'], { signal }),
      sandbox.stats({ signal }),
      manager.inspect(sandbox.id, { signal }),
    ]);
    await Promise.all(calls.flat());
    await settle();
    process.off('warning', warned);
    expect(warned).not.toHaveBeenCalled();
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });
});

describe('destroy', () => {
  it('removes it, and succeeds again', async () => {
    const { engine, sandbox, warden } = await create();
    await sandbox.exec(['true']);
    await sandbox.destroy();
    expect(engine.containers.size).toBe(0);
    expect(warden.tunnels.size).toBe(0);
    await sandbox.destroy();
    await expect(sandbox.inspect()).rejects.toMatchObject({ code: 'sandbox_not_found' });
    await expect(sandbox.exec(['true'])).rejects.toMatchObject({ code: 'sandbox_not_found' });
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

describe('the lease', () => {
  it('is the one that the sandbox keeps', async () => {
    const { sandbox, warden, manager } = await create();
    const now = later(MINUTE);
    warden.record.leaseEndsAt = now + 2 * HOUR; // as another manager renews it
    expect((await sandbox.inspect()).expiresAt).toEqual(new Date(now + 2 * HOUR));
    expect((await manager.list()).sandboxes[0]?.expiresAt).toEqual(new Date(now + 2 * HOUR));
  });

  it('is at first the one that it was created with, where it can not be asked', async () => {
    const { engine, sandbox, container } = await create({ ttlMs: HOUR });
    container.state = 'paused';
    const other = new SandboxManager({ engine, owner: 'me', reaper: false });
    const { expiresAt, createdAt, state } = await other.inspect(sandbox.id);
    expect(state).toBe('paused');
    expect(expiresAt.getTime() - createdAt.getTime()).toBe(HOUR);
  });

  it('is as it was last seen where the sandbox can not be talked to, which is logged', async () => {
    const { sandbox, warden, log } = await create();
    const { expiresAt } = await sandbox.renew({ ttlMs: 2 * HOUR });
    warden.refusal = new SandyardError('engine_error', 'No such program.');
    warden.cut();
    expect((await sandbox.inspect()).expiresAt).toEqual(expiresAt);
    expect(log.warn).toHaveBeenCalledOnce();
  });

  it('does not hide that the engine is away', async () => {
    const { sandbox, warden } = await create();
    warden.refusal = new SandyardError('engine_unavailable', 'Gone.');
    warden.cut();
    await new Promise(setImmediate);
    await expect(sandbox.inspect()).rejects.toMatchObject({ code: 'engine_unavailable' });
  });
});

describe('renew', () => {
  it('has the lease end that long from now, later or earlier', async () => {
    const { sandbox, warden } = await create({ ttlMs: HOUR });
    const now = later(10 * MINUTE);
    expect((await sandbox.renew({ ttlMs: 2 * HOUR })).expiresAt).toEqual(new Date(now + 2 * HOUR));
    expect((await sandbox.renew({ ttlMs: MINUTE })).expiresAt).toEqual(new Date(now + MINUTE));
    expect(warden.record.leaseEndsAt).toBe(now + MINUTE);
  });

  it('is by what it was created with unless told otherwise', async () => {
    const { sandbox } = await create({ ttlMs: 5 * MINUTE });
    const now = later(4 * MINUTE);
    expect((await sandbox.renew()).expiresAt).toEqual(new Date(now + 5 * MINUTE));
  });

  it('is seen by other managers', async () => {
    const { engine, sandbox } = await create();
    later(MINUTE);
    const { expiresAt } = await sandbox.renew({ ttlMs: 3 * HOUR });
    const other = new SandboxManager({ engine, owner: 'me', reaper: false });
    expect((await other.inspect(sandbox.id)).expiresAt).toEqual(expiresAt);
  });

  it.each(['exited', 'paused', 'created'] as const)('is refused while it is %s', async (state) => {
    const { sandbox, container, warden } = await create();
    container.state = state;
    const version = warden.record.version;
    await expect(sandbox.renew({ ttlMs: 2 * HOUR })).rejects.toMatchObject({
      code: 'wrong_state',
      message: expect.stringContaining(state),
      hint: expect.stringContaining(state === 'paused' ? 'Unpause it' : 'Start it'),
    });
    expect(warden.record.version).toBe(version);
  });

  it('ends no later than the longest lifetime, and says when that is', async () => {
    const { sandbox } = await create();
    const { createdAt } = await sandbox.inspect();
    await sandbox.renew({ ttlMs: 24 * HOUR - MINUTE });
    const error = await sandbox.renew({ ttlMs: 24 * HOUR + 1 }).catch((error: unknown) => error);
    expect(error).toMatchObject({ code: 'limit_exceeded' });
    const [, end] = /until (\S+);/.exec((error as SandyardError).hint ?? '') ?? [];
    expect(Math.abs(Date.parse(end ?? '') - createdAt.getTime() - 24 * HOUR)).toBeLessThan(1000);
  });

  it.each([
    { ttlMs: 0 },
    { ttlMs: -1 },
    { ttlMs: Number.NaN },
    { ttlMs: Infinity },
    { ttlMs: 1.5 },
    { ttlMs: '1h' },
    { forever: true },
  ])('refuses %j', async (options) => {
    const { sandbox, warden } = await create();
    const version = warden.record.version;
    await expect(sandbox.renew(options as object)).rejects.toMatchObject({ code: 'validation_failed' });
    expect(warden.record.version).toBe(version);
  });

  it('of a year is refused where its lifetime is shorter, and given where it is not', async () => {
    const { sandbox, warden, container } = await create();
    const { version } = warden.record;
    await expect(sandbox.renew({ ttlMs: YEAR })).rejects.toMatchObject({ code: 'limit_exceeded' });
    expect(warden.record.version).toBe(version);
    const engine = new FakeEngine();
    const manager = new SandboxManager({ engine, owner: 'me', reaper: false, limits: { maxLifetimeMs: 2 * YEAR } });
    const long = await manager.create({ ttlMs: YEAR });
    expect((await long.inspect()).expiresAt.getTime() - Date.now()).toBeGreaterThan(YEAR - MINUTE);
    expect((await long.renew({ ttlMs: YEAR + HOUR })).expiresAt.getTime()).toBeGreaterThan(Date.now() + YEAR);
    expect(container.state).toBe('running');
    await manager.close();
  });

  it.each([
    ['ahead', HOUR],
    ['behind', -HOUR],
  ])('is by its lifetime on the clock of the engine, also where that is an hour %s', async (_, clockOffsetMs) => {
    const engine = new FakeEngine();
    engine.clockOffsetMs = clockOffsetMs;
    const manager = new SandboxManager({ engine, owner: 'me', reaper: false });
    await manager.open();
    const sandbox = await manager.create({ ttlMs: HOUR });
    const end = (await sandbox.renew({ ttlMs: 24 * HOUR - MINUTE })).expiresAt.getTime();
    expect(Math.abs(end - Date.now() - 24 * HOUR + MINUTE)).toBeLessThan(5000);
    await expect(sandbox.renew({ ttlMs: 24 * HOUR + 1000 })).rejects.toMatchObject({ code: 'limit_exceeded' });
    await manager.close();
  });

  it.each([
    ['ahead', 48 * HOUR],
    ['back', -48 * HOUR],
  ])('is the same where our own clock has jumped two days %s', async (_, jumpMs) => {
    const engine = new FakeEngine();
    const manager = new SandboxManager({ engine, owner: 'me', reaper: false, limits: { maxLifetimeMs: 200 * HOUR } });
    await manager.open();
    const sandbox = await manager.create({ ttlMs: 100 * HOUR });
    engine.clockOffsetMs = -jumpMs; // the engine's stays as it was
    vi.setSystemTime(Date.now() + jumpMs);
    const { expiresAt } = await sandbox.renew({ ttlMs: 150 * HOUR });
    expect(Math.abs(expiresAt.getTime() - Date.now() - 150 * HOUR)).toBeLessThan(1000);
    await expect(sandbox.renew({ ttlMs: 200 * HOUR + 1000 })).rejects.toMatchObject({ code: 'limit_exceeded' });
    expect((await manager.prune()).sandboxes).toEqual([]);
    await manager.close();
  });

  it('tells that it is gone', async () => {
    const { sandbox } = await create();
    await sandbox.destroy();
    await expect(sandbox.renew()).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });
});

describe('stats', () => {
  it('tells what it uses, in seconds and bytes, without asking the engine', async () => {
    const { engine, sandbox, warden } = await create({ memoryLimit: '512m' });
    Object.assign(warden.usage, { memory: 4e6, limit: 1_000_000_000, cpuNs: 2_500_000_000n, oomKills: 3 });
    engine.calls.length = 0;
    expect(await sandbox.stats()).toEqual({
      memoryBytes: 4e6,
      memoryLimitBytes: 1e9,
      cpuSeconds: 2.5,
      pids: 3,
      networkReceivedBytes: 10,
      networkSentBytes: 20,
      oomKills: 3,
      diskBytes: 4096,
      diskLimitBytes: 1792 * 1024 ** 2,
      inodes: 2,
      inodesLimit: 262_144,
      at: expect.any(Date),
    });
    expect(engine.calls).toEqual([]);
  });

  it('knows the limit that it was created with where the sandbox does not', async () => {
    const { sandbox } = await create({ memoryLimit: '512m' });
    expect(await sandbox.stats()).toMatchObject({ memoryLimitBytes: 512 * 1024 ** 2 });
  });

  it('refuses where it does not run', async () => {
    const { sandbox } = await create();
    await sandbox.stop();
    await expect(sandbox.stats()).rejects.toMatchObject({ code: 'wrong_state' });
  });

  it('can be given up', async () => {
    const { sandbox, warden } = await create();
    warden.stall();
    const caller = new AbortController();
    const stats = sandbox.stats({ signal: caller.signal });
    caller.abort();
    await expect(stats).rejects.toMatchObject({ code: 'aborted' });
  });
});

it('what was spawned can be got again, by any manager', async () => {
  const { engine, sandbox } = await create();
  (await sandbox.spawn(['cat'], { id: 'a', stdin: 'pipe' })).detach();
  const other = await new SandboxManager({ engine, owner: 'me', reaper: false }).get(sandbox.id);
  expect(await other.processes.list()).toMatchObject([{ id: 'a', state: 'running' }]);
  const process = await other.processes.get('a');
  await process.kill();
  expect(await process.wait()).toMatchObject({ outcome: 'killed' });
});

it('connect() reaches a port', async () => {
  const { sandbox } = await create(
    {},
    { builtins: { dial: (process) => process.print(`\0${process.argv.join(' ')}`) } },
  );
  const chunks = [];
  for await (const chunk of await sandbox.connect(80)) chunks.push(String(chunk));
  expect(chunks.join('')).toBe('dial 80');
});

describe('a sandbox that its lease has paused', () => {
  const pauseExpired = async (wakeOnUse: boolean) => {
    const made = await create({ onExpiry: 'pause', wakeOnUse });
    made.warden.record.expire();
    await made.engine.pauseContainer(made.container.id);
    made.warden.cut();
    await settle(); // until that is known here
    return made;
  };

  it.each([
    ['exec', (sandbox: Sandbox) => sandbox.exec(['true'])],
    ['spawn', (sandbox: Sandbox) => sandbox.spawn(['true'])],
    ['processes.list', (sandbox: Sandbox) => sandbox.processes.list()],
  ])('is woken by %s, where it is to be', async (_, use) => {
    const { sandbox, container, warden } = await pauseExpired(true);
    await use(sandbox);
    expect(container.state).toBe('running');
    await vi.waitFor(() => expect(warden.record.expired).toBe(false));
    const other = await pauseExpired(false);
    await expect(use(other.sandbox)).rejects.toMatchObject({ code: 'wrong_state' });
    expect(other.container.state).toBe('paused');
  });

  it.each([
    ['inspect', (sandbox: Sandbox) => sandbox.inspect()],
    ['stats', (sandbox: Sandbox) => sandbox.stats()],
    ['statsHistory', (sandbox: Sandbox) => sandbox.statsHistory()],
    ['renew', (sandbox: Sandbox) => sandbox.renew()],
  ])('is not woken by %s', async (_, look) => {
    const { sandbox, container } = await pauseExpired(true);
    vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 60_000); // long after it was used
    await look(sandbox).catch((error: unknown) => expect(error).toMatchObject({ code: 'wrong_state' }));
    vi.restoreAllMocks();
    expect(container.state).toBe('paused');
  });

  it('has a new lease when it is unpaused', async () => {
    const { sandbox, warden } = await pauseExpired(false);
    const { state, expiresAt } = await sandbox.unpause();
    expect([state, warden.record.expired]).toEqual(['running', false]);
    expect(expiresAt.getTime() - Date.now()).toBeGreaterThan(HOUR / 2);
  });
});

describe('copies', () => {
  async function withDirectory(work: (directory: string) => Promise<void>): Promise<void> {
    const directory = await mkdtemp(join(tmpdir(), 'sandyard-copy-'));
    try {
      await work(directory);
    } finally {
      await rm(directory, { recursive: true });
    }
  }

  it('tell of a source that is not there', async () => {
    const { sandbox, warden } = await create();
    const copied = sandbox.copyTo('/no/such/thing', '/workspace/x');
    await expect(copied).rejects.toMatchObject({
      code: 'file_not_found',
      message: expect.stringContaining('/no/such/thing'),
    });
    expect(warden.count('spawn')).toBe(0);
  });

  it.each([
    ['/workspace/b.txt', 'f', '/workspace/b.txt'],
    ['/workspace/b.txt', undefined, '/workspace/b.txt'],
    ['/workspace/dir/', undefined, '/workspace/dir/a.txt'],
    ['/workspace/dir', 'd', '/workspace/dir/a.txt'],
  ] as const)('write a file to %s, which is %s, as %s', async (sandboxPath, type, written) => {
    const content: string[] = [];
    const paths: (readonly string[])[] = [];
    const { sandbox } = await create(
      {},
      {
        builtins: {
          stat: (process) => (type === undefined ? 2 : process.print(encodeEntry({ type }))),
          write: async (process) => {
            paths.push(process.argv);
            content.push(String(await process.readAll()));
            await process.print(encodeEntry({ type: 'f', size: 5 }));
          },
        },
      },
    );
    await withDirectory(async (directory) => {
      await writeFile(join(directory, 'a.txt'), 'hello', { mode: 0o640 });
      const copied = await sandbox.copyTo(join(directory, 'a.txt'), sandboxPath);
      expect(copied).toEqual({ entries: 1, bytes: 5 });
    });
    expect(paths).toEqual([['write', written, '640', '-']]);
    expect(content).toEqual(['hello']);
  });

  it('go from one sandbox to another', async () => {
    let tar: Buffer = Buffer.alloc(0);
    const { sandbox } = await create(
      {},
      {
        builtins: {
          stat: (process) => process.print(encodeEntry({ type: 'd' })),
          pack: (process) => process.print(tar),
          unpack: async (process) => {
            tar = await process.readAll();
          },
        },
      },
    );
    await withDirectory(async (directory) => {
      await writeFile(join(directory, 'a.txt'), 'hello');
      expect(await sandbox.copyTo(directory, '/workspace')).toEqual({ entries: 1, bytes: 5 });
      await sandbox.copyFrom('/workspace', join(directory, 'back'));
      expect(await readFile(join(directory, 'back', 'a.txt'), 'utf8')).toBe('hello');
    });
  });
});
