import * as fc from 'fast-check';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';

import { SandyardError } from '../../src/errors.js';
import { exec, spawn, toUidGid } from '../../src/process.js';
import { RunningProcesses, type ProcessTarget, type SandboxProcess } from '../../src/sandbox-process.js';
import { FakeEngine } from '../fixtures/fake-engine.js';
import { exited, type FakeCommand } from '../fixtures/fake-exec.js';

function makeTarget(command?: FakeCommand): { engine: FakeEngine; target: ProcessTarget } {
  const engine = new FakeEngine();
  engine.plant({ name: 'box', labels: {} });
  if (command !== undefined) engine.command = command;
  const target = {
    engine,
    container: 'box',
    user: '1000:1000',
    workdir: '/workspace',
    execTimeoutMs: 60_000,
    processes: new RunningProcesses(),
    noteActivity: () => {},
  };
  return { engine, target };
}

const forever: FakeCommand = (_, io) => io.forever();
/** Prints without end, as fast as it is read. */
const yes: FakeCommand = async (_, io) => {
  for (;;) await io.print('y\n');
};
const prints =
  (...chunks: (string | Uint8Array)[]): FakeCommand =>
  async (_, io) => {
    for (const chunk of chunks) void io.print(chunk);
  };

/** Only the clock and the timers: streams and promises go on as ever. */
const fakeTimers = () =>
  vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
afterEach(() => {
  vi.useRealTimers();
});

describe('exec', () => {
  it.each<[what: string, command: FakeCommand, expected: object]>([
    ['success', () => 0, { outcome: 'exited', exitCode: 0, signal: null, processesLeft: false }],
    ['failure', () => 3, { outcome: 'exited', exitCode: 3, signal: null }],
    ['a code above all signals', () => 255, { outcome: 'exited', exitCode: 255, signal: null }],
    ['a signal', () => 139, { outcome: 'signaled', exitCode: 139, signal: 'SIGSEGV' }],
    ['SIGKILL by nobody we know', () => 137, { outcome: 'signaled', exitCode: 137, signal: 'SIGKILL' }],
    ['no memory', () => exited(137, { oomKilled: true }), { outcome: 'oom_killed', exitCode: 137, signal: 'SIGKILL' }],
    ['children left', () => exited(0, { outputHeldOpen: true }), { outcome: 'exited', processesLeft: true }],
    [
      'the sandbox having died',
      () => ({ kind: 'container_died', oomKilled: true }),
      { outcome: 'sandbox_died', exitCode: null, signal: null },
    ],
  ])('tells of %s', async (_, command, expected) => {
    const { engine, target } = makeTarget(command);
    expect(await exec(target, ['x'])).toMatchObject(expected);
    expect(target.processes.size).toBe(0);
    expect(engine.running).toBe(0);
  });

  it('keeps the two streams apart, and each in order', async () => {
    const { target } = makeTarget(async (_, io) => {
      void io.print('a');
      void io.printError('1');
      void io.print('b');
      void io.printError('2');
    });
    expect(await exec(target, ['x'])).toMatchObject({ stdout: 'ab', stderr: '12', truncated: false });
  });

  it.each<[command: string | string[], argv: string[]]>([
    ['echo $HOME', ['/bin/sh', '-c', 'echo $HOME']],
    [
      ['echo', '$HOME'],
      ['echo', '$HOME'],
    ],
  ])('runs %j as %j', async (command, argv) => {
    const { engine, target } = makeTarget(() => 0);
    await exec(target, command);
    expect(engine.calls[0]?.args[1]).toMatchObject({ command: argv });
  });

  it("runs as the sandbox's user in its directory unless told otherwise", async () => {
    const { engine, target } = makeTarget(() => 0);
    await exec(target, ['x']);
    await exec(target, ['x'], { cwd: '/tmp', user: '1234', env: { A: 'b=c' } });
    expect(engine.calls.map(({ args }) => args[1])).toMatchObject([
      { user: '1000:1000', workdir: '/workspace', env: [expect.stringMatching(/^SANDYARD_PROCESS=[a-z0-9]{16}$/)] },
      { user: '1234:1234', workdir: '/tmp', env: ['A=b=c', expect.stringMatching(/^SANDYARD_PROCESS=/)] },
    ]);
  });

  it.each([
    [['x'], { cwd: 'relative' }],
    [['x'], { user: 'root' }],
    [['x'], { env: { SANDYARD_PROCESS: 'stolen' } }],
    [['x'], { timeoutMs: 0 }],
    [['x'], { maxOutputBytes: -1 }],
    [[], {}],
    ['', {}],
    [['a\0b'], {}],
  ])('refuses %j with %j before anything is started', async (command, options) => {
    const { engine, target } = makeTarget(() => 0);
    await expect(exec(target, command, options)).rejects.toMatchObject({ code: 'validation_failed' });
    expect(engine.calls).toEqual([]);
  });

  it.each(['command_not_found', 'command_not_executable', 'workdir_not_found'] as const)(
    'rejects with %s where the command could not be started',
    async (code) => {
      const { target } = makeTarget(() => {
        throw new SandyardError(code, 'No.');
      });
      await expect(exec(target, ['x'])).rejects.toMatchObject({ code });
      expect(target.processes.size).toBe(0);
    },
  );

  it.each(['wrong_state', 'engine_unavailable', 'sandbox_not_found'] as const)(
    'rejects with %s where the engine does',
    async (code) => {
      const { engine, target } = makeTarget();
      engine.before.exec = () => {
        throw new SandyardError(code, 'No.');
      };
      await expect(exec(target, ['x'])).rejects.toMatchObject({ code });
      expect(target.processes.size).toBe(0);
    },
  );

  it('tells when the container dies under it', async () => {
    const { engine, target } = makeTarget(async (_, io) => {
      await io.print('so far');
      return io.forever();
    });
    const result = exec(target, ['x']);
    await vi.waitFor(() => expect(engine.running).toBe(1));
    await sleep(5);
    engine.die('box');
    expect(await result).toMatchObject({ outcome: 'sandbox_died', exitCode: null, stdout: 'so far' });
  });
});

describe("exec's bound on output", () => {
  it.each<[chunks: (string | Uint8Array)[], max: number, stdout: string, dropped: number]>([
    [['12345'], 5, '12345', 0],
    [['12345', '6'], 5, '12345', 1],
    [['12', '34', '56', '78'], 5, '12345', 3],
    [['12345'], 0, '', 5],
    [['€€€'], 9, '€€€', 0],
    [['€€€'], 6, '€€', 3],
  ])('%j in %d bytes', async (chunks, maxOutputBytes, stdout, dropped) => {
    const { target } = makeTarget(prints(...chunks));
    expect(await exec(target, ['x'], { maxOutputBytes })).toMatchObject({
      stdout,
      truncated: dropped > 0,
      droppedBytes: { stdout: dropped, stderr: 0 },
    });
  });

  it('is 1 MiB by default, for each stream', async () => {
    const chunk = Buffer.alloc(1024 * 1024 + 7, 'x');
    const { target } = makeTarget(async (_, io) => {
      void io.print(chunk);
      void io.printError(chunk);
    });
    const { stdout, stderr, droppedBytes } = await exec(target, ['x']);
    expect([stdout.length, stderr.length]).toEqual([1024 * 1024, 1024 * 1024]);
    expect(droppedBytes).toEqual({ stdout: 7, stderr: 7 });
  });

  describe('whatever is printed, and wherever the bound is', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'ü', '€', '😀'), maxLength: 12 });
    const check = (holds: (found: { printed: string; stdout: string; dropped: number; max: number }) => void) =>
      fc.assert(
        fc.asyncProperty(text, fc.nat(40), fc.nat(5), async (printed, maxOutputBytes, cut) => {
          const bytes = Buffer.from(printed);
          const { target } = makeTarget(prints(bytes.subarray(0, cut), bytes.subarray(cut)));
          const { stdout, droppedBytes } = await exec(target, ['x'], { maxOutputBytes });
          holds({ printed, stdout, dropped: droppedBytes.stdout, max: maxOutputBytes });
        }),
      );

    it('cuts no character, and keeps all that fits', () =>
      check(({ printed, stdout, max }) => {
        const fitting = Array.from(printed).map((_, index, all) => all.slice(0, index + 1).join(''));
        const longest = fitting.findLast((prefix) => Buffer.byteLength(prefix) <= max) ?? '';
        expect(stdout).toBe(longest);
      }));

    it('counts each byte as kept or as dropped', () =>
      check(({ printed, stdout, dropped }) => {
        expect(Buffer.byteLength(stdout) + dropped).toBe(Buffer.byteLength(printed));
      }));
  });

  it('joins a character that came in pieces', async () => {
    const euro = Buffer.from('€');
    const { target } = makeTarget(prints(euro.subarray(0, 1), euro.subarray(1, 2), euro.subarray(2)));
    expect(await exec(target, ['x'])).toMatchObject({ stdout: '€' });
  });
});

describe('stdin', () => {
  const cat: FakeCommand = async (_, io) => {
    for await (const chunk of io.stdin) await io.print(chunk as Uint8Array);
  };

  it.each<[what: string, stdin: () => string | Uint8Array | AsyncIterable<Uint8Array | string>]>([
    ['a text', () => 'hällo'],
    ['bytes', () => Buffer.from('hällo')],
    [
      'a stream of both',
      async function* () {
        yield 'häl';
        yield Buffer.from('lo');
      },
    ],
  ])('can be %s', async (_, stdin) => {
    const { target } = makeTarget(cat);
    expect(await exec(target, ['cat'], { stdin: stdin() })).toMatchObject({ stdout: 'hällo', exitCode: 0 });
  });

  it('can be empty', async () => {
    const { target } = makeTarget(cat);
    expect(await exec(target, ['cat'], { stdin: '' })).toMatchObject({ stdout: '', exitCode: 0 });
  });

  it('is at its end from the start where there is none', async () => {
    const { engine, target } = makeTarget(cat);
    expect(await exec(target, ['cat'])).toMatchObject({ stdout: '', exitCode: 0 });
    expect(engine.calls[0]?.args[1]).toMatchObject({ stdin: false });
  });

  it('may be left unread by the command', async () => {
    let closed = false;
    const { target } = makeTarget(() => 7);
    async function* endless() {
      try {
        for (;;) yield await sleep(1, Buffer.alloc(1000));
      } finally {
        closed = true;
      }
    }
    expect(await exec(target, ['x'], { stdin: endless() })).toMatchObject({ outcome: 'exited', exitCode: 7 });
    await vi.waitFor(() => expect(closed).toBe(true));
  });

  it('ends the command when it fails, which is not the end of the input', async () => {
    const seen: string[] = [];
    const { engine, target } = makeTarget(async (_, io) => {
      for await (const chunk of io.stdin) seen.push(String(chunk));
      seen.push('end of input');
    });
    async function* broken() {
      yield 'half';
      await sleep(5);
      throw new Error('the disk broke');
    }
    await expect(exec(target, ['x'], { stdin: broken() })).rejects.toThrow('the disk broke');
    expect(seen).toEqual(['half']);
    expect(engine.signals[0]).toBe('SIGTERM');
    expect(engine.running).toBe(0);
  });
});

describe('a timeout', () => {
  it('ends the command, and keeps what was printed', async () => {
    const { engine, target } = makeTarget(async (_, io) => {
      await io.print('so far');
      return io.forever();
    });
    const result = await exec(target, ['x'], { timeoutMs: 20 });
    expect(result).toMatchObject({ outcome: 'timed_out', signal: 'SIGTERM', stdout: 'so far', processesLeft: false });
    expect(result.durationMs).toBeGreaterThanOrEqual(19);
    expect(engine.running).toBe(0);
  });

  it("is the manager's by default", async () => {
    const { target } = makeTarget(forever);
    expect(await exec({ ...target, execTimeoutMs: 20 }, ['x'])).toMatchObject({ outcome: 'timed_out' });
  });

  it('kills what ignores SIGTERM, after a grace period', async () => {
    fakeTimers();
    const { engine, target } = makeTarget((_, io) => {
      io.ignore('SIGTERM');
      return io.forever();
    });
    const result = exec(target, ['x'], { timeoutMs: 1000 });
    await advance(1000);
    expect(engine.signals).toEqual(['SIGTERM']);
    await advance(1900);
    expect(engine.signals).toEqual(['SIGTERM']);
    await advance(200);
    expect(engine.signals).toEqual(['SIGTERM', 'SIGKILL']);
    expect(await result).toMatchObject({ outcome: 'timed_out', exitCode: 137, signal: 'SIGKILL' });
  });

  it('sends SIGKILL to what the command left behind, even when SIGTERM ended the command', async () => {
    const { engine, target } = makeTarget(forever);
    await exec(target, ['x'], { timeoutMs: 20 });
    expect(engine.signals).toEqual(['SIGTERM', 'SIGKILL']);
  });

  it('does nothing to a command that ended in time', async () => {
    fakeTimers();
    const { engine, target } = makeTarget(() => 0);
    await exec(target, ['x'], { timeoutMs: 1000 });
    await advance(60_000);
    expect(engine.count('exec')).toBe(1);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('of more than a timer can count is not one of a moment', async () => {
    const { target } = makeTarget(async () => sleep(20).then(() => 0));
    expect(await exec(target, ['x'], { timeoutMs: 2 ** 40 })).toMatchObject({ outcome: 'exited' });
  });

  it('stops the sandbox for what no signal ends', async () => {
    fakeTimers();
    const { engine, target } = makeTarget(async (_, io) => {
      io.ignore('SIGTERM', 'SIGKILL');
      await io.print('so far');
      return io.forever();
    });
    const result = exec(target, ['x'], { timeoutMs: 1000 });
    result.catch(() => {});
    await advance(40_000);
    expect(await result).toMatchObject({ outcome: 'timed_out', exitCode: null, stdout: 'so far' });
    expect(engine.count('stopContainer')).toBe(1);
  });

  it('holds for a process whose output somebody began to read and then left waiting', async () => {
    fakeTimers();
    const { target } = makeTarget(yes);
    const process = await spawn(target, ['yes'], { timeoutMs: 1000 });
    await process.output().next();
    const exit = settled(process.wait());
    await advance(20_000);
    expect(exit.value()).toMatchObject({ outcome: 'timed_out' });
  });

  it('kills also when SIGTERM could not be sent', async () => {
    fakeTimers();
    const { engine, target } = makeTarget(forever);
    let kills = 0;
    engine.before.exec = (_, { command }) => {
      if (command[0] !== 'x' && (kills += 1) === 1) throw new SandyardError('engine_error', 'Broken.');
    };
    const result = exec(target, ['x'], { timeoutMs: 1000 });
    result.catch(() => {});
    await advance(20_000);
    expect(engine.running).toBe(0);
  });

  it.each(['exec', 'spawn'] as const)('settles %s even when no signal can be sent', async (verb) => {
    fakeTimers();
    const { engine, target } = makeTarget(forever);
    engine.killCommand = () => 126;
    const result = settled(
      verb === 'exec'
        ? exec(target, ['x'], { timeoutMs: 1000 })
        : spawn(target, ['x'], { timeoutMs: 1000 }).then((process) => process.wait()),
    );
    await advance(20_000);
    expect(result.isSettled()).toBe(true);
  });
});

describe('abort', () => {
  it('before the start starts nothing', async () => {
    const { engine, target } = makeTarget(() => 0);
    const reason = new Error('changed my mind');
    const aborted = exec(target, ['x'], { signal: AbortSignal.abort(reason) });
    await expect(aborted).rejects.toMatchObject({ code: 'aborted', cause: reason });
    expect(engine.calls).toEqual([]);
  });

  it('ends the command with SIGTERM, then SIGKILL, and rejects when that is done', async () => {
    fakeTimers();
    const { engine, target } = makeTarget((_, io) => {
      io.ignore('SIGTERM');
      return io.forever();
    });
    const caller = new AbortController();
    const result = settled(exec(target, ['x'], { signal: caller.signal }));
    await advance(10);
    caller.abort(new Error('changed my mind'));
    await advance(1900);
    expect(result.isSettled()).toBe(false);
    await advance(200);
    expect(engine.signals).toEqual(['SIGTERM', 'SIGKILL']);
    expect(engine.running).toBe(0);
    expect(result.error()).toMatchObject({ code: 'aborted', cause: new Error('changed my mind') });
  });

  it('while the engine starts it ends it as soon as it has started', async () => {
    const { engine, target } = makeTarget(forever);
    const caller = new AbortController();
    engine.before.exec = (_, { command }) => {
      if (command[0] === 'x') return sleep(10).then(() => caller.abort());
      return undefined;
    };
    await expect(exec(target, ['x'], { signal: caller.signal })).rejects.toMatchObject({ code: 'aborted' });
    expect(engine.running).toBe(0);
  });

  it('rejects with aborted also where nothing ends the command', async () => {
    fakeTimers();
    const { target } = makeTarget((_, io) => {
      io.ignore('SIGTERM', 'SIGKILL');
      return io.forever();
    });
    const caller = new AbortController();
    const result = settled(exec(target, ['x'], { signal: caller.signal }));
    await advance(10);
    caller.abort();
    await advance(20_000);
    expect(result.error()).toMatchObject({ code: 'aborted' });
  });

  it('after the end does nothing, and no listener stays', async () => {
    const { engine, target } = makeTarget(() => 0);
    const caller = new AbortController();
    const removed = vi.spyOn(caller.signal, 'removeEventListener');
    const result = await exec(target, ['x'], { signal: caller.signal });
    caller.abort();
    expect(result).toMatchObject({ outcome: 'exited', exitCode: 0 });
    expect(removed).toHaveBeenCalledWith('abort', expect.any(Function));
    expect(engine.count('exec')).toBe(1);
  });
});

describe('spawn', () => {
  it('numbers the chunks of both streams together, from 1', async () => {
    const { target } = makeTarget(async (_, io) => {
      void io.print('a');
      void io.printError('b');
      void io.print('c');
    });
    const process = await spawn(target, ['x']);
    const seen = [];
    for await (const { seq, stream, data } of process.output()) seen.push([seq, stream, String(data)]);
    expect(seen).toEqual([
      [1, 'stdout', 'a'],
      [2, 'stderr', 'b'],
      [3, 'stdout', 'c'],
    ]);
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 0 });
  });

  it('pulls no output before somebody reads it', async () => {
    let printed = 0;
    const { target } = makeTarget(async (_, io) => {
      for (;;) {
        await io.print('y\n');
        printed += 1;
      }
    });
    await using process = await spawn(target, ['yes']);
    await sleep(10);
    expect(printed).toBe(0);
    const output = process.output();
    for (let chunk = 0; chunk < 3; chunk++) await output.next();
    await sleep(10);
    expect(printed).toBeLessThanOrEqual(4);
    await output.return(undefined);
  });

  it('gives its output only once', async () => {
    const { target } = makeTarget(prints('a'));
    const process = await spawn(target, ['x']);
    for await (const _ of process.output());
    expect(() => process.output()).toThrow(expect.objectContaining({ code: 'wrong_state' }));
  });

  it('runs on when its output is left early, and its end can be waited for', async () => {
    const { engine, target } = makeTarget(async (_, io) => {
      for (let line = 0; line < 100; line++) await io.print('line\n');
      return 5;
    });
    const process = await spawn(target, ['x']);
    for await (const _ of process.output()) break;
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 5 });
    expect(engine.signals).toEqual([]);
  });

  it('can be waited for without reading', async () => {
    const { target } = makeTarget(async (_, io) => {
      for (let line = 0; line < 100; line++) await io.print('line\n');
      return 5;
    });
    const process = await spawn(target, ['x']);
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 5 });
  });

  it('gives everybody who waits the same end', async () => {
    const { target } = makeTarget(() => 5);
    const process = await spawn(target, ['x']);
    const [first, second] = await Promise.all([process.wait(), process.wait()]);
    expect(second).toBe(first);
    expect(await process.wait()).toBe(first);
  });

  it('leaves the output to whoever has asked for it before wait()', async () => {
    const { target } = makeTarget(prints('a', 'b'));
    const process = await spawn(target, ['x']);
    const output = process.output();
    const exit = process.wait();
    const seen = [];
    for await (const { data } of output) seen.push(String(data));
    expect(seen).toEqual(['a', 'b']);
    expect(await exit).toMatchObject({ exitCode: 0 });
  });

  it('throws what kept it from being started with the first output, and from wait()', async () => {
    const { target } = makeTarget(() => {
      throw new SandyardError('command_not_found', 'No.');
    });
    const process = await spawn(target, ['x']);
    await expect(process.output().next()).rejects.toMatchObject({ code: 'command_not_found' });
    await expect(process.wait()).rejects.toMatchObject({ code: 'command_not_found' });
  });
});

describe('kill', () => {
  it.each(['SIGTERM', 'SIGINT', 'SIGKILL'] as const)('with %s ends it by that signal', async (signal) => {
    const { engine, target } = makeTarget(forever);
    const process = await spawn(target, ['x']);
    await process.kill(signal);
    expect(await process.wait()).toMatchObject({ outcome: 'killed', signal });
    expect(engine.signals).toEqual([signal]);
  });

  it('sends SIGTERM unless told otherwise', async () => {
    const { engine, target } = makeTarget(forever);
    const process = await spawn(target, ['x']);
    await process.kill();
    await process.wait();
    expect(engine.signals).toEqual(['SIGTERM']);
  });

  it('may be handled by the command, whose end it then is', async () => {
    const { target } = makeTarget(async (_, io) => {
      io.ignore('SIGTERM');
      await sleep(20);
      return 0;
    });
    const process = await spawn(target, ['x']);
    await sleep(5);
    await process.kill('SIGTERM');
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 0, signal: null });
  });

  it('by one signal does not claim the end by another', async () => {
    const { target } = makeTarget(async (_, io) => {
      io.ignore('SIGTERM');
      await sleep(20);
      return 139;
    });
    const process = await spawn(target, ['x']);
    await sleep(5);
    await process.kill('SIGTERM');
    expect(await process.wait()).toMatchObject({ outcome: 'signaled', signal: 'SIGSEGV' });
  });

  it('does nothing to what has ended', async () => {
    const { engine, target } = makeTarget(() => 0);
    const process = await spawn(target, ['x']);
    await process.wait();
    await process.kill('SIGKILL');
    expect(engine.signals).toEqual([]);
    expect(await process.wait()).toMatchObject({ outcome: 'exited' });
  });

  it.each(['', 'TERM', '9', 'SIGNONE', 'constructor', 'toString'])('refuses %j', async (signal) => {
    const { engine, target } = makeTarget(forever);
    await using process = await spawn(target, ['x']);
    await expect(process.kill(signal)).rejects.toMatchObject({ code: 'validation_failed' });
    expect(engine.signals).toEqual([]);
  });

  it.each(['sandbox_not_found', 'wrong_state'] as const)('takes %s for an end of it', async (code) => {
    const { engine, target } = makeTarget(forever);
    const process = await spawn(target, ['x']);
    engine.before.exec = () => {
      throw new SandyardError(code, 'It is gone.');
    };
    await expect(process.kill()).resolves.toBeUndefined();
    engine.die('box');
    expect(await process.wait()).toMatchObject({ outcome: 'sandbox_died' });
  });

  it('tells when the signal could not be sent', async () => {
    const { engine, target } = makeTarget(forever);
    const process = await spawn(target, ['x']);
    engine.before.exec = () => {
      throw new SandyardError('engine_unavailable', 'Gone.');
    };
    await expect(process.kill()).rejects.toMatchObject({ code: 'engine_unavailable' });
    engine.die('box');
    await process.wait();
  });

  it('ends one command and not its neighbour', async () => {
    const { engine, target } = makeTarget(forever);
    const [first, second] = await Promise.all([spawn(target, ['x']), spawn(target, ['x'])]);
    await first.kill();
    await first.wait();
    expect(engine.running).toBe(1);
    await second[Symbol.asyncDispose]();
  });
});

describe('disposal', () => {
  it('kills what still runs', async () => {
    const { engine, target } = makeTarget(yes);
    let kept: SandboxProcess;
    {
      await using process = await spawn(target, ['yes']);
      kept = process;
    }
    expect(engine.running).toBe(0);
    expect(target.processes.size).toBe(0);
    expect(await kept.wait()).toMatchObject({ outcome: 'killed' });
  });

  it('does nothing to what has ended', async () => {
    const { engine, target } = makeTarget(() => 0);
    const process = await spawn(target, ['x']);
    await process.wait();
    await process[Symbol.asyncDispose]();
    expect(engine.signals).toEqual([]);
  });

  it('may be asked for twice at once', async () => {
    const { engine, target } = makeTarget(forever);
    const process = await spawn(target, ['x']);
    await Promise.all([process[Symbol.asyncDispose](), process[Symbol.asyncDispose]()]);
    expect(engine.signals).toEqual(['SIGTERM', 'SIGKILL']);
  });

  it('settles though somebody began to read the output and then left it waiting', async () => {
    fakeTimers();
    const { engine, target } = makeTarget(yes);
    const process = await spawn(target, ['yes']);
    await process.output().next();
    const disposed = settled(process[Symbol.asyncDispose]());
    await advance(20_000);
    expect(engine.running).toBe(0);
    expect(disposed.isSettled()).toBe(true);
  });
});

it.each([
  ['sandbox', '1000:1000'],
  ['1234', '1234:1234'],
  ['1234:5678', '1234:5678'],
])('the user %s is %s', (user, expected) => {
  expect(toUidGid(user)).toBe(expected);
});

/** Lets faked time pass, and in between all else happen that doesn't wait for a timer. */
async function advance(ms: number): Promise<void> {
  const settle = async () => {
    for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate);
  };
  await settle();
  for (let left = ms; left > 0; left -= 100) {
    await vi.advanceTimersByTimeAsync(Math.min(left, 100));
    await settle();
  }
}

/** What became of a promise so far, without waiting for it. */
function settled<T>(promise: Promise<T>) {
  let outcome: { value: T } | { error: unknown } | undefined;
  promise.then(
    (value) => (outcome = { value }),
    (error: unknown) => (outcome = { error }),
  );
  return {
    isSettled: () => outcome !== undefined,
    value: () => (outcome !== undefined && 'value' in outcome ? outcome.value : undefined),
    error: () => (outcome !== undefined && 'error' in outcome ? outcome.error : undefined),
  };
}
