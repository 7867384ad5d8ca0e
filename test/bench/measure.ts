/** The two ways of doing the same thing. Each returns what it measured: milliseconds, or a rate. */
export interface Pair {
  readonly ours: () => Promise<number>;
  readonly byHand: () => Promise<number>;
  /** How many calls each of them makes, where that isn't one. */
  readonly callsPerSample?: { readonly ours: number; readonly byHand: number };
}

export interface Samples {
  readonly ours: number[];
  readonly byHand: number[];
  /** What they are of. */
  readonly pair?: Pair;
}

export interface Rounds {
  readonly rounds: number;
  /** How many rounds before them don't count. */
  readonly warmUps?: number;
  /** How often ours is run before all that, alone: what is compiled as it runs is to be compiled by then. */
  readonly warmUpCalls?: number;
  /** How many samples of ours are taken for each by hand, where it is so quick that what went before shows in one. */
  readonly oursPerRound?: number;
}

/**
 * Measures both by turns, each one first in half of the rounds: load from elsewhere on the machine then falls on both
 * alike.
 */
export async function interleave(pair: Pair, options: Rounds): Promise<Samples> {
  const { rounds, warmUps = 1, warmUpCalls = 0, oursPerRound = 1 } = options;
  const times = { ours: oursPerRound, byHand: 1 };
  const samples = { ours: [] as number[], byHand: [] as number[], pair };
  for (let call = 0; call < warmUpCalls; call += 1) await pair.ours();
  for (let round = -warmUps; round < rounds; round += 1) {
    const order = round % 2 === 0 ? (['ours', 'byHand'] as const) : (['byHand', 'ours'] as const);
    for (const way of order) {
      for (let time = 0; time < times[way]; time += 1) {
        const value = await pair[way]();
        if (round >= 0) samples[way].push(value);
      }
    }
  }
  return samples;
}

/** How long `work` takes, in milliseconds. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** Runs `work` `total` times, `atOnce` at a time, and returns how many were done per second. */
export async function throughput(
  work: (index: number) => Promise<unknown>,
  { total, atOnce }: { total: number; atOnce: number },
): Promise<number> {
  let next = 0;
  const worker = async () => {
    while (next < total) {
      const index = next;
      next += 1;
      await work(index);
    }
  };
  const ms = await timed(() => Promise.all(Array.from({ length: atOnce }, worker)));
  return (total * 1000) / ms;
}

/** Reads to the end and returns how many bytes there were. */
export async function drain(source: AsyncIterable<Uint8Array>): Promise<number> {
  let bytes = 0;
  for await (const chunk of source) bytes += chunk.byteLength;
  return bytes;
}

export function percentile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * part;
  const below = sorted[Math.floor(at)] ?? Number.NaN;
  const above = sorted[Math.ceil(at)] ?? Number.NaN;
  return below + (above - below) * (at - Math.floor(at));
}

/** Of two sides that can't be run any more, as what they need is gone by then. */
export function withoutPair({ ours, byHand }: Samples): Samples {
  return { ours, byHand };
}
