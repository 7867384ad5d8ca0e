import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { AWKWARD_NAMES } from '../fixtures/project-tree.js';
import { eventually, removeAll, RUNTIMES, sleep, testManager } from '../fixtures/run.js';

const MIB = 1024 * 1024;

describe.each(RUNTIMES)('files in a sandbox of %s', (runtime) => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    // The memory that gVisor itself needs counts, and so do its threads.
    sandbox = await manager.create({ runtime, memoryLimit: '256m', pidsLimit: 2048 });
  });
  afterAll(() => removeAll(manager));

  /** All that is in a directory, hidden files too. */
  const namesIn = async (path: string) => (await sandbox.files.list(path)).map(({ name }) => name);

  /** Processes that bear the warden's name: itself, our tunnel, and the operations that run. */
  const wardens = async () => {
    const { stdout } = await sandbox.exec('for p in /proc/[0-9]*; do cat $p/comm 2>/dev/null; done | grep -c warden');
    return Number(stdout);
  };

  it('takes any name', async () => {
    for (const [index, name] of AWKWARD_NAMES.entries()) {
      const path = `/workspace/named/${name}`;
      await sandbox.files.write(path, `content ${index}`);
      expect(await sandbox.files.readText(path)).toBe(`content ${index}`);
      expect((await sandbox.files.stat(path)).name).toBe(name);
    }
    expect((await namesIn('/workspace/named')).toSorted()).toEqual([...AWKWARD_NAMES].toSorted());
    for (const name of AWKWARD_NAMES) {
      await sandbox.files.rename(`/workspace/named/${name}`, `/workspace/renamed/${name}`).then(
        () => expect.unreachable(),
        (error: unknown) => expect(error).toMatchObject({ code: 'file_not_found' }),
      );
    }
    await sandbox.files.makeDir('/workspace/renamed');
    for (const name of AWKWARD_NAMES) {
      await sandbox.files.rename(`/workspace/named/${name}`, `/workspace/renamed/${name}`);
      await sandbox.files.remove(`/workspace/renamed/${name}`);
    }
    expect(await namesIn('/workspace/named')).toEqual([]);
    expect(await namesIn('/workspace/renamed')).toEqual([]);
  });

  it('has one whole content of many that are written to one path at once, at any time', async () => {
    const path = '/workspace/contended/file';
    await sandbox.files.write(path, Buffer.alloc(MIB, 'z'));
    const writes = Array.from('abcdefgh', (letter) => sandbox.files.write(path, Buffer.alloc(2 * MIB, letter)));
    const over = new AbortController();
    const reading = (async () => {
      const seen = new Set<string>();
      while (!over.signal.aborted) seen.add(describeContent(await sandbox.files.read(path)));
      return [...seen];
    })();
    await Promise.all(writes);
    over.abort();
    const whole = expect.stringMatching(/^(1048576 z|2097152 [a-h])$/);
    for (const content of await reading) expect(content).toEqual(whole);
    expect(describeContent(await sandbox.files.read(path))).toMatch(/^2097152 [a-h]$/);
    expect(await namesIn('/workspace/contended')).toEqual(['file']);
  });

  it('lets one of many that replace the same version win, and one of many that make a file', async () => {
    const path = '/workspace/raced/file';
    for (let round = 0; round < 5; round += 1) {
      const made = await Promise.allSettled(
        Array.from({ length: 8 }, (_, index) => sandbox.files.write(path, `new ${index}`, { ifNoneMatch: '*' })),
      );
      expect(refusals(made)).toEqual(Array.from({ length: 7 }, () => 'precondition_failed'));
      const { etag } = await sandbox.files.stat(path);
      const replaced = await Promise.allSettled(
        Array.from({ length: 8 }, (_, index) => sandbox.files.write(path, `old ${index}`, { ifMatch: etag })),
      );
      expect(refusals(replaced)).toEqual(Array.from({ length: 7 }, () => 'precondition_failed'));
      const winner = replaced.findIndex(({ status }) => status === 'fulfilled');
      expect(await sandbox.files.readText(path)).toBe(`old ${winner}`);
      await sandbox.files.remove(path);
    }
    await expect(sandbox.files.write(path, 'x', { ifMatch: '*' })).rejects.toMatchObject({
      code: 'precondition_failed',
    });
    expect(await namesIn('/workspace/raced')).toEqual([]);
  });

  it('reads parts, from both ends', async () => {
    const path = '/workspace/parts';
    const content = Buffer.from(Array.from({ length: 300_000 }, (_, index) => index % 251));
    await sandbox.files.write(path, content);
    for (const [options, from, to] of [
      [{ offset: 0, length: 1 }, 0, 1],
      [{ offset: 70_000, length: 140_001 }, 70_000, 210_001],
      [{ offset: -5 }, 299_995, 300_000],
      [{ offset: -5, length: 2 }, 299_995, 299_997],
      [{ offset: -1_000_000 }, 0, 300_000],
      [{ offset: 299_999, length: 50 }, 299_999, 300_000],
      [{ offset: 0, length: 0 }, 0, 0],
    ] as const) {
      const { info, start, length, body } = await sandbox.files.open(path, options);
      expect({ size: info.sizeBytes, start, length }).toEqual({ size: 300_000, start: from, length: to - from });
      expect((await buffer(body)).equals(content.subarray(from, to))).toBe(true);
    }
    await expect(sandbox.files.open(path, { offset: 300_000 })).rejects.toMatchObject({
      code: 'range_not_satisfiable',
    });
    await sandbox.files.write('/workspace/nothing', '');
    expect((await sandbox.files.read('/workspace/nothing')).length).toBe(0);
  });

  it('appends, also from many at once', async () => {
    const path = '/workspace/appended';
    await sandbox.files.append(path, 'begun\n', { mode: 0o600 });
    await Promise.all(Array.from({ length: 10 }, (_, index) => sandbox.files.append(path, `line ${index}\n`)));
    const lines = (await sandbox.files.readText(path)).trimEnd().split('\n');
    expect(lines[0]).toBe('begun');
    expect(lines.slice(1).toSorted()).toEqual(Array.from({ length: 10 }, (_, index) => `line ${index}`));
    expect((await sandbox.files.stat(path)).mode).toBe(0o600);
  });

  it('follows links as the user would, and shows them as what they are', async () => {
    await sandbox.exec('mkdir links && cd links && echo -n old > file && ln -s file link && ln -s nothing dangling');
    expect(await sandbox.files.stat('/workspace/links/link')).toMatchObject({ type: 'symlink', linkTarget: 'file' });
    expect(await sandbox.files.stat('/workspace/links/link', { followLinks: true })).toMatchObject({ type: 'file' });
    await sandbox.files.write('/workspace/links/link', 'through the link', { mode: 0o640 });
    expect(await sandbox.files.readText('/workspace/links/file')).toBe('through the link');
    expect((await sandbox.files.stat('/workspace/links/link')).type).toBe('symlink');
    await sandbox.files.chmod('/workspace/links/link', 0o600);
    expect((await sandbox.files.stat('/workspace/links/file')).mode).toBe(0o600);
    await sandbox.files.write('/workspace/links/dangling', 'now there');
    expect(await sandbox.files.readText('/workspace/links/nothing')).toBe('now there');
    await sandbox.exec('mkdir links/directory && echo kept > links/directory/kept && ln -s directory links/into');
    await sandbox.files.remove('/workspace/links/into', { recursive: true });
    expect(await namesIn('/workspace/links/directory')).toEqual(['kept']);
    // A link below the directory that is listed could lead anywhere.
    await sandbox.exec('ln -s / links/root');
    const listed = await sandbox.files.list('/workspace/links', { depth: 5 });
    expect(listed.some(({ path }) => path.startsWith('/workspace/links/root/'))).toBe(false);
  });

  it("has the user's rights and no more", async () => {
    const { files } = sandbox;
    const denied = { code: 'permission_denied' };
    await expect(files.read('/etc/shadow')).rejects.toMatchObject(denied);
    await expect(files.write('/etc/passwd', 'x')).rejects.toMatchObject(denied);
    await expect(files.append('/etc/passwd', 'x')).rejects.toMatchObject(denied);
    await expect(files.chmod('/etc/passwd', 0o666)).rejects.toMatchObject(denied);
    await expect(files.remove('/etc/passwd')).rejects.toMatchObject(denied);
    await expect(files.rename('/etc/passwd', '/etc/gone')).rejects.toMatchObject(denied);
    await expect(files.makeDir('/etc/mine')).rejects.toMatchObject(denied);
    await expect(files.list('/root')).rejects.toMatchObject(denied);
    await sandbox.exec('ln -s /etc/shadow shadow; mkdir closed; echo x > closed/file; chmod 0 closed');
    await expect(files.read('/workspace/shadow')).rejects.toMatchObject(denied);
    await expect(files.read('/workspace/closed/file')).rejects.toMatchObject(denied);
    expect(await files.stat('/workspace/closed')).toMatchObject({ mode: 0, uid: 1000 });
    await sandbox.exec('chmod 700 closed');
  });

  it('neither reads nor writes what is no regular file, and does not wait for it', async () => {
    const { files } = sandbox;
    await sandbox.exec('mkfifo /workspace/fifo; ln -s /dev/zero /workspace/zero');
    for (const path of ['/workspace/fifo', '/workspace/zero', '/dev/null']) {
      await expect(files.read(path)).rejects.toMatchObject({ code: 'not_a_file' });
      await expect(files.append(path, 'x')).rejects.toMatchObject({ code: 'not_a_file' });
    }
    expect(await files.stat('/workspace/fifo')).toMatchObject({ type: 'other' });
    await expect(files.read('/workspace')).rejects.toMatchObject({ code: 'is_a_directory' });
    await expect(files.write('/workspace', 'x')).rejects.toMatchObject({ code: 'is_a_directory' });
    await files.remove('/workspace/fifo');
  });

  it('keeps the old file where the disk is full, and says so', async () => {
    const path = '/dev/shm/full/file';
    await sandbox.files.write(path, 'old');
    const blocks = Readable.from(Array.from({ length: 100 }, () => Buffer.alloc(MIB, 'new')));
    await expect(sandbox.files.write(path, blocks)).rejects.toMatchObject({ code: 'out_of_disk' });
    expect(await sandbox.files.readText(path)).toBe('old');
    expect(await namesIn('/dev/shm/full')).toEqual(['file']);
    await expect(sandbox.exec('df --output=used /dev/shm | tail -1')).resolves.toMatchObject({
      stdout: expect.stringMatching(/^ *\d{1,3}\n$/),
    });
  });

  it('leaves nothing of a write that breaks off, or that is aborted half-way', async () => {
    const path = '/workspace/broken/file';
    await sandbox.files.write(path, 'old');
    const before = await wardens();
    const broken = Readable.from(
      (function* () {
        yield Buffer.alloc(3 * MIB, 'new');
        throw new Error('the source broke');
      })(),
    );
    await expect(sandbox.files.write(path, broken)).rejects.toThrow('the source broke');

    const controller = new AbortController();
    async function* endless() {
      for (let index = 0; ; index += 1) {
        if (index === 3) setTimeout(() => controller.abort(), 50);
        if (index > 3) await sleep(20);
        yield Buffer.alloc(MIB, 'new');
      }
    }
    const aborted = sandbox.files.write(path, endless(), { signal: controller.signal });
    await expect(aborted).rejects.toMatchObject({ code: 'aborted' });
    expect(await sandbox.files.readText(path)).toBe('old');
    expect(await namesIn('/workspace/broken')).toEqual(['file']);
    expect(await wardens()).toBe(before);
  });

  it('ends what reads a file when that is aborted, or left', async () => {
    const path = '/workspace/read/large';
    await sandbox.files.write(path, Readable.from(Array.from({ length: 20 }, () => Buffer.alloc(MIB))));
    const before = await wardens();
    const controller = new AbortController();
    const reading = (async () => {
      for await (const _ of await sandbox.files.readStream(path, { signal: controller.signal })) controller.abort();
    })();
    await expect(reading).rejects.toMatchObject({ code: 'aborted' });
    for await (const _ of await sandbox.files.readStream(path)) break;
    const gone = async () => ((await wardens()) === before ? true : undefined);
    await eventually(gone, { timeoutMs: 5000, what: 'the end of the operations' });
  });

  it('fails when a file becomes shorter while it is read', async () => {
    const path = '/workspace/read/shrinks';
    await sandbox.files.write(path, Readable.from(Array.from({ length: 20 }, () => Buffer.alloc(MIB))));
    const reading = (async () => {
      let shrunk = false;
      for await (const _ of await sandbox.files.readStream(path)) {
        if (!shrunk) await sandbox.exec(['truncate', '-s', '1', path]);
        shrunk = true;
      }
    })();
    await expect(reading).rejects.toMatchObject({ code: 'file_operation_failed' });
  });
});

/** Its length and the one letter that it has, or all of them. */
function describeContent(content: Uint8Array): string {
  const [first = 0] = content;
  const isWhole = content.every((byte) => byte === first);
  return `${content.length} ${isWhole ? String.fromCharCode(first) : 'mixed'}`;
}

function refusals(settled: readonly PromiseSettledResult<unknown>[]): string[] {
  return settled
    .filter((one) => one.status === 'rejected')
    .map(({ reason }) => String((reason as { code?: string }).code ?? reason));
}
