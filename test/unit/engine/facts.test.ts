import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { EngineFacts } from '../../../src/engine/facts.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';

beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }));
afterEach(() => void vi.useRealTimers());

it('are asked for once a minute, and whenever they are wanted anew', async () => {
  const engine = new FakeEngine();
  const facts = new EngineFacts(engine);
  const asks = async (how: 'read' | 'readAnew') => {
    const before = engine.count('info');
    await facts[how]();
    return engine.count('info') - before;
  };
  expect([await asks('read'), await asks('read'), await asks('readAnew')]).toEqual([1, 0, 1]);
  vi.advanceTimersByTime(59_999);
  expect(await asks('read')).toBe(0);
  vi.advanceTimersByTime(1);
  expect(await asks('read')).toBe(1);
});

it('are asked for again after the engine could not say', async () => {
  const engine = new FakeEngine();
  const facts = new EngineFacts(engine);
  engine.before.info = () => {
    throw new Error('no engine');
  };
  await expect(facts.read()).rejects.toThrow('no engine');
  delete engine.before.info;
  expect((await facts.read()).version).toBeDefined();
});
