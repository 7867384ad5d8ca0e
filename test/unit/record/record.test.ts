import * as fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';

import { KnownLeases } from '../../../src/record/leases.js';
import {
  claimedAs,
  containerName,
  decodeClaim,
  DISCARDED,
  encodeClaim,
  ownedBy,
  poolName,
  toLabels,
  toRecord,
  type Claim,
  type SandboxRecord,
  type SandboxTraits,
} from '../../../src/record/record.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';

const CREATED = new Date('2026-01-01T00:00:00.123Z');
/** By the engine's clock. */
const MADE = new Date('2026-01-01T01:00:00Z');
const TRAITS: SandboxTraits = {
  limits: { memoryBytes: 1024 ** 3, cpus: 0.5, pids: 64, nofile: 1024, diskBytes: null, inodes: null },
  disk: 'none',
  network: 'none',
  secrets: {},
  workdir: '/workspace/a "b"',
  user: '1000:1000',
  ttlMs: 60_000,
  idleTimeoutMs: 30_000,
  onExpiry: 'stop',
  wakeOnUse: true,
  runtime: 'runsc',
  profile: 'standard',
  metadata: { 'a key': 'ü\n"' },
};
const ABOUT = { id: 'abc', owner: 'me', projectName: 'My project', createdAt: CREATED, maxLifetimeMs: 3_600_000 };

afterEach(() => {
  vi.useRealTimers();
});

function container(labels = toLabels(TRAITS, ABOUT), name = 'sandyard-abc') {
  return { id: 'c1', name, image: 'x', state: 'running' as const, createdAt: MADE, labels };
}

describe('a record', () => {
  it('comes back from the labels whole', () => {
    const { projectName, ...about } = ABOUT;
    const engineFacts = { name: 'sandyard-abc', containerId: 'c1', image: 'x', state: 'running', agesFrom: MADE };
    const unasked = { tenant: null, pool: null, warm: false, env: {}, madeFor: null, quotaBytes: null };
    expect(toRecord(container())).toEqual({ ...TRAITS, ...about, projectName, ...engineFacts, ...unasked });
  });

  it('has no project name where none was given', () => {
    const labels = toLabels(TRAITS, { ...ABOUT, projectName: undefined });
    expect(toRecord(container(labels))?.projectName).toBeNull();
  });

  it('has what is usual where its labels are from before that was said', () => {
    const { runtime: _, onExpiry: __, wakeOnUse: ___, profile: ____, ...older } = TRAITS;
    const labels = { ...toLabels(TRAITS, ABOUT), 'sandyard.traits': JSON.stringify(older) };
    expect(toRecord(container(labels))).toMatchObject({
      runtime: null,
      profile: 'standard',
      onExpiry: 'destroy',
      wakeOnUse: false,
    });
  });

  it('ages by the clock of the engine, whatever its label says', () => {
    const labels = toLabels(TRAITS, { ...ABOUT, createdAt: new Date(0) });
    expect(toRecord(container(labels))).toMatchObject({ agesFrom: MADE, createdAt: new Date(0) });
  });

  it('says which request it was made for', () => {
    const madeFor = { key: 'k', content: 'c' };
    expect(toRecord(container(toLabels(TRAITS, { ...ABOUT, madeFor })))?.madeFor).toEqual(madeFor);
  });

  it('is of a warm one under either name', () => {
    const labels = toLabels(TRAITS, { ...ABOUT, pool: 'p' });
    for (const name of [poolName('abc'), containerName('abc')]) {
      expect(toRecord(container(labels, name))).toMatchObject({ id: 'abc', name, pool: 'p', warm: true });
    }
    expect(toRecord(container(toLabels(TRAITS, ABOUT), poolName('abc')))).toBeUndefined();
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
    ['an end that is none', { 'sandyard.traits': JSON.stringify({ ...TRAITS, onExpiry: 'explode' }) }],
    ['a request that is none', { 'sandyard.request': '[]' }],
  ])('is none with %s', (_, change) => {
    const labels = Object.entries({ ...toLabels(TRAITS, ABOUT), ...change }).filter(([, value]) => value !== undefined);
    expect(toRecord(container(Object.fromEntries(labels) as Record<string, string>))).toBeUndefined();
  });
});

const CLAIM: Claim = {
  limits: { ...TRAITS.limits, cpus: 2 },
  ttlMs: 5,
  idleTimeoutMs: null,
  onExpiry: 'pause',
  wakeOnUse: false,
  projectName: 'ünï',
  metadata: { a: 'b' },
  env: { SECRET: 'x"\n' },
  maxLifetimeMs: 7,
  createdAt: new Date(1),
  agesFrom: new Date(2),
  madeFor: { key: 'k', content: 'c' },
  tenant: 'alice',
  token: 'random',
};

describe('a claim', () => {
  it('comes back from a record whole', () => {
    expect(decodeClaim(encodeClaim(CLAIM) as Uint8Array)).toEqual(CLAIM);
  });

  it('is none in an empty record, and in that of one that nobody is to have', () => {
    expect(decodeClaim(new Uint8Array())).toBeUndefined();
    expect(decodeClaim(DISCARDED)).toBeUndefined();
  });

  it.each(['x', '{}', 'null', '"', JSON.stringify({ ...CLAIM, ttlMs: 'long' })])('is not made up of %j', (text) => {
    expect(() => decodeClaim(Buffer.from(text))).toThrow();
  });

  it('is refused when it is more than a warden keeps, in bytes', () => {
    const withEnv = (text: string) => encodeClaim({ ...CLAIM, env: { A: text } });
    const rest = (withEnv('') as Uint8Array).length;
    expect(withEnv('x'.repeat(32 * 1024 - rest))).toHaveLength(32 * 1024);
    expect(withEnv('x'.repeat(32 * 1024 - rest + 1))).toBeUndefined();
    expect(withEnv('é'.repeat(20_000))).toBeUndefined();
  });

  it('goes over what a warm sandbox was made as, and over nothing else', () => {
    const warm = toRecord(container(toLabels(TRAITS, { ...ABOUT, pool: 'p' }), poolName('abc'))) as SandboxRecord;
    const { token: _, ...claimed } = CLAIM;
    const expected = { ...warm, ...claimed, warm: false, name: 'sandyard-abc' };
    expect(claimedAs(warm, CLAIM)).toEqual(expected);
    expect(expected).toMatchObject({
      pool: 'p',
      workdir: TRAITS.workdir,
      runtime: 'runsc',
      profile: 'standard',
      id: 'abc',
      containerId: 'c1',
    });
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
