import { describe, expect, it } from 'vitest';

import { Endings, judgeEnding } from '../../../src/fleet/endings.js';
import type { InventoryChange } from '../../../src/fleet/inventory.js';
import { TRAITS } from '../../fixtures/fake-fleet.js';

describe('what a sandbox has died of', () => {
  it.each([
    ['runsc', 137, true, 'out_of_memory'],
    ['runsc', 137, false, 'killed'],
    ['runsc', 2, false, 'too_many_threads'],
    ['runsc', 90, false, 'lease_expired'],
    ['runsc', 143, false, 'stopped'],
    // There it tells of any command that was killed so, and the sandbox lived on.
    ['runc', 137, true, 'killed'],
    [null, 2, false, 'ended'],
    [null, 91, false, 'idle'],
    [null, 0, false, 'ended'],
  ] as const)('in %s, with the code %i and oomKilled %s, is %s', (runtime, exitCode, oomKilled, diedOf) => {
    expect(judgeEnding({ runtime, exitCode, oomKilled })).toBe(diedOf);
  });

  it('is told by what the engine has told before, once', () => {
    const endings = new Endings();
    const record = { ...TRAITS, id: 'a', runtime: 'runsc' } as unknown as InventoryChange['record'];
    const tell = (type: InventoryChange['type'], exitCode?: number) =>
      endings.reasonOf({ type, record, exitCode, found: false });
    tell('oom');
    expect(tell('stopped', 137)).toBe('out_of_memory');
    tell('started');
    expect(tell('stopped', 137)).toBe('killed');
    expect(tell('stopped', 143)).toBe('ended');
    expect(tell('stopped', 2)).toBe('too_many_threads');
  });
});
