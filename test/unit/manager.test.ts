import { afterEach, describe, expect, it, vi } from 'vitest';

import type { ContainerSpec } from '../../src/engine/engine.js';
import { SandyardError } from '../../src/errors.js';
import type { Log } from '../../src/log.js';
import type { ManagerOptions } from '../../src/manager-options.js';
import { SandboxManager } from '../../src/manager.js';
import { encodeEvent } from '../fixtures/fake-warden.js';
import { FakeEngine, type EngineMethod, type FakeContainer } from '../fixtures/fake-engine.js';

const MIB = 1024 ** 2;
const HOUR = 3_600_000;

afterEach(() => {
  vi.useRealTimers();
});

function setUp(options: ManagerOptions = {}) {
  const engine = new FakeEngine();
  const log = { debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() } satisfies Log;
  const manager = new SandboxManager({ engine, log, owner: 'me', reaper: false, ...options });
  return { engine, log, manager };
}

const specOf = (engine: FakeEngine) => [...engine.containers.values()].at(-1)?.spec;
const gone = new SandyardError('engine_unavailable', 'Gone.');

describe('create', () => {
  it('makes a running container by defaults', async () => {
    const { engine, manager } = setUp();
    const sandbox = await manager.create();
    expect(sandbox.id).toMatch(/^[a-z0-9]{12}$/);
    expect(specOf(engine)).toMatchObject({
      name: `sandyard-${sandbox.id}`,
      image: 'sandyard-sandbox:latest',
      memoryBytes: 1024 * MIB,
      cpus: 1,
      pids: 256,
      nofile: 4096,
      network: 'none',
      workdir: '/workspace',
      hostname: sandbox.id,
      env: ['HOME=/home/sandbox'],
      entrypoint: [
        '/usr/lib/sandyard/warden',
        'init',
        '--setup-ms=120000',
        '--ttl-ms=3600000',
        '--on-expiry=destroy',
        '--last-ms=86400000',
        '--nofile=4096',
        '--disk-bytes=1879048192',
        '--disk-inodes=262144',
        expect.stringMatching(/^--disk-since-ms=\d+$/),
      ],
      watched: true,
    });
    expect(specOf(engine)).not.toHaveProperty('volume');
    expect(specOf(engine)).not.toHaveProperty('runtime');
    expect(engine.containers.get(`sandyard-${sandbox.id}`)?.state).toBe('running');
  });

  it('makes what was asked for, and tells it back', async () => {
    const { engine, manager } = setUp();
    engine.images.set('ubuntu:24.04', {});
    const sandbox = await manager.create({
      projectName: 'My project',
      image: 'ubuntu:24.04',
      memoryLimit: '512m',
      cpuLimit: '0.5',
      pidsLimit: 64,
      nofileLimit: 1024,
      env: { A: 'b' },
      network: 'bridge',
      ttlMs: 60_000,
      idleTimeoutMs: 5000,
      metadata: { task: '7' },
      labels: { 'com.example.team': 'x' },
      workdir: '/srv/app',
      user: '1234',
      runtime: 'runc',
    });
    expect(specOf(engine)).toMatchObject({
      runtime: 'runc',
      env: ['HOME=/home/sandbox', 'A=b'],
      labels: { 'com.example.team': 'x', 'sandyard.owner': 'me', 'sandyard.managed': '1' },
    });
    const info = await sandbox.inspect();
    expect(info).toMatchObject({
      id: sandbox.id,
      name: `sandyard-${sandbox.id}`,
      projectName: 'My project',
      state: 'running',
      image: 'ubuntu:24.04',
      owner: 'me',
      limits: { memoryBytes: 512 * MIB, cpus: 0.5, pids: 64, nofile: 1024 },
      network: 'bridge',
      ttlMs: 60_000,
      idleTimeoutMs: 5000,
      metadata: { task: '7' },
      workdir: '/srv/app',
      user: '1234',
      runtime: 'runc',
      finishedAt: null,
      exitCode: null,
    });
    expect(info.startedAt).toBeInstanceOf(Date);
    expect(info.expiresAt.getTime() - info.createdAt.getTime()).toBe(60_000);
    expect(info).toMatchObject({ maxLifetimeMs: 24 * HOUR, onExpiry: 'destroy', wakeOnUse: false });
    for (const hidden of ['pool', 'warm', 'env', 'madeFor', 'agesFrom']) expect(info).not.toHaveProperty(hidden);
  });

  const prepared = { 'sandyard.image': '1', 'sandyard.warden': '1' };
  const bare = { 'sandyard.warden': '1' };

  it.each<[object, image: Record<string, string>, owned: string[]]>([
    [{}, prepared, []],
    [{}, bare, ['1000:1000:/workspace', '1000:1000:/home/sandbox']],
    [{ user: '1234:5678' }, prepared, ['1234:5678:/workspace', '1234:5678:/home/sandbox']],
    [
      { workdir: '/workspace/a/b' },
      prepared,
      ['1000:1000:/workspace', '1000:1000:/workspace/a', '1000:1000:/workspace/a/b'],
    ],
    [{ workdir: '/srv' }, prepared, ['1000:1000:/srv']],
    [{ workdir: '/usr/share' }, prepared, []],
    [{ workdir: '/workspaces' }, prepared, []],
    [{ workdir: '/home/sandbox/a:b' }, prepared, ['1000:1000:/home/sandbox', '1000:1000:/home/sandbox/a:b']],
  ])('with %j on an image with %j has the warden give out %j', async (options, image, owned) => {
    const { engine, manager } = setUp();
    engine.images.set('x', image);
    await manager.create({ ...options, image: 'x' });
    const given = specOf(engine)?.entrypoint.filter((argument) => argument.startsWith('--own='));
    expect(given).toEqual(owned.map((one) => `--own=${one}`));
  });

  it.each([
    [{ ttlMs: 5000 }, ['--ttl-ms=5000']],
    [{ idleTimeoutMs: 7000, nofileLimit: 99 }, ['--ttl-ms=3600000', '--idle-ms=7000', '--nofile=99']],
    [{ maxLifetimeMs: 9000, onExpiry: 'stop' as const }, ['--ttl-ms=9000', '--last-ms=9000', '--on-expiry=stop']],
  ])('with %j tells the warden %j', async (options, told) => {
    const { engine, manager } = setUp();
    await manager.create(options);
    expect(specOf(engine)?.entrypoint).toEqual(expect.arrayContaining(told));
  });

  it.each(['', 'a b', '-x', 'a/b', 'x'.repeat(65)])('refuses the runtime %j', async (runtime) => {
    const { engine, manager } = setUp();
    await expect(manager.create({ runtime })).rejects.toMatchObject({ code: 'validation_failed' });
    expect(engine.calls).toEqual([]);
  });

  it.each([
    [{ memoryLimit: '9g' }, 'memoryLimit', '8g'],
    [{ cpuLimit: 9 }, 'cpuLimit', '8'],
    [{ pidsLimit: 5000 }, 'pidsLimit', '4096'],
    [{ nofileLimit: 70_000 }, 'nofileLimit', '65536'],
    [{ ttlMs: 25 * HOUR }, 'ttlMs', String(24 * HOUR)],
  ])('refuses %j, naming the ceiling', async (options, field, ceiling) => {
    const { engine, manager } = setUp();
    const error: SandyardError = (await manager
      .create(options)
      .catch((error: unknown) => error as SandyardError)) as never;
    expect(error).toMatchObject({ code: 'limit_exceeded', issues: [{ path: [field] }] });
    expect(error.message).toContain(ceiling);
    expect(engine.calls).toEqual([]);
  });

  it('names every ceiling that is exceeded', async () => {
    const { manager } = setUp();
    const error = await manager.create({ memoryLimit: '9g', cpuLimit: 9 }).catch((error: unknown) => error);
    expect(error).toMatchObject({ issues: [{ path: ['memoryLimit'] }, { path: ['cpuLimit'] }] });
  });

  it('keeps to ceilings of its own that are below the defaults', async () => {
    const { engine, manager } = setUp({ limits: { maxMemoryBytes: 64 * MIB, maxLifetimeMs: 60_000 } });
    const info = await (await manager.create()).inspect();
    expect(specOf(engine)?.memoryBytes).toBe(64 * MIB);
    expect(info.ttlMs).toBe(60_000);
  });

  it.each([0, -1, 0.5, Number.NaN, Infinity])('refuses a lease, idle timeout or lifetime of %j', async (durationMs) => {
    const { engine, manager } = setUp();
    for (const field of ['ttlMs', 'idleTimeoutMs', 'maxLifetimeMs']) {
      const created = manager.create({ [field]: durationMs });
      await expect(created).rejects.toMatchObject({ code: 'validation_failed', issues: [{ path: [field] }] });
    }
    expect(engine.calls).toEqual([]);
  });

  it.each([{ memoryLimit: 'x' }, { user: 'root' }, { privileged: true }, { labels: { 'sandyard.owner': 'you' } }])(
    'refuses %j',
    async (options) => {
      const { engine, manager } = setUp();
      await expect(manager.create(options as object)).rejects.toMatchObject({ code: 'validation_failed' });
      expect(engine.calls).toEqual([]);
    },
  );

  it('tells of an image that the engine does not have', async () => {
    const { engine, manager } = setUp();
    await expect(manager.create({ image: 'nope' })).rejects.toMatchObject({ code: 'image_not_found' });
    expect(engine.containers.size).toBe(0);
  });
});

describe('create as a transaction', () => {
  const steps = [
    'info',
    'tryDiskQuota',
    'inspectImage',
    'fillVolume',
    'createContainer',
    'attachTunnel',
    'startContainer',
    'verifyContainer',
  ] as const;
  /** An image without a warden, so that no step is left out. */
  const bare = () => {
    const made = setUp();
    made.engine.images.set('bare', {});
    return { ...made, create: (signal?: AbortSignal) => made.manager.create({ image: 'bare' }, signal && { signal }) };
  };

  it('has all these steps', async () => {
    const { engine, create } = bare();
    await create();
    expect(new Set(engine.calls.map(({ method }) => method))).toEqual(new Set<EngineMethod>(steps));
  });

  describe.each(['before', 'after'] as const)('when %s', (when) => {
    it.each(steps)('%s fails, leaves nothing and tells the failure', async (step) => {
      const { engine, create } = bare();
      engine[when][step] = () => {
        throw gone;
      };
      await expect(create()).rejects.toBe(gone);
      expect(engine.containers.size).toBe(0);
    });

    it.each(steps)('%s its caller gives up, leaves nothing', async (step) => {
      const { engine, create } = bare();
      const caller = new AbortController();
      engine[when][step] = () => caller.abort(new Error('changed my mind'));
      await expect(create(caller.signal)).rejects.toMatchObject({ code: 'aborted' });
      expect(engine.containers.size).toBe(0);
    });
  });

  it('tells its own failure when that of the removal follows, which is logged', async () => {
    const { engine, log, create } = bare();
    engine.before.startContainer = () => {
      throw gone;
    };
    engine.before.removeContainer = () => {
      throw new SandyardError('engine_timeout', 'Too slow.');
    };
    await expect(create()).rejects.toBe(gone);
    expect(log.error).toHaveBeenCalledOnce();
  });

  it('leaves nothing when the manager is closed meanwhile', async () => {
    const { engine, manager, create } = bare();
    engine.before.startContainer = () => manager.close();
    const created = await create().catch((error: unknown) => error);
    expect(created).toMatchObject({ code: 'manager_closed' });
    expect(engine.containers.size).toBe(0);
  });

  it('says why where it ends as soon as it is started', async () => {
    const { engine, create } = bare();
    const why = new SandyardError('engine_error', 'The sandbox ended as soon as it was started (exit code 127).');
    let looked = () => {};
    const look = new Promise<void>((resolve) => (looked = resolve));
    engine.after.verifyContainer = () => looked();
    engine.before.startContainer = (name) => engine.find(name).warden.cut();
    engine.before.openTunnel = async (name) => {
      await look;
      engine.die(name);
      engine.before.verifyContainer = () => {
        throw why;
      };
    };
    await expect(create()).rejects.toBe(why);
    expect(engine.containers.size).toBe(0);
  });

  it('leaves no connection when it fails', async () => {
    const { engine, create } = bare();
    const wardens: FakeContainer[] = [];
    engine.before.startContainer = (name) => {
      wardens.push(engine.find(name));
      throw gone;
    };
    await expect(create()).rejects.toBe(gone);
    await vi.waitFor(() => expect(wardens.map(({ warden }) => warden.tunnels.size)).toEqual([0]));
  });

  it('opens a tunnel where the first one is cut before it is used', async () => {
    const { engine, create } = bare();
    engine.before.startContainer = (name) => engine.find(name).warden.cut();
    const sandbox = await create();
    expect(engine.count('openTunnel')).toBe(1);
    expect((await sandbox.exec(['echo', 'here'])).stdout).toBe('here\n');
  });

  it('does not remove the container that has its name', async () => {
    const { engine, create } = bare();
    engine.before.createContainer = ({ name }: ContainerSpec) => engine.plant({ name, labels: {} });
    await expect(create()).rejects.toMatchObject({ code: 'name_conflict' });
    expect(engine.containers.size).toBe(1);
  });
});

describe('the warden', () => {
  const OURS = { 'sandyard.image': '1', 'sandyard.warden': '1' };

  it('comes in a volume to an image that has none', async () => {
    const { engine, manager } = setUp();
    engine.images.set('ubuntu:24.04', {});
    await manager.create({ image: 'ubuntu:24.04' });
    const volume = { name: 'sandyard-warden-sandyard-san', target: '/usr/lib/sandyard' };
    expect(specOf(engine)?.volume).toEqual(volume);
    expect(engine.volumes.get(volume.name)).toMatchObject({
      image: 'sha256:sandyard-sandbox:latest',
      path: '/usr/lib/sandyard',
    });
  });

  it('comes so to an image that has another version of it', async () => {
    const { engine, manager } = setUp();
    engine.images.set('old', { 'sandyard.image': '1', 'sandyard.warden': '0' });
    await manager.create({ image: 'old' });
    expect(specOf(engine)?.volume).toBeDefined();
  });

  it("is the default image's own where that has one", async () => {
    const { engine, manager } = setUp({ image: 'my-image' });
    engine.images.set('my-image', OURS);
    engine.images.set('bare', {});
    await manager.create({ image: 'bare' });
    expect([...engine.volumes.values()]).toMatchObject([{ image: 'sha256:my-image' }]);
  });

  it('is put into its volume once', async () => {
    const { engine, manager } = setUp();
    engine.images.set('bare', {});
    await Promise.all([1, 2, 3].map(() => manager.create({ image: 'bare' })));
    await manager.create({ image: 'bare' });
    expect(engine.count('fillVolume')).toBe(1);
  });

  it('is put there again after that has failed, or a start with it', async () => {
    const { engine, manager } = setUp();
    engine.images.set('bare', {});
    for (const step of ['fillVolume', 'startContainer'] as const) {
      engine.before[step] = () => {
        throw gone;
      };
      await expect(manager.create({ image: 'bare' })).rejects.toBe(gone);
      engine.before = {};
    }
    await manager.create({ image: 'bare' });
    expect(engine.count('fillVolume')).toBe(3);
  });

  it('is asked for where no image has it', async () => {
    const { engine, manager } = setUp();
    engine.images.clear();
    engine.images.set('bare', {});
    await expect(manager.create({ image: 'bare' })).rejects.toMatchObject({
      code: 'image_not_found',
      hint: expect.stringContaining('npm run setup'),
    });
    expect(engine.containers.size).toBe(0);
  });
});

describe("others' containers", () => {
  const planted = async () => {
    const engine = new FakeEngine();
    const you = new SandboxManager({ engine, owner: 'you', reaper: false });
    const { id } = await you.create({ ttlMs: 1000 });
    engine.plant({ name: 'postgres', labels: {} });
    engine.plant({ name: 'sandyard-unlabelled', labels: {} });
    const manager = new SandboxManager({ engine, owner: 'me', reaper: false });
    return { engine, manager, id };
  };

  it('are not found by any verb', async () => {
    const { engine, manager, id } = await planted();
    const verbs = [
      (id: string) => manager.get(id),
      (id: string) => manager.inspect(id),
      (id: string) => manager.start(id),
      (id: string) => manager.stop(id),
      (id: string) => manager.renew(id),
      (id: string) => manager.stats(id),
      (id: string) => manager.exec(id, ['true']),
      (id: string) => manager.destroy(id),
      (id: string) => manager.copyTo(id, { hostPath: '/etc/hostname', sandboxPath: '/workspace/x' }),
      (id: string) => manager.copyFrom(id, { hostPath: '/nowhere', sandboxPath: '/workspace/x' }),
    ];
    const touched: EngineMethod[] = [];
    for (const verb of verbs) {
      for (const name of [id, 'postgres', 'unlabelled', 'none', '../x', '', 'a'.repeat(200), `${id}\n`]) {
        const before = engine.calls.length;
        await expect(verb(name)).rejects.toMatchObject({ code: 'sandbox_not_found' });
        touched.push(...engine.calls.slice(before).map(({ method }) => method));
      }
    }
    expect(new Set(touched)).toEqual(new Set(['inspectContainer']));
    expect(engine.containers.size).toBe(3);
  });

  it('are neither listed nor reaped', async () => {
    const { engine, manager } = await planted();
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 48 * HOUR });
    expect(await manager.list()).toEqual({ sandboxes: [], cursor: null });
    expect(await manager.prune()).toEqual({ sandboxes: [], volumes: [], networks: [] });
    expect(engine.containers.size).toBe(3);
  });
});

describe('get', () => {
  it('gives a handle of the same sandbox, to any manager of the owner', async () => {
    const { engine, manager } = setUp();
    const { id } = await manager.create({ metadata: { a: 'b' } });
    const other = new SandboxManager({ engine, owner: 'me', reaper: false });
    expect((await other.get(id)).id).toBe(id);
    expect(await other.inspect(id)).toEqual(await manager.inspect(id));
  });

  it('asks the engine only where there is no connection', async () => {
    const { engine, manager } = setUp();
    const { id } = await manager.create();
    engine.calls.length = 0;
    await manager.exec(id, ['true']);
    expect(engine.calls).toEqual([]);
    engine.find(`sandyard-${id}`).warden.cut();
    await new Promise(setImmediate);
    await manager.exec(id, ['true']);
    expect(engine.calls.map(({ method }) => method)).toEqual(['inspectContainer', 'openTunnel']);
  });

  it('finds out that somebody else has removed it', async () => {
    const { engine, manager } = setUp();
    const { id } = await manager.create();
    await engine.removeContainer(`sandyard-${id}`);
    await new Promise(setImmediate);
    await expect(manager.get(id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });

  it('gives handles that share one connection', async () => {
    const { engine, manager } = setUp();
    const { id } = await manager.create();
    const handles = await Promise.all([manager.get(id), manager.get(id)]);
    await Promise.all(handles.map((sandbox) => sandbox.exec(['true'])));
    expect(engine.find(`sandyard-${id}`).warden.connects).toBe(1);
  });

  it('does not take an engine that fails for a sandbox that is missing', async () => {
    const { engine, manager } = setUp();
    engine.before.inspectContainer = () => {
      throw gone;
    };
    await expect(manager.get('abc')).rejects.toBe(gone);
  });
});

describe('list', () => {
  async function five() {
    const made = setUp();
    vi.useFakeTimers({ toFake: ['Date'] });
    const ids = [];
    for (let n = 0; n < 5; n++) {
      vi.setSystemTime(Date.parse('2026-01-01T00:00:00Z') + Math.floor(n / 2) * 1000);
      ids.push((await made.manager.create({ projectName: n % 2 === 0 ? 'even' : 'odd' })).id);
    }
    return { ...made, ids };
  }

  it('has the newest first', async () => {
    const { manager, ids } = await five();
    const { sandboxes, cursor } = await manager.list();
    expect(sandboxes[0]?.id).toBe(ids[4]);
    expect(new Set(sandboxes.map(({ id }) => id))).toEqual(new Set(ids));
    expect(cursor).toBeNull();
  });

  it.each([1, 2, 3, 4, 5, 6])('comes %d at a time, each once', async (limit) => {
    const { manager, ids } = await five();
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await manager.list({ limit, ...(cursor && { cursor }) });
      expect(page.sandboxes.length).toBeLessThanOrEqual(limit);
      seen.push(...page.sandboxes.map(({ id }) => id));
      cursor = page.cursor ?? undefined;
    } while (cursor !== undefined);
    expect(seen.toSorted()).toEqual(ids.toSorted());
  });

  it('goes on where it ended though sandboxes come and go', async () => {
    const { manager, ids } = await five();
    const first = await manager.list({ limit: 2 });
    await manager.destroy(first.sandboxes[1]?.id ?? '');
    await manager.create();
    const rest = await manager.list({ cursor: first.cursor ?? '' });
    const seen = [...first.sandboxes, ...rest.sandboxes].map(({ id }) => id);
    expect(seen.toSorted()).toEqual(ids.toSorted());
  });

  it('can be by state and by project', async () => {
    const { manager, ids } = await five();
    await manager.stop(ids[0] ?? '');
    expect((await manager.list({ state: 'exited' })).sandboxes.map(({ id }) => id)).toEqual([ids[0]]);
    expect((await manager.list({ projectName: 'odd' })).sandboxes).toHaveLength(2);
    expect((await manager.list({ projectName: 'even', state: 'running' })).sandboxes).toHaveLength(2);
    expect((await manager.list({ projectName: 'none' })).sandboxes).toEqual([]);
  });

  it.each([{ limit: 0 }, { state: 'dead' }, { cursor: 'x' }, { cursor: '' }, { colour: 'red' }])(
    'refuses %j',
    async (options) => {
      const { manager } = setUp();
      await expect(manager.list(options as object)).rejects.toMatchObject({ code: 'validation_failed' });
    },
  );

  it('asks the engine once, however many there are', async () => {
    const { engine, manager } = await five();
    engine.calls.length = 0;
    await manager.list();
    expect(engine.calls).toHaveLength(1);
  });
});

describe('open', () => {
  it('finds the engine, and removes what has expired', async () => {
    const { engine, manager } = setUp({ reaper: {} });
    const { id } = await manager.create({ ttlMs: 1000 });
    engine.die(`sandyard-${id}`, { exitCode: 90 }); // as the warden does
    await manager.open();
    expect(engine.containers.size).toBe(0);
  });

  it('removes nothing without a reaper', async () => {
    const { engine, manager } = setUp();
    const { id } = await manager.create({ ttlMs: 1000 });
    engine.die(`sandyard-${id}`, { exitCode: 90 });
    await manager.open();
    expect(engine.containers.size).toBe(1);
    expect(await manager.prune()).toMatchObject({ sandboxes: [{ id, reason: 'lease_expired', action: 'removed' }] });
  });

  it('fails without an engine, and works when there is one', async () => {
    const { engine, manager } = setUp();
    engine.before.info = () => {
      throw gone;
    };
    await expect(manager.open()).rejects.toBe(gone);
    engine.before = {};
    await manager.open();
  });

  it('refuses a schedule that is none', () => {
    expect(() => setUp({ reaper: { schedule: 'often' } })).toThrow(expect.objectContaining({ code: 'config_invalid' }));
  });

  it('starts nothing when the manager is closed meanwhile', async () => {
    vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout'] });
    const { engine, manager } = setUp({ reaper: { schedule: '* * * * * *' } });
    engine.before.info = () => manager.close();
    await manager.open().catch(() => {});
    const runs = engine.count('listContainers');
    await vi.advanceTimersByTimeAsync(5000);
    expect(engine.count('listContainers')).toBe(runs);
  });
});

describe('hasImage', () => {
  it('says whether the default image is there', async () => {
    const { engine, manager } = setUp();
    expect(await manager.hasImage()).toBe(true);
    engine.images.clear();
    expect(await manager.hasImage()).toBe(false);
    engine.before.inspectImage = () => {
      throw gone;
    };
    await expect(manager.hasImage()).rejects.toBe(gone);
  });
});

describe('close', () => {
  it('ends the calls, and leaves the sandboxes and what was spawned in them', async () => {
    const { engine, manager } = setUp();
    const [first, second] = [await manager.create(), await manager.create()];
    const process = await first.spawn(['sleep', 'infinity'], { id: 'a' });
    const result = second.exec(['sleep', 'infinity']);
    await vi.waitFor(() => expect(engine.running).toBe(2));
    await manager.close();
    expect(await result).toMatchObject({ outcome: 'killed' });
    expect(engine.find(`sandyard-${first.id}`).warden.processes.get('a')).toMatchObject({
      ended: undefined,
      signals: [],
    });
    expect([...engine.containers.values()].map(({ state }) => state)).toEqual(['running', 'running']);
    const tunnels = () => [...engine.containers.values()].map(({ warden }) => warden.tunnels.size);
    await vi.waitFor(() => expect(tunnels()).toEqual([0, 0]));
    expect(engine.closed).toBe(1);
    await expect(process.wait()).rejects.toMatchObject({ code: 'manager_closed' });
    await expect(process.kill()).rejects.toMatchObject({ code: 'manager_closed' });
    await process[Symbol.asyncDispose]();
  });

  it('does not wait for what nobody reads, nor leave a timer that does', async () => {
    const ready = encodeEvent({ kind: 'ready' });
    const { engine, manager } = setUp();
    engine.wardens = {
      builtins: {
        watch: async (process) => {
          await process.print(ready);
          await process.forever();
        },
      },
    };
    const sandbox = await manager.create();
    await sandbox.files.watch('/workspace');
    await sandbox.destroy();
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    await manager.close();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('does not wait for ever for a call that can not be ended', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { engine, manager } = setUp();
    const sandbox = await manager.create();
    const result = sandbox.exec(['sleep', 'infinity']).catch((error: unknown) => error);
    await vi.waitFor(() => expect(engine.running).toBe(1));
    engine.find(`sandyard-${sandbox.id}`).warden.stall();
    const closed = manager.close();
    await vi.advanceTimersByTimeAsync(6000);
    await closed;
    expect(await result).toMatchObject({ code: 'manager_closed' });
  });

  it('may be asked for twice at once', async () => {
    const { manager } = setUp();
    await manager.open();
    await Promise.all([manager.close(), manager.close()]);
    await manager[Symbol.asyncDispose]();
  });

  it('is over for each that asked for it only when all is', async () => {
    const { engine, manager } = setUp({ pool: { size: 2 } });
    await manager.open();
    await vi.waitFor(async () => expect((await manager.gauges()).pool.ready).toBe(2));
    void manager.close();
    await manager.close();
    expect([engine.containers.size, engine.closed, engine.watchers]).toEqual([0, 1, 0]);
  });

  it.each(['info', 'watchContainers', 'listContainers'] as const)(
    'ends an open that has come to %s, and nothing goes on',
    async (method) => {
      const { engine, manager } = setUp({ reaper: {}, pool: { size: 1 } });
      engine.before[method] = () => void manager.close();
      await expect(manager.open()).rejects.toMatchObject({ code: 'manager_closed' });
      await manager.close();
      expect([engine.containers.size, engine.watchers, engine.closed]).toEqual([0, 0, 1]);
    },
  );

  it('gives a warm one to nobody whose caller would not be told', async () => {
    const { engine, manager } = setUp({ pool: { size: 1 } });
    await manager.open();
    await vi.waitFor(async () => expect((await manager.gauges()).pool.ready).toBe(1));
    const [created] = await Promise.allSettled([manager.create(), manager.close()]);
    const names = [...engine.containers.keys()];
    expect(names).toEqual(created.status === 'fulfilled' ? [`sandyard-${created.value.id}`] : []);
  });

  it('is the end of it', async () => {
    const { engine, manager } = setUp();
    const { id } = await manager.create();
    await manager.close();
    const calls = engine.calls.length;
    for (const call of [
      () => manager.open(),
      () => manager.create(),
      () => manager.get(id),
      () => manager.list(),
      () => manager.prune(),
      () => manager.exec(id, ['true']),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: 'manager_closed' });
    }
    expect(engine.calls).toHaveLength(calls);
  });
});

it('makes no call before it is asked to', () => {
  expect(setUp({ reaper: {} }).engine.calls).toEqual([]);
});

describe('connections', () => {
  it('are closed when nobody has used them for minutes, and opened again', async () => {
    vi.useFakeTimers({ toFake: ['Date', 'setInterval', 'clearInterval'] });
    const { engine, manager } = setUp();
    const sandbox = await manager.create();
    const { warden } = engine.find(`sandyard-${sandbox.id}`);
    vi.advanceTimersByTime(4 * 60_000);
    await sandbox.exec(['true']);
    vi.advanceTimersByTime(4 * 60_000);
    expect(warden.tunnels.size).toBe(1);
    vi.advanceTimersByTime(3 * 60_000);
    await vi.waitFor(() => expect(warden.tunnels.size).toBe(0));
    const before = warden.connects;
    expect(await sandbox.exec(['true'])).toMatchObject({ exitCode: 0 });
    expect(warden.connects).toBe(before + 1);
  });

  it('stay open for what waits', async () => {
    vi.useFakeTimers({ toFake: ['Date', 'setInterval', 'clearInterval'] });
    const { engine, manager } = setUp();
    const sandbox = await manager.create();
    const process = await sandbox.spawn(['sleep', 'infinity']);
    vi.advanceTimersByTime(60 * 60_000);
    expect(engine.find(`sandyard-${sandbox.id}`).warden.tunnels.size).toBe(1);
    process.detach();
    vi.advanceTimersByTime(10 * 60_000);
    await vi.waitFor(() => expect(engine.find(`sandyard-${sandbox.id}`).warden.tunnels.size).toBe(0));
  });

  it('of what is gone are closed', async () => {
    const { engine, manager } = setUp();
    await manager.open();
    const sandbox = await manager.create();
    const container = engine.find(`sandyard-${sandbox.id}`);
    await engine.removeContainer(container.id); // by somebody else
    await vi.waitFor(() => expect(container.warden.tunnels.size).toBe(0));
  });
});
