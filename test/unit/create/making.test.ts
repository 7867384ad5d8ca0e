import { describe, expect, it, vi } from 'vitest';

import type { ManagerOptions } from '../../../src/manager-options.js';
import { SandboxManager } from '../../../src/manager.js';
import { settleable } from '../../../src/settleable.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';
import { claimOf, plant, settle } from '../../fixtures/fake-fleet.js';

const NONE = { sandboxes: Infinity, memoryBytes: Infinity, cpus: Infinity, pids: Infinity };
const FOR = { key: 'key', content: 'content' };

async function open({ engine = new FakeEngine(), ...options }: ManagerOptions & { engine?: FakeEngine } = {}) {
  const manager = new SandboxManager({ engine, owner: 'me', reaper: false, pool: [], ...options });
  await manager.open();
  await settle();
  return { engine, manager, [Symbol.asyncDispose]: () => manager.close() };
}

describe('a request that is repeated', () => {
  it.each(['cold', 'warm'])('gets the same sandbox, also when it comes twice at once: %s', async (how) => {
    await using opened = await open({ pool: { size: how === 'warm' ? 3 : 0 } });
    const { manager } = opened;
    const made = await Promise.all([1, 2, 3].map(() => manager.create({}, { madeFor: FOR })));
    made.push(await manager.create({}, { madeFor: FOR }));
    expect(new Set(made.map(({ id }) => id)).size).toBe(1);
    expect((await manager.list()).sandboxes).toHaveLength(1);
  });

  it.each([
    ['cold', true],
    ['warm', true],
    ['cold', false],
    ['warm', false],
  ])('gets it from another manager: %s, opened: %s', async (how, opens) => {
    const engine = new FakeEngine();
    await using opened = await open({ engine, pool: { size: how === 'warm' ? 1 : 0 } });
    const { id } = await opened.manager.create({}, { madeFor: FOR });
    await settle();
    await using other = new SandboxManager({ engine, owner: 'me', reaper: false, pool: [] });
    if (opens) await other.open();
    expect((await other.create({}, { madeFor: FOR })).id).toBe(id);
    await expect(other.create({}, { madeFor: { ...FOR, content: 'x' } })).rejects.toMatchObject({
      code: 'idempotency_mismatch',
    });
    expect((await other.create({}, { madeFor: { ...FOR, key: 'x' } })).id).not.toBe(id);
  });

  it('gets a warm one that was claimed for it by a manager that died before it could rename it', async () => {
    const engine = new FakeEngine();
    plant(engine, 'free', { pool: 'k' });
    const container = plant(engine, 'claimed', { pool: 'k', claim: claimOf({ madeFor: FOR }) });
    await using opened = await open({ engine });
    expect((await opened.manager.create({}, { madeFor: FOR })).id).toBe('claimed');
    expect(engine.find(container.id).name).toBe('sandyard-claimed');
  });

  it.each<[runtime: string | null, pids: number]>([
    [null, 64],
    ['runsc', 2048], // the engine counts its own threads
  ])(
    'gets it with the limits it was claimed with, by whoever died before it could set them: runtime %s',
    async (runtime, pids) => {
      const engine = new FakeEngine();
      const limits = { memoryBytes: 2 ** 28, cpus: 2, pids: 64, nofile: 4096, diskBytes: null, inodes: null };
      const claim = claimOf({ madeFor: FOR, limits });
      const container = plant(engine, 'claimed', { pool: 'k', claim, traits: { runtime } });
      await using opened = await open({ engine });
      await opened.manager.create({}, { madeFor: FOR });
      const updates = engine.calls.filter(({ method }) => method === 'updateContainer');
      expect(updates.map(({ args }) => args.slice(0, 2))).toEqual([[container.id, { ...limits, pids }]]);
    },
  );

  it('with other content is refused while the first is under way', async () => {
    await using opened = await open();
    const first = opened.manager.create({}, { madeFor: FOR });
    const other = opened.manager.create({}, { madeFor: { ...FOR, content: 'x' } });
    await expect(other).rejects.toMatchObject({ code: 'idempotency_mismatch' });
    await first;
  });

  it.each(['created', 'running', 'exited', 'paused'] as const)(
    'makes a new one where one was left half-made, and is %s',
    async (state) => {
      const engine = new FakeEngine();
      plant(engine, 'half', { state, madeFor: FOR, taken: false });
      await using opened = await open({ engine });
      expect((await opened.manager.create({}, { madeFor: FOR })).id).not.toBe('half');
    },
  );

  it.each(['running', 'exited', 'paused'] as const)('gets one that was given out and is %s', async (state) => {
    const engine = new FakeEngine();
    plant(engine, 'half', { state: 'created', madeFor: FOR, taken: false });
    plant(engine, 'given', { state, madeFor: FOR });
    await using opened = await open({ engine });
    expect((await opened.manager.create({}, { madeFor: FOR })).id).toBe('given');
  });

  it('goes on when whoever began it gives up, and may be given up itself', async () => {
    await using opened = await open();
    const { manager, engine } = opened;
    const [first, third] = [new AbortController(), new AbortController()];
    const started = settleable<void>();
    engine.before.startContainer = () => started.promise;
    const one = manager.create({}, { madeFor: FOR, signal: first.signal }).catch((error: unknown) => error);
    const two = manager.create({}, { madeFor: FOR });
    const three = manager.create({}, { madeFor: FOR, signal: third.signal }).catch((error: unknown) => error);
    await settle();
    third.abort();
    expect(await three).toMatchObject({ code: 'aborted' });
    first.abort();
    started.resolve(undefined);
    expect(await one).toMatchObject({ code: 'aborted' });
    const { id } = await two;
    expect([...engine.containers.keys()]).toEqual([`sandyard-${id}`]);
  });

  it('is not one for another owner', async () => {
    const engine = new FakeEngine();
    plant(engine, 'a', { owner: 'you', madeFor: FOR });
    await using opened = await open({ engine });
    expect((await opened.manager.create({}, { madeFor: FOR })).id).not.toBe('a');
  });

  it('may come again when it has failed', async () => {
    await using opened = await open();
    opened.engine.images.clear();
    await expect(opened.manager.create({}, { madeFor: FOR })).rejects.toMatchObject({ code: 'image_not_found' });
    opened.engine.images.set('sandyard-sandbox:latest', { 'sandyard.warden': '1' });
    await opened.manager.create({}, { madeFor: FOR });
  });
});

describe('ceilings', () => {
  it.each([
    ['owner', 0],
    ['owner', 9],
    ['manager', 0],
    ['manager', 9],
  ] as const)('of the %s are never passed nor refused too early, with %d warm ones', async (scope, size) => {
    const ceilings = { owner: NONE, manager: NONE, [scope]: { ...NONE, sandboxes: 5 } };
    const admission = { ceilings, atOnce: 3 };
    await using opened = await open({ pool: { size }, admission });
    const { manager } = opened;
    for (let one = 0; one < 10; one += 1) await settle();
    let [given, refused] = [0, 0];
    const creating = Array.from({ length: 9 }, async (_, at) => {
      for (let turn = 0; turn < at * 2; turn += 1) await Promise.resolve();
      await manager.create().then(
        () => (given += 1),
        (error: unknown) => {
          expect(error).toMatchObject({ code: 'over_capacity' });
          refused += 1;
        },
      );
    });
    await Promise.all(creating);
    expect([given, refused]).toEqual([5, 4]);
    const [{ id } = { id: '' }] = (await manager.list()).sandboxes;
    await manager.destroy(id);
    await manager.create();
    await expect(manager.create()).rejects.toMatchObject({ code: 'over_capacity' });
  });
});

it('tells how it went', async () => {
  const create = vi.fn();
  const rejected = vi.fn();
  const telemetry = { create, rejected, claim: vi.fn(), event: vi.fn(), reaped: vi.fn() } as never;
  const ceilings = { owner: { ...NONE, sandboxes: 2 }, manager: NONE };
  await using opened = await open({ pool: { size: 1 }, telemetry, admission: { ceilings } });
  const { manager } = opened;
  await manager.create();
  await manager.create({ labels: { a: 'b' } });
  await manager.create().catch(() => {});
  await manager.create({}, { signal: AbortSignal.abort() }).catch(() => {});
  const told = create.mock.calls.map(([{ source, status }]) => `${source} ${status}`);
  expect(told).toEqual(['warm ok', 'cold ok', 'warm error', 'warm error']);
  expect(rejected.mock.calls).toEqual([['owner.sandboxes'], ['owner.sandboxes']]);
});
