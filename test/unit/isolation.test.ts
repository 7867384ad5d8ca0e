import { describe, expect, it } from 'vitest';

import { checkAllowed, type IsolationSettings } from '../../src/isolation.js';

const OPEN: IsolationSettings = {
  profile: 'standard',
  runtime: undefined,
  allowedProfiles: undefined,
  allowedNetworks: undefined,
  allowedImages: undefined,
  allowedRuntimes: undefined,
};
const ASKED = { profile: 'standard', network: 'none', image: 'ubuntu:24.04' } as const;
const check = (asked: Partial<Parameters<typeof checkAllowed>[0]>, settings: Partial<IsolationSettings>) => () =>
  checkAllowed({ ...ASKED, ...asked }, { ...OPEN, ...settings, defaultImage: 'ours:1' });

describe('what an operator allows', () => {
  it('is everything unless it is said', () => {
    expect(check({ profile: 'dev', network: 'bridge', image: 'any/thing:1' }, {})).not.toThrow();
  });

  it.each([
    [{ profile: 'dev' }, { allowedProfiles: ['standard', 'strict'] }, 'SANDBOX_ALLOWED_PROFILES', 'standard, strict'],
    [{ network: 'bridge' }, { allowedNetworks: ['none'] }, 'SANDBOX_ALLOWED_NETWORKS', 'none'],
    [{ image: 'debian:12' }, { allowedImages: ['ubuntu:*'] }, 'SANDBOX_ALLOWED_IMAGES', 'ours:1, ubuntu:*'],
  ] as const)('refuses %j under %j, and names the setting and what it allows', (asked, settings, setting, allowed) => {
    expect(check({}, settings)).not.toThrow();
    expect(check(asked, settings)).toThrow(
      expect.objectContaining({ code: 'forbidden', hint: `${setting} allows: ${allowed}.`, details: { setting } }),
    );
  });

  it.each<[image: string, pattern: string, allowed: boolean]>([
    ['ubuntu:24.04', 'ubuntu:24.04', true],
    ['ubuntu:24.04', 'ubuntu:*', true],
    ['ubuntu:24.04', 'ubuntu:22.*', false],
    ['ubuntu:24.04', 'ubuntu', false],
    ['ubuntu', 'ubuntu', true],
    ['ubuntu', 'ubuntu:latest', true],
    ['ubuntu:latest', 'ubuntu', true],
    ['docker.io/library/ubuntu:24.04', 'ubuntu:*', true],
    ['ubuntu:24.04', 'docker.io/library/ubuntu:*', true],
    ['evil/ubuntu:24.04', 'ubuntu:*', false],
    ['ubuntu:24.04', '*', true],
    ['evil.example/ubuntu:24.04', '*', false],
    ['a.example:5000/team/app:1', 'a.example:5000/team/*', true],
    ['a.example:5000/team/deeper/app:1', 'a.example:5000/team/*', false],
    ['a.example:5000/team/deeper/app:1', 'a.example:5000/*/*/app:*', true],
    ['team/app-dev:1', 'team/*-dev:*', true],
    ['team/app:1', 'team/*-dev:*', false],
    ['aa:1', 'a*a:1', true],
    ['a:1', 'a*a:1', false],
    // Which image a digest or an id is nobody can tell by its name.
    [`ubuntu@sha256:${'a'.repeat(64)}`, 'ubuntu:*', false],
    [`ubuntu@sha256:${'a'.repeat(64)}`, 'ubuntu@*', true],
    [`sha256:${'a'.repeat(64)}`, 'ubuntu:*', false],
    ['ours:1', 'ubuntu:*', true],
  ])('of the image %s under %s', (image, pattern, allowed) => {
    const run = check({ image }, { allowedImages: [pattern] });
    if (allowed) expect(run).not.toThrow();
    else expect(run).toThrow(expect.objectContaining({ code: 'forbidden' }));
  });

  it('is found without trying all ways to match, however many stars there are', () => {
    const began = performance.now();
    expect(check({ image: `${'a'.repeat(500)}:1` }, { allowedImages: [`${'a*'.repeat(250)}b`] })).toThrow();
    expect(performance.now() - began).toBeLessThan(2000);
  });
});
