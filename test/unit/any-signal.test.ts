import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';

import { anySignal } from '../../src/any-signal.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

it('aborts at a time limit that nothing else refers to, also after garbage was collected', async () => {
  const longLived = new AbortController();
  const aborted = new Promise((resolve) => {
    const any = anySignal([longLived.signal, AbortSignal.timeout(100)]);
    any.addEventListener('abort', () => resolve((any.reason as Error).name), { once: true });
  });
  const collecting = setInterval(collect, 5);
  const late = new Promise((resolve) => {
    setTimeout(() => resolve('never'), 5000).unref();
  });
  try {
    expect(await Promise.race([aborted, late])).toBe('TimeoutError');
  } finally {
    clearInterval(collecting);
  }
});

it('aborts with any of them, for its reason, and is aborted at once where one is', () => {
  const [one, other] = [new AbortController(), new AbortController()];
  const any = anySignal([one.signal, other.signal]);
  expect(any.aborted).toBe(false);
  other.abort('because');
  expect([any.aborted, any.reason]).toEqual([true, 'because']);
  expect(anySignal([one.signal, other.signal]).reason).toBe('because');
});
