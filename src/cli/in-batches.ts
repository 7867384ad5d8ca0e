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

/** The same, with what succeeded apart from what failed. */
export async function succeededAndFailed<Item, Result>(
  items: readonly Item[],
  body: (item: Item) => Promise<Result>,
): Promise<{ readonly succeeded: readonly Result[]; readonly faults: readonly unknown[] }> {
  const results = await inBatches(items, body);
  return {
    succeeded: results.filter((result) => result.status === 'fulfilled').map(({ value }) => value),
    faults: results.filter((result) => result.status === 'rejected').map(({ reason }): unknown => reason),
  };
}
