import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { EngineClock } from '../../../src/record/engine-clock.js';
import { SandyardError } from '../../../src/errors.js';
import { SandboxSockets } from '../../../src/sandbox-sockets.js';
import { silentLog } from '../../../src/log.js';
import { findOrphans, removeOrphans } from '../../../src/fleet/orphans.js';
import { silentTelemetry } from '../../../src/telemetry.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';

const MINUTE = 60_000;
const NOW = Date.parse('2026-01-02T00:00:00Z');
const OLD = 11 * MINUTE;

const OURS = { 'sandyard.managed': '1', 'sandyard.owner': 'me' };
const WARDEN = { 'sandyard.warden': '1' };

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: NOW });
});
afterEach(() => {
  vi.useRealTimers();
});

function yard({ clockOffsetMs = 0 } = {}) {
  const engine = new FakeEngine();
  engine.clockOffsetMs = clockOffsetMs;
  engine.images.set('0123456789ab', WARDEN);
  const clock = new EngineClock();
  clock.see(engine.now());
  const counted: string[] = [];
  const telemetry = { ...silentTelemetry, reaped: (reason: string) => void counted.push(reason) };
  const put = (kind: 'volumes' | 'networks', name: string, labels: Record<string, string>, ageMs = OLD) =>
    engine[kind].set(name, { name, labels, createdAt: new Date(engine.now().getTime() - ageMs) });
  return {
    engine,
    counted,
    put,
    parts: { engine, clock, log: silentLog, telemetry, owner: 'me', sockets: SandboxSockets.none },
  };
}

it.each<[what: string, name: string, labels: Record<string, string>, ageMs: number, reason: string | undefined]>([
  ['of a warden whose image is gone', 'sandyard-warden-ffffffffffff', WARDEN, OLD, 'image_gone'],
  ['of a warden whose image is there', 'sandyard-warden-0123456789ab', WARDEN, OLD, undefined],
  ['of a warden, young', 'sandyard-warden-ffffffffffff', WARDEN, 9 * MINUTE, undefined],
  ['labelled as a warden, of another name', 'mine', WARDEN, OLD, undefined],
  ['named as a warden, without the label', 'sandyard-warden-ffffffffffff', {}, OLD, undefined],
  ['of a sandbox that is gone', 'v', { ...OURS, 'sandyard.id': 'gone' }, OLD, 'sandbox_gone'],
  ['of a sandbox that is gone, young', 'v', { ...OURS, 'sandyard.id': 'gone' }, 9 * MINUTE, undefined],
  ['of a sandbox that is there', 'v', { ...OURS, 'sandyard.id': 'abc' }, OLD, undefined],
  ['of none in particular', 'v', OURS, OLD, 'unused'],
  ["of another owner's", 'v', { ...OURS, 'sandyard.owner': 'you' }, OLD, undefined],
  ['without an owner', 'v', { 'sandyard.managed': '1' }, OLD, undefined],
  ['of somebody else', 'sandyard-data', {}, OLD, undefined],
  ['made in the future', 'v', OURS, -MINUTE, undefined],
])('a volume %s', async (_, name, labels, ageMs, reason) => {
  const { engine, put, parts, counted } = yard();
  engine.plant({ name: 'sandyard-abc', labels: { ...OURS, 'sandyard.id': 'abc' } });
  put('volumes', name, labels, ageMs);
  const orphan = { kind: 'volume', name, reason, removed: false };
  expect(await findOrphans(parts)).toEqual(reason === undefined ? [] : [orphan]);
  expect(await removeOrphans(parts, { dryRun: true })).toEqual(reason === undefined ? [] : [orphan]);
  expect(engine.volumes.size).toBe(1);
  expect(await removeOrphans(parts)).toEqual(reason === undefined ? [] : [{ ...orphan, removed: true }]);
  expect(engine.volumes.size).toBe(reason === undefined ? 1 : 0);
  expect(counted).toEqual(reason === undefined ? [] : [reason]);
});

it.each<[what: string, labels: Record<string, string>, ageMs: number, reason: string | undefined]>([
  ['of a sandbox that is gone', { ...OURS, 'sandyard.id': 'gone' }, OLD, 'sandbox_gone'],
  ['of a sandbox that is there', { ...OURS, 'sandyard.id': 'abc' }, OLD, undefined],
  ['that is young', { ...OURS, 'sandyard.id': 'gone' }, 9 * MINUTE, undefined],
  ["of another owner's", { ...OURS, 'sandyard.owner': 'you' }, OLD, undefined],
])('a network %s', async (_, labels, ageMs, reason) => {
  const { engine, put, parts } = yard();
  engine.plant({ name: 'sandyard-abc', state: 'exited', labels: { ...OURS, 'sandyard.id': 'abc' } });
  put('networks', 'n', labels, ageMs);
  const removed = [{ kind: 'network', name: 'n', reason, removed: true }];
  expect(await removeOrphans(parts)).toEqual(reason === undefined ? [] : removed);
  expect(engine.networks.size).toBe(reason === undefined ? 1 : 0);
});

it('what a container uses is left, and is no orphan', async () => {
  const { engine, put, parts, counted } = yard();
  put('volumes', 'sandyard-warden-ffffffffffff', WARDEN);
  put('networks', 'n', OURS);
  engine.removeVolume = engine.removeNetwork = () => Promise.resolve(false);
  expect(await removeOrphans(parts)).toEqual([]);
  expect(counted).toEqual([]);
  expect([engine.volumes.size, engine.networks.size]).toEqual([1, 1]);
});

it.each([
  ['ahead', 60 * MINUTE],
  ['behind', -60 * MINUTE],
])("ages by the engine's clock, which is an hour %s", async (_, clockOffsetMs) => {
  const { put, parts } = yard({ clockOffsetMs });
  put('volumes', 'old', OURS);
  put('volumes', 'young', OURS, 9 * MINUTE);
  vi.setSystemTime(NOW + 24 * 60 * MINUTE);
  expect((await findOrphans(parts)).map(({ name }) => name)).toEqual(['old']);
});

it('has the directories of sandboxes that are gone removed, but for a dry run', async () => {
  const { engine, parts } = yard();
  engine.plant({ name: 'sandyard-abc', labels: { ...OURS, 'sandyard.id': 'abc' } });
  const dataRoot = () => Promise.resolve('/var/lib/docker');
  const sockets = new SandboxSockets({ directory: 'none', dataRoot, owner: 'me', log: silentLog });
  const there: unknown[] = [];
  vi.spyOn(sockets, 'removeOrphans').mockImplementation(async (list) => void there.push(await list()));
  await removeOrphans({ ...parts, sockets }, { dryRun: true });
  expect(there).toEqual([]);
  await removeOrphans({ ...parts, sockets });
  expect(there).toEqual([new Set(['abc'])]);
});

it('has containers removed that were made for a moment and left, but for a dry run', async () => {
  const { engine, put, parts } = yard();
  const labels = { ...WARDEN, 'sandyard.temporary': '1' };
  const old = new Date(engine.now().getTime() - 6 * MINUTE);
  engine.plant({ name: 'left', state: 'created', labels, createdAt: old });
  engine.plant({ name: 'young', state: 'created', labels });
  engine.plant({ name: 'other', state: 'created', labels: WARDEN, createdAt: old });
  put('volumes', 'sandyard-warden-ffffffffffff', WARDEN);
  engine.removeVolume = () => Promise.resolve(!engine.containers.has('left')); // which uses it
  await removeOrphans(parts, { dryRun: true });
  expect([...engine.containers.keys()]).toEqual(['left', 'young', 'other']);
  expect(await removeOrphans(parts)).toMatchObject([{ kind: 'volume', removed: true }]);
  expect([...engine.containers.keys()]).toEqual(['young', 'other']);
});

it('goes on when one cannot be removed, and says why', async () => {
  const { engine, put, parts } = yard();
  put('volumes', 'bad', OURS);
  put('volumes', 'good', OURS);
  engine.before.removeVolume = (name) => {
    if (name === 'bad') throw new SandyardError('engine_error', 'Stuck.');
  };
  expect(await removeOrphans(parts)).toEqual([
    { kind: 'volume', name: 'bad', reason: 'unused', removed: false, error: 'Stuck.' },
    { kind: 'volume', name: 'good', reason: 'unused', removed: true },
  ]);
});

it('removes nothing where the engine cannot be asked about images or sandboxes', async () => {
  const { engine, put, parts } = yard();
  put('volumes', 'sandyard-warden-ffffffffffff', WARDEN);
  put('volumes', 'v', { ...OURS, 'sandyard.id': 'gone' });
  for (const method of ['inspectImage', 'listContainers'] as const) {
    engine.before = {
      [method]: () => {
        throw new SandyardError('engine_timeout', 'Too slow.');
      },
    };
    await expect(removeOrphans(parts)).rejects.toMatchObject({ code: 'engine_timeout' });
  }
  expect(engine.volumes.size).toBe(2);
});
