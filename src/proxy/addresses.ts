/* Which addresses are the public internet's. The proxy connects by IPv4 only, so there are no others to judge. */

/** A range as `10.0.0.0/8`. */
export interface Range {
  readonly first: number;
  readonly last: number;
}

/** Where no name on an allow-list may lead, and what is there. The ranges that are kept for documentation are not among them. */
const NOT_PUBLIC: readonly (readonly [range: string, what: string])[] = [
  ['0.0.0.0/8', 'this host'],
  ['10.0.0.0/8', 'private'],
  ['100.64.0.0/10', 'shared by carriers'],
  ['127.0.0.0/8', 'loopback'],
  ['168.63.129.16/32', 'a cloud metadata service'],
  ['169.254.0.0/16', 'link-local, with cloud metadata services'],
  ['172.16.0.0/12', 'private'],
  ['192.0.0.0/24', 'kept for protocols'],
  ['192.88.99.0/24', 'a relay to IPv6'],
  ['192.168.0.0/16', 'private'],
  ['198.18.0.0/15', 'for benchmarks'],
  ['224.0.0.0/4', 'multicast'],
  ['240.0.0.0/4', 'reserved'],
];

/** The number of an address in four decimal parts; `undefined` for everything else, other ways to write one among it. */
export function parseAddress(text: string): number | undefined {
  const match = /^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$/.exec(text);
  const parts = match?.slice(1).map(Number) ?? [];
  if (parts.length !== 4 || parts.some((part) => part > 255)) return undefined;
  return parts.reduce((sum, part) => sum * 256 + part, 0);
}

export function formatAddress(address: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join('.');
}

/** `undefined` where the text is no range, or its address is not its first. */
export function parseRange(text: string): Range | undefined {
  const [, base = '', bits = ''] = /^([\d.]+)\/(\d|[12]\d|3[0-2])$/.exec(text.trim()) ?? [];
  const first = parseAddress(base);
  if (first === undefined || bits === '') return undefined;
  const size = 2 ** (32 - Number(bits));
  return first % size === 0 ? { first, last: first + size - 1 } : undefined;
}

const RANGES = NOT_PUBLIC.map(([text, what]) => ({ ...(parseRange(text) ?? { first: 0, last: 2 ** 32 - 1 }), what }));

export interface AddressRules {
  /** The sandboxes' own networks: never to be connected to. */
  readonly never: readonly Range[];
  /** What an operator allows although it isn't public. */
  readonly unsafe: readonly Range[];
}

/** What keeps it from being connected to, as `is private`; `undefined` where nothing does. */
export function judgeAddress(text: string, { never, unsafe }: AddressRules): string | undefined {
  const address = parseAddress(text);
  if (address === undefined) return 'is no IPv4 address';
  const isIn = ({ first, last }: Range) => address >= first && address <= last;
  if (never.some(isIn)) return "is in the sandboxes' own networks";
  if (unsafe.some(isIn)) return undefined;
  const found = RANGES.find(isIn);
  return found === undefined ? undefined : `is ${found.what}`;
}
