import { createHash, generateKeyPairSync, randomBytes, sign, type KeyObject } from 'node:crypto';

import type { Certificate } from '../proxy/secrets.js';
import { bits, integer, octets, oid, sequence, set, tagged, time, utf8, within, yes } from './der.js';

/*
 * The certificates by which the proxy is taken for the hosts of a sandbox's secrets. Each sandbox has an authority of its
 * own that signs one certificate, once: its key is never written down, and nobody has it any more when this returns. So
 * what the sandbox then trusts is that one certificate. Two certificates of one form (RFC 5280) are all there is to be
 * written, which needs no library.
 */

/** The clocks of the manager and of the engine's machine may differ. */
const DAY_MS = 86_400_000;

const ECDSA_WITH_SHA256 = sequence(oid('1.2.840.10045.4.3.2'));
const COMMON_NAME = oid('2.5.4.3');
const SERVER_AUTH = oid('1.3.6.1.5.5.7.3.1');
const KEY_IDENTIFIER = '2.5.29.14';
const KEY_USAGE = '2.5.29.15';
const ALTERNATIVE_NAMES = '2.5.29.17';
const BASIC_CONSTRAINTS = '2.5.29.19';
const NAME_CONSTRAINTS = '2.5.29.30';
const AUTHORITY_KEY_IDENTIFIER = '2.5.29.35';
const EXTENDED_KEY_USAGE = '2.5.29.37';
const DNS_NAME = 2;

interface Issued extends Certificate {
  /** What the sandbox is to trust, in PEM. */
  readonly authority: string;
}

/** For these names, of which some may be wildcards, for so long. */
export function issueCertificate(
  names: readonly string[],
  { id, lifetimeMs }: { id: string; lifetimeMs: number },
): Issued {
  const now = Date.now();
  const validity = sequence(time(new Date(now - DAY_MS)), time(new Date(now + lifetimeMs + DAY_MS)));
  const authority = { name: nameOf(`Sandyard sandbox ${id}`), ...generateKeys() };
  const proxy = { name: nameOf('Sandyard egress proxy'), ...generateKeys() };
  const suffixes = [...new Set(names.map((name) => name.replace(/^\*\./, '')))];
  const signed = (subject: Holder, extensions: readonly Buffer[]) =>
    toPem('CERTIFICATE', signBy(authority, { subject, validity, extensions }));
  return {
    authority: signed(authority, [
      extension(BASIC_CONSTRAINTS, sequence(yes(), integer(Buffer.from([0]))), { critical: true }),
      extension(KEY_USAGE, bits(Buffer.from([0b0000_0100]), 2), { critical: true }), // keyCertSign
      extension(NAME_CONSTRAINTS, sequence(within(0, ...suffixes.map((name) => sequence(dnsName(name))))), {
        critical: true,
      }),
      extension(KEY_IDENTIFIER, octets(authority.identifier)),
    ]),
    certificate: signed(proxy, [
      extension(BASIC_CONSTRAINTS, sequence(), { critical: true }),
      extension(KEY_USAGE, bits(Buffer.from([0b1000_0000]), 7), { critical: true }), // digitalSignature
      extension(EXTENDED_KEY_USAGE, sequence(SERVER_AUTH)),
      extension(ALTERNATIVE_NAMES, sequence(...names.map(dnsName))),
      extension(KEY_IDENTIFIER, octets(proxy.identifier)),
      extension(AUTHORITY_KEY_IDENTIFIER, sequence(tagged(0, authority.identifier))),
    ]),
    key: proxy.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  };
}

interface Holder {
  readonly name: Buffer;
  readonly privateKey: KeyObject;
  /** As it is written in a certificate. */
  readonly publicKey: Buffer;
  readonly identifier: Buffer;
}

function generateKeys(): Omit<Holder, 'name'> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const written = publicKey.export({ type: 'spki', format: 'der' });
  return { privateKey, publicKey: written, identifier: createHash('sha256').update(written).digest().subarray(0, 20) };
}

interface Content {
  readonly subject: Holder;
  readonly validity: Buffer;
  readonly extensions: readonly Buffer[];
}

function signBy(issuer: Holder, { subject, validity, extensions }: Content): Buffer {
  const content = sequence(
    within(0, integer(Buffer.from([2]))), // version 3
    integer(serialNumber()),
    ECDSA_WITH_SHA256,
    issuer.name,
    validity,
    subject.name,
    subject.publicKey,
    within(3, sequence(...extensions)),
  );
  return sequence(content, ECDSA_WITH_SHA256, bits(sign('sha256', content, issuer.privateKey)));
}

/** Positive, and of one length. */
function serialNumber(): Buffer {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) % 64) + 64;
  return bytes;
}

function extension(id: string, content: Buffer, { critical = false } = {}): Buffer {
  return sequence(oid(id), ...(critical ? [yes()] : []), octets(content));
}

function nameOf(text: string): Buffer {
  return sequence(set(sequence(COMMON_NAME, utf8(text))));
}

function dnsName(name: string): Buffer {
  return tagged(DNS_NAME, Buffer.from(name));
}

function toPem(what: string, content: Buffer): string {
  const lines = content.toString('base64').match(/.{1,64}/g) ?? [];
  return [`-----BEGIN ${what}-----`, ...lines, `-----END ${what}-----`, ''].join('\n');
}
