import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';

const MAIN = new URL('../../../src/cli/main.ts', import.meta.url).pathname;
/** Nothing listens there, so it is the same on every machine. */
const NO_ENGINE = { DOCKER_HOST: 'unix:///nonexistent/docker.sock', PORT: '0', SANDBOX_LOG_LEVEL: 'silent' };

function start(...args: string[]) {
  const { PATH = '' } = process.env;
  const child = spawn(process.execPath, ['--import', 'tsx', MAIN, ...args], {
    env: { PATH, ...NO_ENGINE },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const text = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk: Buffer) => (text.stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (text.stderr += chunk.toString()));
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, ...text }));
  return { child, text, ended };
}

describe('the program itself', () => {
  test('prints its version', async () => {
    const { code, stdout } = await start('--version').ended;
    expect([code, stdout]).toEqual([0, expect.stringMatching(/^\d+\.\d+\.\d+\n$/)]);
  });

  test('says that there is no engine, with a hint and without a stack trace', async () => {
    const { code, stdout, stderr } = await start('ls').ended;
    expect([code, stdout]).toEqual([125, '']);
    expect(stderr).toMatch(/^sandyard: .+\nhint: .+\n$/);
    expect(stderr).not.toContain('unexpected');
  });

  test('ends quietly when nobody reads', async () => {
    const { child, ended } = start('ls', '--help');
    child.stdout.destroy();
    const { code, stderr } = await ended;
    expect(stderr).toBe('');
    expect([0, 141]).toContain(code);
  });

  test('serves until it is told to stop', async () => {
    const { child, text, ended } = start('serve');
    while (!text.stdout.includes('Sandyard is running.')) {
      const early = await Promise.race([once(child.stdout, 'data'), ended]);
      if ('code' in early) throw new Error(`It has ended: ${JSON.stringify(early)}`);
    }
    child.kill('SIGTERM');
    const { code, stderr } = await ended;
    expect([code, stderr]).toEqual([0, '']);
  });
});
