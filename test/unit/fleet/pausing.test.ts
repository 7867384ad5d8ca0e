import { describe, expect, it } from 'vitest';

import { SandboxConnections } from '../../../src/connections.js';
import { LifecycleEvents } from '../../../src/fleet/lifecycle.js';
import { Pausing } from '../../../src/fleet/pausing.js';
import { Records } from '../../../src/fleet/records.js';
import { settleable } from '../../../src/settleable.js';
import { HOUR, makeFleet, plant, recordOf, settle, type Planted } from '../../fixtures/fake-fleet.js';

function world({ ours = true, ...given }: Planted & { ours?: boolean } = {}) {
  const fleet = makeFleet();
  const { engine, leases } = fleet;
  const connections = new SandboxConnections(engine);
  const records = new Records({ ...fleet, connections });
  const pausing = new Pausing({ ...fleet, records, lifecycle: new LifecycleEvents(), isOurs: () => ours });
  const container = plant(engine, 'a', { ...given, traits: { onExpiry: 'pause', ...given.traits } });
  return { engine, leases, pausing, container, record: recordOf(container) };
}

describe('pause', () => {
  it('waits until the way into it is open', async () => {
    const { engine, pausing, record, container } = world();
    const opening = settleable<void>();
    engine.before.openTunnel = () => opening.promise;
    const paused = pausing.pause(record);
    await settle();
    expect(container.state).toBe('running');
    opening.resolve(undefined);
    await paused;
    expect(container.state).toBe('paused');
  });

  it('pauses one that can not be talked to', async () => {
    const { engine, pausing, record, container } = world();
    engine.before.openTunnel = () => {
      throw new Error('no way');
    };
    await pausing.pause(record);
    expect(container.state).toBe('paused');
  });
});

describe('at the end of a lease', () => {
  it.each([
    ['its own, at once', true, -1, {}, true],
    ['its own, not before', true, 1000, {}, false],
    ["others', not at once", false, -14_000, {}, false],
    ["others', when whoever made them hasn't", false, -16_000, {}, true],
    ["others' that are idle, at once", false, 1000, { idleTimeoutMs: 5000 }, true],
  ])('it pauses %s', async (_, ours, leftMs, traits, paused) => {
    const { pausing, record, container, leases } = world({ ours, traits });
    leases.see(record, leftMs);
    if (leftMs < 0 || paused) container.warden.record.expire();
    expect(await pausing.pauseExpired(record)).toBe(paused);
    expect(container.state).toBe(paused ? 'paused' : 'running');
  });

  it('leaves one that somebody else has renewed', async () => {
    const { engine, pausing, record, container, leases } = world();
    leases.see(record, -1);
    expect(await pausing.pauseExpired(record)).toBe(false);
    expect(container.state).toBe('running');
    expect(leases.endOf(record).getTime()).toBeGreaterThan(Date.now() + HOUR / 2);
    expect(engine.count('pauseContainer')).toBe(0);
  });
});
