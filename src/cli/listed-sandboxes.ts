import { isSandyardError } from '../errors.js';
import { inBatches } from './in-batches.js';
import type { ListOptions, SandboxInfo, SandboxManager } from '../index.js';

const PAGE = 1000;
/** More sandboxes than an engine can hold. */
const MAX_PAGES = 100;
/** Each takes the engine tens of milliseconds. */
const MAX_ASKED = 64;

/** All of them, the newest first, page by page. */
export async function listSandboxes(
  manager: Pick<SandboxManager, 'list'>,
  { signal, ...filter }: Pick<ListOptions, 'state' | 'projectName'> & { signal: AbortSignal },
): Promise<SandboxInfo[]> {
  const found: SandboxInfo[] = [];
  let cursor: string | undefined;
  for (let page = 0; page < MAX_PAGES; page += 1) {
    const list = await manager.list({ ...filter, limit: PAGE, cursor }, { signal });
    found.push(...list.sandboxes);
    if (list.cursor === null) break;
    cursor = list.cursor;
  }
  return found;
}

/** Whether there are so many that they are shown with the leases with which they were made. */
export function tooManyToAsk(listed: readonly SandboxInfo[]): boolean {
  return listed.filter(({ state }) => state === 'running').length > MAX_ASKED;
}

/**
 * Them with the leases that they have now: a list knows them only as they were made, and whoever has renewed one since was
 * another manager. What is gone by now is left out; what can't be asked stays as it was listed.
 */
export async function withLeases(
  manager: Pick<SandboxManager, 'inspect'>,
  listed: readonly SandboxInfo[],
  { signal }: { signal: AbortSignal },
): Promise<SandboxInfo[]> {
  const results = await inBatches(listed, async (info) => {
    if (info.state !== 'running') return info;
    const { expiresAt } = await manager.inspect(info.id, { signal });
    return { ...info, expiresAt };
  });
  return results.flatMap((result, index) => {
    if (result.status === 'fulfilled') return [result.value];
    if (isSandyardError(result.reason, 'aborted')) throw result.reason;
    return isSandyardError(result.reason, 'sandbox_not_found') ? [] : listed.slice(index, index + 1);
  });
}
