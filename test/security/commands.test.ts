import { afterAll, beforeAll, describe, expect } from 'vitest';

import { describeError } from '../../src/errors.js';
import { isSandyardError, type Command, type ExecOptions, type Sandbox, type SandboxManager } from '../../src/index.js';
import { FORK_BOMB } from '../fixtures/bombs.js';
import { escape, ESCAPED, MAINS } from '../fixtures/escape.js';
import { countProcesses, eventually, removeAll, RUNTIMES, sleep, testManager, wardenMemory } from '../fixtures/run.js';
import { sandboxOf } from '../fixtures/security-sandbox.js';
import { call, startServiceProcess } from '../fixtures/service.js';
import { attemptsOn } from './attempts.js';

const MIB = 1024 ** 2;
/** What the warden may hold on to: the output of what has ended, up to 4 MiB, and what it remembers of it. */
const WARDEN_GROWTH = 12 * MIB;
/** Far less than what passes through, and more than the collector leaves lying about. */
const MANAGER_GROWTH = 150 * MIB;

let marks = 300_000;

describe.each(RUNTIMES)('commands in a sandbox of %s', (runtime) => {
  const attempt = attemptsOn(runtime);
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ runtime, memoryLimit: '512m', pidsLimit: 1024 });
  });
  afterAll(() => removeAll(manager));

  const count = (mark: number) => countProcesses(sandbox, `sleep ${mark}`);
  const isUsable = async () => {
    expect(await sandbox.exec(['echo', 'usable'])).toMatchObject({ outcome: 'exited', stdout: 'usable\n' });
  };
  /** Has both sides' memory compared with what it was before. */
  const watchMemory = async () => {
    const before = { warden: await wardenMemory(sandbox), manager: process.memoryUsage().rss };
    return async () => {
      expect((await wardenMemory(sandbox)) - before.warden).toBeLessThan(WARDEN_GROWTH);
      expect(process.memoryUsage().rss - before.manager).toBeLessThan(MANAGER_GROWTH);
    };
  };
  const lastSeq = async (id: string) => (await sandbox.processes.list()).find((found) => found.id === id)?.lastSeq ?? 0;

  attempt(16, async () => {
    const expectFlat = await watchMemory();
    const bytes = runtime === 'runsc' ? 200_000_000 : 1_000_000_000; // which takes it as long
    const print = (count: number) => `head -c ${count} /dev/zero | tr '\\0' x`;
    const result = await sandbox.exec(`${print(bytes)}; ${print(2 * MIB)} >&2`, { maxOutputBytes: MIB });
    expect(result).toMatchObject({
      outcome: 'exited',
      exitCode: 0,
      truncated: true,
      droppedBytes: { stdout: bytes - MIB, stderr: MIB },
    });
    expect([result.stdout.length, result.stderr.length]).toEqual([MIB, MIB]);
    await expectFlat();
    return `${result.stdout.length / MIB} MiB kept of each stream, the rest counted to the byte; memory of manager and warden flat`;
  });

  attempt(17, async () => {
    const expectFlat = await watchMemory();
    const unread = await sandbox.spawn(['yes'], { timeoutMs: 4000 });
    await eventually(async () => {
      const before = await lastSeq(unread.id);
      await sleep(300);
      return before > 0 && before === (await lastSeq(unread.id)) ? true : undefined;
    });
    await expectFlat();
    const { outcome } = await unread.wait();
    expect(outcome).toBe('timed_out');
    expect(await countProcesses(sandbox, 'yes')).toBe(0);
    await isUsable();
    return `it waits, memory flat; \`${outcome}\`, and nothing left`;
  });

  attempt(18, async () => {
    await using service = await startServiceProcess({ SANDBOX_OWNER: manager.owner });
    const hangUp = async (named: { exec_id?: string }) => {
      const mark = (marks += 1);
      const hanging = new AbortController();
      const request = call(service, 'POST', {
        path: `/api/sandboxes/${sandbox.id}/execute`,
        json: { command: `setsid sleep ${mark} & sleep ${mark}`, ...named },
        signal: hanging.signal,
      });
      request.catch(() => {}); // looked at below
      await eventually(async () => ((await count(mark)) >= 2 ? true : undefined));
      hanging.abort();
      await expect(request).rejects.toThrow('aborted');
      return mark;
    };
    const id = `named-${runtime}`;
    const kept = await hangUp({ exec_id: id });
    const ended = await hangUp({});
    await eventually(async () => ((await count(ended)) === 0 ? true : undefined), { timeoutMs: 10_000 });
    expect(await count(kept)).toBeGreaterThanOrEqual(2);
    const named = await sandbox.processes.get(id);
    await named.kill('SIGKILL');
    const { outcome } = await named.wait();
    expect([outcome, await count(kept)]).toEqual(['killed', 0]);
    return 'ended with all that it started; with an `exec_id` it runs on, is found by it, and can be killed';
  });

  attempt(19, async () => {
    const commands = Object.values(MAINS).map((main) => {
      const mark = (marks += 1);
      return { mark, command: `${escape(mark)}\n${main(mark)}` };
    });
    const processes = await Promise.all(
      commands.map(({ command }) => sandbox.spawn(command, { timeoutMs: 6000, graceMs: 500 })),
    );
    const escaped = async (mark: number) => ((await count(mark)) >= ESCAPED ? true : undefined);
    await Promise.all(commands.map(({ mark }) => eventually(() => escaped(mark), { what: 'the escape' })));
    const outcomes = new Set((await Promise.all(processes.map((one) => one.wait()))).map(({ outcome }) => outcome));
    expect([...outcomes]).toEqual(['timed_out']);
    const left = await Promise.all(commands.map(({ mark }) => count(mark)));
    expect(left).toEqual(left.map(() => 0));
    await isUsable();
    return `\`${[...outcomes].join()}\`, ${Math.max(...left)} processes left, the sandbox usable`;
  });

  attempt(20, async () => {
    // On gVisor it ends by whatever there is too little of first: threads, where memory is enough for them.
    const limits = runtime === 'runsc' ? { memoryLimit: '1g' } : { pidsLimit: 48 };
    const bombed = await sandboxOf(manager, runtime, limits);
    const result = await bombed.exec(FORK_BOMB, { timeoutMs: 5000 });
    if (runtime === 'runsc') {
      expect(result).toMatchObject({ outcome: 'sandbox_died', diedOf: 'too_many_threads' });
      await bombed.start();
    } else {
      expect(result).toMatchObject({ outcome: 'timed_out', diedOf: null });
    }
    expect(await countProcesses(bombed, 'bomb')).toBe(0);
    expect(await bombed.exec(['echo', 'usable'])).toMatchObject({ stdout: 'usable\n' });
    const how = result.diedOf === null ? 'the sandbox usable' : `\`${result.diedOf}\`; it can be started again`;
    return `\`${result.outcome}\`, nothing left, ${how}`;
  });

  attempt(21, async () => {
    const mark = (marks += 1);
    for (let index = 0; index < 10; index += 1) {
      // It would take as long as the child, if it waited for it.
      const result = await sandbox.exec(`sleep ${mark} & echo ok`, { timeoutMs: 20_000 });
      expect(result).toMatchObject({ outcome: 'exited', exitCode: 0, stdout: 'ok\n', processesLeft: true });
    }
    const began = performance.now();
    expect(await sandbox.exec(['echo', 'next'])).toMatchObject({ stdout: 'next\n', processesLeft: false });
    expect(performance.now() - began).toBeLessThan(2000);
    expect(await count(mark)).toBe(10);
    await sandbox.exec(`kill $(pgrep -fx "sleep ${mark}")`);
    return 'returns at once with `processesLeft`, ten times; the next command is as quick';
  });

  attempt(22, async () => {
    const mark = (marks += 1);
    const started = await sandbox.spawn(`${escape(mark)}\nsetsid sleep ${mark} > /dev/null 2>&1 < /dev/null &`);
    const { outcome, processesLeft } = await started.wait();
    expect({ outcome, processesLeft }).toEqual({ outcome: 'exited', processesLeft: true });
    await isUsable();
    expect(await count(mark)).toBeGreaterThanOrEqual(ESCAPED - 2);
    const again = await sandbox.processes.get(started.id);
    await again.kill('SIGKILL');
    expect(await count(mark)).toBe(0);
    return 'it runs on, is found by the id of its command, and is ended by it';
  });

  /** What each is refused with, and as which status of REST. */
  const refusals = async (cases: readonly (readonly [Command, ExecOptions])[]) => {
    const codes: string[] = [];
    for (const [command, options] of cases) {
      const error: unknown = await sandbox.exec(command, options).then(
        (result) => new Error(`it ran: ${JSON.stringify(result)}`),
        (reason: unknown) => reason,
      );
      if (!isSandyardError(error)) throw error;
      const { status } = describeError(error.code);
      expect([400, 422]).toContain(status);
      codes.push(`\`${error.code}\``);
    }
    await isUsable();
    return codes;
  };

  attempt(23, async () => {
    const codes = await refusals([
      [['no-such-program'], {}],
      [['/etc/passwd'], {}],
      [['true'], { cwd: '/no/such/directory' }],
      [['true'], { user: 'nobody' }],
    ]);
    expect(codes).toEqual(
      ['command_not_found', 'command_not_executable', 'workdir_not_found', 'validation_failed'].map(
        (code) => `\`${code}\``,
      ),
    );
    return codes.join(', ');
  });

  attempt(24, async () => {
    const kib = (size: number) => 'x'.repeat(size * 1024);
    const many = Array.from({ length: 50 }, (_, index) => [`V${index}`, kib(100)]);
    const codes = await refusals([
      [['echo', kib(128)], {}],
      [['true'], { env: Object.fromEntries(many) as Record<string, string> }],
      [['echo', ...many.map(([, value]) => String(value))], {}],
    ]);
    expect(new Set(codes)).toEqual(new Set(['`validation_failed`']));
    return `${codes[0]}, for ${codes.length} of ${codes.length}`;
  });

  attempt(25, async () => {
    const paths = [
      '/proc/self/fd/7',
      '/proc/self/fd/../cwd',
      '//proc/1/root',
      '/sys/fs',
      '/workspace/../etc',
      'workspace',
      '',
      '/work\0space',
    ];
    const codes = await refusals(paths.map((cwd) => [['true'], { cwd }] as const));
    expect(new Set(codes)).toEqual(new Set(['`validation_failed`']));
    return `${codes[0]}, for ${codes.length} of ${paths.length}`;
  });
});
