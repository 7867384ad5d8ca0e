import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { FileEvent, Sandbox, SandboxManager } from '../../src/index.js';
import { removeAll, RUNTIMES, testManager } from '../fixtures/run.js';

describe.each(RUNTIMES)('watching files in a sandbox of %s', (runtime) => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ runtime, memoryLimit: '256m', pidsLimit: 2048 });
  });
  afterAll(() => removeAll(manager));

  /** What is told until the file `end` is made in the directory, written as "type path [to]" without the directory. */
  async function eventsOf(directory: string, command: string, { recursive = true } = {}): Promise<string[]> {
    await sandbox.files.makeDir(directory);
    const events = await sandbox.files.watch(directory, { recursive });
    expect(await sandbox.exec(command, { cwd: directory })).toMatchObject({ exitCode: 0, stderr: '' });
    await sandbox.exec('touch end', { cwd: directory });
    const seen: string[] = [];
    for await (const event of events) {
      if (event.path === `${directory}/end`) break;
      seen.push(describeEvent(event, directory));
    }
    return seen;
  }

  it('tells what is made, written, renamed, changed and removed', async () => {
    const seen = await eventsOf(
      '/workspace/watched',
      'echo one > file && mv file moved && chmod 600 moved && rm moved && mkdir directory && rmdir directory',
      { recursive: false },
    );
    expect(seen).toEqual([
      'create file',
      'write file',
      'rename file moved',
      'chmod moved',
      'remove moved',
      'create directory/',
      'remove directory/',
    ]);
  });

  it('tells what happens in directories that were made later, one by one', async () => {
    const directory = '/workspace/later';
    await sandbox.files.makeDir(directory);
    const events = await sandbox.files.watch(directory, { recursive: true });
    const told = async (wanted: string) => {
      for (;;) {
        const next = await events.next();
        if (next.done === true) throw new Error(`the watch ended before "${wanted}"`);
        if (describeEvent(next.value, directory) === wanted) return;
      }
    };
    await sandbox.files.makeDir(`${directory}/a`);
    await told('create a/');
    await sandbox.files.makeDir(`${directory}/a/b`);
    await told('create a/b/');
    await sandbox.files.write(`${directory}/a/b/file`, 'x');
    await sandbox.exec('mv a/b/file a/moved', { cwd: directory });
    await told('rename a/b/file a/moved');
    await sandbox.exec('mv a elsewhere', { cwd: directory });
    await told('rename a/ elsewhere');
    await sandbox.exec('echo more >> elsewhere/moved', { cwd: directory });
    await told('write elsewhere/moved');
    await sandbox.exec('rm -r elsewhere', { cwd: directory });
    await told('remove elsewhere/');
    await events.return();
  });

  it('misses nothing that is made in one go with the directories above it', async () => {
    for (let round = 0; round < 5; round += 1) {
      const seen = await eventsOf(`/workspace/once-${round}`, 'mkdir -p a/b/c && touch a/b/c/f');
      for (const made of ['create a/', 'create a/b/', 'create a/b/c/', 'create a/b/c/f']) expect(seen).toContain(made);
    }
    const script =
      'for d in 1 2 3 4 5 6 7 8 9; do mkdir -p $d/deep/er; for f in 1 2 3; do : > $d/deep/er/$f; done; done';
    const seen = await eventsOf('/workspace/many', script);
    const made = seen.filter((event) => /^create \d\/deep\/er\/\d$/.test(event));
    expect(new Set(made).size).toBe(27);
  });

  it('tells any name, and of what is brought in from outside', async () => {
    await sandbox.exec(`mkdir -p outside/below && echo x > outside/below/file`);
    const seen = await eventsOf('/workspace/names', `touch 'new\nline' '😀 "q"' && mv /workspace/outside inside`);
    expect(seen).toContain('create new\nline');
    expect(seen).toContain('create 😀 "q"');
    expect(seen).toContain('create inside/');
    expect(seen).toContain('create inside/below/');
    expect(seen).toContain('create inside/below/file');
  });

  it('says so when more happens than it can tell, and goes on', async () => {
    const seen = await eventsOf(
      '/workspace/flood',
      'i=0; while [ $i -lt 20000 ]; do : > f$((i % 50)); i=$((i+1)); done',
    );
    // The kernel folds equal neighbours together, so there may have been room for all of them.
    expect(seen.length).toBeGreaterThan(50);
    const after = await eventsOf('/workspace/flood-2', 'touch still');
    expect(after).toContain('create still');
  });

  it('watches one file, also when it is replaced', async () => {
    const path = '/workspace/single/file';
    await sandbox.files.write(path, 'one');
    const events = await sandbox.files.watch(path);
    await sandbox.exec(`echo two >> ${path}`);
    const first = await events.next();
    expect(first.value).toMatchObject({ type: 'write', path, isDirectory: false });
    await events.return();
  });

  it('refuses what is not there, and ends when it is aborted or left', async () => {
    await expect(sandbox.files.watch('/workspace/no/such')).rejects.toMatchObject({ code: 'file_not_found' });
    await expect(sandbox.files.watch('/root')).rejects.toMatchObject({ code: 'permission_denied' });
    const controller = new AbortController();
    const events = await sandbox.files.watch('/tmp', { signal: controller.signal });
    const next = events.next();
    controller.abort();
    await expect(next).rejects.toMatchObject({ code: 'aborted' });
    const left = await sandbox.files.watch('/tmp');
    const waiting = left.next();
    await left.return();
    expect(await waiting.catch((error: unknown) => error)).toMatchObject({ done: true });
  });
});

function describeEvent({ type, path, isDirectory, to }: FileEvent, directory: string): string {
  const name = (full: string) => full.slice(directory.length + 1);
  return [type, `${name(path)}${isDirectory ? '/' : ''}`, ...(to === undefined ? [] : [name(to)])].join(' ');
}
