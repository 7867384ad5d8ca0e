import * as fc from 'fast-check';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, expect, it } from 'vitest';

import { secretsFor, type SecretEntry } from '../../../src/proxy/secrets.js';
import { Cover, cover, substitute } from '../../../src/proxy/substitution.js';

const secret = (more: Partial<SecretEntry> = {}): SecretEntry => ({
  name: 'TOKEN',
  placeholder: 'sandyard-secret-abc123',
  value: 'ghp_$&real.value',
  hosts: ['api.test'],
  interceptTls: false,
  ...more,
});

const basic = (text: string) => `Basic ${Buffer.from(text, 'latin1').toString('base64')}`;

describe('what takes the place of a placeholder', () => {
  const { placeholder, value } = secret();
  it.each([
    ['alone', placeholder, value],
    ['after a word', `Bearer ${placeholder}`, `Bearer ${value}`],
    ['often', `${placeholder},${placeholder} ${placeholder}`, `${value},${value} ${value}`],
    ['not in part', placeholder.slice(0, -1), placeholder.slice(0, -1)],
    ['not in other letters', placeholder.toUpperCase(), placeholder.toUpperCase()],
  ])('%s', (_what, sent, put) => {
    expect(substitute(['X-Any', sent], [secret()])?.headers).toEqual(['X-Any', put]);
  });

  it.each([
    ['as the password', `x-token:${placeholder}`, `x-token:${value}`],
    ['as the user', `${placeholder}:`, `${value}:`],
    ['among bytes that are no text', `\xff\x80${placeholder}\xfe`, `\xff\x80${value}\xfe`],
  ])('also in Basic, %s', (_what, sent, put) => {
    const { headers, covered } = substitute(['Authorization', basic(sent)], [secret()]) ?? {};
    expect(headers).toEqual(['Authorization', basic(put)]);
    expect(covered).toEqual([value, basic(put).slice('Basic '.length)]);
  });

  it('and Basic stays as it is, byte for byte, where there is none in it', () => {
    for (const sent of [basic('user:password'), 'basic  dXNlcg', 'Basic ====', 'Basic']) {
      expect(substitute(['authorization', sent], [secret()])?.headers).toEqual(['authorization', sent]);
    }
    const elsewhere = basic(placeholder);
    expect(substitute(['X-Other', elsewhere], [secret()])?.headers).toEqual(['X-Other', elsewhere]);
  });

  it('never in names, and each by its own secret', () => {
    const other = secret({ placeholder: 'sandyard-secret-def456', value: 'another value' });
    const raw = [placeholder, `${other.placeholder}/${placeholder}`];
    expect(substitute(raw, [secret(), other])?.headers).toEqual([placeholder, `${other.value}/${value}`]);
  });

  it('not in Basic that is longer than any user and password', () => {
    const sent = (length: number) => ['Authorization', basic(placeholder.padStart(length, 'A'))];
    expect(substitute(sent(512), [secret()])).toBeDefined();
    expect(substitute(sent(513), [secret()])).toBeUndefined();
    expect(substitute(['Authorization', basic('A'.repeat(5000))], [secret()])).toBeDefined();
  });

  it('not where headers would become too large', () => {
    const long = secret({ value: 'v'.repeat(4000) });
    expect(substitute(['X', placeholder.repeat(16)], [long])).toBeDefined();
    expect(substitute(['X', placeholder.repeat(17)], [long])).toBeUndefined();
  });
});

describe('which secrets go to a host', () => {
  const names = (entry: Partial<SecretEntry>, target: Partial<{ host: string; port: number; tls: boolean }>) =>
    secretsFor([secret(entry)], { host: 'api.test', port: 80, tls: false, ...target }).length === 1;
  const opened = { interceptTls: true };

  it.each([
    ['its host, at the port of HTTP', {}, {}, true],
    ['not at that of HTTPS', {}, { port: 443 }, false],
    ['the port that is named', { hosts: ['api.test:8080'] }, { port: 8080 }, true],
    ['no other one', { hosts: ['api.test:8080'] }, {}, false],
    ['not another host', {}, { host: 'evil.test' }, false],
    ['not what ends like it', {}, { host: 'notapi.test' }, false],
    ['not what is below it', {}, { host: 'x.api.test' }, false],
    ['what is below a wildcard', { hosts: ['*.test'] }, {}, true],
    ['at any depth', { hosts: ['*.test'] }, { host: 'a.b.test' }, true],
    ['not over TLS unless it is opened', {}, { port: 443, tls: true }, false],
    ['over TLS', opened, { port: 443, tls: true }, true],
    ['then not without TLS', opened, {}, false],
    ['not even at a port that is named', { ...opened, hosts: ['api.test:80'] }, {}, false],
    ['one label below a wildcard', { ...opened, hosts: ['*.test'] }, { port: 443, tls: true }, true],
    [
      'not two, for which there is no certificate',
      { ...opened, hosts: ['*.test'] },
      { host: 'a.api.test', port: 443, tls: true },
      false,
    ],
    ['nothing for what is no rule', { hosts: ['10.0.0.1', ''] }, { host: '10.0.0.1' }, false],
  ])('%s', (_what, entry, target, goes) => {
    expect(names(entry, target)).toBe(goes);
  });
});

describe('what an answer repeats', () => {
  /** Through the stream, in pieces of these sizes. */
  async function covered(text: string, { secrets, sizes }: { secrets: readonly string[]; sizes: readonly number[] }) {
    const bytes = Buffer.from(text, 'latin1');
    const pieces = function* () {
      for (let at = 0, index = 0; at < bytes.length; index += 1) {
        const size = sizes[index % sizes.length] ?? 1;
        yield bytes.subarray(at, at + size);
        at += size;
      }
    };
    const cover = new Cover(secrets, { quietMs: 60_000 });
    return (await buffer(Readable.from(pieces()).pipe(cover))).toString('latin1');
  }

  it.each([[[1]], [[2]], [[3, 1]], [[7]], [[1000]]])('is covered in pieces of %j', async (sizes) => {
    const text = 'a ghp_real, ghp_rea and ghp_realghp_real.';
    expect(await covered(text, { secrets: ['ghp_real'], sizes })).toBe('a ********, ghp_rea and ****************.');
  });

  it('is covered in headers', () => {
    expect(cover('token=a+b.c/d=; a+bxc/d=', ['a+b.c/d='])).toBe('token=********; a+bxc/d=');
  });

  it('holds back the same of whatever it is, so that nobody can tell by that how a secret begins', () => {
    const texts = fc.array(fc.string({ unit: fc.constantFrom('g', 'h', 'p', '_', 'x') }), { maxLength: 6 });
    fc.assert(
      fc.property(texts, (pieces) => {
        const stream = new Cover(['ghp_real', 'a longer secret'], { quietMs: 60_000 });
        let written = 0;
        let read = 0;
        for (const piece of pieces) {
          stream.write(piece, 'latin1');
          written += piece.length;
          read += (stream.read() as Buffer | null)?.length ?? 0;
          expect(read).toBe(Math.max(0, written - 'a longer secret'.length + 1));
        }
        stream.destroy();
      }),
    );
  });

  it('holds nothing back for long', async () => {
    const stream = new Cover(['ghp_real']);
    stream.write('data: ghp_');
    const parts: string[] = [];
    stream.on('data', (part: Buffer) => void parts.push(part.toString()));
    await expect.poll(() => parts.join('')).toBe('data: ghp_');
    stream.destroy();
  });

  it('is the same however it is cut: nothing of a secret is left, nothing else changes, no length does', async () => {
    const letters = (max: number) =>
      fc.string({ unit: fc.constantFrom('a', 'b', '\xff'), minLength: 1, maxLength: max });
    const cases = fc.record({
      text: letters(60),
      secrets: fc.uniqueArray(letters(6), { minLength: 1, maxLength: 3 }),
      sizes: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 5 }),
    });
    await fc.assert(
      fc.asyncProperty(cases, async ({ text, secrets, sizes }) => {
        const shown = await covered(text, { secrets, sizes });
        expect(shown).toHaveLength(text.length);
        for (const each of secrets) expect(shown).not.toContain(each);
        for (let at = 0; at < shown.length; at += 1) expect(['*', text[at]]).toContain(shown[at]);
      }),
    );
  });
});
