import * as fc from 'fast-check';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';

import { FrameType } from '../../../src/channel/wire.js';
import { exec, spawn, type ExecOptions } from '../../../src/process/process.js';
import { toUserIds } from '../../../src/process/users.js';
import type { FakeCommand, FakeProcess } from '../../fixtures/fake-warden.js';
import { makeTarget, makeTargetRunning } from '../../fixtures/process-target.js';

const SIGTERM = 15;
const SIGKILL = 9;

const forever: FakeCommand = (process) => process.forever();
const prints =
  (...chunks: (string | Uint8Array)[]): FakeCommand =>
  async (process) => {
    for (const chunk of chunks) await process.print(chunk);
  };
const [only] = [(warden: { processes: Map<string, FakeProcess> }) => [...warden.processes.values()][0]];

describe('exec', () => {
  it.each<[what: string, command: FakeCommand, expected: object]>([
    ['success', () => 0, { outcome: 'exited', exitCode: 0, signal: null, processesLeft: false }],
    ['failure', () => 3, { outcome: 'exited', exitCode: 3, signal: null }],
    ['a code that a shell gives for a signal', () => 137, { outcome: 'exited', exitCode: 137, signal: null }],
    [
      'a signal',
      (process) => process.end('signaled', { signal: 11 }),
      { outcome: 'signaled', exitCode: 139, signal: 'SIGSEGV' },
    ],
    [
      'a signal without a name',
      (process) => process.end('signaled', { signal: 34 }),
      { outcome: 'signaled', exitCode: 162, signal: 'SIG34' },
    ],
    [
      'no memory',
      (process) => process.end('oom_killed', { signal: SIGKILL }),
      { outcome: 'oom_killed', exitCode: 137, signal: 'SIGKILL' },
    ],
    [
      'no disk',
      (process) => process.end('disk_full', { signal: SIGKILL }),
      { outcome: 'disk_full', exitCode: 137, signal: 'SIGKILL' },
    ],
    [
      'processes left',
      (process) => {
        process.processesLeft = true;
      },
      { outcome: 'exited', exitCode: 0, processesLeft: true },
    ],
  ])('tells of %s', async (_, command, expected) => {
    const { target, held } = makeTargetRunning(command);
    expect(await exec(target, ['x'])).toMatchObject(expected);
    expect(target.calls.size).toBe(0);
    expect(held.count).toBe(0);
  });

  it('tells what it used', async () => {
    const { target } = makeTargetRunning(() => 0);
    const { usage, durationMs } = await exec(target, ['x']);
    expect(usage).toEqual({
      userMs: expect.any(Number),
      systemMs: expect.any(Number),
      maxRssBytes: expect.any(Number),
    });
    expect(durationMs).toBeGreaterThanOrEqual(0);
  });

  it('keeps the two streams apart, and each in order', async () => {
    const { target } = makeTargetRunning(async (process) => {
      await process.print('a');
      await process.printError('1');
      await process.print('b');
      await process.printError('2');
    });
    expect(await exec(target, ['x'])).toMatchObject({ stdout: 'ab', stderr: '12', truncated: false });
  });

  it.each<[command: string | string[], argv: string[]]>([
    ['echo $HOME', ['/bin/sh', '-c', 'echo $HOME']],
    [
      ['printf', '$HOME'],
      ['printf', '$HOME'],
    ],
  ])('runs %j as %j', async (command, argv) => {
    let seen: readonly string[] = [];
    const { target } = makeTargetRunning((process) => {
      seen = process.argv;
    });
    await exec(target, command);
    expect(seen).toEqual(argv);
  });

  it("runs as the sandbox's user in its directory unless told otherwise", async () => {
    const seen: object[] = [];
    const { target } = makeTargetRunning(
      ({ cwd, env, request: { uid, gid } }) => void seen.push({ cwd, env, uid, gid }),
    );
    await exec(target, ['x']);
    await exec(target, ['x'], { cwd: '/tmp', user: '1234', env: { A: 'b=c' } });
    expect(seen).toEqual([
      { cwd: '/workspace', env: [], uid: 1000, gid: 1000 },
      { cwd: '/tmp', env: ['A=b=c'], uid: 1234, gid: 1234 },
    ]);
  });

  it('leaves nothing to be remembered', async () => {
    const { warden, target } = makeTargetRunning(() => 0);
    await exec(target, ['x']);
    await vi.waitFor(() => expect(warden.processes.size).toBe(0));
  });

  it.each([
    [['x'], { cwd: 'relative' }],
    [['x'], { user: 'root' }],
    [['x'], { user: '0:0' }],
    [['x'], { env: { SANDYARD_PROCESS: 'stolen' } }],
    [['x'], { timeoutMs: 0 }],
    [['x'], { maxOutputBytes: -1 }],
    [['x'], { execId: 'a b' }],
    [['x'], { stdin: 7 }],
    [[], {}],
    ['', {}],
    [['a\0b'], {}],
  ])('refuses %j with %j before anything is started', async (command, options) => {
    const { warden, target } = makeTargetRunning(() => 0);
    await expect(exec(target, command, options as ExecOptions)).rejects.toMatchObject({ code: 'validation_failed' });
    expect(warden.connects).toBe(0);
  });

  it.each([
    [4, 2, 'command_not_found'],
    [4, 20, 'command_not_found'],
    [4, 13, 'command_not_executable'],
    [4, 8, 'command_not_executable'],
    [4, 21, 'command_not_executable'],
    [4, 7, 'validation_failed'],
    [3, 2, 'workdir_not_found'],
    [3, 13, 'workdir_not_found'],
    [2, 1, 'validation_failed'],
    [1, 11, 'limit_exceeded'],
    [1, 24, 'limit_exceeded'],
    [1, 12, 'limit_exceeded'],
    [0, 22, 'engine_error'],
  ] as const)('rejects at stage %d with error %d as %s', async (stage, errno, code) => {
    const { target, held } = makeTargetRunning({ stage, errno, text: 'No.' });
    const error = await exec(target, ['/bin/nix\n']).catch((error: unknown) => error);
    expect(error).toMatchObject({ code });
    expect((error as Error).message).not.toContain('\n');
    expect(target.calls.size + held.count).toBe(0);
  });

  it('tells when the sandbox dies under it, and what was printed before', async () => {
    const { warden, target } = makeTargetRunning(async (process) => {
      await process.print('so far');
      return process.forever();
    });
    const result = exec(target, ['x']);
    await vi.waitFor(() => expect(warden.processes.size).toBe(1));
    await sleep(5);
    warden.restart();
    expect(await result).toMatchObject({
      outcome: 'sandbox_died',
      exitCode: null,
      signal: null,
      stdout: 'so far',
      usage: null,
    });
  });

  it('goes on where it was when the connection is cut', async () => {
    const { warden, target } = makeTargetRunning(async (process) => {
      await process.print('a');
      await process.sleep(100);
      await process.print('b');
      return 4;
    });
    const result = exec(target, ['x']);
    await vi.waitFor(() => expect(warden.processes.size).toBe(1));
    warden.cut();
    expect(await result).toMatchObject({ stdout: 'ab', exitCode: 4 });
    expect(warden.connects).toBe(2);
  });
});

describe('an execId', () => {
  it('runs its command once, however often it is asked for', async () => {
    let runs = 0;
    const { target } = makeTargetRunning(async (process) => {
      runs += 1;
      await process.print('hello');
      return 3;
    });
    const results = [
      ...(await Promise.all([exec(target, ['x'], { execId: 'a' }), exec(target, ['x'], { execId: 'a' })])),
      await exec(target, ['x'], { execId: 'a' }),
    ];
    expect(results).toHaveLength(3);
    for (const result of results) expect(result).toMatchObject({ stdout: 'hello', exitCode: 3, outcome: 'exited' });
    expect(runs).toBe(1);
    await exec(target, ['x'], { execId: 'b' });
    expect(runs).toBe(2);
  });

  it('says so when its output is no longer kept', async () => {
    const { target } = makeTargetRunning(async (process) => {
      for (let n = 0; n < 40; n++) await process.print(Buffer.alloc(64 * 1024));
    });
    const options = { execId: 'a', maxOutputBytes: 64 * 1024 * 1024 };
    expect((await exec(target, ['x'], options)).stdout).toHaveLength(40 * 64 * 1024);
    const error = await exec(target, ['x'], options).catch((error: unknown) => error);
    expect(error).toMatchObject({ code: 'output_lost', details: { firstSeq: expect.any(Number) } });
  });
});

describe("exec's bound on output", () => {
  it.each<[chunks: (string | Uint8Array)[], max: number, stdout: string, dropped: number]>([
    [['12345'], 5, '12345', 0],
    [['12345', '6'], 5, '12345', 1],
    [['12', '34', '56', '78'], 5, '12345', 3],
    [['12345'], 0, '', 5],
    [['€€€'], 9, '€€€', 0],
    [['€€€'], 8, '€€', 3],
  ])('%j in %d bytes', async (chunks, maxOutputBytes, stdout, dropped) => {
    const { target } = makeTargetRunning(prints(...chunks));
    expect(await exec(target, ['x'], { maxOutputBytes })).toMatchObject({
      stdout,
      truncated: dropped > 0,
      droppedBytes: { stdout: dropped, stderr: 0 },
    });
  });

  it('is 1 MiB by default, for each stream', async () => {
    const chunk = Buffer.alloc(1024 * 1024 + 7, 'x');
    const { target } = makeTargetRunning(async (process) => {
      await process.print(chunk);
      await process.printError(chunk);
    });
    const { stdout, stderr, droppedBytes } = await exec(target, ['x']);
    expect([stdout.length, stderr.length]).toEqual([1024 * 1024, 1024 * 1024]);
    expect(droppedBytes).toEqual({ stdout: 7, stderr: 7 });
  });

  it('is kept by the warden, so that no more of it is sent', async () => {
    let limit = 0n;
    const { target } = makeTargetRunning(({ request }) => {
      limit = request.limit;
    });
    await exec(target, ['x'], { maxOutputBytes: 77 });
    expect(limit).toBe(77n);
  });

  describe('whatever is printed, and wherever the bound is', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'ü', '€', '😀'), maxLength: 12 });
    const check = (holds: (found: { printed: string; stdout: string; dropped: number; max: number }) => void) =>
      fc.assert(
        fc.asyncProperty(text, fc.nat(40), fc.nat(5), async (printed, maxOutputBytes, cut) => {
          const bytes = Buffer.from(printed);
          const { channel, target } = makeTargetRunning(prints(bytes.subarray(0, cut), bytes.subarray(cut)));
          const { stdout, droppedBytes } = await exec(target, ['x'], { maxOutputBytes });
          channel.close();
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
    const { target } = makeTargetRunning(prints(euro.subarray(0, 1), euro.subarray(1, 2), euro.subarray(2)));
    expect(await exec(target, ['x'])).toMatchObject({ stdout: '€' });
  });
});

describe('stdin', () => {
  it.each<[what: string, stdin: () => string | Uint8Array | AsyncIterable<Uint8Array | string>]>([
    ['a text', () => 'hällo'],
    ['bytes', () => Buffer.from('hällo')],
    [
      'a stream of both',
      async function* () {
        yield 'häl';
        yield '';
        yield Buffer.from('lo');
      },
    ],
  ])('can be %s', async (_, stdin) => {
    const { target } = makeTarget();
    expect(await exec(target, ['cat'], { stdin: stdin() })).toMatchObject({ stdout: 'hällo', exitCode: 0 });
  });

  it('can be empty', async () => {
    const { target } = makeTarget();
    expect(await exec(target, ['cat'], { stdin: '' })).toMatchObject({ stdout: '', exitCode: 0 });
  });

  it('can be large', async () => {
    const { target } = makeTarget();
    const bytes = Buffer.alloc(3_000_000, 'abc');
    async function* pieces() {
      for (let at = 0; at < bytes.length; at += 100_000) yield bytes.subarray(at, at + 100_000);
    }
    const { stdout } = await exec(target, ['cat'], { stdin: pieces(), maxOutputBytes: 4_000_000 });
    expect(stdout === bytes.toString()).toBe(true);
  });

  it('is at its end from the start where there is none', async () => {
    const { target } = makeTarget();
    expect(await exec(target, ['cat'])).toMatchObject({ stdout: '', exitCode: 0 });
  });

  it('may be left unread by the command', async () => {
    let closed = false;
    const { target } = makeTargetRunning(() => 7);
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

  it('is asked for no faster than it is read', async () => {
    let asked = 0;
    const { target } = makeTargetRunning(forever);
    async function* endless() {
      for (;;) {
        asked += 64 * 1024;
        yield Buffer.alloc(64 * 1024);
      }
    }
    await using process = await spawn(target, ['x'], { stdin: endless() });
    await sleep(50);
    expect(process.existing).toBe(false);
    expect(asked).toBeLessThan(2 * 1024 * 1024);
  });

  it('ends the command when it fails, which is not the end of the input', async () => {
    const seen: string[] = [];
    let command: FakeProcess | undefined;
    const { target } = makeTargetRunning(async (process) => {
      command = process;
      for await (const chunk of process.stdin()) seen.push(String(chunk));
      seen.push('end of input');
    });
    async function* broken() {
      yield 'half';
      await sleep(5);
      throw new Error('the disk broke');
    }
    await expect(exec(target, ['x'], { stdin: broken() })).rejects.toThrow('the disk broke');
    expect(seen).toEqual(['half']);
    expect(command?.signals[0]).toBe(SIGTERM);
    expect(command?.ended).toBeDefined();
  });
});

describe('a timeout', () => {
  it('ends the command, and keeps what was printed', async () => {
    const { target } = makeTargetRunning(async (process) => {
      await process.print('so far');
      return process.forever();
    });
    const result = await exec(target, ['x'], { timeoutMs: 20 });
    expect(result).toMatchObject({ outcome: 'timed_out', signal: 'SIGTERM', stdout: 'so far', processesLeft: false });
  });

  it.each([
    ['exec', {}, 60_000],
    ['exec', { timeoutMs: 5 }, 5],
    ['spawn', {}, 0],
    ['spawn', { timeoutMs: 5 }, 5],
    ['spawn', { timeoutMs: 2 ** 40 }, 2 ** 32 - 1],
  ] as const)("of %s with %j is the warden's, of %d ms", async (verb, options, timeoutMs) => {
    let seen: { timeoutMs: number; graceMs: number } | undefined;
    const { target } = makeTargetRunning(({ request }) => {
      seen = request;
    });
    if (verb === 'exec') await exec(target, ['x'], options);
    else await (await spawn(target, ['x'], options)).wait();
    expect(seen).toMatchObject({ timeoutMs, graceMs: 2000 });
  });
});

it('a command that the sandbox does not end at its timeout is not waited for', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    const { warden, target } = makeTargetRunning(forever);
    const result = exec(target, ['x'], { timeoutMs: 5000 });
    result.catch(() => {});
    await vi.waitFor(() => expect(only(warden)).toBeDefined());
    warden.intercept = ({ type }) => type !== FrameType.ping;
    vi.spyOn(only(warden) as FakeProcess, 'end').mockImplementation(() => {});
    await vi.advanceTimersByTimeAsync(60_000);
    await expect(result).rejects.toMatchObject({ code: 'channel_failed', message: expect.stringContaining('5000 ms') });
  } finally {
    vi.useRealTimers();
  }
});

describe('abort', () => {
  it('before the start starts nothing', async () => {
    const { warden, target } = makeTargetRunning(() => 0);
    const reason = new Error('changed my mind');
    for (const verb of [exec, spawn]) {
      const aborted = verb(target, ['x'], { signal: AbortSignal.abort(reason) });
      await expect(aborted).rejects.toMatchObject({ code: 'aborted', cause: reason });
    }
    expect(warden.connects).toBe(0);
  });

  it('ends the command with SIGTERM, then SIGKILL, and rejects when that is done', async () => {
    let command: FakeProcess | undefined;
    const { warden, target, held } = makeTargetRunning((process) => {
      command = process;
      process.ignore(SIGTERM);
      return process.forever();
    });
    warden.intercept = ({ payload, type }) => {
      if (type === 0x21) payload.writeUInt32LE(30, 4); // not two seconds of grace
      return false;
    };
    const caller = new AbortController();
    const result = exec(target, ['x'], { signal: caller.signal });
    await vi.waitFor(() => expect(command).toBeDefined());
    caller.abort(new Error('changed my mind'));
    await expect(result).rejects.toMatchObject({ code: 'aborted', cause: new Error('changed my mind') });
    expect(command?.signals).toEqual([SIGTERM, SIGKILL]);
    expect(command?.ended).toBeDefined();
    expect(target.calls.size + held.count).toBe(0);
  });

  it('while it is being started ends it as soon as it has started', async () => {
    const { warden, target } = makeTargetRunning(forever);
    const caller = new AbortController();
    warden.stall();
    const executed = exec(target, ['x'], { signal: caller.signal });
    const spawned = spawn(target, ['x'], { signal: caller.signal });
    for (const call of [executed, spawned]) call.catch(() => {});
    await sleep(5);
    caller.abort();
    warden.resume();
    await expect(executed).rejects.toMatchObject({ code: 'aborted' });
    await expect(spawned).rejects.toMatchObject({ code: 'aborted' });
    expect([...warden.processes.values()].every(({ ended }) => ended !== undefined)).toBe(true);
  });

  it('rejects with aborted also where nothing ends the command', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const { warden, target } = makeTargetRunning(forever);
      const caller = new AbortController();
      const result = exec(target, ['x'], { signal: caller.signal });
      result.catch(() => {});
      await vi.waitFor(() => expect(only(warden)).toBeDefined());
      warden.intercept = () => true;
      caller.abort();
      await vi.advanceTimersByTimeAsync(20_000);
      await expect(result).rejects.toMatchObject({ code: 'aborted' });
    } finally {
      vi.useRealTimers();
    }
  });

  it('after the end does nothing, and no listener stays', async () => {
    const { warden, target } = makeTargetRunning(() => 0);
    const caller = new AbortController();
    const removed = vi.spyOn(caller.signal, 'removeEventListener');
    const result = await exec(target, ['x'], { signal: caller.signal });
    caller.abort();
    expect(result).toMatchObject({ outcome: 'exited', exitCode: 0 });
    expect(removed).toHaveBeenCalledWith('abort', expect.any(Function));
    expect(warden.count('kill')).toBe(0);
  });
});

it.each([
  ['sandbox', { uid: 1000, gid: 1000 }],
  ['1234', { uid: 1234, gid: 1234 }],
  ['1234:5678', { uid: 1234, gid: 5678 }],
])('the user %s is %j', (user, expected) => {
  expect(toUserIds(user)).toEqual(expected);
});
