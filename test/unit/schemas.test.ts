import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { SandyardError } from '../../src/errors.js';
import {
  createOptionsSchema,
  execOptionsSchema,
  fields,
  formatSize,
  listOptionsSchema,
  parseDuration,
  parseInput,
  parseSize,
  spawnOptionsSchema,
} from '../../src/schemas.js';

const KIB = 1024;
const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

describe('parseSize', () => {
  it.each([
    [0, 0],
    [4096, 4096],
    ['4096', 4096],
    ['4096b', 4096],
    ['1k', KIB],
    ['512m', 512 * MIB],
    ['512M', 512 * MIB],
    ['512mb', 512 * MIB],
    ['512 MiB', 512 * MIB],
    ['1.5g', 1.5 * GIB],
    [' 1g ', GIB],
    ['2t', 2048 * GIB],
    ['0.3k', 307],
  ])('reads %j as %d bytes', (value, bytes) => {
    expect(parseSize(value)).toBe(bytes);
  });

  it.each(['', 'm', '-1m', '1e3', '0x10', '1gg', '1 g b', '1,5g', 'Infinity', '1g; rm', `${'9'.repeat(30)}g`])(
    'refuses %j',
    (value) => {
      expect(parseSize(value)).toBeUndefined();
    },
  );

  it.each([-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53])('refuses the number %d', (value) => {
    expect(parseSize(value)).toBeUndefined();
  });
});

describe('formatSize', () => {
  it.each([
    [0, '0 bytes'],
    [1000, '1000 bytes'],
    [1536, '1.5k'],
    [512 * MIB, '512m'],
    [1.5 * GIB, '1.5g'],
    [1025 * MIB, '1025m'],
    [2048 * GIB, '2t'],
  ])('writes %d as %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });

  it('writes what parseSize reads back, whatever the size', () => {
    const sizes = fc.oneof(
      fc.nat({ max: Number.MAX_SAFE_INTEGER }),
      fc.nat(4096).map((mib) => mib * MIB),
    );
    fc.assert(fc.property(sizes, (bytes) => parseSize(formatSize(bytes).replace(' bytes', 'b')) === bytes));
  });
});

describe('parseDuration', () => {
  it.each([
    ['500ms', 500],
    ['90s', 90_000],
    ['1.5s', 1500],
    ['15m', 900_000],
    ['2H', 7_200_000],
    ['1 d', 86_400_000],
    ['0s', 0],
  ])('reads %s as %d ms', (value, ms) => {
    expect(parseDuration(value)).toBe(ms);
  });

  it.each(['', '90', 's', '-1s', '1w', '1h30m', '1e3s', 'never'])('refuses %j', (value) => {
    expect(parseDuration(value)).toBeUndefined();
  });
});

/** The first fault of a field, or `undefined` when the value is good. */
function fault(field: keyof typeof fields, value: unknown): string | undefined {
  const result = fields[field].safeParse(value);
  return result.success ? undefined : result.error.issues[0]?.message;
}

describe('fields', () => {
  it.each<[keyof typeof fields, unknown, unknown]>([
    ['memoryLimit', '16m', 16 * MIB],
    ['memoryLimit', 16 * MIB, 16 * MIB],
    ['cpuLimit', 0.5, 0.5],
    ['cpuLimit', '1.0', 1],
    ['cpuLimit', 0.01, 0.01],
    ['command', 'echo hi', 'echo hi'],
    ['command', ['echo', '', '$(x)'], ['echo', '', '$(x)']],
  ])('%s takes %j as %j', (field, value, parsed) => {
    expect(fields[field].parse(value)).toEqual(parsed);
  });

  it.each<[keyof typeof fields, unknown]>([
    ['id', 'abc123'],
    ['projectName', 'My project 1.0_x-y'],
    ['env', { PATH: '/bin', _x1: '', MANY: 'a\nb=c' }],
    ['path', '/'],
    ['path', '/workspace/a b/\n/ü/...'],
    ['path', '/processes/x'],
    ['path', '/workspace/proc/x'],
    ['user', 'sandbox'],
    ['user', '1000'],
    ['user', '1234:5678'],
    ['user', '999999999:999999999'],
    ['processId', 'A-z_0.9'],
    ['processId', 'a'.repeat(64)],
    ['signal', 'SIGTERM'],
    ['runtime', 'runsc'],
    ['runtime', 'io.containerd.runc.v2'],
    ['terminalSize', { rows: 1, columns: 65_535 }],
    ['whenUnread', 'run'],
    ['port', 65_535],
    ['graceMs', 0],
    ['seq', 0],
    ['etag', '*'],
    ['etag', '1f-ffffffffffffffff-0-a'],
    ['image', 'ubuntu'],
    ['image', 'ubuntu:24.04'],
    ['image', 'ghcr.io/some-one/some_image.x:v1.2-rc.3'],
    ['image', 'localhost:5000/x'],
    ['image', `ubuntu@sha256:${'a'.repeat(64)}`],
    ['labels', { 'com.example/team': 'a' }],
    ['labels', { 'sandyardish.x': 'a' }],
    ['metadata', { 'any key': 'any value' }],
    ['mode', 0o777],
    ['network', 'bridge'],
    ['maxOutputBytes', 0],
    ['command', ['x'.repeat(128 * KIB - 1)]],
  ])('%s takes %j', (field, value) => {
    expect(fault(field, value)).toBeUndefined();
  });

  it.each<[keyof typeof fields, unknown, RegExp]>([
    ['id', 'a/../b', /lower-case/],
    ['id', '', /lower-case/],
    ['processId', '', /1 to 64/],
    ['processId', 'a/b', /1 to 64/],
    ['processId', '.', /1 to 64/],
    ['processId', '..', /1 to 64/],
    ['processId', '-a', /1 to 64/],
    ['processId', 'a\n', /1 to 64/],
    ['processId', 'a'.repeat(65), /1 to 64/],
    ['signal', 'TERM', /SIGTERM/],
    ['signal', 15, /SIGTERM/],
    ['runtime', '-x', /runtime/],
    ['runtime', 'a b', /runtime/],
    ['terminalSize', { rows: 0, columns: 1 }, /./],
    ['terminalSize', { rows: 1, columns: 65_536 }, /./],
    ['terminalSize', { rows: 1 }, /./],
    ['whenUnread', 'stop', /./],
    ['port', 0, /./],
    ['port', 65_536, /./],
    ['graceMs', -1, /./],
    ['graceMs', 600_001, /./],
    ['seq', -1, /./],
    ['etag', '"1-2-3-4"', /tag/],
    ['etag', '1-2-3', /tag/],
    ['etag', '-', /tag/],
    ['etag', '!', /tag/],
    ['etag', 'A-2-3-4', /tag/],
    ['projectName', '../x', /start with/],
    ['projectName', 'x'.repeat(65), /64/],
    ['memoryLimit', '15m', /at least 16m/],
    ['memoryLimit', -1, /size/],
    ['memoryLimit', Number.NaN, /./],
    ['memoryLimit', 'much', /size/],
    ['cpuLimit', 0, /at least 0.01/],
    ['cpuLimit', 'half', /number of CPUs/],
    ['cpuLimit', '-1', /number of CPUs/],
    ['cpuLimit', `1${'0'.repeat(400)}`, /./],
    ['pidsLimit', 7, /8/],
    ['pidsLimit', 100.5, /int/],
    ['durationMs', 999, /1000/],
    ['durationMs', 367 * 86_400_000, /./],
    ['mode', 0o4755, /./],
    ['mode', -1, /./],
    ['state', 'dead', /./],
    ['network', 'host', /./],
    ['network', 'container:x', /./],
    ['maxOutputBytes', -1, /./],
    ['maxOutputBytes', 64 * MIB + 1, /./],
    ['env', { 'A B': 'x' }, /./],
    ['env', { '': 'x' }, /./],
    ['env', { 'A=B': 'x' }, /./],
    ['env', { A: 'x\0y' }, /NUL/],
    ['env', { A: 'x'.repeat(128 * KIB) }, /128 KiB/],
    ['env', Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`A${n}`, 'x'.repeat(60_000)])), /1 MiB/],
    ['env', { SANDYARD_PROCESS: 'abc' }, /reserved/],
    ['labels', { 'sandyard.owner': 'me' }, /reserved/],
    ['labels', { 'a b': 'x' }, /./],
    ['labels', Object.fromEntries(Array.from({ length: 33 }, (_, n) => [`a${n}`, ''])), /32/],
    ['metadata', { '': 'x' }, /./],
    ['metadata', { a: 'x'.repeat(1025) }, /1024/],
    ['metadata', Object.fromEntries(Array.from({ length: 33 }, (_, n) => [`a${n}`, ''])), /32/],
    ['path', '', /absolute/],
    ['path', 'relative/x', /absolute/],
    ['path', '/a/../etc', /"\.\."/],
    ['path', '/..', /"\.\."/],
    ['path', '/a\0b', /NUL/],
    ['path', `/${'x'.repeat(4096)}`, /4096/],
    ['path', '/proc', /\/proc/],
    ['path', '/proc/self/fd/7', /\/proc/],
    ['path', '//proc/self/cwd', /\/proc/],
    ['path', '/./proc/self/fd/7', /\/proc/],
    ['path', '//.//./proc/1/root', /\/proc/],
    ['path', '/sys/fs/cgroup', /\/sys/],
    ['user', '00', /"root" with the profile "dev"/],
    ['user', '0:1000', /"root" with the profile "dev"/],
    ['user', '1000:0', /"root" with the profile "dev"/],
    ['user', '1000:00', /"root" with the profile "dev"/],
    ['user', '+0', /"root" with the profile "dev"/],
    ['user', '-1', /"root" with the profile "dev"/],
    ['user', '4294967296', /"root" with the profile "dev"/],
    ['user', '1000:1000:0', /"root" with the profile "dev"/],
    ['user', 'nobody', /"root" with the profile "dev"/],
    ['user', '1073741824', /"root" with the profile "dev"/],
    ['user', '1000\n', /"root" with the profile "dev"/],
    ['image', '', /image reference/],
    ['image', '-x', /image reference/],
    ['image', 'Ubuntu', /image reference/],
    ['image', 'a b', /image reference/],
    ['image', 'a/../../b', /image reference/],
    ['image', 'ubuntu@sha256:abc', /image reference/],
    ['command', '', /not be empty/],
    ['command', [], /program/],
    ['command', [''], /program/],
    ['command', ['a\0b'], /NUL/],
    ['command', 'a\0b', /NUL/],
    ['command', ['x'.repeat(128 * KIB)], /128 KiB/],
    ['command', ['ü'.repeat(64 * KIB)], /128 KiB/],
    ['command', Array.from({ length: 20 }, () => 'x'.repeat(60_000)), /1 MiB/],
  ])('%s refuses %j', (field, value, message) => {
    expect(fault(field, value)).toMatch(message);
  });

  it('judges a hostile image reference without trying all ways to read it', () => {
    const started = performance.now();
    expect(fault('image', `a${'-'.repeat(40)}!`)).toBeDefined();
    expect(performance.now() - started).toBeLessThan(2000);
  });
});

describe('parseInput', () => {
  it('names every fault with its path, and the first in the message', () => {
    const error = thrownBy(() =>
      parseInput(createOptionsSchema, { memoryLimit: 'much', env: { A: '\0' }, colour: 'red' }, 'create options'),
    );
    expect(error).toMatchObject({ code: 'validation_failed', status: 422 });
    expect(error.message).toBe(
      'Invalid create options: memoryLimit: must be a size such as "512m" or "1g", or a number of bytes.',
    );
    expect(error.issues.map(({ path }) => path)).toEqual([['memoryLimit'], ['env', 'A'], []]);
    expect(error.issues[2]?.message).toContain('colour');
  });

  it.each([
    [createOptionsSchema, {}],
    [execOptionsSchema, { timeoutMs: 1, cwd: '/', maxOutputBytes: 0, execId: 'a' }],
    [spawnOptionsSchema, { id: 'a', pty: true, whenUnread: 'wait', text: true, graceMs: 1 }],
    [spawnOptionsSchema, { pty: { rows: 1, columns: 1 } }],
    [listOptionsSchema, { state: 'exited', limit: 1000 }],
  ])('returns good input as it is', (schema, input) => {
    expect(parseInput(schema, input, 'input')).toEqual(input);
  });

  it.each([
    [createOptionsSchema, null],
    [createOptionsSchema, { user: 'nobody' }],
    [createOptionsSchema, { profile: 'lax' }],
    [createOptionsSchema, { workdir: 'x' }],
    [createOptionsSchema, { privileged: true }],
    [execOptionsSchema, { timeoutMs: 0 }],
    [execOptionsSchema, { timeoutMs: 1.5 }],
    [execOptionsSchema, { id: 'a' }],
    [spawnOptionsSchema, { maxOutputBytes: 1 }],
    [spawnOptionsSchema, { pty: 'yes' }],
    [listOptionsSchema, { limit: 0 }],
    [listOptionsSchema, { limit: 1001 }],
  ])('refuses what is not', (schema, input) => {
    expect(thrownBy(() => parseInput(schema, input, 'input'))).toMatchObject({ code: 'validation_failed' });
  });
});

function thrownBy(act: () => unknown): SandyardError {
  try {
    act();
  } catch (error) {
    if (error instanceof SandyardError) return error;
    throw error;
  }
  throw new Error('Nothing was thrown.');
}
