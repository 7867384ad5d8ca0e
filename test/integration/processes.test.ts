import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { eventually, removeAll, RUNTIMES, testManager, untilPrinted } from '../fixtures/run.js';

const MIB = 1024 * 1024;

describe.each(RUNTIMES)('processes of a sandbox of %s', (runtime) => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ runtime, memoryLimit: '512m', pidsLimit: 2048 });
  });
  afterAll(() => removeAll(manager));

  describe('that run once per id', () => {
    it('give the same result to whoever asks at once, and after', async () => {
      const command = 'echo run >> /workspace/runs; sleep 0.5; echo result; echo fault >&2; exit 3';
      const ask = () => sandbox.exec(command, { execId: 'once' });
      const results = [...(await Promise.all([ask(), ask(), ask()])), await ask()];
      for (const result of results) {
        expect(result).toMatchObject({ outcome: 'exited', exitCode: 3, stdout: 'result\n', stderr: 'fault\n' });
      }
      expect(await sandbox.files.readText('/workspace/runs')).toBe('run\n');
    });

    it('go on for the second when the first is killed by nobody but its caller', async () => {
      const controller = new AbortController();
      const command = 'echo begun; sleep 60';
      const first = sandbox.exec(command, { execId: 'shared', signal: controller.signal });
      first.catch(() => {}); // looked at below
      const second = await eventually(() => sandbox.processes.get('shared').catch(() => undefined));
      await untilPrinted(second, 'begun');
      controller.abort();
      await expect(first).rejects.toMatchObject({ code: 'aborted' });
      expect(await second.wait()).toMatchObject({ outcome: 'killed' });
    });

    it('are not started again by spawn, which says so', async () => {
      const first = await sandbox.spawn('echo one; read line; echo "$line"', { id: 'spawned-once', stdin: 'pipe' });
      expect(first).toMatchObject({ id: 'spawned-once', existing: false, pid: expect.any(Number) });
      const second = await sandbox.spawn('echo another', { id: 'spawned-once', stdin: 'pipe' });
      expect(second).toMatchObject({ existing: true, pid: first.pid, startedAt: first.startedAt });
      await untilPrinted(second, 'one\n');
      await first.write('two\n');
      expect(await untilPrinted(first, 'two\n')).toBe('one\ntwo\n');
      expect(await second.wait()).toMatchObject({ outcome: 'exited', exitCode: 0 });
    });
  });

  it('are listed, found again and forgotten', async () => {
    const process = await sandbox.spawn(['sh', '-c', 'echo up; sleep 60'], { id: 'listed' });
    await untilPrinted(process, 'up');
    const listed = async () => (await sandbox.processes.list()).find(({ id }) => id === 'listed');
    expect(await listed()).toMatchObject({
      pid: process.pid,
      command: ['sh', '-c', 'echo up; sleep 60'],
      state: 'running',
      outcome: null,
      exitCode: null,
      signal: null,
      startedAt: process.startedAt,
      pty: false,
      firstSeq: 1,
      lastSeq: 1,
    });
    await expect(sandbox.processes.forget('listed')).rejects.toMatchObject({ code: 'wrong_state' });
    const again = await sandbox.processes.get('listed');
    await again.kill('SIGKILL');
    await process.wait();
    expect(await listed()).toMatchObject({ pid: null, state: 'exited', outcome: 'killed', signal: 'SIGKILL' });
    const ended = await sandbox.processes.get('listed');
    expect(ended.pid).toBeNull();
    expect(await untilPrinted(ended, 'up')).toBe('up\n');
    expect(await ended.wait()).toMatchObject({ outcome: 'killed', signal: 'SIGKILL', exitCode: 137 });
    process.detach();
    ended.detach();
    await sandbox.processes.forget('listed');
    expect(await listed()).toBeUndefined();
    await expect(sandbox.processes.get('listed')).rejects.toMatchObject({ code: 'process_not_found' });
    await expect(sandbox.processes.forget('listed')).rejects.toMatchObject({ code: 'process_not_found' });
  });

  it('are forgotten also when they were killed before anybody read them', async () => {
    const process = await sandbox.spawn(['yes'], { id: 'unread' });
    await process.kill('SIGKILL');
    process.detach();
    await sandbox.processes.forget('unread');
    await expect(sandbox.processes.get('unread')).rejects.toMatchObject({ code: 'process_not_found' });
  });

  it('are waited for by several at once, one of whom gives up', async () => {
    const process = await sandbox.spawn('read line; exit 4', { stdin: 'pipe' });
    const other = await sandbox.processes.get(process.id);
    const impatient = expect(process.wait({ signal: AbortSignal.timeout(100) })).rejects.toMatchObject({
      code: 'aborted',
    });
    await impatient;
    await process.closeStdin();
    for (const exit of await Promise.all([process.wait(), other.wait(), process.wait()])) {
      expect(exit).toMatchObject({ outcome: 'exited', exitCode: 4 });
    }
  });

  it('get signals by name, and are killed by them', async () => {
    const trap =
      'for s in HUP INT USR1 USR2 WINCH; do trap "echo got $s" $s; done; echo up; while :; do sleep 0.1; done';
    const process = await sandbox.spawn(['bash', '-c', trap]);
    let printed = '';
    const pending = ['SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGWINCH'] as const;
    let sent = 0;
    for await (const { stream, data } of process.output()) {
      if (stream === 'stderr') continue; // of bash, on what became of its child
      printed += Buffer.from(data).toString();
      const name = pending[sent];
      const answered = sent === 0 ? 'up\n' : `got ${pending[sent - 1]?.slice(3)}\n`;
      if (name === undefined || !printed.endsWith(answered)) continue;
      sent += 1;
      await process.signal(name);
      if (sent === pending.length) break;
    }
    await expect(process.signal('SIGNONE')).rejects.toMatchObject({ code: 'validation_failed' });
    await process.signal('SIGALRM');
    expect(await process.wait()).toMatchObject({ outcome: 'killed', signal: 'SIGALRM', exitCode: 142 });
    await process.signal('SIGTERM'); // nobody is there any more
    await process.kill();
  });

  describe('with input', () => {
    it('read what is written, in pieces, and its end', async () => {
      const process = await sandbox.spawn(['cat'], { stdin: 'pipe' });
      await process.write('one ');
      await process.write(new Uint8Array());
      await process.write(Buffer.from('two'));
      await process.closeStdin();
      await process.closeStdin();
      await expect(process.write('late')).rejects.toMatchObject({ code: 'wrong_state' });
      expect(await untilPrinted(process, 'two')).toBe('one two');
      expect(await process.wait()).toMatchObject({ exitCode: 0 });
    });

    it('get 64 MiB byte for byte', async () => {
      const block = Buffer.alloc(MIB, 'sandyard\0\xff\n', 'latin1');
      const blocks = Array.from({ length: 64 }, () => block);
      const expected = createHash('sha256');
      for (const each of blocks) expected.update(each);
      const result = await sandbox.exec(['sha256sum'], { stdin: Readable.from(blocks) });
      expect(result.stdout).toBe(`${expected.digest('hex')}  -\n`);
    });

    it('that end before they have read it all are no fault', async () => {
      const blocks = Array.from({ length: 16 }, () => Buffer.alloc(MIB, 'x'));
      const result = await sandbox.exec(['head', '-c', '5'], { stdin: Readable.from(blocks) });
      expect(result).toMatchObject({ outcome: 'exited', exitCode: 0, stdout: 'xxxxx' });
    });

    it('read an end of file where there is none', async () => {
      expect(await sandbox.exec(['cat'])).toMatchObject({ exitCode: 0, stdout: '' });
    });
  });

  it('end when a child holds their output open, and say so', async () => {
    const result = await sandbox.exec('sleep 30 & echo done', { timeoutMs: 20_000 });
    expect(result).toMatchObject({ outcome: 'exited', exitCode: 0, stdout: 'done\n', processesLeft: true });
    const alone = await sandbox.exec('echo done');
    expect(alone).toMatchObject({ stdout: 'done\n', processesLeft: false });
  });

  it('tell what they used', async () => {
    const burn = 'block = bytearray(64 * 1024 * 1024)\nfor _ in range(3_000_000): pass';
    const { usage } = await sandbox.exec(['python3', '-c', burn]);
    expect(usage?.userMs).toBeGreaterThan(20);
    expect(usage?.maxRssBytes).toBeGreaterThan(runtime === 'runc' ? 64 * MIB : 0);
  });

  describe('with a terminal', () => {
    it('see its size, and that it changes', async () => {
      const script = 'test -t 0 && test -t 2 && stty size; read line; stty size; exit 5';
      const process = await sandbox.spawn(['bash', '-c', script], { pty: { rows: 33, columns: 111 } });
      let printed = '';
      for await (const { stream, data } of process.output()) {
        expect(stream).toBe('stdout');
        printed += Buffer.from(data).toString();
        if (printed !== '33 111\r\n') continue;
        process.resize({ rows: 44, columns: 122 });
        await process.write('on\n');
      }
      expect(printed).toBe('33 111\r\non\r\n44 122\r\n');
      expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 5 });
    });

    // The terminals of gVisor's kernel have neither signals nor an end of file.
    const isWhole = runtime !== 'runsc';
    if (isWhole) {
      it('are told of a change of its size', async () => {
        const script = 'trap "stty size; exit 5" WINCH; echo up; while :; do sleep 0.1; done';
        const process = await sandbox.spawn(['bash', '-c', script], { pty: true });
        await untilPrinted(process, 'up');
        process.resize({ rows: 44, columns: 122 });
        expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 5 });
      });

      it('are interrupted and ended from the keyboard', async () => {
        const process = await sandbox.spawn('echo $TERM; cat', { pty: true });
        await untilPrinted(process, 'xterm-256color');
        await process.write('typed\n');
        await process.closeStdin();
        expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 0 });
        const sleeper = await sandbox.spawn('echo up; sleep 60', { pty: true });
        await untilPrinted(sleeper, 'up');
        await sleeper.write('\x03');
        expect(await sleeper.wait()).toMatchObject({ signal: 'SIGINT' });
      });
    }
  });

  it('print text in whole characters', async () => {
    const text = 'ä€😀'.repeat(50_000);
    await sandbox.files.write('/workspace/text', text);
    const print =
      'import sys\ndata = open("/workspace/text", "rb").read()\nfor i in range(0, len(data), 1001):\n  sys.stdout.buffer.write(data[i:i+1001]); sys.stdout.flush()';
    const process = await sandbox.spawn(['python3', '-c', print], { text: true });
    const decoder = new TextDecoder('utf-8', { fatal: true });
    let printed = '';
    for await (const { data } of process.output()) printed += decoder.decode(data);
    expect(printed).toBe(text);
  });
});
