/** How much is asked of the engine at once. */
const BATCH = 16;

/** Does it for each, some at once, and gives the results in order: a value, or what it failed with. */
export async function inBatches<Item, Result>(
  items: readonly Item[],
  body: (item: Item) => Promise<Result>,
): Promise<PromiseSettledResult<Result>[]> {
  const results: PromiseSettledResult<Result>[] = [];
  for (let at = 0; at < items.length; at += BATCH) {
    results.push(...(await Promise.allSettled(items.slice(at, at + BATCH).map(body))));
  }
  return results;
}
