import { describe, expect, it } from 'vitest';

import { Random } from '../fixtures/many/random.js';
import { judge, QUANTITIES, type Quantity, type Sample } from '../soak/measures.js';

/** How many looks there are in three minutes, and in an hour. */
const SHORT = 11;
const LONG = 55;
/** As an hour of it had it: at each look, around how many, and how far from that. */
const USUAL = { timers: [52, 21], sockets: [33, 7], 'file descriptors': [52, 5] } as const;

/** Of a run that leaks `leak` of a quantity from its begin to its end. */
function look(looks: number, seed: number, leak: Partial<Record<Quantity, number>> = {}): Sample[] {
  const random = new Random(seed);
  const around = ([middle, spread]: readonly [number, number]) => middle + spread * (2 * random.next() - 1);
  return Array.from({ length: looks }, (_, at) => {
    const still = Object.keys(QUANTITIES).map((quantity) => [quantity, 100]);
    const moving = Object.entries(USUAL).map(([quantity, usual]) => [quantity, around(usual)]);
    const sample = Object.fromEntries([...still, ...moving]) as Record<Quantity, number>;
    for (const [quantity, all] of Object.entries(leak)) sample[quantity as Quantity] += (all * at) / (looks - 1);
    return sample;
  });
}

const grown = (samples: readonly Sample[]) =>
  judge(samples)
    .filter(({ flat }) => !flat)
    .map(({ quantity }) => quantity);

describe.each([SHORT, LONG])('%i looks', (looks) => {
  it('are flat where they differ by chance, but for one time in a hundred', () => {
    const runs = Array.from({ length: 1000 }, (_, seed) => grown(look(looks, seed)));
    expect(runs.filter((found) => found.length > 0).length).toBeLessThan(10);
  });
});

it.each<[looks: number, quantity: Quantity, leak: number]>([
  [LONG, 'sockets', 15],
  [LONG, 'timers', 40],
  [LONG, 'PID 1: file descriptors', 1],
  [SHORT, 'sockets', 40],
  [SHORT, 'timers', 100],
  [SHORT, 'functions', 1500],
  [SHORT, 'warnings', 2],
])('%i looks are not where %s grow by %i', (looks, quantity, leak) => {
  for (let seed = 0; seed < 200; seed += 1)
    expect(grown(look(looks, seed, { [quantity]: leak })), `seed ${seed}`).toContain(quantity);
});
