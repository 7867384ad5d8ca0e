import type { ListOptions, SandboxInfo, SandboxManager } from '../index.js';

const PAGE = 1000;
/** More sandboxes than an engine can hold. */
const MAX_PAGES = 100;

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
