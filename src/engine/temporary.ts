import type { CallOptions, Engine } from './engine.js';

/**
 * Of containers that are made for a moment only: to try whether an engine can do something, or to have it fill a volume. They
 * have no label of a sandbox, so that no manager takes one for that.
 */
export const TEMPORARY_LABEL = 'sandyard.temporary';

/** So long after it was made nobody is at it any more. */
const LEFT_OVER_MS = 5 * 60_000;

/** Removes those of managers that were killed meanwhile, whosever they were. */
export async function removeOldTemporary(engine: Engine, { signal }: CallOptions = {}): Promise<void> {
  const there = await engine.listContainers([`${TEMPORARY_LABEL}=1`], { signal });
  if (there.length === 0) return;
  const { systemTime } = await engine.info({ signal });
  const old = there.filter(({ createdAt }) => systemTime.getTime() - createdAt.getTime() > LEFT_OVER_MS);
  await Promise.all(old.map(({ id }) => engine.removeContainer(id, { signal }).catch(() => {})));
}
