import { describe, expect, it } from 'vitest';

import { isSignalName, PROCESS_MARK, signalOfExitCode, signalTree } from '../../src/process-tree.js';
import { FakeEngine } from '../fixtures/fake-engine.js';
import { exited } from '../fixtures/fake-exec.js';

describe('isSignalName', () => {
  it.each(['SIGTERM', 'SIGKILL', 'SIGHUP', 'SIGUSR1', 'SIGWINCH'])('knows %s', (name) => {
    expect(isSignalName(name)).toBe(true);
  });

  it.each([
    '',
    'TERM',
    'sigterm',
    '9',
    'SIGTERM ',
    'SIGNOTHING',
    'SIGTERM; rm',
    'toString',
    'constructor',
    '__proto__',
  ])('refuses %j', (name) => {
    expect(isSignalName(name)).toBe(false);
  });
});

describe('signalOfExitCode', () => {
  it.each([
    [0, null],
    [1, null],
    [126, null],
    [128, null],
    [129, 'SIGHUP'],
    [130, 'SIGINT'],
    [137, 'SIGKILL'],
    [139, 'SIGSEGV'],
    [143, 'SIGTERM'],
    [159, 'SIGSYS'],
    [160, null],
    [255, null],
  ])('%d: %s', (exitCode, signal) => {
    expect(signalOfExitCode(exitCode)).toBe(signal);
  });
});

describe('signalTree', () => {
  const target = { container: 'box', user: '1000:1000', processId: 'p1', signal: 'SIGTERM' } as const;
  const boxed = () => {
    const engine = new FakeEngine();
    engine.plant({ name: 'box', labels: {} });
    return engine;
  };
  const start = (engine: FakeEngine, mark: string) =>
    engine.exec('box', {
      command: ['sleep', 'infinity'],
      env: [`${PROCESS_MARK}=${mark}`],
      user: '1000:1000',
      workdir: '/',
      stdin: false,
    });

  it("runs as the command's own user, who may signal only its own", async () => {
    const engine = boxed();
    await signalTree(engine, target);
    expect(engine.calls[0]?.args[1]).toMatchObject({ user: '1000:1000', stdin: false });
  });

  it('reaches the command with the mark, and no other', async () => {
    const engine = boxed();
    await start(engine, 'p1');
    await start(engine, 'p10');
    await signalTree(engine, target);
    expect([...(engine.containers.get('box')?.execs ?? [])].map(({ spec }) => spec.env)).toEqual([
      [`${PROCESS_MARK}=p10`],
    ]);
  });

  it.each([
    [0, undefined],
    [137, 'engine_error'],
    [1, 'engine_error'],
    [126, 'engine_error'],
  ])('when the sandbox answers %d: %s', async (exitCode, code) => {
    const engine = boxed();
    engine.killCommand = () => exited(exitCode);
    const sent = signalTree(engine, target);
    await (code === undefined ? expect(sent).resolves.toBeUndefined() : expect(sent).rejects.toMatchObject({ code }));
  });
});
