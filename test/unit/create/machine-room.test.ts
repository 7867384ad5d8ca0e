import { afterEach, expect, it, vi } from 'vitest';

import { FrameType } from '../../../src/channel/wire.js';
import { MachineRoom } from '../../../src/create/machine-room.js';
import { makeFleet, plant, recordOf, settle, type Planted } from '../../fixtures/fake-fleet.js';

afterEach(() => void vi.useRealTimers());

const UNKNOWN = { memoryBytes: null, diskBytes: null };
const KNOWN = { memoryBytes: 64 * 2 ** 30, diskBytes: 100 * 2 ** 30 };

async function world(given: Planted = {}) {
  const fleet = makeFleet();
  const container = plant(fleet.engine, 'a', given);
  await fleet.inventory.open();
  const held = fleet.connections.hold(recordOf(container));
  if (container.state === 'running') await held.channel.open();
  held.release();
  return { ...fleet, container, room: new MachineRoom(fleet) };
}

it('is what a sandbox sees that there is a way to, for two seconds', async () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  const { room, container } = await world();
  expect(await room.read()).toEqual(KNOWN);
  container.warden.usage.machineAvailable = 1n;
  vi.advanceTimersByTime(1999);
  expect(await room.read()).toEqual(KNOWN);
  vi.advanceTimersByTime(1);
  expect(await room.read()).toEqual({ ...KNOWN, memoryBytes: 1 });
  expect(container.warden.count('usage')).toBe(2);
});

it.each<[string, Planted]>([
  ['sees its own memory only', { traits: { runtime: 'runsc' } }],
  ['does not run', { state: 'exited' }],
])('is unknown where the only sandbox %s', async (_, given) => {
  const { room } = await world(given);
  expect(await room.read()).toEqual(UNKNOWN);
});

it('opens no way for it', async () => {
  const { room, container, connections, engine } = await world();
  connections.destroyed('a');
  await settle();
  const before = engine.count('openTunnel');
  expect(await room.read()).toEqual(UNKNOWN);
  expect([engine.count('openTunnel'), container.warden.count('usage')]).toEqual([before, 0]);
});

it('is not waited for for long, and holds nothing then', async () => {
  const { room, container } = await world();
  container.warden.intercept = ({ type }) => type === FrameType.usage;
  const began = performance.now();
  expect(await room.read()).toEqual(UNKNOWN);
  expect(performance.now() - began).toBeLessThan(1000);
  container.warden.intercept = undefined;
});

it('is unknown when the sandbox talks nonsense', async () => {
  const { room, container } = await world();
  container.warden.intercept = ({ type }, tunnel) => {
    if (type === FrameType.usage) tunnel.send(Buffer.from('nonsense, and more of it'));
    return type === FrameType.usage;
  };
  expect(await room.read()).toEqual(UNKNOWN);
});
