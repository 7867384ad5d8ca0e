import { describe, expect, test } from 'vitest';

import { exitCodeOf, exitCodeOfError } from '../../../src/cli/exit-codes.js';
import { SandyardError } from '../../../src/errors.js';

describe('the exit code for how a command ended', () => {
  test.each([
    [{ outcome: 'exited', exitCode: 0, signal: null }, 0],
    [{ outcome: 'exited', exitCode: 3, signal: null }, 3],
    [{ outcome: 'exited', exitCode: 255, signal: null }, 255],
    [{ outcome: 'exited', exitCode: null, signal: null }, 125],
    [{ outcome: 'signaled', exitCode: null, signal: 'SIGSEGV' }, 139],
    [{ outcome: 'signaled', exitCode: 162, signal: 'SIGRTMIN' }, 162],
    [{ outcome: 'signaled', exitCode: null, signal: 'SIGRTMIN' }, 125],
    [{ outcome: 'timed_out', exitCode: null, signal: 'SIGTERM' }, 124],
    [{ outcome: 'timed_out', exitCode: 0, signal: null }, 124],
    [{ outcome: 'oom_killed', exitCode: null, signal: 'SIGKILL' }, 137],
    [{ outcome: 'disk_full', exitCode: null, signal: 'SIGKILL' }, 137],
    [{ outcome: 'killed', exitCode: null, signal: 'SIGTERM' }, 143],
    [{ outcome: 'killed', exitCode: null, signal: 'SIGKILL' }, 137],
    [{ outcome: 'killed', exitCode: null, signal: null }, 137],
    [{ outcome: 'sandbox_died', exitCode: null, signal: null }, 125],
  ] as const)('%j: %i', (exit, code) => {
    expect(exitCodeOf(exit)).toBe(code);
  });
});

describe('the exit code for an error', () => {
  test.each([
    [new SandyardError('command_not_found', 'x'), 127],
    [new SandyardError('command_not_executable', 'x'), 126],
    [new SandyardError('sandbox_died', 'x'), 125],
    [new SandyardError('engine_unavailable', 'x'), 125],
    [new SandyardError('validation_failed', 'x'), 125],
    [new TypeError('x'), 125],
  ])('%s: %i', (error, code) => {
    expect(exitCodeOfError(error)).toBe(code);
  });
});
