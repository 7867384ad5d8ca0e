import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { spawn } from '../../../src/process/process.js';
import { SandboxProcesses } from '../../../src/process/processes.js';
import type { ProcessOutput, SandboxProcess } from '../../../src/process/sandbox-process.js';
import type { FakeCommand, FakeProcess } from '../../fixtures/fake-warden.js';
import { makeTarget, makeTargetRunning } from '../../fixtures/process-target.js';

const [SIGKILL, SIGUSR1, SIGTERM] = [9, 10, 15];
const KIB = 1024;

const forever: FakeCommand = (process) => process.forever();
/** Prints without end, as fast as it is read. */
const yes: FakeCommand = async (process) => {
  for (;;) await process.print(Buffer.alloc(8 * KIB, 'y\n'));
};
const prints =
  (...chunks: (string | Uint8Array)[]): FakeCommand =>
  async (process) => {
    for (const chunk of chunks) await process.print(chunk);
  };

const fakeOf = ({ processes }: { processes: Map<string, FakeProcess> }, id: string): FakeProcess => {
  const found = processes.get(id);
  if (found === undefined) throw new Error(`There is no process ${id}.`);
  return found;
};

async function texts(output: AsyncIterable<ProcessOutput>): Promise<string[]> {
  const seen: string[] = [];
  for await (const { data } of output) seen.push(String(data));
  return seen;
}

describe('spawn', () => {
  it('tells what was started', async () => {
    const { warden, target } = makeTargetRunning(forever);
    const process = await spawn(target, ['x'], { id: 'my-server.1' });
    expect(process).toMatchObject({ id: 'my-server.1', pid: fakeOf(warden, 'my-server.1').pid, existing: false });
    expect(process.startedAt).toBeInstanceOf(Date);
    expect((await spawn(target, ['x'])).id).toMatch(/^[a-z0-9]{16}$/);
  });

  it('throws what keeps it from being started', async () => {
    const { target, held } = makeTargetRunning({ errno: 2, stage: 4 });
    await expect(spawn(target, ['x'])).rejects.toMatchObject({ code: 'command_not_found' });
    expect(held.count).toBe(0);
  });

  it.each([
    { id: 'a b' },
    { id: '' },
    { id: 'a'.repeat(65) },
    { pty: { rows: 0, columns: 1 } },
    { whenUnread: 'stop' },
  ])('refuses %j', async (options) => {
    const { warden, target } = makeTargetRunning(forever);
    await expect(spawn(target, ['x'], options as object)).rejects.toMatchObject({ code: 'validation_failed' });
    expect(warden.connects).toBe(0);
  });

  it('starts nothing under an id that is in use, and gives what runs', async () => {
    let runs = 0;
    const { target } = makeTargetRunning(async (process) => {
      runs += 1;
      await process.print('hello');
      return process.forever();
    });
    const first = await spawn(target, ['x'], { id: 'a' });
    const second = await spawn(target, ['x'], { id: 'a' });
    expect(second).toMatchObject({ existing: true, pid: first.pid, id: 'a' });
    expect(runs).toBe(1);
    expect((await second.output().next()).value).toMatchObject({ seq: 1 });
  });

  it('asks for what was asked for', async () => {
    const { warden, target } = makeTargetRunning(forever);
    const ids = [
      (await spawn(target, ['x'])).id,
      (await spawn(target, ['x'], { whenUnread: 'run', text: true, graceMs: 7 })).id,
    ];
    const requests = ids.map((id) => fakeOf(warden, id).request);
    expect(requests[0]?.flags).toBe(0);
    expect(requests[1]?.flags).toBe(4 | 8);
    expect(requests[1]?.graceMs).toBe(7);
  });
});

describe('output', () => {
  it('numbers the pieces of both streams together, from 1', async () => {
    const { target, held } = makeTargetRunning(async (process) => {
      await process.print('a');
      await process.printError('b');
      await process.print('c');
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
    expect(held.count).toBe(0);
  });

  it('makes the process wait for who reads it', async () => {
    let printed = 0;
    const { target } = makeTargetRunning(async (process) => {
      for (;;) {
        await process.print(Buffer.alloc(64 * KIB));
        printed += 64 * KIB;
      }
    });
    await using process = await spawn(target, ['yes']);
    await sleep(50);
    const before = printed;
    expect(before).toBeLessThanOrEqual(2 * 1024 * KIB);
    const output = process.output();
    for (let piece = 0; piece < 64; piece++) await output.next();
    await sleep(20);
    expect(printed).toBeGreaterThan(before);
    expect(printed).toBeLessThanOrEqual(before + 5 * 1024 * KIB);
  });

  it('can be read on after a piece that was seen', async () => {
    const { target } = makeTargetRunning(prints('a', 'b', 'c'));
    const process = await spawn(target, ['x']);
    expect(await texts(process.output({ after: 1 }))).toEqual(['b', 'c']);
    expect(await texts(process.output({ after: 2 }))).toEqual(['c']);
    expect(await texts(process.output())).toEqual(['a', 'b', 'c']);
  });

  it.each([-1, 1.5, '1'])('refuses to go on after %j', async (after) => {
    const { target } = makeTargetRunning(prints('a'));
    const process = await spawn(target, ['x']);
    expect(() => process.output({ after: after as number })).toThrow(
      expect.objectContaining({ code: 'validation_failed' }),
    );
  });

  it('says what is lost, and can be read on from there', async () => {
    const { target } = makeTargetRunning(async (process) => {
      for (let n = 0; n < 40; n++) await process.print(Buffer.alloc(64 * KIB));
    });
    const process = await spawn(target, ['x'], { whenUnread: 'run' });
    await process.wait();
    const error: SandyardError = (await texts(process.output()).catch((error: unknown) => error)) as never;
    expect(error).toMatchObject({ code: 'output_lost' });
    const firstSeq = Number(error.details['firstSeq']);
    expect(firstSeq).toBeGreaterThan(1);
    const { value } = await process.output({ after: firstSeq - 1 }).next();
    expect(value).toMatchObject({ seq: firstSeq });
  });

  it('left early is discarded: the process runs on, and its end can be waited for', async () => {
    const { target, held } = makeTargetRunning(async (process) => {
      for (let line = 0; line < 100; line++) await process.print(Buffer.alloc(64 * KIB));
      return 5;
    });
    const process = await spawn(target, ['x']);
    for await (const _ of process.output()) break;
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 5 });
    await vi.waitFor(() => expect(held.count).toBe(0));
  });

  it('goes on without a gap or a repeat when the connection is cut', async () => {
    const { warden, target } = makeTargetRunning(async (process) => {
      for (let n = 0; n < 30; n++) {
        await process.print(`${n}\n`);
        await process.sleep(2);
      }
    });
    const process = await spawn(target, ['x']);
    const seen: string[] = [];
    for await (const { data } of process.output()) {
      seen.push(String(data));
      if (seen.length % 10 === 5) warden.cut();
    }
    expect(seen.join('')).toBe(Array.from({ length: 30 }, (_, n) => `${n}\n`).join(''));
  });
});

describe('wait', () => {
  it('discards the output that nobody has asked for', async () => {
    const { target, held } = makeTargetRunning(async (process) => {
      for (let n = 0; n < 100; n++) await process.print(Buffer.alloc(64 * KIB));
      return 5;
    });
    const process = await spawn(target, ['x']);
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 5 });
    await vi.waitFor(() => expect(held.count).toBe(0));
  });

  it('leaves the output to whoever has asked for it before', async () => {
    const { target } = makeTargetRunning(prints('a', 'b'));
    const process = await spawn(target, ['x']);
    const output = process.output();
    const exit = process.wait();
    expect(await texts(output)).toEqual(['a', 'b']);
    expect(await exit).toMatchObject({ exitCode: 0 });
  });

  it('settles though who reads the output has stopped', async () => {
    const { target } = makeTargetRunning(async (process) => {
      await process.print('a');
      await process.print('b');
      return 3;
    });
    const process = await spawn(target, ['x']);
    await process.output().next();
    expect(await process.wait()).toMatchObject({ exitCode: 3 });
  });

  it('gives everybody the same end', async () => {
    const { target } = makeTargetRunning(() => 5);
    const process = await spawn(target, ['x']);
    const [first, second] = await Promise.all([process.wait(), process.wait()]);
    expect(second).toBe(first);
    expect(await process.wait()).toBe(first);
  });

  it('can be given up, and the process runs on', async () => {
    const { warden, target } = makeTargetRunning(forever);
    const process = await spawn(target, ['x'], { id: 'a' });
    const caller = new AbortController();
    const waited = process.wait({ signal: caller.signal });
    caller.abort();
    await expect(waited).rejects.toMatchObject({ code: 'aborted' });
    expect(fakeOf(warden, 'a').ended).toBeUndefined();
    await process.kill();
    expect(await process.wait()).toMatchObject({ outcome: 'killed' });
  });

  it('tells when the sandbox died', async () => {
    const { warden, target } = makeTargetRunning(forever);
    const process = await spawn(target, ['x']);
    const waited = process.wait();
    await sleep(5);
    warden.restart();
    expect(await waited).toMatchObject({ outcome: 'sandbox_died', exitCode: null, signal: null, usage: null });
  });

  it.each(['wrong_state', 'sandbox_not_found'] as const)('takes %s for its death', async (code) => {
    const { warden, target } = makeTargetRunning(forever);
    const process = await spawn(target, ['x']);
    warden.refusal = new SandyardError(code, 'It is gone.');
    warden.restart();
    await sleep(5);
    expect(await process.wait()).toMatchObject({ outcome: 'sandbox_died' });
    expect(await texts(process.output()).catch(() => [])).toEqual([]);
  });

  it('rejects with aborted where the signal of the spawn ended it', async () => {
    const { warden, target } = makeTargetRunning(forever);
    const caller = new AbortController();
    const process = await spawn(target, ['x'], { id: 'a', signal: caller.signal });
    const output = texts(process.output());
    caller.abort(new Error('changed my mind'));
    await expect(process.wait()).rejects.toMatchObject({ code: 'aborted', cause: new Error('changed my mind') });
    expect(await output).toEqual([]);
    expect(fakeOf(warden, 'a').signals).toEqual([SIGTERM]);
  });

  it('rejects with what the input failed with', async () => {
    const { target } = makeTarget();
    async function* broken() {
      yield await sleep(5, 'half');
      throw new Error('the disk broke');
    }
    const process = await spawn(target, ['cat'], { stdin: broken() });
    await expect(process.wait()).rejects.toThrow('the disk broke');
  });
});

describe('kill', () => {
  it.each(['SIGTERM', 'SIGINT', 'SIGKILL'] as const)('with %s ends it by that signal', async (signal) => {
    const { target } = makeTargetRunning(forever);
    const process = await spawn(target, ['x']);
    await process.kill(signal);
    expect(await process.wait()).toMatchObject({ outcome: 'killed', signal });
  });

  it('sends SIGTERM, and after the grace SIGKILL, and settles when nothing is left', async () => {
    const { warden, target } = makeTargetRunning((process) => {
      process.ignore(SIGTERM);
      return process.forever();
    });
    const process = await spawn(target, ['x'], { id: 'a' });
    await process.kill(undefined, { graceMs: 20 });
    expect(fakeOf(warden, 'a')).toMatchObject({ signals: [SIGTERM, SIGKILL], ended: expect.anything() });
    expect(await process.wait()).toMatchObject({ outcome: 'killed', exitCode: 137, signal: 'SIGKILL' });
  });

  it('reaches what an ended process has left behind', async () => {
    const { warden, target } = makeTargetRunning(() => 0);
    const process = await spawn(target, ['x']);
    await process.wait();
    await process.kill();
    expect(warden.count('kill')).toBe(1);
    expect(await process.wait()).toMatchObject({ outcome: 'exited' });
  });

  it('does nothing to what is no longer remembered', async () => {
    const { warden, target } = makeTargetRunning(() => 0);
    const process = await spawn(target, ['x']);
    await process.wait();
    warden.processes.clear();
    await process.kill();
    await process.signal('SIGUSR1');
  });

  it.each(['', 'TERM', '9', 'SIGNONE', 'constructor', 'toString'])('refuses %j', async (signal) => {
    const { warden, target } = makeTargetRunning(forever);
    const process = await spawn(target, ['x']);
    await expect(process.kill(signal)).rejects.toMatchObject({ code: 'validation_failed' });
    await expect(process.signal(signal)).rejects.toMatchObject({ code: 'validation_failed' });
    expect(warden.count('kill') + warden.count('signal')).toBe(0);
  });

  it.each(['sandbox_not_found', 'wrong_state'] as const)('takes %s for an end of it', async (code) => {
    const { warden, target } = makeTargetRunning(forever);
    const process = await spawn(target, ['x']);
    warden.refusal = new SandyardError(code, 'It is gone.');
    warden.restart();
    await expect(process.kill()).resolves.toBeUndefined();
  });

  it('ends one command and not its neighbour', async () => {
    const { warden, target } = makeTargetRunning(forever);
    await spawn(target, ['x'], { id: 'a' });
    await (await spawn(target, ['x'], { id: 'b' })).kill();
    expect(fakeOf(warden, 'a').ended).toBeUndefined();
    expect(fakeOf(warden, 'b').ended).toBeDefined();
  });
});

it('signal() only sends, to the whole tree', async () => {
  const { warden, target } = makeTargetRunning((process) => {
    process.ignore(SIGUSR1);
    return process.forever();
  });
  const wholeTree: boolean[] = [];
  warden.intercept = ({ type, payload }) => {
    if (type === 0x20) wholeTree.push(payload[4] === 1);
    return false;
  };
  const process = await spawn(target, ['x'], { id: 'a' });
  await process.signal('SIGUSR1');
  expect(fakeOf(warden, 'a')).toMatchObject({ signals: [SIGUSR1], ended: undefined });
  expect(wholeTree).toEqual([true]);
});

describe('input', () => {
  it('is what write() sends, until closeStdin()', async () => {
    const { target } = makeTarget();
    const process = await spawn(target, ['cat'], { stdin: 'pipe' });
    await process.write('häl');
    await process.write(Buffer.from('lo'));
    await process.closeStdin();
    expect((await texts(process.output())).join('')).toBe('hällo');
    expect(await process.wait()).toMatchObject({ exitCode: 0 });
    await expect(process.write('more')).rejects.toMatchObject({ code: 'wrong_state' });
  });

  it('is refused where there is none to write to', async () => {
    const { target } = makeTargetRunning(forever);
    const process = await spawn(target, ['x']);
    await expect(process.write('x')).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(process.closeStdin()).rejects.toMatchObject({ code: 'wrong_state' });
  });

  it('is refused by a process that reads no more', async () => {
    const { target } = makeTargetRunning((process) => {
      process.closeStdin();
      return process.forever();
    });
    const process = await spawn(target, ['x'], { stdin: 'pipe' });
    await vi.waitFor(() => expect(process.write('x')).rejects.toMatchObject({ code: 'wrong_state' }));
  });

  it('and size of a terminal', async () => {
    const { warden, target } = makeTarget();
    const sizes = [];
    for (const pty of [true, { rows: 50, columns: 132 }]) {
      const process = await spawn(target, ['cat'], { pty, id: `p${sizes.length}`, env: { A: 'b' } });
      const fake = fakeOf(warden, process.id);
      sizes.push({ ...fake.size });
      expect(fake.env).toEqual(['TERM=xterm-256color', 'A=b']);
      process.resize({ rows: 10, columns: 20 });
      await process.write('x');
      await vi.waitFor(() => expect(fake.size).toEqual({ rows: 10, columns: 20 }));
      expect(() => process.resize({ rows: 0, columns: 1 })).toThrow(
        expect.objectContaining({ code: 'validation_failed' }),
      );
    }
    expect(sizes).toEqual([
      { rows: 24, columns: 80 },
      { rows: 50, columns: 132 },
    ]);
  });
});

describe('a process that runs unread', () => {
  it('goes on though its handle reads nothing', async () => {
    let printed = 0;
    const { target, held } = makeTargetRunning(async (process) => {
      for (; printed < 100; printed++) await process.print(Buffer.alloc(64 * KIB));
      return process.forever();
    });
    await spawn(target, ['x'], { whenUnread: 'run' });
    await vi.waitFor(() => expect(printed).toBe(100));
    expect(held.count).toBe(0);
  });

  it('is still fed', async () => {
    const { warden, target } = makeTarget();
    const process = await spawn(target, ['cat'], { whenUnread: 'run', stdin: 'hello', id: 'a' });
    expect(await process.wait()).toMatchObject({ exitCode: 0 });
    expect((await texts(process.output())).join('')).toBe('hello');
    expect(fakeOf(warden, 'a').ended).toBeDefined();
  });
});

describe('letting go', () => {
  it('leaves it running', async () => {
    const { warden, target, held } = makeTargetRunning(yes);
    const caller = new AbortController();
    const process = await spawn(target, ['yes'], { id: 'a', signal: caller.signal });
    const reading = texts(process.output());
    process.detach();
    process.detach();
    caller.abort();
    await expect(reading).rejects.toMatchObject({ code: 'aborted' });
    expect(held.count).toBe(0);
    expect(fakeOf(warden, 'a')).toMatchObject({ ended: undefined, signals: [] });
    await vi.waitFor(() => expect(fakeOf(warden, 'a').readers.size).toBe(0));
  });

  it('by disposal kills what still runs', async () => {
    const { warden, target, held } = makeTargetRunning(yes);
    let kept: SandboxProcess;
    {
      await using process = await spawn(target, ['yes'], { id: 'a' });
      kept = process;
    }
    expect(fakeOf(warden, 'a').ended).toBeDefined();
    expect(held.count).toBe(0);
    expect(await kept.wait()).toMatchObject({ outcome: 'killed' });
  });

  it('by disposal does nothing to what has ended and left nothing', async () => {
    const { warden, target } = makeTargetRunning(() => 0);
    const process = await spawn(target, ['x']);
    await process.wait();
    await process[Symbol.asyncDispose]();
    expect(warden.count('kill')).toBe(0);
  });

  it('by disposal kills what an ended one has left behind', async () => {
    const { warden, target } = makeTargetRunning((process) => {
      process.processesLeft = true;
    });
    const process = await spawn(target, ['x']);
    await process.wait();
    await process[Symbol.asyncDispose]();
    expect(warden.count('kill')).toBe(1);
  });

  it('by disposal may be asked for twice at once', async () => {
    const { warden, target } = makeTargetRunning(forever);
    const process = await spawn(target, ['x']);
    await Promise.all([process[Symbol.asyncDispose](), process[Symbol.asyncDispose]()]);
    expect(warden.count('kill')).toBe(1);
  });
});

describe('processes', () => {
  it('lists what runs and what has ended, without our own operations', async () => {
    const { target } = makeTarget({ commands: { x: (process) => process.end('signaled', { signal: 11 }) } });
    const processes = new SandboxProcesses(target);
    expect(await processes.list()).toEqual([]);
    await spawn(target, ['sleep', 'infinity'], { id: 'a', pty: true });
    await sleep(2);
    await (await spawn(target, ['x', 'y'], { id: 'b' })).wait();
    expect(await processes.list()).toMatchObject([
      {
        id: 'a',
        command: ['sleep', 'infinity'],
        state: 'running',
        outcome: null,
        exitCode: null,
        signal: null,
        pty: true,
      },
      {
        id: 'b',
        pid: null,
        command: ['x', 'y'],
        state: 'exited',
        outcome: 'signaled',
        exitCode: 139,
        signal: 'SIGSEGV',
      },
    ]);
  });

  it('gets one that somebody else has started, to read, to write to and to end', async () => {
    const { warden, target, held } = makeTarget();
    await spawn(target, ['cat'], { id: 'a', stdin: 'pipe' }).then((process) => process.detach());
    const process = await new SandboxProcesses(target).get('a');
    expect(process).toMatchObject({ id: 'a', existing: true, pid: fakeOf(warden, 'a').pid });
    expect(held.count).toBe(0);
    await process.write('hello');
    expect(String((await process.output().next()).value?.data)).toBe('hello');
    await process.kill();
    expect(await process.wait()).toMatchObject({ outcome: 'killed' });
  });

  it('gets one without holding it up', async () => {
    let printed = 0;
    const { target } = makeTargetRunning(async (process) => {
      for (;;) await process.print(Buffer.alloc(64 * KIB)).then(() => (printed += 1));
    });
    const first = await spawn(target, ['x'], { id: 'a', whenUnread: 'run' });
    await new SandboxProcesses(target).get('a');
    const before = printed;
    await vi.waitFor(() => expect(printed).toBeGreaterThan(before + 50));
    await first.kill();
  });

  it('waits for one that was got, reading it for nobody', async () => {
    const { target } = makeTargetRunning(async (process) => {
      for (let n = 0; n < 50; n++) await process.print(Buffer.alloc(64 * KIB));
      return 3;
    });
    (await spawn(target, ['x'], { id: 'a' })).detach();
    expect(await (await new SandboxProcesses(target).get('a')).wait()).toMatchObject({ exitCode: 3 });
  });

  it('forgets one that has ended', async () => {
    const { target } = makeTargetRunning(() => 0);
    const processes = new SandboxProcesses(target);
    await (await spawn(target, ['x'], { id: 'a' })).wait();
    await processes.forget('a');
    expect(await processes.list()).toEqual([]);
    await expect(processes.get('a')).rejects.toMatchObject({ code: 'process_not_found' });
    await expect(processes.forget('a')).rejects.toMatchObject({ code: 'process_not_found' });
  });

  it('does not forget one that runs', async () => {
    const { target } = makeTargetRunning(forever);
    await spawn(target, ['x'], { id: 'a' });
    await expect(new SandboxProcesses(target).forget('a')).rejects.toMatchObject({ code: 'wrong_state' });
  });

  it.each(['', '../x', 'a'.repeat(65)])('refuses the id %j', async (id) => {
    const { warden, target } = makeTargetRunning(forever);
    await expect(new SandboxProcesses(target).get(id)).rejects.toMatchObject({ code: 'validation_failed' });
    expect(warden.connects).toBe(0);
  });
});
