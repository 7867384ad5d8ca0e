import { describe, expect, it, test } from 'vitest';

import { compareReleases, holesOf, isDistributions } from '../../../src/doctor/known-holes.js';

const ids = (component: string, version: string) => holesOf(component, version).map(({ id }) => id);
const NOVEMBER = ['CVE-2025-31133', 'CVE-2025-52565', 'CVE-2025-52881'];

describe('the order of releases', () => {
  test.each([
    ['1.1.11', '1.1.12'],
    ['1.1.12', '1.2.0'],
    ['1.4.0-rc.2', '1.4.0-rc.3'],
    ['1.4.0-rc.9', '1.4.0-rc.10'],
    ['1.4.0-rc.3', '1.4.0'],
    ['2.0.0-beta.1', '2.0.0-rc.0'],
    ['1.0.0-rc92', '1.0.0-rc93'],
    ['9.0.0', '10.0.0'],
  ])('%s is before %s', (earlier, later) => {
    expect(compareReleases(earlier, later)).toBeLessThan(0);
    expect(compareReleases(later, earlier)).toBeGreaterThan(0);
  });

  test.each([
    ['v1.1.5', '1.1.5'],
    ['1.1.5+ds1-1+deb12u1', '1.1.5'],
    ['1.6.20~ds1-1+deb12u3', '1.6.20'],
    ['20.10.24+dfsg1', '20.10.24'],
    ['1.4.0-rc.3+dev', '1.4.0-rc3'],
  ])('%s counts as %s', (one, other) => {
    expect(compareReleases(one, other)).toBe(0);
  });
});

describe('the known holes', () => {
  test.each([
    ['1.1.11', ['CVE-2024-21626', 'CVE-2024-45310', ...NOVEMBER]],
    ['1.1.12', ['CVE-2024-45310', ...NOVEMBER]],
    ['1.1.14', NOVEMBER],
    ['1.2.7', NOVEMBER],
    ['1.2.8', []],
    ['1.3.2', NOVEMBER],
    ['1.3.3', []],
    ['1.4.0-rc.2', NOVEMBER],
    ['1.4.0-rc.3', []],
    ['1.4.0', []],
    ['1.0.0-rc92', ['CVE-2024-45310', ...NOVEMBER]],
  ])('of runc %s', (version, found) => {
    expect(ids('runc', version)).toEqual(found);
  });

  test.each([
    ['20.10.24+dfsg1', ['CVE-2024-41110', 'CVE-2024-29018']],
    ['23.0.11', ['CVE-2024-41110']],
    ['23.0.15', []],
    ['25.0.6', []],
    ['26.1.4', ['CVE-2024-41110']],
    ['27.1.1', []],
    ['28.2.2', []],
  ])('of Docker %s', (version, found) => {
    expect(ids('Engine', version)).toEqual(found);
  });

  test.each([
    ['1.6.20~ds1-1+deb12u3', ['CVE-2024-40635']],
    ['1.7.27', []],
    ['2.0.3', ['CVE-2024-40635']],
    ['2.1.0', []],
  ])('of containerd %s', (version, found) => {
    expect(ids('containerd', version)).toEqual(found);
  });

  it('are none of what has other versions', () => {
    expect(ids('docker-init', '0.19.0')).toEqual([]);
  });
});

test.each([
  ['1.1.5+ds1-1+deb12u1', true],
  ['1.6.20~ds1-1', true],
  ['1.1.12-0ubuntu3.1', true],
  ['1.1.12-2.el9', true],
  ['1.1.12', false],
  ['1.4.0-rc.3', false],
])('%s is of a distribution: %s', (version, expected) => {
  expect(isDistributions(version)).toBe(expected);
});
