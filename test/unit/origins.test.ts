import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { isOrigin, toOriginPattern } from '../../src/origins.js';

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
    const isMeant = toOriginPattern(pattern);
    expect(isMeant(allowed)).toBe(true);
    expect(isMeant(refused)).toBe(false);
  });

  it('is for origins alone', () => {
    expect(toOriginPattern('.*')('https://a.example')).toBe(true);
    expect(toOriginPattern('.*')('https://a.example/')).toBe(false);
    expect(toOriginPattern('.*')(`https://${'a'.repeat(400)}`)).toBe(false);
  });

  it.each([
    ['(', /regular expression/],
    ['[a', /regular expression/],
    ['(a)\\1', /regular expression/],
    ['(?=a)a', /regular expression/],
    ['(?<x>a)\\k<x>', /regular expression/],
    ['(.{0,9}.{0,9}){0,100}', /must not repeat/],
    ['a'.repeat(201), /200 characters/],
  ])('%s is refused', (pattern, why) => {
    expect(() => toOriginPattern(pattern)).toThrow(why);
  });

  it('takes no time, however it is written and whatever is matched', () => {
    const part = fc.constantFrom(
      'a',
      '.',
      '.*',
      'a+',
      '[a-z]*',
      'a?',
      '(a|aa)*',
      '(a|a)?',
      '(.*)*',
      'a{1,9}',
      '|',
      '(?:a.)+',
    );
    const host = fc.constantFrom('a', 'aa', 'ab').map((one) => one.repeat(90));
    fc.assert(
      fc.property(fc.array(part, { maxLength: 12 }), host, (parts, tried) => {
        const isMeant = toOriginPattern(parts.join(''));
        const began = performance.now();
        isMeant(`https://${tried}`);
        expect(performance.now() - began).toBeLessThan(5000); // those that backtrack take years
      }),
      { numRuns: 500 },
    );
  });
});
