import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

import { Access } from '../../../src/access/access.js';
import { readConfig } from '../../../src/config.js';

const directory = mkdtempSync(join(tmpdir(), 'sandyard-keys-'));
afterAll(() => rmSync(directory, { recursive: true }));

const hash = (key: string) => createHash('sha256').update(key).digest('hex');

function configOf(text: string) {
  const SANDBOX_API_KEYS_FILE = join(directory, 'keys');
  writeFileSync(SANDBOX_API_KEYS_FILE, text);
  return readConfig({ SANDBOX_API_KEYS_FILE, HOST: '0.0.0.0', SANDBOX_OWNER: 'house' });
}

describe('the file of keys', () => {
  it('says of each whose it is and what it is good for', async () => {
    const text = `# keys\n\nci  team-a  read,exec  sha256:${hash('first')}\r\nops house admin sha256:${hash('second').toUpperCase()}\n`;
    const { access: settings, owner } = configOf(text);
    const access = new Access({ settings, token: 'the-old-one-there-was', owner });
    expect(await access.identify('first')).toEqual({
      owner: 'team-a',
      scopes: ['read', 'exec'],
      via: 'key',
      name: 'ci',
    });
    expect(await access.identify('second')).toEqual({ owner: 'house', scopes: ['admin'], via: 'key', name: 'ops' });
    expect(await access.identify('the-old-one-there-was')).toMatchObject({ owner: 'house', scopes: ['admin'] });
    for (const wrong of ['third', 'First', hash('first'), `sha256:${hash('first')}`, 'ci', '']) {
      await expect(access.identify(wrong)).rejects.toMatchObject({ code: 'unauthorized' });
    }
  });

  it.each([
    ['the key itself', 'ci team-a read hunter2hunter2', /line 1 it is not "NAME OWNER/],
    ['too few words', `ci read sha256:${hash('x')}`, /line 1 it is not/],
    ['a short hash', 'ci team-a read sha256:abcd', /line 1 it is not/],
    ['an unknown scope', `\nci team-a read,root sha256:${hash('x')}`, /line 2 "root" is none of/],
    ['no owner', `ci Team!A read sha256:${hash('x')}`, /the owner is not/],
    ['a name twice', `a o read sha256:${hash('x')}\na o read sha256:${hash('y')}`, /line 2 the name a is used twice/],
    ['a key twice', `a o read sha256:${hash('x')}\nb o exec sha256:${hash('x')}`, /line 2 the key is used twice/],
  ])('is refused with %s', (_, text, message) => {
    expect(() => configOf(text)).toThrow(message);
    expect(() => configOf(text)).not.toThrow(/hunter2/);
  });
});
