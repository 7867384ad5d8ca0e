import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crc32 } from 'node:zlib';

import { parseRecordFile, parseRecordLink } from '../../../src/channel/record-file.js';
import { FakeRecord } from '../../fixtures/fake-record.js';

/** A file with these fields, whose checksum is right unless it is given. */
function file(fields: string, { blob = '', sum }: { blob?: string; sum?: string } = {}): Buffer {
  const summed = Buffer.from(`${fields}\n${blob}`);
  const right = crc32(summed).toString(16).padStart(8, '0');
  return Buffer.concat([Buffer.from(`sandyard-record 2 ${sum ?? right} `), summed]);
}

describe('the file of a record', () => {
  it('is read', () => {
    expect(parseRecordFile(file('3 7 1700000000123 5000 3600000 2 1700000099999 1', { blob: 'a\n\0' }))).toEqual({
      version: 7n,
      leaseEndsAt: new Date(1_700_000_000_123),
      idleMs: 5000,
      renewMs: 3_600_000,
      onExpiry: 'pause',
      lastEndsAt: new Date(1_700_000_099_999),
      taken: true,
      blob: Buffer.from('a\n\0'),
    });
  });

  it('is read where it says that there is none of anything', () => {
    expect(parseRecordFile(file('0 18446744073709551615 0 0 0 0 0 0'))).toEqual({
      version: 2n ** 64n - 1n,
      leaseEndsAt: null,
      idleMs: null,
      renewMs: null,
      onExpiry: 'destroy',
      lastEndsAt: null,
      taken: false,
      blob: Buffer.alloc(0),
    });
  });

  it('is as the warden writes it: these bytes are from one', () => {
    const written = 'sandyard-record 2 e5254230 7 2 1795235420637 0 60000 1 1795318220637 1\n{"a":1}';
    expect(parseRecordFile(Buffer.from(written))).toMatchObject({ version: 2n, onExpiry: 'stop', taken: true });
  });

  it.each([
    ['nothing', Buffer.alloc(0)],
    ['zeros', Buffer.alloc(4096)],
    ['a line that is no head', Buffer.from('hello\n')],
    ['an older format', Buffer.from('sandyard-record 1 1 0 0\n')],
    ['another checksum', file('0 1 0 0 0 0 0 0', { sum: '00000000' })],
    ['a checksum in capitals', Buffer.from(file('1 1 0 0 0 0 0 0', { blob: 'a' }).toString().toUpperCase())],
    ['a blob that is too short', file('3 1 0 0 0 0 0 0', { blob: 'ab' })],
    ['a blob that is too long', file('1 1 0 0 0 0 0 0', { blob: 'ab' })],
    ['a blob over the limit', file('32769 1 0 0 0 0 0 0', { blob: 'x'.repeat(32_769) })],
    ['no version', file('0 0 0 0 0 0 0 0')],
    ['too high a version', file('0 18446744073709551616 0 0 0 0 0 0')],
    ['an absurd lease', file('0 1 2000000000000001 0 0 0 0 0')],
    ['an absurd idle timeout', file('0 1 0 1000000000000001 0 0 0 0')],
    ['an absurd lease to come', file('0 1 0 0 1000000000000001 0 0 0')],
    ['an absurd lifetime', file('0 1 0 0 0 0 2000000000000001 0')],
    ['another end', file('0 1 0 0 0 3 0 0')],
    ['neither taken nor not', file('0 1 0 0 0 0 0 2')],
    ['a negative number', file('0 1 -5 0 0 0 0 0')],
    ['a number in another way', file('0 01 0 0 0 0 0 0')],
    ['a field too few', file('0 1 0 0 0 0 0')],
    ['a field too many', file('0 1 0 0 0 0 0 0 0')],
    ['a head without an end', Buffer.from(`sandyard-record 2 00000000 ${'1'.repeat(300)}`)],
  ])('is none with %s', (_what, bytes) => {
    expect(parseRecordFile(bytes)).toBeUndefined();
  });

  it('is whole, or none: with any change, and cut or prolonged anywhere', () => {
    const record = new FakeRecord();
    record.begin(['--ttl-ms=60000', '--idle-ms=7', '--on-expiry=stop', '--last-ms=99999']);
    record.blob = Buffer.from('{"a":"ü"}');
    const whole = record.file();
    expect(parseRecordFile(whole)).toMatchObject({ renewMs: 60_000, idleMs: 7, onExpiry: 'stop', taken: false });
    for (let length = 0; length < whole.length; length++) {
      expect(parseRecordFile(whole.subarray(0, length))).toBeUndefined();
    }
    expect(parseRecordFile(Buffer.concat([whole, Buffer.alloc(1)]))).toBeUndefined();
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const changed = Buffer.from(whole);
        changed[at] = (changed[at] ?? 0) ^ change;
        expect(parseRecordFile(changed)).toBeUndefined();
      }),
    );
  });

  it('is none where it is noise, and nothing throws', () => {
    const noise = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));
    fc.assert(fc.property(noise, (bytes) => parseRecordFile(bytes) === undefined));
  });
});

describe('the link of a record', () => {
  /** Where it leads, with names of at most 200 characters. */
  const linkTo = (bytes: Buffer) => bytes.toString('base64url').replaceAll(/.{200}(?=.)/g, '$&/');

  it.each([0, 1, 2, 500, 2000])('is read with a blob of %d bytes', (length) => {
    const whole = file(`${length} 7 0 0 0 0 0 1`, { blob: 'b'.repeat(length) });
    for (const directory of ['/var/lib/sandyard', '/somewhere/else', '']) {
      expect(parseRecordLink(`${directory}/${linkTo(whole)}`)).toEqual(parseRecordFile(whole));
    }
    expect(parseRecordFile(whole)).toMatchObject({ version: 7n, taken: true });
  });

  it('is as the warden writes it: this is one of its own', () => {
    const written =
      '/var/lib/sandyard/c2FuZHlhcmQtcmVjb3JkIDIgZTUyNTQyMzAgNyAyIDE3OTUyMzU0MjA2MzcgMCA2MDAwMCAxIDE3OTUzMTgyMjA2MzcgMQp7ImEiOjF9';
    expect(parseRecordLink(written)).toMatchObject({ version: 2n, onExpiry: 'stop', taken: true });
  });

  it.each([
    ['elsewhere', '/tmp/elsewhere'],
    ['nowhere', ''],
    ['to a record that is cut', `/x/${linkTo(file('0 7 0 0 0 0 0 1')).slice(0, -4)}`],
    ['to a record with something behind it', `/x/${linkTo(file('0 7 0 0 0 0 0 1'))}/more`],
    ['to one with a wrong checksum', `/x/${linkTo(file('0 7 0 0 0 0 0 1', { sum: '00000000' }))}`],
    ['to one without a directory', linkTo(file('0 7 0 0 0 0 0 1'))],
  ])('is none where it leads %s', (_, target) => {
    expect(parseRecordLink(target)).toBeUndefined();
  });
});
