import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { countProcesses, removeAll, sleep, testManager } from '../fixtures/run.js';

/*
 * One command that leaves a child in its own group, one in a session of its own, a daemon forked twice, a child with an
 * empty environment and a job of a job-controlling shell, and that ignores SIGTERM itself. The number is the mark by
 * which the test finds them.
 */
const tree = (mark: number) => `
sleep ${mark} &
setsid sleep ${mark} &
(setsid sh -c 'sleep ${mark} &' &)
env -i /bin/sleep ${mark} &
bash -ic 'sleep ${mark} & wait' &
trap '' TERM
echo ready
while :; do sleep ${mark}; done`;

describe('ending a command with all that it started', () => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ memoryLimit: '256m' });
  });
  afterAll(() => removeAll(manager));

  it('leaves no process on timeout, and a neighbour in peace', async () => {
    const neighbour = sandbox.exec('sleep 6; echo undisturbed');
    const result = await sandbox.exec(tree(10_001), { timeoutMs: 1500 });
    expect(result).toMatchObject({ outcome: 'timed_out', stdout: 'ready\n' });
    expect(await countProcesses(sandbox, 'sleep 10001')).toBe(0);
    expect(await neighbour).toMatchObject({ outcome: 'exited', exitCode: 0, stdout: 'undisturbed\n' });
  });

  it('leaves no process on abort', async () => {
    const controller = new AbortController();
    const running = sandbox.exec(tree(10_002), { signal: controller.signal });
    await sleep(1500);
    expect(await countProcesses(sandbox, 'sleep 10002')).toBeGreaterThanOrEqual(5);
    controller.abort();
    await expect(running).rejects.toMatchObject({ code: 'aborted' });
    expect(await countProcesses(sandbox, 'sleep 10002')).toBe(0);
  });

  it('leaves no process on kill', async () => {
    const process = await sandbox.spawn(tree(10_003));
    const exit = process.wait();
    await sleep(1500);
    await process.kill('SIGKILL');
    expect(await exit).toMatchObject({ outcome: 'killed', signal: 'SIGKILL' });
    expect(await countProcesses(sandbox, 'sleep 10003')).toBe(0);
  });

  it('leaves no process on disposal, nor of what the manager started when it closes', async () => {
    const disposed = await sandbox.spawn(tree(10_004));
    await sleep(1000);
    await disposed[Symbol.asyncDispose]();
    expect(await countProcesses(sandbox, 'sleep 10004')).toBe(0);

    const own = await testManager({ owner: manager.owner });
    const exit = (await (await own.get(sandbox.id)).spawn(tree(10_005))).wait();
    await sleep(1000);
    await own.close();
    expect(await exit).toMatchObject({ outcome: 'killed' });
    expect(await countProcesses(sandbox, 'sleep 10005')).toBe(0);
  });

  it("isn't deceived by programs that user code puts first in its PATH", async () => {
    for (const name of ['grep', 'cat', 'find', 'tar', 'stat', 'mv']) {
      await sandbox.files.write(`/home/sandbox/.local/bin/${name}`, '#!/bin/sh\nexit 0\n', { mode: 0o755 });
    }
    expect((await sandbox.exec('cat /etc/hostname')).stdout).toBe('');
    await sandbox.exec('setsid sleep 10006 & sleep 10006', { timeoutMs: 500 });
    expect(await countProcesses(sandbox, 'sleep 10006')).toBe(0);
    await sandbox.files.write('/workspace/real', 'real');
    expect(await sandbox.files.readText('/workspace/real')).toBe('real');
    await sandbox.exec('rm /home/sandbox/.local/bin/*');
  });

  it('passes a signal on to a command that handles it', async () => {
    const process = await sandbox.spawn(['bash', '-c', 'trap "echo got it; exit 3" USR1; while :; do sleep 0.1; done']);
    await sleep(500);
    await process.kill('SIGUSR1');
    const printed: string[] = [];
    for await (const { data } of process.output()) printed.push(Buffer.from(data).toString());
    expect(printed.join('')).toContain('got it');
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 3 });
  });
});
