import { describe, expect, test } from 'vitest';

import { Tokens } from '../../../src/access/tokens.js';
import { World } from './harness.js';

const tokens = new Tokens(
  { tokenSecret: Buffer.from('x'.repeat(32)), maxTokenMs: 3_600_000, stateDirectory: '/nowhere' },
  'default',
);

async function issue(...args: string[]) {
  const world = new World();
  world.tokens = tokens;
  const code = await world.run('token', ...args);
  return { world, code };
}

describe('token', () => {
  test('prints a token that is good for what was asked for', async () => {
    const { world, code } = await issue('--owner', 'alice', '--scope', 'read', '--scope', 'exec', '--sandbox', 'abc');
    expect([code, world.err, world.opened]).toEqual([0, '', 0]);
    expect(await tokens.read(world.out.trim())).toMatchObject({
      owner: 'alice',
      scopes: ['read', 'exec'],
      sandbox: 'abc',
    });
  });

  test('prints what it is, too', async () => {
    const { world } = await issue('--owner', 'a', '--scope', 'exec', '--expires', '5m', '--single-use', '--json');
    const answer = JSON.parse(world.out) as { token: string; token_id: string; expires_at: string };
    expect(answer).toMatchObject({ owner: 'a', scopes: ['exec'], sandbox: null, single_use: true });
    expect(Math.round((Date.parse(answer.expires_at) - Date.now()) / 60_000)).toBe(5);
    expect(await tokens.read(answer.token)).toMatchObject({ name: answer.token_id, once: { id: answer.token_id } });
  });

  test.each([
    [['--scope', 'read'], /Required option '--owner/],
    [['--owner', 'a'], /Required option '--scope/],
    [['--owner', 'a', '--scope', 'root'], /Invalid token: scopes/],
    [['--owner', 'A B', '--scope', 'read'], /Invalid token: owner/],
    [['--owner', 'a', '--scope', 'read', '--expires', 'soon'], /no duration/],
    [['--owner', 'a', '--scope', 'read', '--expires', '2h'], /SANDBOX_TOKEN_MAX_AGE/],
  ])('%j is refused', async (args, message) => {
    const { world, code } = await issue(...args);
    expect([code, world.out]).toEqual([125, '']);
    expect(world.err).toMatch(message);
  });

  test('says what is missing', async () => {
    const world = new World();
    expect(await world.run('token', '--owner', 'a', '--scope', 'read')).toBe(125);
    expect(world.err).toContain('SANDBOX_TOKEN_SECRET');
  });
});
