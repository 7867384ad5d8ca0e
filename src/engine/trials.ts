import type { CallOptions, Engine } from './engine.js';

/** What is made only to try whether an engine can do it. It has no label of a sandbox, so that no manager takes it for one. */
export const TRIAL_LABEL = 'sandyard.trial';

/** So long after its begin a trial is over, whoever began it. */
const LEFT_OVER_MS = 5 * 60_000;

/** Removes what trials have left that were killed half-way. */
export async function removeOldTrials(engine: Engine, { signal }: CallOptions = {}): Promise<void> {
  const { systemTime } = await engine.info({ signal });
  const left = await engine.listContainers([`${TRIAL_LABEL}=1`], { signal });
  const old = left.filter(({ createdAt }) => systemTime.getTime() - createdAt.getTime() > LEFT_OVER_MS);
  await Promise.all(old.map(({ id }) => engine.removeContainer(id, { signal }).catch(() => {})));
}
