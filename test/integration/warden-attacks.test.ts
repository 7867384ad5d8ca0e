import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { RecordFile } from '../../src/channel/record-file.js';
import type { Sandbox, SandboxManager, SandboxProcess } from '../../src/index.js';
import { ATTACKS, attackCommand } from '../fixtures/attacks.js';
import { dockerClient, removeAll, RUNTIMES, testManager } from '../fixtures/run.js';
import { readRecordFile } from '../fixtures/warden-container.js';

describe.each(RUNTIMES)('user code in a sandbox of %s', (runtime) => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  /** Runs from the beginning to the end: nothing that is tried here may end it. */
  let witness: SandboxProcess;
  let record: RecordFile;
  let pids: { builtin: number; stranger: number };

  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ runtime, memoryLimit: '512m', pidsLimit: 2048 });
    record = await readRecordFile(dockerClient().getContainer(`sandyard-${sandbox.id}`));
    witness = await sandbox.spawn(['sleep', '1000'], { user: '2000' });
    await sandbox.files.watch('/workspace');
    const found = await sandbox.exec(`for pid in /proc/[0-9]*; do
      [ "$pid" != /proc/1 ] && grep -q '^Uid:.65532.1000' $pid/status && echo "\${pid#/proc/}"
    done; true`);
    expect(found.stdout).toMatch(/^\d+\n$/);
    pids = { builtin: Number(found.stdout), stranger: witness.pid ?? 0 };
  });
  afterAll(async () => {
    if (manager !== undefined) await removeAll(manager);
  });

  const cases = ATTACKS.map((attack) => {
    const { runsc } = attack;
    if (runtime !== 'runsc' || runsc === undefined) {
      return [`may not ${attack.what}`, { attack, result: attack.refused }] as const;
    }
    const verb = runsc.result === 'done' ? 'may' : 'may not';
    return [`${verb} ${attack.what}: ${runsc.why}`, { attack, result: runsc.result }] as const;
  });

  it.each(cases)('%s', async (_title, { attack, result }) => {
    const { stdout, stderr } = await sandbox.exec(attackCommand(attack, pids));
    expect(stdout.trim(), stderr).toMatch(new RegExp(`^(${result})$`));
  });

  it("sees nothing in the environment of PID 1 that isn't in its own, where it sees that at all", async () => {
    const names = "tr '\\0' '\\n' | cut -d= -f1 | sort -u";
    const theirs = (await sandbox.exec(`cat /proc/1/environ 2> /dev/null | ${names}`)).stdout.split('\n');
    const own = (await sandbox.exec(`cat /proc/self/environ | ${names}`)).stdout.split('\n');
    expect(own).toContain('PATH');
    expect(theirs.filter((name) => !own.includes(name))).toEqual([]);
  });

  it('may not read or write the record by the operations on files, either', async () => {
    const path = '/var/lib/sandyard/record';
    await expect(sandbox.files.read(path)).rejects.toMatchObject({ code: 'permission_denied' });
    await expect(sandbox.files.write(path, 'x')).rejects.toMatchObject({ code: 'permission_denied' });
    await expect(sandbox.files.rename(path, '/tmp/record')).rejects.toMatchObject({ code: 'permission_denied' });
  });

  it('has not changed the record by all of that', async () => {
    const { blob: _blob, ...now } = await readRecordFile(dockerClient().getContainer(`sandyard-${sandbox.id}`));
    const { blob: _before, ...before } = record;
    expect(now).toEqual(before);
  });

  it('has ended nothing by all of that', async () => {
    const found = (await sandbox.processes.list()).find(({ id }) => id === witness.id);
    expect(found).toMatchObject({ state: 'running' });
    expect((await sandbox.inspect()).state).toBe('running');
  });
});
