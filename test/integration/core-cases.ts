import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { removeAll, testDirectory, testSandbox } from '../fixtures/run.js';

/** What must hold on every engine. Each suite that has an engine to offer runs these. */
export function describeCore(engine: string, makeManager: () => Promise<SandboxManager>): void {
  describe(`core on ${engine}`, () => {
    let manager: SandboxManager;
    let shared: Sandbox;

    beforeAll(async () => {
      manager = await makeManager();
      shared = await manager.create({ projectName: 'core', memoryLimit: '256m' });
    });
    afterAll(async () => {
      if (manager !== undefined) await removeAll(manager);
    });

    describe('lifecycle', () => {
      it('creates, inspects, stops, starts and destroys, and keeps files over a stop', async () => {
        const sandbox = await testSandbox(manager, {
          projectName: 'life',
          memoryLimit: '128m',
          cpuLimit: '0.5',
          pidsLimit: 64,
          env: { GREETING: 'hello' },
          metadata: { ticket: '42' },
        });
        expect(await sandbox.inspect()).toMatchObject({
          projectName: 'life',
          state: 'running',
          limits: { memoryBytes: 128 * 1024 ** 2, cpus: 0.5, pids: 64 },
          network: 'none',
          metadata: { ticket: '42' },
          exitCode: null,
        });
        expect((await sandbox.exec('echo $GREETING; pwd; id -u')).stdout).toBe('hello\n/workspace\n1000\n');
        await sandbox.files.write('/workspace/kept.txt', 'kept');

        expect((await sandbox.stop()).state).toBe('exited');
        expect((await sandbox.stop()).state).toBe('exited');
        await expect(sandbox.exec(['true'])).rejects.toMatchObject({ code: 'wrong_state' });
        await expect(sandbox.stats()).rejects.toMatchObject({ code: 'wrong_state' });
        expect((await sandbox.start()).state).toBe('running');
        expect((await sandbox.start()).state).toBe('running');
        expect(await sandbox.files.readText('/workspace/kept.txt')).toBe('kept');

        await manager.destroy(sandbox.id);
        await expect(manager.get(sandbox.id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
        await expect(sandbox.exec(['true'])).rejects.toMatchObject({ code: 'sandbox_not_found' });
        await sandbox.destroy();
      });

      it('lists by state and project name, in pages', async () => {
        const made = await Promise.all(['a', 'b', 'c'].map(() => testSandbox(manager, { projectName: 'paged' })));
        await made[0]?.stop();
        const all = await manager.list({ projectName: 'paged' });
        expect(all.sandboxes.map(({ id }) => id).toSorted()).toEqual(made.map(({ id }) => id).toSorted());
        expect((await manager.list({ projectName: 'paged', state: 'exited' })).sandboxes).toHaveLength(1);
        const first = await manager.list({ projectName: 'paged', limit: 2 });
        const second = await manager.list({ projectName: 'paged', limit: 2, cursor: first.cursor ?? '' });
        expect([...first.sandboxes, ...second.sandboxes]).toEqual(all.sandboxes);
        expect(second.cursor).toBeNull();
      });

      it('renews a lease so that another manager sees it, and refuses one past the longest lifetime', async () => {
        const sandbox = await testSandbox(manager);
        const { expiresAt } = await sandbox.renew({ ttlMs: 2 * 3_600_000 });
        expect(expiresAt.getTime()).toBeGreaterThan(Date.now() + 1.9 * 3_600_000);
        expect((await manager.inspect(sandbox.id)).expiresAt).toEqual(expiresAt);
        await expect(sandbox.renew({ ttlMs: 30 * 24 * 3_600_000 })).rejects.toMatchObject({ code: 'limit_exceeded' });
        expect((await sandbox.renew({ ttlMs: 60_000 })).expiresAt.getTime()).toBeLessThan(Date.now() + 61_000);
        await sandbox.stop();
        await expect(sandbox.renew()).rejects.toMatchObject({ code: 'wrong_state' });
      });

      it('has nothing left of a create that fails or is aborted', async () => {
        const before = (await manager.list()).sandboxes.length;
        await expect(manager.create({ image: 'sandyard-no-such-image:1' })).rejects.toMatchObject({
          code: 'image_not_found',
        });
        for (const afterMs of [0, 30, 100, 250]) {
          const signal = AbortSignal.timeout(afterMs);
          await manager.create({}, { signal }).then(
            (sandbox) => sandbox.destroy(),
            (error: unknown) => expect(error).toMatchObject({ code: 'aborted' }),
          );
        }
        expect((await manager.list()).sandboxes).toHaveLength(before);
      });
    });

    describe('commands', () => {
      it('keeps stdout and stderr apart and gives the exit code', async () => {
        const result = await shared.exec(['sh', '-c', 'echo out; echo err >&2; exit 7']);
        expect(result).toMatchObject({
          outcome: 'exited',
          exitCode: 7,
          stdout: 'out\n',
          stderr: 'err\n',
          signal: null,
        });
      });

      it('passes arguments, variables, directory and input as they are', async () => {
        const odd = `a b'c"d$e\n*\\ü€😀`;
        const { stdout } = await shared.exec(['sh', '-c', 'printf "%s|%s|" "$1" "$ODD"; pwd; cat', 'sh', odd], {
          env: { ODD: odd },
          cwd: '/tmp',
          stdin: odd,
        });
        expect(stdout).toBe(`${odd}|${odd}|/tmp\n${odd}`);
      });

      it('streams output in order while it comes', async () => {
        const process = await shared.spawn('for i in 1 2 3; do echo $i; sleep 0.2; done');
        let printed = '';
        let last = 0;
        let firstAt: number | undefined;
        for await (const { seq, data } of process.output()) {
          firstAt ??= performance.now();
          expect(seq).toBe(last + 1);
          last = seq;
          printed += Buffer.from(data).toString();
        }
        expect(printed).toBe('1\n2\n3\n');
        expect(performance.now() - (firstAt ?? 0)).toBeGreaterThan(300);
        expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 0 });
      });

      it('is byte-exact for 32 MiB in and out', async () => {
        const block = Buffer.alloc(1024 * 1024, 'sandyard\0\xff\n', 'latin1');
        const input = () => Readable.from(Array.from({ length: 32 }, () => block));
        const process = await shared.spawn(['sh', '-c', 'cat'], { stdin: input() });
        const hash = createHash('sha256');
        for await (const { data } of process.output()) hash.update(data);
        const expected = createHash('sha256');
        for await (const chunk of input()) expected.update(chunk as Buffer);
        expect(hash.digest('hex')).toBe(expected.digest('hex'));
      });

      it('runs fifty at once, each with its own output and end, and stays responsive', async () => {
        // The engine's own helpers count as processes while they start one.
        const roomy = await testSandbox(manager, { pidsLimit: 1024 });
        const delay = monitorEventLoopDelay();
        delay.enable();
        const results = await Promise.all(
          Array.from({ length: 50 }, (_, index) => roomy.exec(`sleep 0.5; echo ${index}; exit ${index}`)),
        );
        delay.disable();
        expect(results.map(({ exitCode, stdout }) => [exitCode, stdout])).toEqual(
          results.map((_, index) => [index, `${index}\n`]),
        );
        expect(delay.max / 1e6).toBeLessThan(2000);
      });

      it.each([
        [['no-such-program'], {}, 'command_not_found'],
        [['/workspace/no-such-program'], {}, 'command_not_found'],
        [['/etc/passwd'], {}, 'command_not_executable'],
        [['true'], { cwd: '/no/such/directory' }, 'workdir_not_found'],
      ])('refuses %j %j with %s', async (command, options, code) => {
        await expect(shared.exec(command, options)).rejects.toMatchObject({ code });
      });

      it('ends a command at its timeout, with what it printed', async () => {
        const result = await shared.exec('echo begun; sleep 60', { timeoutMs: 500 });
        expect(result).toMatchObject({ outcome: 'timed_out', stdout: 'begun\n' });
        expect(result.durationMs).toBeLessThan(10_000);
      });

      it('returns when the command exits, though a child holds its output open, and says so', async () => {
        const result = await shared.exec('sleep 8 & echo done');
        expect(result).toMatchObject({ outcome: 'exited', exitCode: 0, stdout: 'done\n', processesLeft: true });
        expect(result.durationMs).toBeLessThan(6000);
      });

      it('says that the sandbox died under a command', async () => {
        const sandbox = await testSandbox(manager);
        const running = (await sandbox.spawn(['sleep', '60'])).wait();
        const stopped = (await sandbox.spawn('echo started; sleep 60')).wait();
        await sandbox.destroy();
        expect(await running).toMatchObject({ outcome: 'sandbox_died', exitCode: null });
        expect(await stopped).toMatchObject({ outcome: 'sandbox_died', exitCode: null });
      });
    });

    describe('files', () => {
      it('writes, reads, lists and removes', async () => {
        const path = '/workspace/deep/er/it\'s a "name"\n€.txt';
        await shared.files.write(path, 'content', { mode: 0o640 });
        expect(await shared.files.readText(path)).toBe('content');
        expect(await shared.files.stat(path)).toMatchObject({ type: 'file', sizeBytes: 7, mode: 0o640, uid: 1000 });
        const listed = await shared.files.list('/workspace/deep', { depth: 2 });
        expect(listed.map((file) => [file.path, file.type])).toEqual([
          ['/workspace/deep/er', 'directory'],
          [path, 'file'],
        ]);
        await expect(shared.files.remove('/workspace/deep')).rejects.toMatchObject({ code: 'is_a_directory' });
        await shared.files.remove('/workspace/deep', { recursive: true });
        await expect(shared.files.stat(path)).rejects.toMatchObject({ code: 'file_not_found' });
      });

      it('copies a file and a directory in and out', async () => {
        const host = await testDirectory();
        await writeFile(join(host, 'one.txt'), 'one');
        await shared.copyTo(host, '/workspace/copied');
        await shared.copyTo(join(host, 'one.txt'), '/workspace/copied/two.txt');
        await shared.copyTo(join(host, 'one.txt'), '/workspace/into/');
        await shared.copyFrom('/workspace/copied', join(host, 'out'));
        await shared.copyFrom('/workspace/into/one.txt', join(host, 'out'));
        expect(await readFile(join(host, 'out/one.txt'), 'utf8')).toBe('one');
        expect(await readFile(join(host, 'out/two.txt'), 'utf8')).toBe('one');
      });
    });

    it('tells what it uses', async () => {
      const stats = await shared.stats();
      expect(stats.memoryLimitBytes).toBe(256 * 1024 ** 2);
      expect(stats.memoryBytes).toBeGreaterThan(0);
      expect(stats.memoryBytes).toBeLessThan(stats.memoryLimitBytes);
      expect(stats.pids).toBeGreaterThanOrEqual(2);
      expect(stats.cpuSeconds).toBeGreaterThan(0);
    });
  });
}
