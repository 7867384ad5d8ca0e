import { afterEach, describe, expect, it, vi } from 'vitest';

import { isSandyardError } from '../../src/errors.js';
import type { LifecycleEvent } from '../../src/index.js';
import type { ManagerOptions } from '../../src/manager-options.js';
import { SandboxManager } from '../../src/manager.js';
import { FakeEngine } from '../fixtures/fake-engine.js';

const open: SandboxManager[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((manager) => manager.close()));
});

function managerOn(engine: FakeEngine, options: ManagerOptions = {}): SandboxManager {
  const manager = new SandboxManager({ engine, owner: 'me', reaper: false, ...options });
  open.push(manager);
  return manager;
}

async function refusalOf(manager: SandboxManager, id: string, tenant: string) {
  const error: unknown = await manager.get(id, { tenant }).catch((thrown: unknown) => thrown);
  if (!isSandyardError(error)) throw new Error(`${id} was found by ${tenant}.`);
  return error;
}

describe('the sandboxes of a tenant', () => {
  it("are found and listed by that tenant, by no other, and by who asks for all of the owner's", async () => {
    const manager = managerOn(new FakeEngine());
    const { id } = await manager.create({}, { tenant: 'alice' });
    const own = await manager.create();
    expect((await manager.get(id, { tenant: 'alice' })).id).toBe(id);
    expect((await manager.get(id)).id).toBe(id);
    expect((await manager.inspect(id)).tenant).toBe('alice');
    expect((await manager.inspect(own.id)).tenant).toBeNull();
    const listed = async (tenant?: string) =>
      (await manager.list({}, { tenant })).sandboxes.map((sandbox) => sandbox.id).toSorted();
    expect(await listed('alice')).toEqual([id]);
    expect(await listed('bob')).toEqual([]);
    expect(await listed('me')).toEqual([own.id]);
    expect(await listed()).toEqual([id, own.id].toSorted());
  });

  it('look to others as if they were not there; only the log can tell', async () => {
    const manager = managerOn(new FakeEngine());
    const { id } = await manager.create({}, { tenant: 'alice' });
    const [theirs, nobodys] = [await refusalOf(manager, id, 'bob'), await refusalOf(manager, 'x', 'bob')];
    expect(theirs.message.replace(id, 'x')).toBe(nobodys.message);
    expect(theirs).toMatchObject({ code: 'sandbox_not_found', hint: nobodys.hint, details: { refused: 'owner' } });
    expect(nobodys.details).toEqual({});
  });

  it.each(['', 'Alice', 'a b', '.a', 'x'.repeat(64)])('are of no tenant who is called %j', async (tenant) => {
    await expect(managerOn(new FakeEngine()).create({}, { tenant })).rejects.toMatchObject({
      code: 'validation_failed',
    });
  });

  it("are those of the tenant to whom a warm one was given, for another manager, too, by the sandbox's own record", async () => {
    const engine = new FakeEngine();
    const manager = managerOn(engine, { pool: { size: 1 } });
    await manager.open();
    await vi.waitFor(async () => expect((await manager.gauges()).pool.ready).toBe(1));
    const { id } = await manager.create({}, { tenant: 'alice' });
    const container = [...engine.containers.values()].find(({ spec }) => spec?.labels['sandyard.id'] === id);
    expect(container?.spec?.labels).toHaveProperty('sandyard.pool');
    expect(container?.spec?.labels).not.toHaveProperty('sandyard.tenant');
    const other = managerOn(engine);
    await other.open();
    for (const party of [manager, other]) {
      expect((await party.get(id, { tenant: 'alice' })).id).toBe(id);
      expect((await refusalOf(party, id, 'bob')).code).toBe('sandbox_not_found');
      expect((await party.list({}, { tenant: 'bob' })).sandboxes).toEqual([]);
    }
  });

  it('count for the ceiling of that tenant, and of no other, also while they are being made, warm ones, too', async () => {
    const engine = new FakeEngine();
    const none = { sandboxes: Infinity, memoryBytes: Infinity, cpus: Infinity, pids: Infinity };
    const ceilings = { owner: none, manager: none, tenant: { ...none, sandboxes: 2 } };
    const manager = managerOn(engine, { admission: { ceilings }, pool: { size: 3 } });
    await manager.open();
    await vi.waitFor(async () => expect((await manager.gauges()).pool.ready).toBe(3));
    const made = await Promise.allSettled([1, 2, 3, 4].map(() => manager.create({}, { tenant: 'alice' })));
    expect(made.filter(({ status }) => status === 'fulfilled')).toHaveLength(2);
    const refused = made.find((result) => result.status === 'rejected')?.reason as unknown;
    expect(refused).toMatchObject({
      code: 'over_capacity',
      hint: expect.stringContaining('SANDBOX_TENANT_MAX_SANDBOXES') as string,
      details: { ceiling: 'tenant.sandboxes', limit: 2, used: 2, wanted: 1 },
    });
    await Promise.all([manager.create({}, { tenant: 'bob' }), manager.create(), manager.create(), manager.create()]);
    const [first] = (await manager.list({}, { tenant: 'alice' })).sandboxes;
    await manager.destroy(first?.id ?? '');
    await manager.create({}, { tenant: 'alice' });
    const big = { memoryBytes: 512 * 1024 ** 2 };
    const small = managerOn(engine, {
      admission: { ceilings: { owner: none, manager: none, tenant: { ...none, ...big } } },
    });
    await expect(small.create({ memoryLimit: '1g' }, { tenant: 'carol' })).rejects.toMatchObject({
      code: 'limit_exceeded',
      hint: expect.stringContaining('SANDBOX_TENANT_MAX_MEMORY') as string,
    });
  });

  it('tell their events to that tenant only', async () => {
    const manager = managerOn(new FakeEngine());
    await manager.open();
    const [alices, bobs] = [manager.events({ tenant: 'alice' }), manager.events({ tenant: 'bob' })];
    const first = await manager.create({}, { tenant: 'alice' });
    const second = await manager.create({}, { tenant: 'bob' });
    await manager.destroy(first.id);
    const read = async (events: AsyncGenerator<LifecycleEvent>) => (await events.next()).value as LifecycleEvent;
    expect(await read(alices)).toMatchObject({ type: 'created', sandboxId: first.id, tenant: 'alice' });
    expect(await read(bobs)).toMatchObject({ type: 'created', sandboxId: second.id, tenant: 'bob' });
  });
});
