import { readFileSync } from 'node:fs';

import { parseRange, type AddressRules, type Range } from './addresses.ts';

/** What the proxy is started with. A manager writes it beside the program. */
export interface ProxySettings {
  /** Where the volume is. */
  readonly root: string;
  readonly port: number;
  /** The name servers, `ADDRESS` or `ADDRESS:PORT`; without any, the machine's. */
  readonly dns: readonly string[];
  /** Ranges that are never connected to, and those that are though they aren't public. */
  readonly never: readonly string[];
  readonly unsafe: readonly string[];
  /** Certificates, in PEM, of authorities that are trusted besides those that Node.js knows. */
  readonly authorities: readonly string[];
}

export function readSettings(path: string): ProxySettings {
  return JSON.parse(readFileSync(path, 'utf8')) as ProxySettings;
}

export function toAddressRules({ never, unsafe }: ProxySettings): AddressRules {
  return { never: toRanges(never), unsafe: toRanges(unsafe) };
}

function toRanges(texts: readonly string[]): Range[] {
  return texts.map(parseRange).filter((range) => range !== undefined);
}
