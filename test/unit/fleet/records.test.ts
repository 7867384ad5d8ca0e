import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest';

import { FrameType } from '../../../src/channel/wire.js';
import { SandyardError } from '../../../src/errors.js';
import { DISCARDED } from '../../../src/record/record.js';
import { claimOf, HOUR, makeFleet, plant, recordOf, settle, type Planted } from '../../fixtures/fake-fleet.js';
import { settleable } from '../../../src/settleable.js';
import { answer } from '../../fixtures/warden-wire.js';

afterEach(() => void vi.useRealTimers());

/** Nothing is to be waited for. */
const running = { after: Promise.resolve() };

function world(given: Planted = {}) {
  const fleet = makeFleet();
  const container = plant(fleet.engine, 'a', given);
  const refuse = (type: number, errno: number, before = () => {}) => {
    container.warden.intercept = (frame, tunnel) => {
      if (frame.type !== type) return false;
      before();
      tunnel.send(answer.error(frame.stream, { errno, stage: 0, text: 'no' }));
      return true;
    };
  };
  return { ...fleet, container, warden: container.warden, record: recordOf(container), refuse };
}

describe('what is asked', () => {
  it('is an error of ours whatever the warden says', async () => {
    const { records, record, refuse } = world();
    refuse(FrameType.recordSet, 28);
    await expect(records.renew(record, HOUR)).rejects.toMatchObject({ name: 'SandyardError', code: 'engine_error' });
    refuse(FrameType.recordSet, 62);
    await expect(records.renew(record, HOUR)).rejects.toMatchObject({ code: 'wrong_state' });
  });

  it('can be given up, and then holds nothing for ever', async () => {
    const { records, record, warden, connections } = world();
    warden.stall();
    const caller = new AbortController();
    const asked = records.renew(record, HOUR, caller.signal).catch((error: unknown) => error);
    await settle();
    caller.abort();
    expect(await asked).toMatchObject({ code: 'aborted' });
    warden.resume();
    await settle();
    connections.keepOnly(new Set());
    expect(connections.isOpen('a')).toBe(false);
  });

  it('wakes nobody', async () => {
    const { records, record, wake } = world({ traits: { wakeOnUse: true } });
    await expect(
      records.ask({ ...record, containerId: 'none' }, ({ channel }) => channel.usage()),
    ).rejects.toMatchObject({ code: 'sandbox_not_found' });
    const { records: others, record: stopped, wake: woken } = world({ state: 'exited' });
    await expect(others.ask(stopped, ({ channel }) => channel.usage())).rejects.toMatchObject({ code: 'wrong_state' });
    expect([wake.mock.calls.length, woken.mock.calls.length]).toEqual([0, 0]);
  });
});

describe('the lease', () => {
  it('is seen, and renewed', async () => {
    const { records, record, leases, warden } = world();
    vi.useFakeTimers({ toFake: ['Date'] });
    warden.record.leaseEndsAt = Date.now() + 5 * HOUR;
    await records.see(record);
    expect(leases.endOf(record).getTime()).toBe(Date.now() + 5 * HOUR);
    expect((await records.renew(record, HOUR)).getTime()).toBe(Date.now() + HOUR);
    expect(leases.endOf(record).getTime()).toBe(Date.now() + HOUR);
  });

  it.each(['wrong_state', 'sandbox_died', 'channel_failed', 'engine_error', 'engine_timeout'] as const)(
    'is as it was last seen where the way in fails with %s',
    async (code) => {
      const { records, record, engine, log } = world();
      engine.before.openTunnel = () => {
        throw new SandyardError(code, 'No.');
      };
      await records.see(record);
      expect(log.warn).toHaveBeenCalledOnce();
    },
    15_000,
  );

  it('that has ended is given anew, once, whoever asks', async () => {
    const { records, record, warden, leases } = world({ traits: { onExpiry: 'pause' } });
    warden.record.renewMs = 2 * HOUR;
    await records.revive(record, running);
    expect(warden.record.version).toBe(1n);
    warden.record.expire();
    await Promise.all([records.revive(record, running), records.revive(record, running)]);
    expect([warden.record.expired, warden.record.version]).toEqual([false, 2n]);
    expect(leases.endOf(record).getTime() - Date.now()).toBeGreaterThan(HOUR);
  });

  it('that is about to be given anew has not ended', async () => {
    const { records, record, warden } = world({ traits: { onExpiry: 'pause' } });
    warden.record.expire();
    const unpaused = settleable<void>();
    const revived = records.revive(record, { after: unpaused.promise });
    expect(await records.hasEnded(record)).toBe(false);
    unpaused.resolve(undefined);
    await revived;
    expect(await records.hasEnded(record)).toBe(false);
    warden.record.expire();
    expect(await records.hasEnded(record)).toBe(true);
  });

  it('has not ended by an answer from before it was given anew', async () => {
    const { records, record, warden } = world({ traits: { onExpiry: 'pause' } });
    warden.record.expire();
    const looked = records.hasEnded(record);
    const revived = records.revive(record, running);
    expect(await looked).toBe(false);
    await revived;
  });

  it('is not given to what ends all the same', async () => {
    const { records, record, warden, refuse } = world();
    warden.record.expire();
    refuse(FrameType.recordSet, 62);
    await expect(records.revive(record, running)).rejects.toMatchObject({ code: 'wrong_state' });
  });

  it('has ended, by what the sandbox says', async () => {
    const { records, record, warden } = world();
    expect(await records.hasEnded(record)).toBe(false);
    warden.record.expire();
    expect(await records.hasEnded(record)).toBe(true);
    warden.record.expired = false;
    warden.record.leaseEndsAt = undefined;
    expect(await records.hasEnded(record)).toBe(false);
  });

  it('of one that does not run is in its file', async () => {
    const { records, record, container, warden } = world({ state: 'paused' });
    warden.record.leaseEndsAt = 1_800_000_000_000;
    expect(await records.readLeaseEnd(record)).toEqual(new Date(1_800_000_000_000));
    container.files.set('/var/lib/sandyard/record', undefined);
    expect(await records.readLeaseEnd(record)).toBeUndefined();
    container.files.set('/var/lib/sandyard/record', 'rubbish');
    await expect(records.readLeaseEnd(record)).rejects.toMatchObject({ code: 'engine_error' });
    container.files.set('/var/lib/sandyard/record', Buffer.alloc(41 * 1024));
    await expect(records.readLeaseEnd(record)).rejects.toMatchObject({ code: 'engine_error' });
  });
});

it('is looked at without a way in, as it would be told', async () => {
  vi.useFakeTimers({ toFake: ['Date'] });
  const { records, record, warden, engine } = world({ pool: 'k' });
  warden.record.leaseEndsAt = Date.now() + HOUR;
  const looked = await records.look(record);
  expect(engine.count('openTunnel')).toBe(0);
  const told = await records.ask(record, ({ channel }) => channel.record());
  expect(looked).toMatchObject({ version: told.version, leaseLeftMs: HOUR, taken: told.taken, blob: told.blob });
  expect(told.leaseLeftMs).toBe(HOUR);
  warden.record.leaseEndsAt = Date.now() - HOUR;
  expect(await records.look({ ...record, state: 'paused' })).toMatchObject({ leaseLeftMs: 0 });
});

it('is asked for where a way in takes nothing of the engine', async () => {
  const { records, record, engine, sockets } = world({ pool: 'k' });
  const tunnel = await engine.openTunnel(record.containerId, []);
  vi.spyOn(sockets, 'connect').mockResolvedValueOnce(tunnel as never);
  onTestFinished(() => void vi.restoreAllMocks());
  await records.look(record);
  await records.look(record);
  expect([engine.count('readContainerLink'), engine.count('openTunnel')]).toEqual([0, 1]);
});

describe('a claim', () => {
  it.each(['running', 'exited', 'paused'] as const)('is read of one that is %s', async (state) => {
    const claim = claimOf({ env: { A: 'x'.repeat(30_000) } });
    const { records, record } = world({ state, pool: 'k', claim });
    expect(await records.readClaim(record)).toEqual(claim);
  });

  it('of one that runs is read without a way into it, unless there is one or it is too long', async () => {
    const [short, long] = [claimOf(), claimOf({ env: { A: 'x'.repeat(3000) } })];
    const { records, record, engine, warden } = world({ pool: 'k', claim: short });
    expect(await records.readClaim(record)).toEqual(short);
    expect([engine.count('readContainerLink'), engine.count('readContainerFile'), engine.count('openTunnel')]).toEqual([
      1, 0, 0,
    ]);
    warden.record.blob = Buffer.from(JSON.stringify(long));
    expect(await records.readClaim(record)).toEqual(long);
    expect(await records.readClaim(record)).toEqual(long);
    expect([engine.count('readContainerLink'), engine.count('readContainerFile'), engine.count('openTunnel')]).toEqual([
      2, 0, 1,
    ]);
  });

  it.each(['running', 'exited', 'paused'] as const)('is none, of one that is %s', async (state) => {
    const { records, record, warden, container } = world({ state, pool: 'k' });
    expect(await records.readClaim(record)).toBeUndefined();
    warden.record.blob = DISCARDED;
    expect(await records.readClaim(record)).toBeUndefined();
    container.files.set('/var/lib/sandyard/record', undefined);
    expect(await records.readClaim({ ...record, state: 'exited' })).toBeUndefined();
  });

  it.each(['exited', 'paused'] as const)('is read of one that is %s and was thought to run', async (state) => {
    const { records, record } = world({ state, pool: 'k', claim: claimOf() });
    expect(await records.readClaim({ ...record, state: 'running' })).toEqual(claimOf());
  });

  it.each(['{', 'null', '{}', '[]', JSON.stringify({ ...claimOf(), env: { A: 5 } }), '\u0000\u0001'])(
    'that is none counts as unknown, not as nothing: %j',
    async (blob) => {
      for (const state of ['running', 'exited'] as const) {
        const { records, record, warden } = world({ state, pool: 'k' });
        warden.record.blob = Buffer.from(blob);
        await expect(records.readClaim(record)).rejects.toMatchObject({ name: 'SandyardError', code: 'engine_error' });
      }
    },
  );
});

it.each([
  ['created', false, false],
  ['running', false, false],
  ['running', true, true],
  ['exited', false, false],
  ['exited', true, true],
  ['paused', true, true],
] as const)('one that is %s and had its lease set: %s, was given out: %s', async (state, taken, expected) => {
  const { records, record, engine } = world({ state, taken });
  expect(await records.isTaken(record)).toBe(expected);
  await engine.removeContainer('sandyard-a');
  expect(await records.isTaken(record)).toBe(false);
});
