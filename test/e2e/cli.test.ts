import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { SandboxManager } from '../../src/index.js';
import { CliRunner } from '../fixtures/cli.js';
import { describeTree, makeProjectTree } from '../fixtures/project-tree.js';
import { eventually, newOwner, removeAll, run, testDirectory } from '../fixtures/run.js';

describe('the built program', () => {
  const owner = newOwner();
  const cli = new CliRunner(owner);
  let id: string;
  beforeAll(async () => {
    const created = await cli.run(['create', '--project', 'cli', '--memory', '256m']);
    expect(created).toMatchObject({ code: 0, stderr: '', stdout: expect.stringMatching(/^[a-z0-9]+\n$/) });
    id = created.stdout.trim();
  });
  afterAll(() => removeAll(new SandboxManager({ owner, reaper: false })));

  it('lists what it has made', async () => {
    expect((await cli.run(['ls'])).stdout).toMatch(new RegExp(`^ID .*\n${id} +cli +running `));
    expect((await cli.run(['ls', '-q', '--project', 'cli'])).stdout).toBe(`${id}\n`);
    expect(JSON.parse((await cli.run(['ls', '--json'])).stdout)).toMatchObject([{ id, state: 'running' }]);
    const stats = await cli.run(['stats', '--json', id]);
    expect(stats.code).toBe(0);
    expect(JSON.parse(stats.stdout)).toMatchObject([{ id }]);
    expect((await cli.run(['stats'])).stdout).toContain(id);
  });

  it.each([
    [0, ['sh', '-c', 'echo fine'], []],
    [3, ['sh', '-c', 'exit 3'], []],
    [124, ['sleep', '60'], ['--timeout', '300ms']],
    [126, ['/etc/passwd'], []],
    [127, ['no-such-program'], []],
    [137, ['sh', '-c', 'kill -KILL $$'], []],
    [143, ['sh', '-c', 'kill -TERM $$'], []],
  ])('exits with %d as %j does', async (code, command, flags) => {
    expect((await cli.run(['exec', ...flags, id, '--', ...command])).code).toBe(code);
  });

  it('keeps stdout and stderr apart, and passes standard input and variables on', async () => {
    const both = await cli.run(['exec', id, '--', 'sh', '-c', 'echo out; echo err >&2']);
    expect(both).toEqual({ code: 0, stdout: 'out\n', stderr: 'err\n' });
    const input = 'sand\0yard €\n'.repeat(200_000);
    const counted = await cli.run(['exec', '-i', id, '--', 'sha256sum'], { input });
    const { stdout } = await cli.run(['exec', '-i', id, '--', 'cat'], { input });
    expect(stdout === input).toBe(true);
    expect(counted.stdout).toMatch(/^[0-9a-f]{64} {2}-\n$/);
    const odd = await cli.run(['exec', '-e', 'ODD=a b', '-w', '/tmp', id, '--', 'sh', '-c', 'echo "$ODD"; pwd']);
    expect(odd.stdout).toBe('a b\n/tmp\n');
  });

  it('says what is wrong, and what to do', async () => {
    const missing = await cli.run(['exec', 'nosuchid', '--', 'true']);
    expect(missing).toMatchObject({ code: 125, stdout: '' });
    expect(missing.stderr).toMatch(/^sandyard: .*nosuchid.*\nhint: /);
    const noTerminal = await cli.run(['exec', '-it', id, '--', 'bash']);
    expect(noTerminal).toMatchObject({ code: 125, stderr: expect.stringContaining('not a TTY') });
    expect((await cli.run(['rm', 'nosuchid'])).stderr).not.toMatch(/^ +at /m);
  });

  it('leaves a process running in the background', async () => {
    const detached = await cli.run(['exec', '-d', id, '--', 'sleep', '3333']);
    expect((await cli.run(['ps', id])).stdout).toMatch(
      new RegExp(`^${detached.stdout.trim()} .*running.*sleep 3333$`, 'm'),
    );
  });

  it('copies both ways', async () => {
    const host = await testDirectory();
    await makeProjectTree(join(host, 'project'), 100);
    await mkdir(join(host, 'out'));
    expect((await cli.run(['cp', join(host, 'project'), `${id}:/workspace`])).code).toBe(0);
    const copied = await cli.run(['cp', '--json', `${id}:/workspace/project`, join(host, 'out')]);
    expect(JSON.parse(copied.stdout)).toMatchObject({ entries: expect.any(Number) });
    const { '.': _was, ...expected } = await describeTree(join(host, 'project'));
    const { '.': _is, ...found } = await describeTree(join(host, 'out/project'));
    expect(found).toEqual(expected);
    await writeFile(join(host, 'one'), 'one');
    await cli.run(['cp', join(host, 'one'), `${id}:/workspace/two`]);
    await cli.run(['cp', `${id}:/workspace/two`, join(host, 'three')]);
    expect(await readFile(join(host, 'three'), 'utf8')).toBe('one');
  });

  it('gives a shell in a terminal, with its size, its keys and its exit code', async () => {
    await using terminal = cli.inTerminal(['exec', '-it', id, '--', 'bash', '--norc']);
    const tty = (await terminal.shows(/\/dev\/pts\/\d+/))[0];
    await terminal.shows(/\$ $/);
    terminal.type('stty size; echo term-$TERM\r');
    await terminal.shows(/33 111\s+term-xterm/);
    await run('stty', ['-F', tty, 'rows', '44', 'columns', '122']);
    terminal.type('sleep 0.3; stty size\r');
    await terminal.shows(/44 122/);
    terminal.type('sleep 1000\r');
    await terminal.shows(/sleep 1000\s/);
    terminal.type('\u0003');
    terminal.type('echo code: $?\r');
    await terminal.shows(/code: 130/);
    terminal.type('exit 9\r');
    await terminal.shows(/\[exit 9\]/);
    // What it leaves is a terminal that shows what is typed.
    await terminal.shows(/^echo\s*$/m);
  });

  it('makes a sandbox for one command, and leaves nothing of it', async () => {
    const ran = await cli.run(['run', '--rm', '--memory', '128m', '--', 'sh', '-c', 'echo once; exit 5']);
    expect(ran).toMatchObject({ code: 5, stdout: 'once\n' });
    expect((await cli.run(['ls', '-q'])).stdout).toBe(`${id}\n`);
  });

  it('leaves nothing of a sandbox when Ctrl-C ends its command', async () => {
    const child = cli.start(['run', '--rm', '--memory', '128m', '--', 'sh', '-c', 'echo begun; sleep 1000']);
    const [first] = (await once(child.stdout ?? child, 'data')) as [Buffer];
    expect(first.toString()).toBe('begun\n');
    child.kill('SIGINT');
    expect(await once(child, 'close')).toEqual([130, null]);
    expect((await cli.run(['ls', '-q'])).stdout).toBe(`${id}\n`);
  });

  it('leaves nothing of a sandbox when Ctrl-C comes while that is made', async () => {
    const child = cli.start(['run', '--rm', '--memory', '128m', '--', 'sleep', '1000']);
    const manager = new SandboxManager({ owner, reaper: false });
    const made = async () => ((await manager.list()).sandboxes.length > 1 ? true : undefined);
    await eventually(made, { everyMs: 5, what: 'a second sandbox' });
    child.kill('SIGINT');
    expect(await once(child, 'close')).toEqual([130, null]);
    expect((await manager.list()).sandboxes.map((one) => one.id)).toEqual([id]);
    await manager.close();
  });

  it('inspects, stops, starts, pauses and renews it, each as a manager sees it, too', async () => {
    await using manager = new SandboxManager({ owner, reaper: false });
    const state = async () => (await manager.inspect(id)).state;
    expect(await cli.run(['stop', '--grace', '0s', id])).toEqual({ code: 0, stdout: `${id}\n`, stderr: '' });
    expect(await state()).toBe('exited');
    expect((await cli.run(['start', id])).code).toBe(0);
    expect(await state()).toBe('running');
    expect(JSON.parse((await cli.run(['pause', '--json', id])).stdout)).toMatchObject([{ id, state: 'paused' }]);
    expect((await cli.run(['pause', id, 'nosuchid'])).code).toBe(1);
    expect((await cli.run(['unpause', id])).stdout).toBe(`${id}\n`);
    expect((await cli.run(['exec', id, '--', 'sh', '-c', 'echo kept > kept'])).code).toBe(0);
    expect((await cli.run(['restart', '--grace', '0s', id])).code).toBe(0);
    expect((await cli.run(['exec', id, '--', 'cat', 'kept'])).stdout).toBe('kept\n');
    expect((await cli.run(['renew', '--ttl', '290m', id])).code).toBe(0);
    expect((await cli.run(['ls'])).stdout).toMatch(/ in 4 hours\n/);
    const shown = await cli.run(['inspect', id]);
    expect(shown).toMatchObject({ code: 0, stdout: expect.stringMatching(/^EXPIRES .*\(in 4 hours\)$/m) });
    expect(JSON.parse((await cli.run(['inspect', '--json', id])).stdout)).toMatchObject([{ id, on_expiry: 'destroy' }]);
    const tooLong = await cli.run(['renew', '--ttl', '300d', id]);
    expect(tooLong).toMatchObject({ code: 1, stderr: expect.stringContaining('longest lifetime') });
  });

  it('tells what sandboxes used', async () => {
    const sampled = async () => {
      const { stdout } = await cli.run(['stats', '--history', '--json', id]);
      const [found] = JSON.parse(stdout) as { samples: { memory_bytes: number }[] }[];
      return found?.samples[0];
    };
    expect(await eventually(sampled, { everyMs: 2000, what: 'a sample' })).toMatchObject({ pids: expect.any(Number) });
    expect((await cli.run(['stats', '--history', id])).stdout).toMatch(new RegExp(`^ID +TIME .*\n${id} +\\S+Z `));
  });

  it('waits for the end of a sandbox, and tells what happens to it meanwhile', async () => {
    const made = await cli.run(['create', '--memory', '128m', '--ttl', '8s', '--on-expiry', 'stop', '--wake-on-use']);
    const other = made.stdout.trim();
    const events = cli.start(['events', '--json', '--filter', `sandbox=${other}`, '--filter', 'type=stopped']);
    const first = once(events.stdout ?? events, 'data') as Promise<[Buffer]>;
    expect(await cli.run(['wait', other])).toEqual({ code: 0, stdout: '90\n', stderr: '' });
    const [line] = await first;
    expect(JSON.parse(line.toString())).toMatchObject({
      type: 'stopped',
      sandbox_id: other,
      reason: 'lease_expired',
      exit_code: 90,
      by: null,
    });
    events.kill('SIGINT');
    expect(await once(events, 'close')).toEqual([130, null]);
    expect((await cli.run(['inspect', other])).stdout).toMatch(/^STATE +exited \(90\)$/m);
    expect((await cli.run(['exec', other, '--', 'echo', 'woken'])).stdout).toBe('woken\n');
    expect((await cli.run(['rm', other])).code).toBe(0);
  });

  it('prunes what has expired, says why, and only says so in a dry run', async () => {
    const other = (await cli.run(['create', '--memory', '128m', '--ttl', '2s'])).stdout.trim();
    expect((await cli.run(['wait', other])).stdout).toBe('90\n');
    const dry = await cli.run(['prune', '--dry-run']);
    const row = `^sandbox +${other} +its lease has run out +`;
    expect(dry).toMatchObject({ code: 0, stdout: expect.stringMatching(new RegExp(`${row}nothing: a dry run$`, 'm')) });
    expect((await cli.run(['prune'])).stdout).toMatch(new RegExp(`${row}removed$`, 'm'));
    const { sandboxes } = JSON.parse((await cli.run(['prune', '--json'])).stdout) as { sandboxes: unknown[] };
    expect(sandboxes).toEqual([]);
    expect((await cli.run(['ls', '-q'])).stdout).toBe(`${id}\n`);
    expect(await cli.run(['wait', other])).toMatchObject({ code: 1, stdout: '' });
  });

  it('keeps nothing warm, whatever the environment says', async () => {
    const events = cli.start(['events'], { SANDBOX_POOL_SIZE: '1' });
    const renewed = once(events.stdout ?? events, 'data');
    const pause = async () => {
      await cli.run(['pause', id]);
      await cli.run(['unpause', id]);
      return Promise.race([renewed, new Promise<undefined>((resolve) => setTimeout(resolve, 1000, undefined))]);
    };
    await eventually(pause, { everyMs: 100, what: 'an event' });
    const { stdout } = await run('docker', ['ps', '-aq', '--filter', `label=sandyard.owner=${owner}`]);
    expect(stdout.trim().split('\n')).toHaveLength(1);
    events.kill('SIGINT');
    expect(await once(events, 'close')).toEqual([130, null]);
  });

  it('helps at once', async () => {
    const [nothing, help] = [
      [process.execPath, '-e', '0'],
      ['dist/cli/main.js', '--help'],
    ] as const;
    // The best of a few: the machine may have had something else to do.
    const measured = async (start: () => Promise<unknown>) => {
      const took: number[] = [];
      for (let times = 0; times < 5; times += 1) {
        const began = performance.now();
        await start();
        took.push(performance.now() - began);
      }
      return Math.min(...took);
    };
    const bare = await measured(() => run(nothing[0], nothing.slice(1)));
    const helped = await measured(() => cli.run(help.slice(1)));
    // It must not load the library, which takes several times as long.
    expect(helped / bare).toBeLessThan(8);
  });

  it('removes', async () => {
    expect(await cli.run(['rm', id])).toMatchObject({ code: 0, stdout: `${id}\n` });
    expect((await cli.run(['ls', '-q'])).stdout).toBe('');
    expect((await cli.run(['rm', '-f', id])).code).toBe(0);
  });
});
