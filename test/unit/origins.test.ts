import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { faultOfOriginPattern, isOrigin, toOriginPattern } from '../../src/origins.js';

describe('an origin', () => {
  it.each(['https://a.example', 'http://localhost:3000', 'http://[::1]:8080'])('%s is one', (origin) => {
    expect(isOrigin(origin)).toBe(true);
  });

  it.each([
    '*',
    'null',
    '',
    'a.example',
    'https://a.example/',
    'https://a.example:443',
    'https://user@a.example',
    'https://A.example',
    'https://a.example?x',
    'file:///etc',
    'javascript:alert(1)',
    `https://${'a'.repeat(400)}`,
  ])('%s is none', (origin) => {
    expect(isOrigin(origin)).toBe(false);
  });
});

describe('a pattern of origins', () => {
  it.each([
    ['https://[a-z0-9-]+[.]app[.]example', 'https://x-1.app.example', 'https://x.app.example.evil.example'],
    ['https://([a-z0-9-]+\\.)?app\\.example', 'https://app.example', 'https://evilapp.example'],
    ['https?://localhost(:\\d+)?', 'http://localhost:3000', 'http://localhost:3000@evil.example'],
    ['https://a[.]example|https://b[.]example', 'https://b.example', 'https://a.example.evil.example'],
  ])('%s is for the whole of it', (pattern, allowed, refused) => {
    expect(faultOfOriginPattern(pattern)).toBeUndefined();
    expect(toOriginPattern(pattern).test(allowed)).toBe(true);
    expect(toOriginPattern(pattern).test(refused)).toBe(false);
  });

  it.each([
    ['(', /regular expression/],
    ['[a', /regular expression/],
    ['(.*)*', /repeat a group/],
    ['(?:a|a)+b', /repeat a group/],
    ['(a|b){2,}', /repeat a group/],
    ['a*a*a*a*', /no more than 3/],
    ['a?a?a?a?a?a?a?a?a?', /no more than 8/],
    ['(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)(a|a)', /no more than 8/],
    ['(a)\\1', /references/],
    ['(?=a)a', /look-around/],
    ['(?<x>a)\\k<x>', /references/],
    ['a'.repeat(201), /200 characters/],
  ])('%s is refused', (pattern, why) => {
    expect(faultOfOriginPattern(pattern)).toMatch(why);
  });

  it('takes no time, whatever it is and whatever is matched', () => {
    const part = fc.constantFrom(
      'a',
      '.',
      '.*',
      'a+',
      '[a-z]*',
      'a?',
      '(a|aa)',
      '(a|a)?',
      '\\d',
      'a{1,9}',
      '|',
      '(?:a.)',
    );
    const text = fc.constantFrom('a', 'aa', '.', '1', 'ab').chain((one) => fc.constant(one.repeat(140)));
    fc.assert(
      fc.property(fc.array(part, { maxLength: 12 }), text, (parts, tried) => {
        const pattern = parts.join('');
        if (faultOfOriginPattern(pattern) !== undefined) return;
        const began = performance.now();
        toOriginPattern(pattern).test(`https://${tried}!`.slice(0, 300));
        toOriginPattern(pattern).test(`${tried}!`.slice(0, 300));
        expect(performance.now() - began).toBeLessThan(500);
      }),
      { numRuns: 500 },
    );
  });
});
