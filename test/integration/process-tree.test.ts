import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager, SandboxProcess } from '../../src/index.js';
import { countProcesses, removeAll, sleep, testManager, testSandbox } from '../fixtures/run.js';

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
    const process = await started(sandbox, tree(10_003));
    await process.kill('SIGKILL');
    expect(await process.wait()).toMatchObject({ outcome: 'killed', signal: 'SIGKILL' });
    expect(await countProcesses(sandbox, 'sleep 10003')).toBe(0);
  });

  it('leaves no process on disposal, nor of what the manager started when it closes', async () => {
    const disposed = await started(sandbox, tree(10_004));
    await disposed[Symbol.asyncDispose]();
    expect(await countProcesses(sandbox, 'sleep 10004')).toBe(0);

    const own = await testManager({ owner: manager.owner });
    const left = await started(await own.get(sandbox.id), tree(10_005));
    await own.close();
    expect(await left.wait()).toMatchObject({ outcome: 'killed' });
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
    const trap = 'trap "echo got it; exit 3" USR1; echo ready; while :; do sleep 0.1; done';
    const process = await sandbox.spawn(['bash', '-c', trap]);
    let printed = '';
    for await (const { data } of process.output()) {
      printed += Buffer.from(data).toString();
      if (printed === 'ready\n') await process.kill('SIGUSR1');
    }
    expect(printed).toContain('got it\n');
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 3 });
  });

  it('can be killed while nobody reads what it prints', async () => {
    const process = await sandbox.spawn(['yes']);
    await sleep(1500);
    await process.kill('SIGKILL');
    expect(await process.wait()).toMatchObject({ outcome: 'killed' });
    expect(await sandbox.exec(['echo', 'usable'])).toMatchObject({ stdout: 'usable\n' });
  });

  it('stops the sandbox where code in it ends whatever would end it', async () => {
    const own = await testSandbox(manager);
    await own.files.write('/workspace/fight.py', FIGHT);
    const result = await own.exec(['python3', '/workspace/fight.py'], { timeoutMs: 1000 });
    expect(result).toMatchObject({ outcome: 'timed_out' });
    expect((await own.inspect()).state).toBe('exited');
    await own.start();
    expect(await countProcesses(own, 'fight.py')).toBe(0);
  });
});

/** Ignores SIGTERM, and kills every process whose arguments have the mark by which commands are ended. */
const FIGHT = `
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    for pid in os.listdir('/proc'):
        if not pid.isdigit() or int(pid) == os.getpid(): continue
        try:
            if b'SANDYARD_PROCESS=' in open('/proc/' + pid + '/cmdline', 'rb').read(): os.kill(int(pid), 9)
        except Exception: pass
`;

/** Starts a command and waits until it has printed; what comes then is discarded. */
async function started(sandbox: Sandbox, command: string): Promise<SandboxProcess> {
  const process = await sandbox.spawn(command);
  for await (const _ of process.output()) break;
  return process;
}
