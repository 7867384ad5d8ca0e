import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import {
  containerName,
  LeaseStore,
  ownedBy,
  toLabels,
  toRecord,
  type SandboxRecord,
  type SandboxTraits,
} from '../../src/record.js';
import { FakeEngine } from '../fixtures/fake-engine.js';

const LEASE_FILE = '/var/lib/sandyard/lease.json';
const CREATED = new Date('2026-01-01T00:00:00.123Z');
const TRAITS: SandboxTraits = {
  limits: { memoryBytes: 1024 ** 3, cpus: 0.5, pids: 64, nofile: 1024 },
  network: 'none',
  workdir: '/workspace/a "b"',
  user: '1000:1000',
  ttlMs: 60_000,
  idleTimeoutMs: 30_000,
  metadata: { 'a key': 'ü\n"' },
};
const ABOUT = { id: 'abc', owner: 'me', projectName: 'My project', createdAt: CREATED, maxLifetimeMs: 3_600_000 };

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

describe('LeaseStore', () => {
  const initial = { expiresAt: new Date(CREATED.getTime() + TRAITS.ttlMs), lastActiveAt: CREATED };
  const renewed = { expiresAt: new Date('2026-02-01T00:00:00Z'), lastActiveAt: new Date('2026-01-02T00:00:00Z') };

  function stored() {
    const engine = new FakeEngine();
    const planted = engine.plant({ name: containerName('abc'), labels: toLabels(TRAITS, ABOUT) });
    return { engine, planted, record: toRecord(planted) as SandboxRecord };
  }

  it('begins with the lease of the creation', async () => {
    const { engine, record } = stored();
    const leases = new LeaseStore(engine);
    expect(leases.known(record)).toEqual(initial);
    expect(await leases.read(record)).toEqual(initial);
  });

  it('is read by another manager as it was written', async () => {
    const { engine, record } = stored();
    await new LeaseStore(engine).update(record, () => renewed);
    const other = new LeaseStore(engine);
    expect(other.known(record)).toEqual(initial);
    expect(await other.read(record)).toEqual(renewed);
    expect(other.known(record)).toEqual(renewed);
  });

  it('is in a file that only root can read or write', async () => {
    const { engine, planted, record } = stored();
    await new LeaseStore(engine).update(record, () => renewed);
    expect(planted.directories.get('/var/lib/sandyard')).toEqual({ uid: 0, gid: 0, mode: 0o700 });
    expect(planted.files.has(LEASE_FILE)).toBe(true);
  });

  it.each(['', '{', '{}', 'null', '{"expiresAt":"soon","lastActiveAt":"now"}'])(
    'is the lease of the creation where the file has %j',
    async (content) => {
      const { engine, planted, record } = stored();
      planted.files.set(LEASE_FILE, Buffer.from(content));
      expect(await new LeaseStore(engine).read(record)).toEqual(initial);
    },
  );

  it('knows a written lease only once it is written', async () => {
    const { engine, record } = stored();
    const leases = new LeaseStore(engine);
    engine.before.putArchive = () => Promise.reject(new Error('broken'));
    await expect(leases.update(record, () => renewed)).rejects.toThrow('broken');
    expect(leases.known(record)).toEqual(initial);
  });

  it('loses none of several changes at once', async () => {
    const { engine, record } = stored();
    const leases = new LeaseStore(engine);
    const later = (ms: number) => () =>
      leases.update(record, ({ expiresAt, lastActiveAt }) => ({
        expiresAt: new Date(expiresAt.getTime() + ms),
        lastActiveAt,
      }));
    await Promise.all([1, 10, 100].map((ms) => later(ms)()));
    expect(leases.known(record).expiresAt.getTime()).toBe(initial.expiresAt.getTime() + 111);
  });

  it('goes on after a change that failed', async () => {
    const { engine, record } = stored();
    const leases = new LeaseStore(engine);
    engine.before.putArchive = () => Promise.reject(new Error('broken'));
    const failed = leases.update(record, () => renewed);
    engine.after.readFile = () => (engine.before = {});
    const next = leases.update(record, () => renewed);
    await Promise.allSettled([failed, next]);
    await leases.update(record, () => renewed);
    expect(leases.known(record)).toEqual(renewed);
  });

  it('forgets what is gone', async () => {
    const { engine, record } = stored();
    const leases = new LeaseStore(engine);
    await leases.update(record, () => renewed);
    leases.keepOnly(new Set(['abc']));
    expect(leases.known(record)).toEqual(renewed);
    leases.keepOnly(new Set());
    expect(leases.known(record)).toEqual(initial);
  });
});
