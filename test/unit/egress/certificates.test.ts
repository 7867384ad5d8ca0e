import * as fc from 'fast-check';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';

import { readConfig } from '../../../src/config.js';
import { issueCertificate } from '../../../src/egress/certificates.js';
import { integer, oid, time } from '../../../src/egress/der.js';

const DAY_MS = 86_400_000;

describe('the certificate that stands for the hosts of secrets', () => {
  const names = ['api.test', '*.cdn.test', 'xn--mnchen-3ya.test'];
  const issued = issueCertificate(names, { id: 'sb1', lifetimeMs: DAY_MS });
  const [authority, certificate] = [new X509Certificate(issued.authority), new X509Certificate(issued.certificate)];

  it('is signed by its authority, and has the key that is with it', () => {
    expect(authority.ca).toBe(true);
    expect(authority.verify(authority.publicKey)).toBe(true);
    expect(certificate.ca).toBe(false);
    expect(certificate.checkIssued(authority)).toBe(true);
    expect(certificate.verify(authority.publicKey)).toBe(true);
    expect(certificate.checkPrivateKey(createPrivateKey(issued.key))).toBe(true);
    expect(authority.checkPrivateKey(createPrivateKey(issued.key))).toBe(false);
    expect(authority.subject).toBe('CN=Sandyard sandbox sb1');
  });

  it('is good for these hosts, and no others', () => {
    for (const host of ['api.test', 'a.cdn.test', 'xn--mnchen-3ya.test'])
      expect(certificate.checkHost(host)).toBeDefined();
    for (const host of ['cdn.test', 'a.b.cdn.test', 'x.api.test', 'evil.test', 'Sandyard egress proxy']) {
      expect(certificate.checkHost(host)).toBeUndefined();
    }
  });

  it('is good a day before and after, as clocks differ, and no longer', () => {
    for (const { validFrom, validTo } of [authority, certificate]) {
      expect(Date.parse(validTo) - Date.parse(validFrom)).toBe(3 * DAY_MS);
      expect(Math.abs(Date.now() - DAY_MS - Date.parse(validFrom))).toBeLessThan(60_000);
    }
  });

  it('is another one each time', () => {
    const other = issueCertificate(names, { id: 'sb1', lifetimeMs: DAY_MS });
    expect(new X509Certificate(other.certificate).verify(authority.publicKey)).toBe(false);
    expect(new X509Certificate(other.certificate).serialNumber).not.toBe(certificate.serialNumber);
    expect(other.key).not.toBe(issued.key);
  });

  it('can be read whatever and however many names it has', () => {
    const label = fc.stringMatching(/^[a-z0-9]{1,40}$/);
    const name = fc.tuple(fc.boolean(), label, label).map(([wild, a, b]) => `${wild ? '*.' : ''}${a}.${b}`);
    fc.assert(
      fc.property(fc.uniqueArray(name, { minLength: 1, maxLength: 160 }), (all) => {
        const read = new X509Certificate(issueCertificate(all, { id: 'x', lifetimeMs: 1 }).certificate);
        expect(read.subjectAltName).toBe(all.map((each) => `DNS:${each}`).join(', '));
      }),
      { numRuns: 25 },
    );
  });
});

describe('DER', () => {
  it.each([
    [[0], '020100'],
    [[0, 0, 0x7f], '02017f'],
    [[0x80], '02020080'],
    [[1, 0], '02020100'],
  ])('writes the number %j', (bytes, hex) => {
    expect(integer(Buffer.from(bytes)).toString('hex')).toBe(hex);
  });

  it('writes identifiers', () => {
    expect(oid('1.2.840.10045.4.3.2').toString('hex')).toBe('06082a8648ce3d040302');
    expect(oid('2.5.29.17').toString('hex')).toBe('0603551d11');
  });

  it('writes times in the form of their year', () => {
    expect(time(new Date('2049-12-31T23:59:59.999Z')).toString('latin1')).toBe('\x17\x0d491231235959Z');
    expect(time(new Date('2050-01-01T00:00:00Z')).toString('latin1')).toBe('\x18\x0f20500101000000Z');
  });
});

describe('the authorities that an operator has the proxy trust', () => {
  const { authority, certificate, key } = issueCertificate(['api.test'], { id: 'sb1', lifetimeMs: DAY_MS });

  /** What the service makes of a file with this text. */
  function read(text: string) {
    const directory = mkdtempSync(join(tmpdir(), 'sandyard-authorities-'));
    onTestFinished(() => rmSync(directory, { recursive: true }));
    const file = join(directory, 'ca.pem');
    writeFileSync(file, text);
    return readConfig({ SANDBOX_EGRESS_CA_FILE: file }).egress.authorities;
  }

  it('are all that are in the file', () => {
    expect(read(`# ours\n${authority}\n# and theirs\n${authority}`)).toEqual([authority.trim(), authority.trim()]);
    expect(readConfig({}).egress.authorities).toEqual([]);
  });

  it.each([
    ['nothing', ''],
    ['no certificate', authority.replaceAll(/[A-Za-z]{3}=?\n/g, '\n!')],
    ['a certificate that is no authority', authority + certificate],
    ['a key only', key],
  ])('must not be %s', (_what, text) => {
    expect(() => read(text)).toThrow(/SANDBOX_EGRESS_CA_FILE/);
  });

  it('must be there', () => {
    expect(() => readConfig({ SANDBOX_EGRESS_CA_FILE: '/none/such' })).toThrow(/SANDBOX_EGRESS_CA_FILE/);
  });
});
