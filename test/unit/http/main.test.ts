import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';

import { freePort } from '../../fixtures/free-port.js';

const MAIN = new URL('../../../src/http/main.ts', import.meta.url).pathname;
/** Nothing listens there, so it is the same on every machine. */
const NO_ENGINE = { DOCKER_HOST: 'unix:///nonexistent/docker.sock', PORT: '0', SANDBOX_LOG_LEVEL: 'warn' };

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Program extends AsyncDisposable {
  readonly child: ChildProcessByStdio<null, Readable, Readable>;
  /** Waits until it has printed that. */
  printed(pattern: RegExp): Promise<RegExpExecArray>;
  readonly ended: Promise<Ended>;
}

function start(env: Record<string, string>) {
  const { PATH = '' } = process.env;
  return spawn(process.execPath, ['--import', 'tsx', MAIN], {
    env: { PATH, ...NO_ENGINE, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

function run(env: Record<string, string>): Program {
  const child = start(env);
  const text = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk: Buffer) => (text.stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (text.stderr += chunk.toString()));
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, ...text }));
  return {
    child,
    ended,
    async printed(pattern) {
      for (;;) {
        const match = pattern.exec(text.stdout);
        if (match) return match;
        await once(child.stdout, 'data');
      }
    },
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

describe('the program', () => {
  test.each(['SIGTERM', 'SIGINT'] as const)(
    'serves without an engine, says so, and ends on %s with 0',
    async (signal) => {
      await using program = run({ SANDBOX_TOKEN: 'correct-horse-battery', SANDBOX_MEMROY: '1g' });
      const [, url] = await program.printed(/address +(http:\S+)[^]*Try it:/);
      expect((await fetch(`${url}/healthz`)).status).toBe(200);
      expect((await fetch(`${url}/readyz`)).status).toBe(503);
      expect((await fetch(`${url}/api/sandboxes`)).status).toBe(401);
      program.child.kill(signal);
      const { code, stdout, stderr } = await program.ended;
      expect([code, stderr]).toEqual([0, '']);
      expect(stdout).toMatch(/engine +not there yet: /);
      expect(stdout).toContain('SANDBOX_MEMROY is not a variable');
      expect(stdout).not.toContain('correct-horse-battery');
    },
  );

  test.each([
    { env: { PORT: 'http' }, message: /^sandyard: PORT is "http".*\n {2}See \.env\.example/ },
    { env: { HOST: '0.0.0.0' }, message: /^sandyard: HOST is 0\.0\.0\.0.*\n {2}Set SANDBOX_TOKEN/ },
    { env: { HOST: '192.0.2.1', SANDBOX_TOKEN: 'x'.repeat(16) }, message: /^sandyard: Can't listen.*\n {2}Set HOST/ },
  ])('$env is refused in one clear line', async ({ env, message }) => {
    await using program = run(env);
    const { code, stderr } = await program.ended;
    expect(code).toBe(1);
    expect(stderr).toMatch(message);
    expect(stderr.trimEnd().split('\n')).toHaveLength(2);
  });

  test('answers although nobody reads its log, and ends all the same', { timeout: 30_000 }, async () => {
    const port = await freePort();
    const child = start({ PORT: String(port), SANDBOX_LOG_LEVEL: 'info' });
    try {
      const url = `http://127.0.0.1:${port}`;
      const ask = (path: string) => fetch(`${url}${path}`, { signal: AbortSignal.timeout(2000) });
      const isUp = () =>
        ask('/healthz').then(
          ({ ok }) => ok,
          () => false,
        );
      while (!(await isUp())) await sleep(50);
      // Each is a line of 8 KB: together far more than a pipe holds, and than the test's own end of it takes.
      for (let count = 0; count < 300; count += 1) await ask(`/${'x'.repeat(8000)}`);
      expect(await isUp()).toBe(true);
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      expect((await ended)[0]).toBe(0);
    } finally {
      child.kill('SIGKILL');
    }
  });

  test('has written its whole log when it has ended', async () => {
    await using program = run({ SANDBOX_LOG_LEVEL: 'info' });
    await program.printed(/Try it:/);
    program.child.kill('SIGTERM');
    const { stdout } = await program.ended;
    expect(stdout).toMatch(/"msg":"closed; sandboxes live on"\}\n$/);
  });
});
