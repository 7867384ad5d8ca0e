import { describe, expect, it, vi } from 'vitest';

import type { ManagerOptions } from '../../../src/manager-options.js';
import { SandboxManager } from '../../../src/manager.js';
import { SandyardError } from '../../../src/errors.js';
import type { CreateOptions } from '../../../src/schemas.js';
import type { LifecycleEvent } from '../../../src/fleet/lifecycle.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';
import { settle } from '../../fixtures/fake-fleet.js';

const MIB = 1024 ** 2;
const LIMITS = { limits: { memoryBytes: 256 * MIB, cpus: 1, pids: 100, nofile: 1000 } };

async function open({
  engine = new FakeEngine(),
  pool = { size: 1 },
  ...options
}: ManagerOptions & { engine?: FakeEngine } = {}) {
  const log = { debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() };
  const manager = new SandboxManager({ engine, log, owner: 'me', reaper: false, pool, ...LIMITS, ...options });
  await manager.open();
  await settle();
  return { engine, log, manager, [Symbol.asyncDispose]: () => manager.close() };
}

const ready = async ({ manager }: { manager: SandboxManager }) => (await manager.gauges()).pool.ready;
const sources = ({ log }: { log: { info: ReturnType<typeof vi.fn> } }) =>
  log.info.mock.calls
    .map(([fields]) => (fields as { source?: string }).source)
    .filter((source) => source !== undefined);

describe('a warm sandbox', () => {
  it.each<[string, CreateOptions]>([
    ['nothing', {}],
    ['its own image', { image: 'sandyard-sandbox:latest' }],
    ['variables', { env: { A: 'b' } }],
    ['another lease', { ttlMs: 5000, idleTimeoutMs: 6000, onExpiry: 'pause', wakeOnUse: true, maxLifetimeMs: 9000 }],
    ['a project and metadata', { projectName: 'p', metadata: { a: 'b' } }],
    ['other limits', { memoryLimit: '512m', cpuLimit: 2, pidsLimit: 50 }],
  ])('does for who asks for %s, and is what was asked for', async (_, options) => {
    await using opened = await open();
    const { manager, engine } = opened;
    expect(await ready(opened)).toBe(1);
    const sandbox = await manager.create(options);
    expect(sources(opened)).toEqual(['warm']);
    await using cold = await open({ pool: [], engine: new FakeEngine() });
    const same = await (await cold.manager.create(options)).inspect();
    const { id: _i, name: _n, containerId: _c, createdAt: _a, expiresAt, startedAt: _s, ...facts } = same;
    const info = await sandbox.inspect();
    expect(info).toMatchObject(facts);
    expect(Math.abs(info.expiresAt.getTime() - expiresAt.getTime())).toBeLessThan(2000);
    await vi.waitFor(() => expect(engine.find(info.containerId).name).toBe(`sandyard-${sandbox.id}`));
    const { spec } = engine.find(info.containerId);
    const { diskBytes: _d, inodes: _f, ...limits } = info.limits;
    expect(spec).toMatchObject(limits);
  });

  it.each<[string, CreateOptions]>([
    ['labels of its own', { labels: { a: 'b' } }],
    ['another image', { image: 'other' }],
    ['a network', { network: 'bridge' }],
    ['so little memory that /dev/shm could take more than a quarter', { memoryLimit: '200m' }],
    ['another user', { user: '5' }],
    ['another directory', { workdir: '/srv' }],
    ['another runtime', { runtime: 'runsc' }],
    ['another profile', { profile: 'strict', runtime: 'runc' }],
    ['other open files', { nofileLimit: 99 }],
    ['another disk', { diskLimit: '1g' }],
    ['another number of files', { inodesLimit: 5000 }],
    ['more than its record holds', { env: { A: 'x'.repeat(40_000) } }],
  ])('does not do for %s, and nobody notices', async (_, options) => {
    const engine = new FakeEngine();
    engine.images.set('other', { 'sandyard.warden': '1' });
    await using opened = await open({ engine });
    await opened.manager.create(options);
    expect(sources(opened)).toEqual(['cold']);
    expect(await ready(opened)).toBe(1);
  });

  it('gives its variables to every process and terminal, under those that they have of their own', async () => {
    const engine = new FakeEngine();
    engine.wardens = { commands: { env: (process) => process.print(process.request.env.join('\n')) } };
    await using opened = await open({ engine });
    const { id } = await opened.manager.create({ env: { A: 'claimed', B: 'claimed', HOME: '/x' } });
    await using other = await open({ engine, pool: [] });
    for (const manager of [opened.manager, other.manager]) {
      const sandbox = await manager.get(id);
      const { stdout } = await sandbox.exec(['env'], { env: { B: 'own' } });
      expect(stdout.split('\n').toSorted()).toEqual(['A=claimed', 'B=own', 'HOME=/x']);
      for (const pty of [false, true]) {
        const process = await sandbox.spawn(['env'], { pty });
        let printed = '';
        for await (const { data } of process.output()) printed += Buffer.from(data).toString();
        expect(printed.split(/\r?\n/)).toEqual(expect.arrayContaining(['A=claimed', 'B=claimed']));
      }
    }
  });

  it('of which the limits can not be changed is removed, and a new one is made', async () => {
    await using opened = await open();
    const { engine, manager } = opened;
    engine.before.updateContainer = () => {
      throw new SandyardError('engine_error', 'It can not.');
    };
    await manager.create({ memoryLimit: '512m' });
    expect(sources(opened)).toEqual(['cold']);
    await settle();
    const claimed = [...engine.containers.values()].filter(({ name }) => !name.includes('pool'));
    expect(claimed.map(({ spec }) => spec?.memoryBytes)).toEqual([512 * MIB]);
  });

  it('that can not be removed then is told of, and a new one is made all the same', async () => {
    await using opened = await open();
    const { engine, manager, log } = opened;
    const fails = () => {
      throw new SandyardError('engine_error', 'It can not.');
    };
    [engine.before.updateContainer, engine.before.removeContainer] = [fails, fails];
    await manager.create({ memoryLimit: '512m' });
    expect(log.error).toHaveBeenCalledOnce();
    engine.before = {};
  });

  it.each(['before', 'while'])('is not left to nobody when the caller gives up %s it is claimed', async (when) => {
    await using opened = await open();
    const { engine, manager } = opened;
    const caller = new AbortController();
    if (when === 'before') caller.abort();
    engine.after.updateContainer = () => caller.abort();
    const create = manager.create({ memoryLimit: '512m' }, { signal: caller.signal });
    await expect(create).rejects.toMatchObject({ code: 'aborted' });
    await settle();
    expect((await manager.list()).sandboxes).toEqual([]);
    expect([...engine.containers.keys()].every((name) => name.startsWith('sandyard-pool-'))).toBe(true);
    expect(engine.count('removeContainer')).toBe(when === 'before' ? 0 : 1);
  });

  it('is nobody’s: it is not listed, found or counted until it is claimed', async () => {
    await using opened = await open({ pool: { size: 2 } });
    const { manager, engine } = opened;
    const [container] = engine.containers.values();
    expect((await manager.list()).sandboxes).toEqual([]);
    expect((await manager.gauges()).sandboxes).toMatchObject({ running: 0 });
    const id = container?.name.replace('sandyard-pool-', '') ?? '';
    await expect(manager.get(id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });

  it('is told of when it is claimed, once, as asked for', async () => {
    await using opened = await open();
    const events: LifecycleEvent[] = [];
    const read = opened.manager.events();
    void (async () => {
      for await (const event of read) events.push(event);
    })();
    const { id } = await opened.manager.create();
    await settle();
    expect(events).toMatchObject([{ type: 'created', sandboxId: id, reason: 'requested' }]);
    await opened.manager.close();
  });
});

describe('kinds', () => {
  it('of limits that fit are taken before others', async () => {
    const pool = [{ size: 1 }, { size: 1, memoryLimit: '512m' }];
    await using opened = await open({ pool });
    await opened.manager.create({ memoryLimit: '512m' });
    expect(opened.engine.count('updateContainer')).toBe(0);
  });

  it('whose image is not there are none, and do not keep the others from being filled', async () => {
    await using opened = await open({ pool: [{ size: 1, image: 'nope' }, { size: 1 }] });
    expect(await ready(opened)).toBe(1);
    expect(opened.log.warn).toHaveBeenCalledOnce();
  });

  it('are others when the image is another', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    await using opened = await open();
    const { engine } = opened;
    const [old] = engine.containers.keys();
    engine.before.inspectImage = () => {};
    const inspect = engine.inspectImage.bind(engine);
    engine.inspectImage = async (reference) => ({ ...(await inspect(reference)), id: 'sha256:new' });
    vi.advanceTimersByTime(1000);
    await settle(60);
    expect([engine.containers.has(old ?? ''), await ready(opened)]).toEqual([false, 1]);
    vi.useRealTimers();
  });

  it.each([
    [{ size: 1, memoryLimit: '99g' }, 'limit_exceeded'],
    [{ size: 1, user: 'root' }, 'validation_failed'],
    [{ size: 1, colour: 'red' }, 'validation_failed'],
    [
      {
        size: 1,
        network: { egress: { allow: ['a.test'] } },
        secrets: { KEY: { value: 'a secret', hosts: ['a.test'] } },
      },
      'validation_failed',
    ],
  ])('that can not be are refused at once: %j', (pool, code) => {
    const make = () => new SandboxManager({ engine: new FakeEngine(), pool });
    expect(make).toThrow(expect.objectContaining({ code }));
  });

  it.each([{ size: 0 }, { size: -1 }, []])('%j are none', async (pool) => {
    await using opened = await open({ pool });
    expect([opened.engine.containers.size, opened.engine.count('inspectImage')]).toEqual([0, 0]);
  });
});
