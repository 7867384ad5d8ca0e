import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { parseCopyPath, planCopy, targetInSandbox, targetOnHost } from '../../../src/cli/copy-paths.js';
import type { Sandbox } from '../../../src/index.js';
import { StubManager } from './harness.js';

describe('a path to copy', () => {
  test.each([
    ['abc123:/workspace', { kind: 'sandbox', id: 'abc123', path: '/workspace' }],
    ['abc:/a:b\nc', { kind: 'sandbox', id: 'abc', path: '/a:b\nc' }],
    ['-', { kind: 'stream' }],
    ['./abc:/x', { kind: 'host', path: './abc:/x' }],
    ['/tmp/abc:/x', { kind: 'host', path: '/tmp/abc:/x' }],
    ['a/b:/x', { kind: 'host', path: 'a/b:/x' }],
    ['my-file:/x', { kind: 'host', path: 'my-file:/x' }],
    ['UPPER:/x', { kind: 'host', path: 'UPPER:/x' }],
    [':/x', { kind: 'host', path: ':/x' }],
    ['plain', { kind: 'host', path: 'plain' }],
    ['.', { kind: 'host', path: '.' }],
  ])('%j', (text, path) => {
    expect(parseCopyPath(text)).toEqual(path);
  });

  test.each(['abc:', 'abc:file', 'abc:../x'])('is to be absolute in a sandbox: %j', (text) => {
    expect(() => parseCopyPath(text)).toThrow(`"${text}" has no absolute path`);
  });

  test('is in a sandbox on exactly one side', () => {
    expect(planCopy('-', 'abc:/x')).toEqual({ direction: 'in', id: 'abc', from: null, to: '/x' });
    expect(planCopy('abc:/x', '-')).toEqual({ direction: 'out', id: 'abc', from: '/x', to: null });
    expect(() => planCopy('a', '-')).toThrow('Neither path is in a sandbox.');
    expect(() => planCopy('a:/x', 'b:/x')).toThrow('Both paths are in sandboxes.');
  });
});

describe('where a copy goes', () => {
  let dir = '';
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'sandyard-cli-'));
    mkdirSync(join(dir, 'project'));
    writeFileSync(join(dir, 'file'), '');
  });
  afterAll(() => rmSync(dir, { recursive: true }));

  async function sandbox(): Promise<Sandbox> {
    const stub = new StubManager();
    stub.add('abc');
    return (await stub.get('abc')) as unknown as Sandbox;
  }

  test.each([
    ['project', '/workspace', '/workspace/project'],
    ['project/', '/workspace', '/workspace/project'],
    ['project/.', '/workspace', '/workspace'],
    ['project', '/new', '/new'],
    // The library has the rule for files.
    ['file', '/workspace', '/workspace'],
    ['missing', '/workspace', '/workspace'],
  ])('in: %s to %s is %s', async (source, target, expected) => {
    const places = { hostPath: join(dir, '/') + source, sandboxPath: target };
    expect(await targetInSandbox(places, await sandbox())).toBe(expected);
  });

  test.each([
    ['/workspace', '', '/workspace'],
    ['/workspace/.', '', ''],
    ['/workspace', '/new', '/new'],
    ['/file', '', ''],
  ])('out: %s to DIR%s is DIR%s', async (source, target, expected) => {
    const places = { hostPath: dir + target, sandboxPath: source };
    expect(await targetOnHost(places, await sandbox())).toBe(dir + expected);
  });
});
