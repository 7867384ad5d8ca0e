import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { allowsHost, covers, formatRule, parseRule, readHost, type HostRule } from '../../../src/proxy/hosts.js';

/** What begins with `xn--` stands for another name, and mostly for none. */
const label = fc.stringMatching(/^[a-z]([a-z0-9-]{0,10}[a-z0-9])?$/).filter((text) => !text.startsWith('xn--'));
const name = fc.array(label, { minLength: 2, maxLength: 5 }).map((labels) => labels.join('.'));
const port = fc.integer({ min: 1, max: 65_535 });
const ruleText = fc
  .tuple(fc.constantFrom('', '*.'), name, fc.option(port))
  .map(([wild, host, number]) => `${wild}${host}${number === null ? '' : `:${number}`}`);
const rule = (text: string): HostRule => {
  const found = parseRule(text);
  if (found === undefined) throw new Error(`${text} is no rule`);
  return found;
};

describe('a host', () => {
  it.each([
    ['PyPI.org', 'pypi.org'],
    ['pypi.org.', 'pypi.org'],
    ['bücher.example', 'xn--bcher-kva.example'],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example'],
    ['pypi。org', 'pypi.org'],
    ['a_b.example', 'a_b.example'],
  ])('%s is %s', (text, expected) => {
    expect(readHost(text)).toEqual({ name: expected });
  });

  it.each([
    '127.0.0.1',
    '127.1',
    '127.0.0.1.',
    '2130706433',
    '0x7f000001',
    '0x7f.0.0.1',
    '0177.0.0.1',
    'a.0x',
    '１２７.0.0.1',
    '[::1]',
    '::1',
    '::ffff:10.0.0.1',
    '[::ffff:a00:1]',
    'fe80::1%eth0',
    '1.2.3.4.5',
  ])('%s is an address', (text) => {
    expect(readHost(text)).toEqual({ fault: 'ip_literal' });
  });

  it.each([
    '',
    '.',
    'localhost',
    'a..b',
    '-a.example',
    'a-.example',
    'a b.example',
    'a/b.example',
    'pypi.org..',
    'a%2eb.example',
    'a\0.example',
    'a@b.example',
    `${'a'.repeat(64)}.example`,
  ])('%j is no name of a domain', (text) => {
    expect(readHost(text)).toEqual({ fault: 'not_a_domain' });
  });

  it('is one in whatever case, with a dot at its end or none', () => {
    fc.assert(
      fc.property(name, (text) => {
        const expected = { name: text };
        for (const same of [text, text.toUpperCase(), `${text}.`]) expect(readHost(same)).toEqual(expected);
      }),
    );
  });

  it('is never what has other characters than those of names, whatever is sent', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (text) => {
        const host = readHost(text);
        if ('name' in host) expect(host.name).toMatch(/^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.(?!\d+$|0x)[a-z0-9_-]+$/);
      }),
      { numRuns: 2000 },
    );
  });

  it('is never any form of an address that a URL takes for one', () => {
    const forms = (value: number) => [
      String(value),
      `0x${value.toString(16)}`,
      `0${value.toString(8)}`,
      `${value >>> 24}.${value & 0xffffff}`,
      [24, 16, 8, 0].map((shift) => `0x${((value >>> shift) & 255).toString(16)}`).join('.'),
      [24, 16, 8, 0].map((shift) => `0${((value >>> shift) & 255).toString(8)}`).join('.'),
    ];
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (value) => {
        for (const form of forms(value)) expect(readHost(form)).toEqual({ fault: 'ip_literal' });
      }),
    );
  });
});

describe('a rule', () => {
  it.each([
    ['pypi.org', 'pypi.org'],
    ['PyPI.org.:443', 'pypi.org:443'],
    ['*.npmjs.org', '*.npmjs.org'],
    ['*.internal', '*.internal'],
    ['*', '*'],
    ['*:8443', '*:8443'],
  ])('%s is written %s', (text, expected) => {
    expect(formatRule(rule(text))).toBe(expected);
  });

  it.each([
    '',
    '*.',
    '**.a.example',
    'a.*.example',
    '*a.example',
    'https://pypi.org',
    'pypi.org/simple',
    'pypi.org:0',
    'pypi.org:65536',
    'pypi.org:',
    '10.0.0.1',
    '[::1]:80',
    '*.10.0.0.1',
    'localhost',
  ])('%j is none', (text) => {
    expect(parseRule(text)).toBeUndefined();
  });

  it('is the same when it is read again', () => {
    fc.assert(
      fc.property(ruleText, (text) => {
        expect(rule(formatRule(rule(text)))).toEqual(rule(text));
      }),
    );
  });

  it('by its name allows that and nothing else', () => {
    fc.assert(
      fc.property(name, name, (one, other) => {
        expect(allowsHost(rule(one), other)).toBe(one === other);
        expect(allowsHost(rule(one), `evil${one}`)).toBe(false);
        expect(allowsHost(rule(one), `${one}.${other}`)).toBe(one === `${one}.${other}`);
      }),
    );
  });

  it('with a wildcard allows what is below, and neither the suffix nor what only ends like it', () => {
    fc.assert(
      fc.property(name, label, (suffix, below) => {
        const wild = rule(`*.${suffix}`);
        expect(allowsHost(wild, `${below}.${suffix}`)).toBe(true);
        expect(allowsHost(wild, `${below}.${below}.${suffix}`)).toBe(true);
        expect(allowsHost(wild, suffix)).toBe(false);
        expect(allowsHost(wild, `${below}${suffix}`)).toBe(false);
      }),
    );
  });
});

describe('a ceiling', () => {
  it.each([
    ['*', 'pypi.org', true],
    ['*', '*', true],
    ['*', 'pypi.org:8080', false],
    ['*:8080', 'pypi.org:8080', true],
    ['pypi.org', '*', false],
    ['pypi.org', 'pypi.org:443', true],
    ['pypi.org:443', 'pypi.org', false],
    ['*.npmjs.org', 'registry.npmjs.org', true],
    ['*.npmjs.org', '*.npmjs.org', true],
    ['*.npmjs.org', '*.a.npmjs.org', true],
    ['*.a.npmjs.org', '*.npmjs.org', false],
    ['*.npmjs.org', 'npmjs.org', false],
    ['npmjs.org', '*.npmjs.org', false],
  ])('of %s covers %s: %s', (ceiling, asked, expected) => {
    expect(covers(rule(ceiling), rule(asked))).toBe(expected);
  });

  it('covers a rule only when it allows all that this allows', () => {
    fc.assert(
      fc.property(ruleText, ruleText, label, (ceiling, asked, below) => {
        const [high, low] = [rule(ceiling), rule(asked)];
        if (!covers(high, low)) return;
        const allowed = low.host.startsWith('*.') ? `${below}${low.host.slice(1)}` : low.host;
        expect(allowsHost(high, allowed)).toBe(true);
        expect(low.ports.every((number) => high.ports.includes(number))).toBe(true);
      }),
    );
  });
});
