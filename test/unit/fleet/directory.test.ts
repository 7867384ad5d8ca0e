import { describe, expect, it } from 'vitest';

import { SandboxDirectory } from '../../../src/fleet/directory.js';
import { SandyardError } from '../../../src/errors.js';
import { containerName } from '../../../src/record/record.js';
import { claimOf, makeFleet, plant, recordOf, settle } from '../../fixtures/fake-fleet.js';

async function world({ opens }: { opens: boolean }) {
  const fleet = makeFleet();
  const { engine } = fleet;
  plant(engine, 'plain');
  plant(engine, 'warm', { pool: 'k' });
  plant(engine, 'discarded', { pool: 'k' });
  const claimed = plant(engine, 'claimed', { pool: 'k', claim: claimOf() });
  await engine.renameContainer(claimed.id, containerName('claimed'));
  plant(engine, 'late', { pool: 'k', claim: claimOf() }); // its name is to follow
  plant(engine, 'yours', { owner: 'you' });
  engine.plant({ name: 'postgres', labels: {} });
  engine.plant({
    name: 'sandyard-odd',
    labels: { 'sandyard.managed': '1', 'sandyard.owner': 'me', 'sandyard.id': 'odd' },
  });
  if (opens) await fleet.inventory.open();
  await settle();
  return { ...fleet, directory: new SandboxDirectory(fleet) };
}

describe.each([true, false])('with an inventory: %s', (opens) => {
  it.each(['plain', 'claimed', 'late'])('finds %s as what it is', async (id) => {
    const { directory } = await world({ opens });
    const found = await directory.find(id, {});
    expect(found).toMatchObject({ id, name: `sandyard-${id}`, warm: false });
    if (id !== 'plain') expect(found).toMatchObject({ env: { A: 'b' }, projectName: 'claimed', onExpiry: 'stop' });
  });

  it.each(['warm', 'yours', 'odd', 'postgres', '', '../plain', 'Plain', 'a'.repeat(65), 'none', 'pool-warm'])(
    'does not find %j',
    async (id) => {
      const { directory } = await world({ opens });
      await expect(directory.find(id, {})).rejects.toMatchObject({ code: 'sandbox_not_found' });
    },
  );

  it('finds one that gets its name between two looks', async () => {
    const { directory, engine } = await world({ opens });
    engine.before.inspectContainer = async (name) => {
      if (name === 'sandyard-pool-late') await engine.renameContainer(name, 'sandyard-late');
    };
    expect(await directory.find('late', {})).toMatchObject({ name: 'sandyard-late', projectName: 'claimed' });
  });

  it('has those that somebody has among all, as what they are', async () => {
    const { directory } = await world({ opens });
    const all = await directory.all({});
    const given = all.filter(({ warm }) => !warm).map(({ id, projectName }) => `${id} ${projectName}`);
    expect(given.toSorted()).toEqual(['claimed claimed', 'plain null']);
    expect(all).toHaveLength(5);
  });

  it('counts them by state', async () => {
    const { directory, engine } = await world({ opens });
    plant(engine, 'stopped', { state: 'exited' });
    plant(engine, 'new', { state: 'created', taken: false });
    await settle();
    const { sandboxes } = await directory.gauges();
    expect(sandboxes).toEqual({ created: 1, running: 2, paused: 0, exited: 1 });
  });
});

it('leaves out one that is gone, and tells of one that can not be read', async () => {
  const { directory, engine, log } = await world({ opens: false });
  engine.find('sandyard-claimed').warden.record.blob = Buffer.from('{');
  expect((await directory.all({})).find(({ id }) => id === 'claimed')).toMatchObject({ warm: true });
  expect(log.warn).toHaveBeenCalledOnce();
  engine.after.listContainers = () => engine.removeContainer('sandyard-claimed');
  expect((await directory.all({})).map(({ id }) => id)).not.toContain('claimed');
});

it('does not take an engine that fails for a sandbox that is missing', async () => {
  const { directory, engine } = await world({ opens: false });
  const error = new SandyardError('engine_unavailable', 'Gone.');
  engine.before.inspectContainer = () => {
    throw error;
  };
  await expect(directory.find('plain', {})).rejects.toBe(error);
});

it('asks the engine for nothing that is known, and for its names where it is not', async () => {
  const { directory, engine } = await world({ opens: true });
  const before = engine.calls.length;
  await directory.find('plain', {});
  await directory.all({});
  expect(engine.calls).toHaveLength(before);
  await directory.find('late', {}); // by its record alone
  expect(engine.calls.slice(before).map(({ method }) => method)).toEqual(['readContainerLink']);
  engine.calls.length = before;
  await directory.find('none', {}).catch(() => {});
  expect(engine.calls.slice(before).map(({ args }) => args[0])).toEqual([
    'sandyard-none',
    'sandyard-pool-none',
    'sandyard-none',
  ]);
});

it('counts what is promised to those that are there and not excepted', async () => {
  const { directory, engine, inventory } = await world({ opens: true });
  plant(engine, 'big', {
    traits: { limits: { memoryBytes: 100, cpus: 10, pids: 1000, nofile: 1, diskBytes: null, inodes: null } },
  });
  plant(engine, 'stopped', { state: 'exited' });
  await settle();
  expect(inventory.find('big')).toBeDefined();
  const all = { sandboxes: 3, memoryBytes: 102, cpus: 12, pids: 1002 };
  expect(directory.used(new Set(), { isOurs: (id) => id === 'big' })).toEqual({
    owner: all,
    manager: { sandboxes: 1, memoryBytes: 100, cpus: 10, pids: 1000 },
  });
  expect(directory.used(new Set(['big']), { isOurs: () => true }).owner).toMatchObject({
    sandboxes: 2,
    memoryBytes: 2,
  });
});

it('reads the use of those that there is a way to, and leaves out what does not answer', async () => {
  const { directory, engine, connections } = await world({ opens: true });
  const plain = engine.find('sandyard-plain');
  const { usage } = await directory.gauges();
  const options = { signal: new AbortController().signal };
  expect(await usage(options)).toEqual([]); // that a claim was read has opened none
  const held = connections.hold(recordOf(plain));
  await held.channel.open();
  held.release();
  const again = await directory.gauges();
  expect(await again.usage(options)).toEqual([{ id: 'plain', memoryBytes: 1000, cpuSeconds: 0.005 }]);
  plain.warden.intercept = (_frame, tunnel) => {
    tunnel.send(Buffer.from('nonsense, and more of it'));
    return true;
  };
  expect(await again.usage(options)).toEqual([]);
});
