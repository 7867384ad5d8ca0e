import { PassThrough, Writable } from 'node:stream';
import { describe, expect, test } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { FakeTerminal, until, World } from './harness.js';

function worldWith(options: ConstructorParameters<typeof World>[0] = {}): World {
  const world = new World(options);
  world.stub.add('abc');
  return world;
}

describe('exec', () => {
  test('passes both streams on, and the exit code', async () => {
    const world = worldWith();
    world.stub.script = {
      chunks: [
        { stream: 'stdout', data: 'out\n' },
        { stream: 'stderr', data: 'err\n' },
      ],
      exit: { exitCode: 7 },
    };
    expect(await world.run('exec', 'abc', '--', 'ls', '-la', '--json')).toBe(7);
    expect([world.out, world.err]).toEqual(['out\n', 'err\n']);
    expect(world.stub.called('spawn')[0]?.[0]).toEqual(['ls', '-la', '--json']);
    expect(world.stub.called('spawn')[0]?.[1]).not.toHaveProperty('stdin');
    expect([world.stub.closed, world.listeners]).toEqual([1, 0]);
  });

  test('needs no "--", and takes options before the id only', async () => {
    const world = worldWith();
    await world.run(
      'exec',
      '-w',
      '/tmp',
      '-e',
      'A=1',
      '-e',
      'B=2=3',
      '-u',
      '1001',
      '--timeout',
      '1.5s',
      'abc',
      'git',
      '-i',
      '--',
      'x',
    );
    expect(world.stub.called('spawn')[0]).toMatchObject([
      ['git', '-i', '--', 'x'],
      { cwd: '/tmp', env: { A: '1', B: '2=3' }, user: '1001', timeoutMs: 1500 },
    ]);
  });

  test('passes standard input on with -i', async () => {
    const world = worldWith();
    await world.run('exec', '-i', 'abc', '--', 'cat');
    expect(world.stub.called('spawn')[0]?.[1]).toMatchObject({ stdin: world.stdin });
  });

  test('leaves a command running with -d, and prints the id of its process', async () => {
    const world = worldWith();
    expect(await world.run('exec', '-d', 'abc', '--', 'sleep', '60')).toBe(0);
    expect(world.out).toBe('p1\n');
    expect(world.stub.called('spawn')[0]?.[1]).toMatchObject({ whenUnread: 'run' });
    expect(world.stub.process?.calls).toEqual([['detach']]);
    expect(world.stub.process?.disposed).toBe(false);
  });

  test.each([
    [{ outcome: 'timed_out', exitCode: null, signal: 'SIGTERM' }, 124, 'time limit'],
    [{ outcome: 'oom_killed', exitCode: null, signal: 'SIGKILL' }, 137, 'ran out of memory'],
    [{ outcome: 'disk_full', exitCode: null, signal: 'SIGKILL' }, 137, 'written more than it may'],
    [{ outcome: 'sandbox_died', exitCode: null, signal: null }, 125, 'The sandbox ended'],
    [{ outcome: 'signaled', exitCode: null, signal: 'SIGSEGV' }, 139, ''],
  ] as const)('says what the exit code alone does not: %j', async (exit, code, said) => {
    const world = worldWith();
    world.stub.script = { exit };
    expect(await world.run('exec', 'abc', '--', 'x')).toBe(code);
    expect(world.err).toContain(said);
    expect(world.err === '').toBe(said === '');
  });

  test.each([
    ['command_not_found', 127],
    ['command_not_executable', 126],
    ['workdir_not_found', 125],
  ] as const)('exits for %s with %i', async (code, exitCode) => {
    const world = worldWith();
    world.stub.script = { fault: new SandyardError(code, 'It failed.') };
    expect(await world.run('exec', 'abc', '--', 'x')).toBe(exitCode);
    expect(world.err).toBe('sandyard: It failed.\n');
    expect(world.stub.process?.disposed).toBe(true);
  });

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('ends the command on %s, and exits with %i', async (signal, code) => {
    const world = worldWith();
    world.stub.script = { hangs: true };
    const running = world.run('exec', 'abc', '--', 'sleep', '60');
    await until(() => world.stub.process !== undefined);
    await new Promise((resolve) => setTimeout(resolve, 5));
    world.signal(signal);
    expect(await running).toBe(code);
    expect(world.stub.process?.calls).toEqual([['kill', signal]]);
    expect(world.err).toBe('');
    expect([world.stub.closed, world.listeners, world.exits]).toEqual([1, 0, []]);
  });

  test('ends the command when nobody reads its output, and says nothing', async () => {
    const gone = new Writable({
      write: (_chunk, _encoding, done) => done(Object.assign(new Error('EPIPE'), { code: 'EPIPE' })),
    });
    const world = worldWith({ stdout: gone as PassThrough });
    world.stub.script = { chunks: [{ stream: 'stdout', data: 'y\n' }], hangs: true };
    expect(await world.run('exec', 'abc', '--', 'yes')).toBe(141);
    expect(world.stub.process?.disposed).toBe(true);
    expect(world.err).toBe('');
  });

  test.each([
    [['exec', 'abc'], "Missing required argument 'command'."],
    [['exec', 'abc', '--'], 'There is no command to run.'],
    [['exec', '-w', '/x', '--', 'abc', '-l'], 'There is no ID before "--".'],
    [['exec', '-d', '-i', 'abc', 'x'], '--detach leaves nobody to type'],
    [['exec', '--timeout', '5', 'abc', 'x'], '--timeout is "5", which is no duration.'],
    [['exec', '-e', '=x', 'abc', 'x'], 'It must be NAME=VALUE.'],
    [['exec', '-t', 'abc', 'x'], 'The input device is not a TTY.'],
    [['exec', 'nope', 'x'], 'There is no sandbox "nope".'],
  ])('refuses %j', async (args, message) => {
    const world = worldWith();
    expect(await world.run(...args)).toBe(125);
    expect(world.err).toContain(message);
    expect([world.out, world.stub.called('spawn')]).toEqual(['', []]);
  });
});

describe('exec -it', () => {
  function terminalWorld() {
    const stdin = new FakeTerminal();
    const stdout = Object.assign(new PassThrough(), { isTTY: true, rows: 40, columns: 120 });
    const world = worldWith({ stdin, stdout });
    return { world, stdin, stdout };
  }

  test('passes keys and size on, and leaves the terminal as it was', async () => {
    const { world, stdin, stdout } = terminalWorld();
    world.stub.script = { hangs: true, chunks: [{ stream: 'stdout', data: '$ ' }] };
    const running = world.run('exec', '-it', 'abc', '--', 'bash');
    await until(() => world.out === '$ ');
    expect(world.stub.called('spawn')[0]?.[1]).toMatchObject({ pty: { rows: 40, columns: 120 } });
    expect(stdin.raw).toBe(true);
    stdin.write('\u0003');
    stdout.rows = 50;
    stdout.emit('resize');
    await until(() => world.stub.process?.calls.length === 2);
    expect(world.stub.process?.calls.toSorted()).toEqual([
      ['resize', { rows: 50, columns: 120 }],
      ['write', '\u0003'],
    ]);
    await world.stub.process?.kill('SIGHUP');
    expect(await running).toBe(129);
    expect(stdin.modes).toEqual([true, false]);
    expect([stdout.listenerCount('resize'), world.atExit.size, stdin.isPaused()]).toEqual([0, 0, true]);
  });

  test('leaves the terminal as it was after a failure', async () => {
    const { world, stdin } = terminalWorld();
    world.stub.script = { fault: new SandyardError('engine_unavailable', 'Gone.') };
    expect(await world.run('exec', '-it', 'abc', '--', 'bash')).toBe(125);
    expect(stdin.modes).toEqual([true, false]);
  });

  test('leaves the terminal as it was on a signal', async () => {
    const { world, stdin } = terminalWorld();
    world.stub.script = { hangs: true };
    const running = world.run('exec', '-it', 'abc', '--', 'bash');
    await until(() => stdin.raw);
    world.signal('SIGTERM');
    expect(await running).toBe(143);
    expect(stdin.modes).toEqual([true, false]);
  });

  test('leaves the terminal as it was when the program ends all at once', async () => {
    const { world, stdin } = terminalWorld();
    world.stub.script = { hangs: true };
    const running = world.run('exec', '-it', 'abc', '--', 'bash');
    await until(() => stdin.raw);
    for (const handler of world.atExit) handler();
    expect(stdin.raw).toBe(false);
    await world.stub.process?.kill('SIGKILL');
    await running;
    expect(stdin.modes).toEqual([true, false]);
  });

  test('has a size also where standard output is no terminal', async () => {
    const world = worldWith({ stdin: new FakeTerminal() });
    await world.run('exec', '-t', 'abc', '--', 'ls');
    expect(world.stub.called('spawn')[0]?.[1]).toMatchObject({ pty: { rows: 24, columns: 80 } });
    expect((world.stdin as FakeTerminal).modes).toEqual([]);
  });
});
