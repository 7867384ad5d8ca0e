import { describe, expect, it } from 'vitest';

import {
  engineUnavailable,
  failedToConnect,
  lostConnection,
  translateEngineError,
} from '../../../src/engine/engine-errors.js';
import { SandyardError, type ErrorCode } from '../../../src/errors.js';

const SUBJECT = { doing: 'start', container: 'sandyard-abc', image: 'ubuntu:24.04' };

describe('an answer of the engine', () => {
  it.each<[status: number, text: string, code: ErrorCode]>([
    [404, 'No such image: ubuntu:24.04', 'image_not_found'],
    [404, 'manifest unknown: manifest unknown', 'image_not_found'],
    [404, 'ubuntu:24.04: image not known', 'image_not_found'],
    [404, 'No such container: sandyard-abc', 'sandbox_not_found'],
    [404, 'No such exec instance: 123', 'sandbox_not_found'],
    [409, 'Conflict. The container name "/sandyard-abc" is already in use by container "1"', 'name_conflict'],
    [409, 'Container 123 is not running', 'wrong_state'],
    [500, 'Container 123 is not running: Removal In Progress', 'wrong_state'],
    [409, 'Container 123 is paused, unpause the container before exec', 'wrong_state'],
    [409, 'cannot start a paused container, try unpause instead', 'wrong_state'],
    [409, 'removal of container 123 is already in progress', 'wrong_state'],
    [400, 'Range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available', 'limit_exceeded'],
    [400, 'Minimum memory limit allowed is 6MB', 'limit_exceeded'],
    [500, 'write /x: no space left on device', 'out_of_disk'],
    [500, 'disk quota exceeded', 'out_of_disk'],
    [409, 'failed: No space left on device', 'out_of_disk'],
    [400, 'Unknown runtime specified runsc', 'validation_failed'],
    [400, 'unknown or invalid runtime name: runsc', 'validation_failed'],
    [
      400,
      'OCI runtime create failed: exec: "/usr/lib/sandyard/warden": stat: no such file or directory: unknown',
      'engine_error',
    ],
    [400, 'invalid mount config for type "bind": bind source path does not exist: /srv/abc', 'engine_error'],
    [500, 'something went wrong', 'engine_error'],
    [503, 'busy', 'engine_error'],
    [400, 'client version 1.99 is too new', 'engine_error'],
  ])('with %d and "%s" is %s', (statusCode, message, code) => {
    const cause = Object.assign(new Error(`(HTTP code ${statusCode}) ${message}`), { statusCode, json: { message } });
    const error = translateEngineError(cause, SUBJECT);
    expect(error).toMatchObject({ code, cause });
    expect(error.message).not.toContain('HTTP code');
    expect(error.hint).toBeTruthy();
  });

  it.each<[number, string, string]>([
    [404, 'No such image', 'ubuntu:24.04'],
    [404, 'No such container', 'sandyard-abc'],
    [409, 'Container 1 is paused', 'sandyard-abc is paused'],
    [400, 'bad: bind source path does not exist: /srv/a', 'start: bind source path does not exist: /srv/a'],
    [500, 'something went wrong', 'start: something went wrong'],
  ])('with %d and "%s" tells "%s"', (statusCode, message, told) => {
    expect(translateEngineError({ statusCode, json: { message } }, SUBJECT).message).toContain(told);
  });

  it('is told in one line, of a bounded length', () => {
    const { message } = translateEngineError({ statusCode: 500, message: `a\nb\n${'x'.repeat(10_000)}` }, SUBJECT);
    expect(message).not.toContain('\n');
    expect(message.length).toBeLessThan(600);
  });
});

describe('a fault on the way', () => {
  it.each<[fault: unknown, told: RegExp]>([
    [{ code: 'ECONNREFUSED', message: 'connect ECONNREFUSED' }, /nothing listens/],
    [{ code: 'ENOENT', message: 'x' }, /socket does not exist/],
    [{ code: 'EACCES', message: 'x' }, /permission denied/],
    [{ code: 'ECONNRESET', message: 'socket hang up' }, /closed the connection/],
    [{ code: 'ENOTFOUND', message: 'x' }, /host name/],
    [{ code: 'SELF_SIGNED_CERT_IN_CHAIN', message: 'self-signed' }, /TLS certificate/],
    [{ code: 'ERR_TLS_CERT_ALTNAME_INVALID', message: 'altname' }, /TLS certificate/],
    [{ code: 'EWEIRD', message: 'weird thing' }, /weird thing/],
    [new Error('plain'), /plain/],
    ['a text', /a text/],
    [null, /null/],
    [undefined, /undefined/],
  ])('%o makes the engine unavailable', (fault, told) => {
    const error = translateEngineError(fault, SUBJECT);
    expect(error).toMatchObject({ code: 'engine_unavailable', retryable: true, message: expect.stringMatching(told) });
    expect(error.hint).toBeTruthy();
  });

  it('leaves errors of ours as they are', () => {
    const error = new SandyardError('aborted', 'x');
    expect(translateEngineError(error, SUBJECT)).toBe(error);
    expect(engineUnavailable('x').code).toBe('engine_unavailable');
  });
});

it.each([
  ['ECONNREFUSED', true, false],
  ['ENOENT', true, false],
  ['EACCES', true, false],
  ['ECONNRESET', false, true],
  ['EPIPE', false, true],
  ['ETIMEDOUT', false, false],
])('%s: never arrived %s, may have arrived %s', (code, failed, lost) => {
  expect([failedToConnect({ code }), lostConnection({ code })]).toEqual([failed, lost]);
});
