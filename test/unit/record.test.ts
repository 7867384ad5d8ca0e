import * as fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';

import { KnownLeases, ownedBy, toLabels, toRecord, type SandboxRecord, type SandboxTraits } from '../../src/record.js';
import { FakeEngine } from '../fixtures/fake-engine.js';

const CREATED = new Date('2026-01-01T00:00:00.123Z');
const TRAITS: SandboxTraits = {
  limits: { memoryBytes: 1024 ** 3, cpus: 0.5, pids: 64, nofile: 1024 },
  network: 'none',
  workdir: '/workspace/a "b"',
  user: '1000:1000',
  ttlMs: 60_000,
  idleTimeoutMs: 30_000,
  runtime: 'runsc',
  metadata: { 'a key': 'ü\n"' },
};
const ABOUT = { id: 'abc', owner: 'me', projectName: 'My project', createdAt: CREATED, maxLifetimeMs: 3_600_000 };

afterEach(() => {
  vi.useRealTimers();
});

function container(labels = toLabels(TRAITS, ABOUT), name = 'sandyard-abc') {
  return { id: 'c1', name, image: 'x', state: 'running' as const, labels };
}

describe('a record', () => {
  it('comes back from the labels whole', () => {
    const { projectName, ...about } = ABOUT;
    const engineFacts = { name: 'sandyard-abc', containerId: 'c1', image: 'x', state: 'running' };
    expect(toRecord(container())).toEqual({ ...TRAITS, ...about, projectName, ...engineFacts });
  });

  it('has no project name where none was given', () => {
    const labels = toLabels(TRAITS, { ...ABOUT, projectName: undefined });
    expect(toRecord(container(labels))?.projectName).toBeNull();
  });

  it('has no runtime where its labels are from before there was one', () => {
    const { runtime: _, ...older } = TRAITS;
    const labels = { ...toLabels(TRAITS, ABOUT), 'sandyard.traits': JSON.stringify(older) };
    expect(toRecord(container(labels))?.runtime).toBeNull();
  });

  it('comes back whatever the metadata', () => {
    const metadata = fc.dictionary(
      fc.string({ minLength: 1 }).filter((key) => key !== '__proto__'),
      fc.string(),
    );
    fc.assert(
      fc.property(metadata, (metadata) => {
        const record = toRecord(container(toLabels({ ...TRAITS, metadata }, ABOUT)));
        expect(record?.metadata).toEqual({ ...metadata });
      }),
    );
  });

  it('is found by the filters of its owner', async () => {
    const engine = new FakeEngine();
    engine.plant({ name: 'sandyard-abc', labels: toLabels(TRAITS, ABOUT) });
    expect(await engine.listContainers(ownedBy('me'))).toHaveLength(1);
    expect(await engine.listContainers(ownedBy('m'))).toHaveLength(0);
  });

  it.each<[string, Record<string, string | undefined>]>([
    ['no labels', Object.fromEntries(Object.keys(toLabels(TRAITS, ABOUT)).map((name) => [name, undefined]))],
    ['no mark', { 'sandyard.managed': undefined }],
    ['another mark', { 'sandyard.managed': 'no' }],
    ['no owner', { 'sandyard.owner': undefined }],
    ['another id than its name', { 'sandyard.id': 'abd' }],
    ['a time that is none', { 'sandyard.created-at': 'yesterday' }],
    ['a lifetime that is none', { 'sandyard.max-lifetime': 'long' }],
    ['an empty lifetime', { 'sandyard.max-lifetime': '' }],
    ['traits that are no JSON', { 'sandyard.traits': '{' }],
    ['traits with something missing', { 'sandyard.traits': '{}' }],
  ])('is none with %s', (_, change) => {
    const labels = Object.entries({ ...toLabels(TRAITS, ABOUT), ...change }).filter(([, value]) => value !== undefined);
    expect(toRecord(container(Object.fromEntries(labels) as Record<string, string>))).toBeUndefined();
  });
});

describe('KnownLeases', () => {
  const record = toRecord(container()) as SandboxRecord;
  const initial = new Date(CREATED.getTime() + TRAITS.ttlMs);

  it('begin with the lease of the creation', () => {
    expect(new KnownLeases().endOf(record)).toEqual(initial);
  });

  it('are as they were last seen', () => {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.parse('2026-02-01T00:00:00Z') });
    const leases = new KnownLeases();
    const expected = new Date('2026-02-01T00:00:05Z');
    leases.see(record, 5000);
    expect(leases.endOf(record)).toEqual(expected);
    vi.setSystemTime(Date.parse('2026-02-01T00:00:01Z'));
    expect(leases.endOf(record)).toEqual(expected);
    leases.see(record, 4000 + 900); // the same, but for what the answer took
    expect(leases.endOf(record)).toEqual(expected);
    leases.see(record, 4000 + 1000);
    expect(leases.endOf(record)).toEqual(new Date('2026-02-01T00:00:06Z'));
    expect(leases.renew('abc', 5001)).toEqual(new Date('2026-02-01T00:00:06.001Z'));
    expect(leases.endOf(record)).toEqual(new Date('2026-02-01T00:00:06.001Z'));
  });

  it('forget what is gone', () => {
    const leases = new KnownLeases();
    leases.renew('abc', 5000);
    leases.keepOnly(new Set(['abc']));
    expect(leases.endOf(record)).not.toEqual(initial);
    leases.keepOnly(new Set());
    expect(leases.endOf(record)).toEqual(initial);
    leases.renew('abc', 5000);
    leases.forget('abc');
    expect(leases.endOf(record)).toEqual(initial);
  });
});
