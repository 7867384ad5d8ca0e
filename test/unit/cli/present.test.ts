import { expect, test } from 'vitest';

import { presentProcess, presentSandbox, presentStats } from '../../../src/cli/present.js';
import { presentProcess as processAnswer } from '../../../src/http/wire-processes.js';
import { presentSandbox as sandboxAnswer, presentStats as statsAnswer } from '../../../src/http/wire-sandboxes.js';
import type { ProcessInfo } from '../../../src/index.js';
import { makeInfo, StubManager } from './harness.js';

/* What --json prints is what the REST service answers. */

test('a sandbox', () => {
  const at = new Date('2026-01-01T00:00:00Z');
  const stopped = {
    state: 'exited',
    startedAt: at,
    finishedAt: at,
    exitCode: 3,
    idleTimeoutMs: 90_000,
    runtime: 'runsc',
  } as const;
  for (const info of [makeInfo('abc'), { ...makeInfo('abc'), ...stopped }]) {
    expect(presentSandbox(info)).toEqual(sandboxAnswer(info));
  }
});

test('what it uses', async () => {
  const stub = new StubManager();
  stub.add('abc');
  const stats = await stub.stats('abc');
  expect(presentStats(stats)).toEqual(statsAnswer(stats));
});

test('a process', () => {
  const info: ProcessInfo = {
    id: 'p1',
    pid: null,
    command: ['sh', '-c', 'true'],
    state: 'exited',
    outcome: 'killed',
    exitCode: 143,
    signal: 'SIGTERM',
    startedAt: new Date('2026-01-01T00:00:00Z'),
    pty: true,
    firstSeq: 5,
    lastSeq: 9,
    readers: 1,
  };
  expect(presentProcess(info)).toEqual(processAnswer(info));
});
