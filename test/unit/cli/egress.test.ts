import { expect, test, vi } from 'vitest';

import { World } from './harness.js';

const INFO = {
  allow: ['pypi.org'],
  learn: true,
  learnt: ['a.example', 'b.example:8080'],
  maxBytes: null,
  bytesPerSecond: null,
  maxConnections: 64,
};

function world() {
  const made = new World();
  const egress = { get: vi.fn(), set: vi.fn(), log: vi.fn(), check: vi.fn() };
  egress.get.mockResolvedValue(INFO);
  egress.set.mockResolvedValue(INFO);
  vi.spyOn(made.stub, 'get').mockResolvedValue({ egress } as never);
  return Object.assign(made, { egress });
}

test('prints what a sandbox may reach', async () => {
  const made = world();
  expect(await made.run('egress', 'one')).toBe(0);
  expect(made.out).toMatch(/^ALLOW +pypi\.org\nLEARN +yes: 2 hosts so far\n/);
  expect(made.egress.set).not.toHaveBeenCalled();
});

test.each([
  [['--allow', 'pypi.org', '--allow', '*.npmjs.org'], { allow: ['pypi.org', '*.npmjs.org'] }],
  [['--none'], { allow: [] }],
  [['--learn'], { learn: true }],
  [['--no-learn', '--allow', 'pypi.org'], { learn: false, allow: ['pypi.org'] }],
])('changes it with %j', async (flags, change) => {
  const made = world();
  expect(await made.run('egress', 'one', ...flags)).toBe(0);
  expect(made.egress.set).toHaveBeenCalledWith(change, expect.anything());
});

test('prints what was learnt so that it can be allowed', async () => {
  const made = world();
  await made.run('egress', 'one', '--learnt');
  expect(made.out).toBe('a.example\nb.example:8080\n');
});

test('says by its exit code what would be decided', async () => {
  const made = world();
  const about = { host: 'a.example', port: 443, rule: null, address: null, reason: 'host_not_allowed', detail: 'No.' };
  made.egress.check.mockResolvedValue({ allowed: false, ...about });
  expect(await made.run('egress', 'one', '--check', 'https://a.example/')).toBe(1);
  expect(made.out).toBe('denied a.example:443, host_not_allowed: No.\n');
});

test('prints the log', async () => {
  const made = world();
  const about = { method: 'CONNECT', host: 'a.example', port: 443, rule: '*', address: '203.0.113.1', detail: null };
  const entry = { seq: 1, at: new Date(0), ...about, decision: 'allowed', reason: null };
  made.egress.log.mockResolvedValue({ entries: [entry], lastSeq: 1, lost: false });
  await made.run('egress', 'one', '--log');
  expect(made.out).toMatch(/^SEQ .*\n1 +1970-01-01T00:00:00\.000Z +CONNECT +a\.example:443 +allowed +rule \*\n$/);
});

test('a sandbox is made with --egress, and not with another network besides', async () => {
  const made = world();
  expect(await made.run('create', '--egress', 'pypi.org', '--network', 'bridge')).toBe(125);
  expect(made.err).toContain('--egress');
});
