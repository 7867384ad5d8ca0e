import * as fc from 'fast-check';
import { expect, it } from 'vitest';

import { listPage } from '../../../src/fleet/listing.js';
import type { SandboxRecord } from '../../../src/record/record.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';
import { plant, recordOf } from '../../fixtures/fake-fleet.js';

const some = fc.array(
  fc.record({
    id: fc.stringMatching(/^[a-z0-9]{1,4}$/),
    warm: fc.boolean(),
    state: fc.constantFrom('created', 'running', 'paused', 'exited'),
    projectName: fc.constantFrom(null, 'p', 'q'),
    createdAt: fc.integer({ min: 0, max: 3 }).map((ms) => new Date(1_800_000_000_000 + ms)),
  }),
  { maxLength: 30 },
);

it('gives each of those that somebody has once, the newest first, however many at a time', () => {
  fc.assert(
    fc.property(
      some,
      fc.integer({ min: 1, max: 7 }),
      fc.constantFrom({}, { state: 'running' as const }, { projectName: 'p' }),
      (found, limit, filter) => {
        const all = [...new Map(found.map((one) => [one.id, one])).values()] as unknown as SandboxRecord[];
        const seen: SandboxRecord[] = [];
        let cursor: string | undefined;
        do {
          const page = listPage(all, { limit, ...filter, ...(cursor === undefined ? {} : { cursor }) });
          expect(page.records.length).toBeLessThanOrEqual(limit);
          seen.push(...page.records);
          cursor = page.cursor ?? undefined;
        } while (cursor !== undefined);
        const wanted = all.filter(
          (one) => !one.warm && Object.entries(filter).every(([key, value]) => one[key as 'state'] === value),
        );
        expect(seen.map(({ id }) => id).toSorted()).toEqual(wanted.map(({ id }) => id).toSorted());
        const times = seen.map(({ createdAt }) => createdAt.getTime());
        expect(times).toEqual(times.toSorted((a, b) => b - a));
      },
    ),
  );
});

it('has a hundred at most unless told otherwise', () => {
  const all = Array.from({ length: 101 }, (_, at) => ({
    id: `s${at}`,
    warm: false,
    createdAt: new Date(at),
  })) as SandboxRecord[];
  const page = listPage(all, {});
  expect([page.records.length, page.cursor === null]).toEqual([100, false]);
  expect(listPage(all.slice(1), {}).cursor).toBeNull();
});

it.each(['', 'x', 'bm8', Buffer.from('2026-01-01T00:00:00.000Z ../x').toString('base64url')])(
  'refuses the cursor %j',
  (cursor) => {
    expect(() => listPage([], { cursor })).toThrow(expect.objectContaining({ code: 'validation_failed' }));
  },
);

it('goes on where it ended though the one that it ended with is gone', () => {
  const engine = new FakeEngine();
  const all = ['a', 'b', 'c'].map((id, at) => ({ ...recordOf(plant(engine, id)), createdAt: new Date(at) }));
  const { cursor } = listPage(all, { limit: 2 });
  expect(listPage(all.slice(0, 1), { cursor: cursor ?? '' }).records.map(({ id }) => id)).toEqual(['a']);
});
