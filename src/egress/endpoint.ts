import { randomInt } from 'node:crypto';

import type { EgressEndpoint } from '../engine/engine.js';
import { formatAddress, parseAddress, parseRange } from '../proxy/addresses.js';

/* The networks of sandboxes with egress: each has eight addresses, of which one is the sandbox's and one the proxy's. */

const BITS = 29;
const SIZE = 2 ** (32 - BITS);
/** The first address is the network's own, and the engine keeps the next one for a gateway, also where there is none. */
const SANDBOX_AT = 2;
const PROXY_AT = 3;

/** What the names of their containers begin with. */
export const PROXY_PREFIX = 'sandyard-egress-';
export const PROXY_NAME = 'egress-proxy';
export const PROXY_PORT = 3128;

/** All of a range, each once, in an order that begins at random: managers that choose at once seldom choose the same. */
export function* subnetsOf(text: string): Generator<string, void> {
  const range = parseRange(text);
  if (range === undefined) return;
  const count = Math.floor((range.last - range.first + 1) / SIZE);
  const start = randomInt(count);
  for (let index = 0; index < count; index += 1) {
    yield `${formatAddress(range.first + ((start + index) % count) * SIZE)}/${BITS}`;
  }
}

/** Where a sandbox and its proxy are in a network with this subnet. */
export function toEndpoint(network: string, subnet: string): EgressEndpoint {
  const first = parseAddress(subnet.split('/')[0] ?? '') ?? 0;
  const proxy = { name: PROXY_NAME, address: formatAddress(first + PROXY_AT) };
  return { network, address: formatAddress(first + SANDBOX_AT), proxy };
}

/** By these pip, npm, git, curl and others find the proxy. There is no way around it, so nothing depends on them. */
export function proxyVariables({ proxy }: EgressEndpoint): Record<string, string> {
  const url = `http://${proxy.name}:${PROXY_PORT}`;
  const none = 'localhost,127.0.0.1,::1';
  const variables = { HTTP_PROXY: url, HTTPS_PROXY: url, NO_PROXY: none };
  const lower = Object.entries(variables).map(([name, value]) => [name.toLowerCase(), value]);
  return { ...variables, ...Object.fromEntries(lower), NODE_USE_ENV_PROXY: '1' };
}
