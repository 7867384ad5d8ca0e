import { describe, expect, test } from 'vitest';

import { formatBanner } from '../../../src/http/banner.js';

const INPUT = {
  url: 'http://127.0.0.1:8888',
  token: undefined,
  isOpen: true,
  showToken: false,
  image: 'sandyard-sandbox:latest',
  imagePresent: true,
  engine: 'Start dockerd.',
} as const;

describe('the banner', () => {
  test('gives lines to paste', () => {
    const banner = formatBanner(INPUT);
    expect(banner).toContain('none (only this machine can connect)');
    expect(banner).toContain('not there yet: Start dockerd.');
    expect(banner).toContain('http://127.0.0.1:8888/docs');
    expect(banner).toContain(`/execute -H 'Content-Type: application/json' -d '{"command":["node","--version"]}'`);
    expect(banner).not.toContain('Authorization');
  });

  test('says where one is needed that it has not', () => {
    const banner = formatBanner({ ...INPUT, isOpen: false });
    expect(banner).toContain('needed: a key, or one that "sandyard token" issues');
    expect(banner).toContain('-H "Authorization: Bearer $TOKEN"');
  });

  test('shows the token to a person only', () => {
    const token = 'correct-horse-battery';
    expect(formatBanner({ ...INPUT, isOpen: false, token, showToken: true })).toContain(
      `-H 'Authorization: Bearer ${token}'`,
    );
    const shared = formatBanner({ ...INPUT, isOpen: false, token });
    expect(shared).not.toContain(token);
    expect(shared).toContain('-H "Authorization: Bearer $SANDBOX_TOKEN"');
  });
});
