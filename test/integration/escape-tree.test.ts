import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { escape, ESCAPED, MAINS } from '../fixtures/escape.js';
import {
  countProcesses,
  eventually,
  findProcesses,
  removeAll,
  RUNTIMES,
  testManager,
  untilPrinted,
} from '../fixtures/run.js';

/** Starts a command, and gives what ends it and checks how it has ended. */
type Way = (sandbox: Sandbox, command: string) => Promise<() => Promise<void>>;

const WAYS: Record<string, Way> = {
  'an abort': async (sandbox, command) => {
    const controller = new AbortController();
    const running = sandbox.exec(command, { signal: controller.signal });
    running.catch(() => {}); // looked at when it is aborted
    return async () => {
      controller.abort();
      await expect(running).rejects.toMatchObject({ code: 'aborted' });
    };
  },
  'a kill': async (sandbox, command) => {
    const process = await sandbox.spawn(command);
    return async () => {
      await process.kill('SIGKILL');
      expect(await process.wait()).toMatchObject({ outcome: 'killed', signal: 'SIGKILL' });
    };
  },
  'a kill that is gentle at first': async (sandbox, command) => {
    const process = await sandbox.spawn(command);
    return async () => {
      await process.kill('SIGTERM', { graceMs: 500 });
      expect(await process.wait()).toMatchObject({ outcome: 'killed' });
    };
  },
  disposal: async (sandbox, command) => {
    const process = await sandbox.spawn(command);
    return () => process[Symbol.asyncDispose]();
  },
};

let marks = 100_000;

describe.each(RUNTIMES)('ending a command with all that it started, in a sandbox of %s', (runtime) => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ runtime, memoryLimit: '512m', pidsLimit: 2048 });
  });
  afterAll(() => removeAll(manager));

  const count = (mark: number) => countProcesses(sandbox, `sleep ${mark}`);
  async function hasEscaped(mark: number) {
    let found: string[] = [];
    const look = async () => {
      found = await findProcesses(sandbox, `sleep ${mark}`);
      return found.length >= ESCAPED ? true : undefined;
    };
    await eventually(look, { what: 'the escape' }).catch((error: unknown) => {
      throw new Error(`of ${ESCAPED} processes there are only: ${found.join('; ')}`, { cause: error });
    });
  }

  it.each(Object.entries(WAYS))('leaves nothing after %s, and a neighbour in peace', async (_name, start) => {
    const neighbour = await sandbox.spawn(['sh', '-c', 'echo up; read line; sleep 0.1 & wait; exit 7'], {
      stdin: 'pipe',
    });
    await untilPrinted(neighbour, 'up');
    const commands = Object.entries(MAINS).map(([name, main]) => {
      const mark = (marks += 1);
      return { name, mark, command: `${escape(mark)}\n${main(mark)}` };
    });
    const ends = await Promise.all(commands.map(({ command }) => start(sandbox, command)));
    await Promise.all(commands.map(({ mark }) => hasEscaped(mark)));
    await Promise.all(ends.map((end) => end()));

    for (const { name, mark } of commands) expect([name, await count(mark)]).toEqual([name, 0]);
    await neighbour.write('go on\n');
    expect(await neighbour.wait()).toMatchObject({ outcome: 'exited', exitCode: 7 });
  });

  it('ends what forks as fast as it can', async () => {
    const mark = (marks += 1);
    const forks = `while :; do setsid sh -c 'sleep ${mark} & sleep ${mark} &' & sleep 0.01; done`;
    const process = await sandbox.spawn(`trap '' TERM; ${forks}`, { whenUnread: 'run' });
    await hasEscaped(mark);
    await process.kill('SIGTERM', { graceMs: 200 });
    expect(await count(mark)).toBe(0);
  });

  it('ends what kills whatever it can', async () => {
    const fight =
      'import os, signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True:\n  try: os.kill(-1, 9)\n  except OSError: pass';
    const result = await sandbox.exec(['python3', '-c', fight], { timeoutMs: 1000 });
    expect(result).toMatchObject({ outcome: 'timed_out' });
    expect((await sandbox.inspect()).state).toBe('running');
    expect(await count(0)).toBe(0);
    expect(await sandbox.exec(['echo', 'usable'])).toMatchObject({ stdout: 'usable\n' });
  });

  it('goes on beside what stops whatever it can, and ends that', async () => {
    const stop = 'import os\nwhile True:\n  try: os.kill(-1, 19)\n  except OSError: pass';
    const fight = sandbox.exec(['python3', '-c', stop], { timeoutMs: 2000 });
    for (let round = 0; round < 3; round++) {
      const { outcome } = await sandbox.exec(['true'], { timeoutMs: 200 });
      expect(outcome).toMatch(/^(exited|timed_out)$/);
      expect((await sandbox.stats()).pids).toBeGreaterThan(0);
    }
    expect(await fight).toMatchObject({ outcome: 'timed_out' });
    expect(await sandbox.exec(['echo', 'usable'])).toMatchObject({ stdout: 'usable\n' });
  });

  it('ends what is in a user namespace of its own, where it can make one', async () => {
    const mark = (marks += 1);
    const inside = `import os\ntry: os.setgroups([])\nexcept OSError: pass\nos.execvp('sleep', ['sleep', '${mark}'])`;
    const command = [
      'sh',
      '-c',
      '(unshare -Ur setsid python3 -c "$1" || setsid sleep "$2") & setsid sleep "$2"',
      'sh',
      inside,
      String(mark),
    ];
    const process = await sandbox.spawn(command);
    await eventually(async () => ((await count(mark)) >= 2 ? true : undefined), { what: 'the namespace' });
    await process.kill('SIGKILL');
    expect(await count(mark)).toBe(0);
  });
});

describe('a command and its manager', () => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ memoryLimit: '256m' });
  });
  afterAll(() => removeAll(manager));

  it('ends with it when it was run by exec, and runs on when it was spawned', async () => {
    const own = await testManager({ owner: manager.owner });
    const theirs = await own.get(sandbox.id);
    const spawned = await theirs.spawn('echo up; sleep 200001', { id: 'spawned' });
    const waiting = spawned.wait();
    waiting.catch(() => {}); // looked at below
    const running = theirs.exec('setsid sleep 200002 & sleep 200002');
    running.catch(() => {});
    await eventually(async () => ((await countProcesses(sandbox, 'sleep 200002')) >= 2 ? true : undefined));
    await own.close();

    await expect(waiting).rejects.toMatchObject({ code: 'manager_closed' });
    expect(await countProcesses(sandbox, 'sleep 200002')).toBe(0);
    expect(await running).toMatchObject({ outcome: 'killed' });
    const left = await sandbox.processes.get('spawned');
    expect(await untilPrinted(left, 'up')).toBe('up\n');
    await left.kill('SIGKILL');
    expect(await countProcesses(sandbox, 'sleep 200001')).toBe(0);
  });

  it('can be killed while nobody reads what it prints', async () => {
    const process = await sandbox.spawn(['yes']);
    await eventually(async () => {
      const found = (await sandbox.processes.list()).find(({ id }) => id === process.id);
      return (found?.lastSeq ?? 0) > 0 ? true : undefined;
    });
    await process.kill('SIGKILL');
    expect(await process.wait()).toMatchObject({ outcome: 'killed' });
    expect(await sandbox.exec(['echo', 'usable'])).toMatchObject({ stdout: 'usable\n' });
  });

  it("isn't deceived by programs that user code puts first in its PATH", async () => {
    for (const name of ['kill', 'cat', 'find', 'tar', 'stat', 'mv']) {
      await sandbox.files.write(`/home/sandbox/.local/bin/${name}`, '#!/bin/sh\nexit 0\n', { mode: 0o755 });
    }
    expect((await sandbox.exec('cat /etc/hostname')).stdout).toBe('');
    await sandbox.exec('setsid sleep 200003 & sleep 200003', { timeoutMs: 500 });
    expect(await countProcesses(sandbox, 'sleep 200003')).toBe(0);
    await sandbox.files.write('/workspace/real', 'real');
    expect(await sandbox.files.readText('/workspace/real')).toBe('real');
    await sandbox.exec('rm /home/sandbox/.local/bin/*');
  });
});
