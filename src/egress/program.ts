import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { extname } from 'node:path';

import type { EgressSettings } from '../egress-settings.js';
import type { ProxySettings } from '../proxy/settings.js';
import { PROXY_PORT } from './endpoint.js';

/*
 * The proxy program, which a manager brings to the proxy's container: so that one is always of the manager's version,
 * also on an engine elsewhere. It is the folder `proxy` as it is beside this one: compiled, or, where Sandyard runs from
 * its sources, in TypeScript, whose types the Node.js of the sandbox image leaves out by itself.
 */

const FOLDER = new URL('../proxy/', import.meta.url);

export const PROGRAM_PATH = '/run/egress';
export const STATE_PATH = '/var/lib/egress';
export const SETTINGS_PATH = `${PROGRAM_PATH}/settings.json`;

export interface ProxyProgram {
  /** By name. */
  readonly files: ReadonlyMap<string, string>;
  /** The one to run. */
  readonly main: string;
  /** Of program and settings together: proxies with the same are the same. */
  readonly hash: string;
}

export async function readProgram({
  dns,
  subnets,
  unsafeDestinations,
  authorities,
  network,
}: EgressSettings): Promise<ProxyProgram> {
  const extension = extname(import.meta.url);
  const names = (await readdir(FOLDER))
    .filter((name) => name.endsWith(extension) && !name.endsWith('.d.ts'))
    .toSorted();
  const settings: ProxySettings = {
    root: STATE_PATH,
    port: PROXY_PORT,
    dns: [...dns],
    never: [subnets],
    unsafe: [...unsafeDestinations],
    authorities: [...authorities],
  };
  const sources = names.map(async (name) => [name, await readFile(new URL(name, FOLDER), 'utf8')] as const);
  const files = new Map([
    ...(await Promise.all(sources)),
    ['package.json', '{"type":"module"}'],
    ['settings.json', JSON.stringify(settings)],
  ]);
  const hash = createHash('sha256')
    .update(JSON.stringify([[...files], network]))
    .digest('hex')
    .slice(0, 12);
  return { files, main: `${PROGRAM_PATH}/main${extension}`, hash };
}
