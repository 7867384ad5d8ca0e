import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

import { World } from './harness.js';

const CHANGES = ['start', 'stop', 'restart', 'pause', 'unpause', 'renew'];
const COMMANDS = ['create', 'run', 'exec', 'ls', 'inspect', 'ps', 'cp', 'stats'].concat(CHANGES, [
  'wait',
  'events',
  'egress',
  'secrets',
  'prune',
  'rm',
  'attest',
  'doctor',
  'serve',
  'token',
]);

describe('the help', () => {
  test.each(['', ...COMMANDS])('of %j', async (name) => {
    const world = new World();
    const names = name === '' ? [] : [name];
    expect(await world.run(...names, '--help')).toBe(0);
    expect(world.out).toMatchSnapshot();
    expect(world.err).toBe('');
    expect(world.opened).toBe(0);
    const long = world.out.split('\n').filter((line) => line.length > 100);
    expect(long).toEqual([]);
  });

  test('has every command', async () => {
    const world = new World();
    await world.run('help');
    const listed = [...world.out.matchAll(/^ {2}([a-z]+) (?=.* {2}\S)/gm)].map(([, name]) => name);
    expect(listed).toEqual([...COMMANDS, 'help']);
  });

  test('comes on standard error, as a fault, when nothing was asked for', async () => {
    const world = new World();
    expect(await world.run()).toBe(125);
    expect(world.out).toBe('');
    expect(world.err).toMatch(/^Usage: sandyard /);
  });

  test('is printed by help COMMAND, the version by --version', async () => {
    const world = new World();
    expect(await world.run('help', 'rm')).toBe(0);
    expect(world.out).toMatch(/^Usage: sandyard rm /);
    const other = new World();
    expect(await other.run('--version')).toBe(0);
    expect(other.out).toBe('1.2.3\n');
  });
});

describe('what is loaded before a command runs', () => {
  test('is commander, Node itself and no file that loads more', () => {
    const start = fileURLToPath(new URL('../../../src/cli/main.ts', import.meta.url));
    const seen = new Set<string>();
    const packages = new Set<string>();
    const visit = (file: string): void => {
      if (seen.has(file)) return;
      seen.add(file);
      for (const [, , specifier = ''] of readFileSync(file, 'utf8').matchAll(
        /^(import|export)\s(?!type\b)(?:[^'";]*?\sfrom\s+)?'([^']+)'/gm,
      )) {
        if (specifier.startsWith('.')) visit(join(dirname(file), specifier.replace(/\.js$/, '.ts')));
        else packages.add(specifier);
      }
    };
    visit(start);
    expect([...packages].filter((name) => !name.startsWith('node:'))).toEqual(['commander']);
    const outside = [...seen].filter((file) => !file.includes('/src/cli/')).map((file) => file.split('/src/')[1]);
    expect(new Set(outside)).toEqual(
      new Set(['context.ts', 'errors.ts', 'version.ts', 'wire/check-presenters.ts', 'wire/presenters.ts']),
    );
  });
});
