import * as fc from 'fast-check';
import { BlockList } from 'node:net';
import { describe, expect, it } from 'vitest';

import { formatAddress, judgeAddress, parseAddress, parseRange } from '../../../src/proxy/addresses.js';

const ranges = (...texts: string[]) => texts.map((text) => parseRange(text) ?? { first: 0, last: 0 });
const NONE = { never: [], unsafe: [] };

/** The same by another hand: Node's own. */
const blocked = new BlockList();
for (const [base, bits] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['224.0.0.0', 3],
] as const) {
  blocked.addSubnet(base, bits);
}
blocked.addAddress('168.63.129.16');

describe('an address', () => {
  it('is read in four decimal parts, and in no other way', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (value) => {
        expect(parseAddress(formatAddress(value))).toBe(value);
      }),
    );
    for (const text of [
      '',
      '1.2.3',
      '1.2.3.4.5',
      '01.2.3.4',
      '1.2.3.256',
      '0x1.2.3.4',
      '1.2.3.4 ',
      '::1',
      '1.2.3.-4',
    ]) {
      expect(parseAddress(text)).toBeUndefined();
    }
  });

  it.each([
    ['8.8.8.8', undefined],
    ['203.0.113.10', undefined],
    ['198.51.100.1', undefined],
    ['192.0.2.1', undefined],
    ['172.32.0.1', undefined],
    ['100.128.0.1', undefined],
    ['10.0.0.1', 'is private'],
    ['172.31.255.255', 'is private'],
    ['192.168.1.1', 'is private'],
    ['127.0.0.53', 'is loopback'],
    ['0.0.0.0', 'is this host'],
    ['100.100.100.200', 'is shared by carriers'],
    ['169.254.169.254', 'is link-local, with cloud metadata services'],
    ['168.63.129.16', 'is a cloud metadata service'],
    ['224.0.0.1', 'is multicast'],
    ['255.255.255.255', 'is reserved'],
    ['::1', 'is no IPv4 address'],
    ['::ffff:8.8.8.8', 'is no IPv4 address'],
  ])('%s: %s', (address, expected) => {
    expect(judgeAddress(address, NONE)).toBe(expected);
  });

  it('is judged as by the list of Node.js itself', () => {
    const near = [0x0a000000, 0x64400000, 0x7f000000, 0xa9fe0000, 0xac100000, 0xc0a80000, 0xc6120000, 0xe0000000];
    const value = fc.oneof(
      fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      fc.tuple(fc.constantFrom(...near), fc.integer({ min: -70_000, max: 2 ** 24 })).map(([base, off]) => base + off),
    );
    fc.assert(
      fc.property(value, (number) => {
        const text = formatAddress(Math.min(number, 2 ** 32 - 1));
        expect(judgeAddress(text, NONE) !== undefined, text).toBe(blocked.check(text));
      }),
      { numRuns: 2000 },
    );
  });

  it("may be allowed by the operator, but never one of the sandboxes' own networks", () => {
    const rules = { never: ranges('10.217.0.0/16'), unsafe: ranges('10.0.0.0/8') };
    expect(judgeAddress('10.1.2.3', rules)).toBeUndefined();
    expect(judgeAddress('10.217.3.2', rules)).toBe("is in the sandboxes' own networks");
    expect(judgeAddress('192.168.1.1', rules)).toBe('is private');
  });

  it.each(['10.0.0.0', '10.0.0.1/8', '10.0.0.0/33', '10.0.0/8', '10.0.0.0/08', '::/0', ''])(
    '%j is no range',
    (text) => {
      expect(parseRange(text)).toBeUndefined();
    },
  );
});
