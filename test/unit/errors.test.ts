import { describe, expect, it } from 'vitest';

import { describeError, ERROR_CODES, isSandyardError, SandyardError } from '../../src/errors.js';

describe('the table of codes', () => {
  it.each(ERROR_CODES)('%s has an error status, a title and a name in snake case', (code) => {
    const { status, title } = describeError(code);
    expect(status).toBeGreaterThanOrEqual(400);
    expect(status).toBeLessThan(600);
    expect(title).toMatch(/^[A-Z].*[^.]$/);
    expect(code).toMatch(/^[a-z]+(_[a-z]+)*$/);
  });

  it('calls retryable only what no change of the input could mend', () => {
    const retryable = ERROR_CODES.filter((code) => describeError(code).retryable);
    expect(retryable).toEqual([
      'idempotency_in_progress',
      'rate_limited',
      'aborted',
      'over_capacity',
      'host_exhausted',
      'port_not_open',
      'engine_unavailable',
      'engine_timeout',
    ]);
  });
});

describe('SandyardError', () => {
  it('carries what it was given, and what its code says', () => {
    const cause = new Error('ECONNREFUSED');
    const error = new SandyardError('engine_unavailable', 'No engine.', { hint: 'Start it.', cause });
    expect(error).toMatchObject({ code: 'engine_unavailable', status: 503, retryable: true, hint: 'Start it.', cause });
    expect(String(error)).toBe('SandyardError: No engine.');
  });

  it('carries details for programs', () => {
    const error = new SandyardError('output_lost', 'Lost.', { details: { firstSeq: 7 } });
    expect(JSON.stringify(error.details)).toBe('{"firstSeq":7}');
  });

  it('has no hint, issues, details or cause unless they were given', () => {
    const error = new SandyardError('internal', 'Oops.');
    expect(error).toMatchObject({ hint: undefined, issues: [], details: {} });
    expect('cause' in error).toBe(false);
  });
});

describe('isSandyardError', () => {
  const error = new SandyardError('file_not_found', 'No file.');

  it.each([
    [error, undefined, true],
    [error, 'file_not_found', true],
    [error, 'file_exists', false],
    [new Error('No file.'), undefined, false],
    [{ code: 'file_not_found' }, 'file_not_found', false],
    [undefined, undefined, false],
  ] as const)('%s with code %s: %s', (value, code, expected) => {
    expect(isSandyardError(value, code)).toBe(expected);
  });
});
