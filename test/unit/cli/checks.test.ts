import { describe, expect, it, test } from 'vitest';

import { formatChecks } from '../../../src/cli/check-report.js';
import type { AttestationCheck, DoctorCheck } from '../../../src/index.js';
import { World } from './harness.js';

const OK: DoctorCheck = { check: 'engine', expected: 'answers', found: 'Docker 28.5.2', severity: 'ok', fix: null };
const WARN: DoctorCheck = {
  check: 'live restore',
  expected: 'on',
  found: 'off: a restart of the engine ends all sandboxes',
  severity: 'warn',
  fix: 'Set "live-restore": true in daemon.json, and reload the engine.',
};

function attestation(status: AttestationCheck['status']) {
  const fix = status === 'ok' ? null : 'Destroy it.';
  const check: AttestationCheck = { check: 'CapAdd', source: 'engine', expected: 'A', found: 'B', status, fix };
  const at = new Date('2026-01-01T00:00:00Z');
  return { sandboxId: 'abc', at, runtime: 'runc', ok: status === 'ok', drift: status === 'drift', checks: [check] };
}

describe('a list of checks', () => {
  it('is aligned, and says what to do where something is to be done', () => {
    const rows = [OK, WARN].map(({ severity, ...check }) => ({ verdict: severity, ...check }));
    expect(formatChecks(rows)).toBe(
      [
        'ok    engine        Docker 28.5.2',
        'warn  live restore  off: a restart of the engine ends all sandboxes',
        '                    expected: on',
        '                    fix: Set "live-restore": true in daemon.json, and reload the',
        '                    engine.',
        '',
      ].join('\n'),
    );
  });

  test.each([10, 40, 80, 100, 500])('fits a terminal of %i columns', (columns) => {
    const found = `${'word '.repeat(40)}${'x'.repeat(300)}`;
    const rows = [
      { verdict: 'drift', check: 'attempt to open a socket to the hypervisor', expected: found, found, fix: found },
    ];
    const lines = formatChecks(rows, { columns }).split('\n');
    const width = Math.min(Math.max(columns, 60), 120); // a long name has a line of its own
    expect(lines.filter((line) => line.length > width)).toEqual([]);
    expect(lines.join('').replaceAll(/\s/g, '')).toContain('x'.repeat(300));
  });

  it('obeys nothing that is in it', () => {
    const rows = [{ verdict: 'ok', check: 'x', expected: '', found: 'a\u001B[2Jb\nc', fix: null }];
    expect(formatChecks(rows)).toBe('ok  x  a\\x1b[2Jb\\nc\n');
  });
});

describe('doctor', () => {
  it('prints what it found, and exits with 0 unless something fails', async () => {
    const world = new World();
    world.stub.found = [OK, WARN];
    expect(await world.run('doctor')).toBe(0);
    expect(world.out).toContain('warn  live restore');
    expect(world.out).toContain('service address');
    const failing = new World();
    failing.stub.found = [{ ...WARN, severity: 'fail' }];
    expect(await failing.run('doctor')).toBe(1);
  });

  it('prints the JSON of the service', async () => {
    const world = new World();
    world.stub.found = [WARN];
    expect(await world.run('doctor', '--json')).toBe(0);
    expect(JSON.parse(world.out)).toMatchObject({
      at: '1970-01-01T00:00:00.000Z',
      ok: true,
      checks: [WARN, { check: 'service address', severity: 'ok', fix: null }],
    });
  });
});

describe('attest', () => {
  test.each([
    ['ok', 0],
    ['drift', 1],
    ['unknown', 1],
  ] as const)('exits with what it found: %s', async (status, code) => {
    const world = new World();
    world.stub.add('abc');
    world.stub.attestation = attestation(status);
    expect(await world.run('attest', 'abc')).toBe(code);
    expect(world.out).toMatch(new RegExp(`^${status} +CapAdd +B\n`));
  });

  it('prints the JSON of the service', async () => {
    const world = new World();
    world.stub.add('abc');
    world.stub.attestation = attestation('drift');
    expect(await world.run('attest', '--json', 'abc')).toBe(1);
    expect(JSON.parse(world.out)).toEqual({
      sandbox_id: 'abc',
      at: '2026-01-01T00:00:00.000Z',
      runtime: 'runc',
      ok: false,
      drift: true,
      checks: [{ check: 'CapAdd', expected: 'A', found: 'B', source: 'engine', status: 'drift', fix: 'Destroy it.' }],
    });
  });

  it('fails for what is not there', async () => {
    const world = new World();
    expect(await world.run('attest', 'nope')).toBe(125);
    expect(world.err).toContain('nope');
  });
});
