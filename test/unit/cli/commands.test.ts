import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { afterAll, describe, expect, test } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { FakeTerminal, until, World } from './harness.js';
import { deferred } from './stub-process.js';

describe('create', () => {
  test('prints the id alone', async () => {
    const world = new World();
    expect(await world.run('create')).toBe(0);
    expect([world.out, world.err, world.stub.closed]).toEqual(['sb1\n', '', 1]);
  });

  test('passes its flags on in the terms of the library', async () => {
    const world = new World();
    const flags = [
      '--project',
      'demo',
      '--image',
      'x:1',
      '-m',
      '512m',
      '--cpus',
      '0.5',
      '--pids',
      '64',
      '--runtime',
      'runsc',
    ];
    const more = [
      '-e',
      'A=1',
      '-e',
      '__proto__=2',
      '--network',
      'bridge',
      '--ttl',
      '1h',
      '--idle-timeout',
      '10m',
      '--on-expiry',
      'pause',
      '--wake-on-use',
      '--max-lifetime',
      '3d',
      '-w',
      '/tmp',
      '-u',
      '1001',
    ];
    await world.run('create', ...flags, ...more, '--label', 'a=b', '--metadata', 'c=d=e');
    expect(world.stub.called('create')[0]?.[0]).toEqual({
      projectName: 'demo',
      image: 'x:1',
      memoryLimit: '512m',
      cpuLimit: '0.5',
      pidsLimit: 64,
      env: Object.fromEntries([
        ['A', '1'],
        ['__proto__', '2'],
      ]),
      network: 'bridge',
      ttlMs: 3_600_000,
      idleTimeoutMs: 600_000,
      onExpiry: 'pause',
      wakeOnUse: true,
      maxLifetimeMs: 259_200_000,
      workdir: '/tmp',
      user: '1001',
      runtime: 'runsc',
      labels: { a: 'b' },
      metadata: { c: 'd=e' },
    });
  });

  test('prints the description with --json, in the keys of the REST service', async () => {
    const world = new World();
    await world.run('create', '--name', 'demo', '--json');
    expect(JSON.parse(world.out)).toMatchObject({ id: 'sb1', project_name: 'demo', timeout: 7500, idle_timeout: null });
  });

  test('leaves none whose id nobody has learnt', async () => {
    const gone = new Writable({
      write: (_chunk, _encoding, done) => done(Object.assign(new Error('EPIPE'), { code: 'EPIPE' })),
    });
    const world = new World({ stdout: gone as PassThrough });
    expect(await world.run('create')).toBe(141);
    expect(world.stub.infos.size).toBe(0);
  });
});

describe('ls', () => {
  test('prints a table of all pages', async () => {
    const world = new World();
    world.stub.add('abc', { projectName: 'a\u001B[31m' });
    world.stub.add('def', { state: 'exited', expiresAt: new Date(Date.now() - 7_200_500) });
    expect(await world.run('ls', '--state', 'running', '--project', 'x')).toBe(0);
    expect(world.out.split('\n').map((line) => line.split(/ {3,}/))).toEqual([
      ['ID', 'PROJECT', 'STATE', 'IMAGE', 'CREATED', 'EXPIRES'],
      ['abc', String.raw`a\x1b[31m`, 'running', 'sandyard-sandbox:latest', '5 minutes ago', 'in 2 hours'],
      ['def', 'exited', 'sandyard-sandbox:latest', '5 minutes ago', '2 hours ago'],
      [''],
    ]);
    expect(world.stub.called('list')[0]?.[0]).toMatchObject({ state: 'running', projectName: 'x' });
  });

  test('tells the leases that sandboxes have now, as those that run say themselves', async () => {
    const world = new World();
    for (const id of ['abc', 'def', 'gone', 'mute']) world.stub.add(id);
    world.stub.inspect = async (id: string) => {
      const info = world.stub.infos.get(id);
      if (id === 'gone') throw new SandyardError('sandbox_not_found', 'Gone.');
      if (id === 'mute' || info === undefined) throw new SandyardError('channel_failed', 'It says nothing.');
      return { ...info, expiresAt: new Date(Date.now() + 8 * 3_600_500) };
    };
    expect(await world.run('ls')).toBe(0);
    const rows = world.out.split('\n').map((line) => line.split(/ {3,}/));
    expect(rows.slice(1, -1).map((row) => [row[0], row.at(-1)])).toEqual([
      ['abc', 'in 8 hours'],
      ['def', 'in 8 hours'],
      ['mute', 'in 2 hours'],
    ]);
    expect(world.err).toBe('');
  });

  test('asks none of so many that this would take long, and says so', async () => {
    const world = new World();
    for (let n = 0; n < 65; n += 1) world.stub.add(`s${n}`);
    world.stub.inspect = () => Promise.reject(new Error('It was asked.'));
    expect(await world.run('ls')).toBe(0);
    expect(world.out.split('\n')).toHaveLength(67);
    expect(world.err).toMatch(/leases are shown as they were\nmade\./);
  });

  test('prints ids, or an array', async () => {
    const [ids, json, none] = [new World(), new World(), new World()];
    for (const { stub } of [ids, json]) stub.add('abc');
    await ids.run('ls', '-q');
    expect(ids.out).toBe('abc\n');
    await json.run('ls', '--json');
    expect(JSON.parse(json.out)).toMatchObject([{ id: 'abc', created_at: expect.stringMatching(/Z$/) }]);
    await none.run('ls', '--json');
    expect(none.out).toBe('[]\n');
  });
});

describe('ps', () => {
  test('prints a table', async () => {
    const world = new World();
    world.stub.add('abc');
    const process = {
      id: 'p1',
      pid: 12,
      command: ['sh', '-c', 'echo\n'],
      state: 'running',
      outcome: null,
      exitCode: null,
      signal: null,
      startedAt: new Date(Date.now() - 5000),
      pty: false,
      firstSeq: 1,
      lastSeq: 4,
      readers: 0,
    };
    const ended = { ...process, id: 'p2', pid: null, state: 'exited', outcome: 'killed', signal: 'SIGTERM' };
    world.stub.processes = [process, ended];
    expect(await world.run('ps', 'abc')).toBe(0);
    expect(world.out).toBe(
      'PROCESS   PID   STATE              STARTED         COMMAND\n' +
        'p1        12    running            5 seconds ago   sh -c echo\\n\n' +
        'p2              killed (SIGTERM)   5 seconds ago   sh -c echo\\n\n',
    );
  });
});

describe('rm', () => {
  test('goes on over failures, prints what is gone, and exits with 1', async () => {
    const world = new World();
    world.stub.add('abc');
    world.stub.add('def');
    expect(await world.run('rm', 'abc', 'nope', 'def')).toBe(1);
    expect(world.out).toBe('abc\ndef\n');
    expect(world.err).toBe('sandyard: There is no sandbox "nope".\nhint: List.\n');
  });

  test('takes what is gone already for removed with -f, and nothing else', async () => {
    const world = new World();
    expect(await world.run('rm', '-f', 'nope')).toBe(0);
    expect([world.out, world.err]).toEqual(['', '']);
    world.stub.add('abc');
    world.stub.destroyFault = new SandyardError('engine_unavailable', 'No engine.');
    expect(await world.run('rm', '-f', 'abc')).toBe(1);
  });
});

describe('stats', () => {
  test('prints a table of all that run', async () => {
    const world = new World();
    world.stub.add('abc');
    // Has ended since it was listed.
    world.stub.add('def', { state: 'exited' });
    expect(await world.run('stats')).toBe(0);
    expect(world.out).toBe(
      'ID    CPU SECONDS   MEMORY / LIMIT   MEMORY %   DISK / LIMIT   PIDS   NET IN / OUT\n' +
        'abc   1.50          3MiB / 1GiB      0.3%       5MiB / 2GiB    3      0B / 2KiB\n',
    );
    expect(world.stub.called('list')[0]?.[0]).toMatchObject({ state: 'running' });
  });

  test('of those given exits with 1 when one failed', async () => {
    const world = new World();
    world.stub.add('abc');
    world.stub.add('def', { state: 'exited' });
    expect(await world.run('stats', '--json', 'abc', 'def')).toBe(1);
    expect(JSON.parse(world.out)).toMatchObject([{ id: 'abc', cpu_seconds: 1.5, at: '2026-01-01T00:00:00.000Z' }]);
    expect(JSON.parse(world.err)).toMatchObject({ error: { code: 'wrong_state' } });
  });
});

describe('cp', () => {
  const dir = mkdtempSync(join(tmpdir(), 'sandyard-cli-'));
  afterAll(() => rmSync(dir, { recursive: true }));

  test('copies in and out, and says how much on standard error', async () => {
    const world = new World();
    world.stub.add('abc');
    expect(await world.run('cp', `${dir}/.`, 'abc:/workspace', '--exclude', '*.log', '--exclude', 'x')).toBe(0);
    expect(world.stub.called('copyTo')[0]).toMatchObject([`${dir}/.`, '/workspace', { exclude: ['*.log', 'x'] }]);
    expect([world.out, world.err]).toEqual(['', 'Copied 2 entries, 1.5KiB.\n']);
    await world.run('cp', '--json', 'abc:/workspace/.', dir);
    expect(world.stub.called('copyFrom')[0]).toMatchObject(['/workspace/.', dir, {}]);
    expect(JSON.parse(world.out)).toEqual({ entries: 2, bytes: 1536 });
  });

  test('passes a tar through with "-"', async () => {
    const world = new World();
    world.stub.add('abc');
    (world.stdin as PassThrough).end('a tar');
    expect(await world.run('cp', '-', 'abc:/workspace')).toBe(0);
    expect(world.stub.received).toBe('a tar');
    world.stub.archive = new PassThrough().end('another');
    expect(await world.run('cp', 'abc:/workspace', '-')).toBe(0);
    expect(world.out).toBe('another');
  });

  test('has no tar on a terminal, and no exclude in one', async () => {
    const world = new World({ stdin: new FakeTerminal() });
    expect(await world.run('cp', '-', 'abc:/x')).toBe(125);
    expect(world.err).toContain('not for a terminal');
    expect(await world.run('cp', 'abc:/x', '-', '--exclude', 'y')).toBe(125);
    expect(world.opened).toBe(0);
  });
});

describe('run', () => {
  test('makes a sandbox, runs the command and removes it', async () => {
    const world = new World();
    world.stub.script = { exit: { exitCode: 3 } };
    expect(await world.run('run', '--rm', '-m', '256m', '--timeout', '30s', '--', 'node', '--', '-v')).toBe(3);
    expect(world.stub.called('create')[0]?.[0]).toMatchObject({ memoryLimit: '256m', image: undefined });
    expect(world.stub.called('spawn')[0]).toMatchObject([['node', '--', '-v'], { timeoutMs: 30_000 }]);
    expect(world.stub.called('destroy')).toEqual([['sb1']]);
    expect([world.stub.closed, world.err]).toEqual([1, '']);
  });

  test.each([[['x:1', '--', 'ls', '-l']], [['x:1', 'ls', '-l']], [['--image', 'x:1', '--', 'ls', '-l']]])(
    'takes the image from %j',
    async (words) => {
      const world = new World();
      await world.run('run', '--rm', ...words);
      expect(world.stub.called('create')[0]?.[0]).toMatchObject({ image: 'x:1' });
      expect(world.stub.called('spawn')[0]?.[0]).toEqual(['ls', '-l']);
    },
  );

  test('keeps the sandbox without --rm, and says so', async () => {
    const world = new World();
    expect(await world.run('run', '--', 'ls')).toBe(0);
    expect([...world.stub.infos.keys()]).toEqual(['sb1']);
    expect(world.err).toBe('The sandbox sb1 stays: sandyard rm sb1\n');
  });

  test('removes it when the command could not be run', async () => {
    const world = new World();
    world.stub.spawnFault = new SandyardError('command_not_found', 'There is no "nope".');
    expect(await world.run('run', '--rm', '--', 'nope')).toBe(127);
    expect(world.stub.infos.size).toBe(0);
  });

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('removes it on %s', async (signal, code) => {
    const world = new World();
    world.stub.script = { hangs: true };
    const running = world.run('run', '--rm', '--', 'sleep', '60');
    await until(() => world.stub.process !== undefined);
    await new Promise((resolve) => setTimeout(resolve, 5));
    world.signal(signal);
    expect(await running).toBe(code);
    expect(world.stub.infos.size).toBe(0);
    expect(world.err).toBe('');
  });

  test('tells what is left when it is not let finish', async () => {
    const world = new World();
    const removing = deferred<void>();
    world.stub.destroy = () => removing.promise;
    const running = world.run('run', '--rm', '--', 'true');
    await until(() => world.stub.process?.disposed === true);
    world.signal('SIGINT');
    await new Promise((resolve) => setTimeout(resolve, 80));
    world.signal('SIGINT');
    expect(world.exits).toEqual([130]);
    expect(world.err).toContain('The sandbox sb1 may be left.');
    removing.resolve();
    await running;
  });

  test("keeps the command's exit code when the removal fails, and tells", async () => {
    const world = new World();
    world.stub.script = { exit: { exitCode: 4 } };
    world.stub.destroyFault = new SandyardError('engine_unavailable', 'No engine.');
    expect(await world.run('run', '--rm', '--', 'x')).toBe(4);
    expect(world.err).toMatch(/No engine\.[^]*sandyard rm sb1/);
  });

  test.each([
    [['run'], "Missing required argument 'command'."],
    [['run', 'x:1'], 'There is no command to run.'],
    [['run', 'x:1', '--'], 'There is no command to run.'],
    [['run', '--image', 'x:1', 'y:1', '--', 'ls'], 'The image is given twice'],
    [['run', '-t', '--', 'ls'], 'The input device is not a TTY.'],
  ])('refuses %j', async (args, message) => {
    const world = new World();
    expect(await world.run(...args)).toBe(125);
    expect(world.err).toContain(message);
    expect(world.opened).toBe(0);
  });
});

describe('serve', () => {
  test('leaves the program to the service', async () => {
    const world = new World();
    expect(await world.run('serve')).toBeUndefined();
    expect([world.served, world.opened]).toEqual([1, 0]);
  });
});

describe('the program', () => {
  test.each([
    [['exce'], "sandyard: Unknown command 'exce'.\nhint: Did you mean exec?\n"],
    [['ls', '--jsn'], "sandyard: Unknown option '--jsn'.\nhint: Did you mean --json?\n"],
    [['ps'], "sandyard: Missing required argument 'id'.\nhint: Run: sandyard ps --help\n"],
  ])('tells what is wrong with %j', async (args, text) => {
    const world = new World();
    expect(await world.run(...args)).toBe(125);
    expect([world.out, world.err]).toEqual(['', text]);
  });

  test('tells faults as JSON with --json, those of the arguments included', async () => {
    const world = new World();
    expect(await world.run('ls', '--json', '--state', 'odd')).toBe(125);
    expect(JSON.parse(world.err)).toMatchObject({ error: { code: 'usage' } });
  });

  test('closes the manager and gives up when it is interrupted while it waits', async () => {
    const world = new World();
    world.stub.list = (async (_: unknown, { signal }: { signal: AbortSignal }) => {
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
      throw new SandyardError('aborted', 'The caller gave up.');
    }) as never;
    const running = world.run('ls');
    await until(() => world.listeners === 1);
    await new Promise((resolve) => setTimeout(resolve, 5));
    world.signal('SIGINT');
    expect(await running).toBe(130);
    expect([world.err, world.stub.closed]).toEqual(['', 1]);
  });

  test('says what it did not expect without a stack trace', async () => {
    const world = new World();
    world.stub.list = () => Promise.reject(new TypeError('x'));
    expect(await world.run('ls')).toBe(125);
    expect(world.err).toMatch(/^sandyard: An unexpected error: x\nhint: .*--debug/);
    expect(await world.run('ls', '--debug')).toBe(125);
    expect(world.err).toContain('    at ');
  });
});
