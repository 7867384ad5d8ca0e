import * as fs from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';

import * as fc from 'fast-check';
import { extract as tarExtract } from 'tar-stream';
import { describe, expect, test } from 'vitest';

import { compileExcludes } from '../../src/archive/exclude.js';
import { extractArchive, extractFile, packDirectory, type PackOptions } from '../../src/archive/archive.js';
import { SandyardError } from '../../src/errors.js';
import {
  END_OF_ARCHIVE,
  gnuLong,
  hostileArchives,
  hostileBox,
  pax,
  rawArchive,
  rawEntry,
} from '../fixtures/hostile-archives.js';
import { describeTree, makeProjectTree, temporaryDirectory } from '../fixtures/project-tree.js';

const LIMITS = { maxBytes: 100_000_000, maxEntries: 100_000 };

describe('round trip', () => {
  test('a project of 2,000 files comes back identical, in a new target and merged into an old one', async () => {
    await using temporary = await temporaryDirectory();
    const source = join(temporary.path, 'source');
    const target = join(temporary.path, 'not/there/yet');
    await makeProjectTree(source, 2000);
    const before = await describeTree(source);
    const { tar, result } = await packDirectory(source);

    const copied = await extractArchive(tar, target, LIMITS);

    const { '.': _, ...expected } = before;
    const { '.': __, ...actual } = await describeTree(target);
    expect(actual).toEqual(expected);
    expect(copied).toEqual(result());
    expect(copied.entries).toBe(Object.keys(expected).length);

    await fs.writeFile(join(target, 'kept'), 'kept');
    await fs.writeFile(join(target, 'large.bin'), 'old');
    await fs.rm(join(target, 'pkg-3'), { recursive: true });
    if (process.getuid?.() !== 0) {
      // The directory of mode 555 that came with the first copy: nothing of the second is moved when it can't be written.
      const locked = extractArchive((await packDirectory(source)).tar, target, LIMITS);
      expect(await failure(locked)).toMatchObject({ code: 'file_operation_failed' });
      expect(await fs.readFile(join(target, 'large.bin'), 'utf8')).toBe('old');
    }
    await fs.chmod(join(target, 'empty'), 0o755);
    await extractArchive((await packDirectory(source)).tar, target, LIMITS);
    const merged = await describeTree(target);
    expect(merged).toMatchObject({ kept: expect.stringContaining('file 644') as string });
    expect(merged['large.bin']).toBe(expected['large.bin']);
    expect(Object.keys(merged).filter((name) => name.startsWith('pkg-3'))).toHaveLength(
      Object.keys(expected).filter((name) => name.startsWith('pkg-3')).length,
    );
    expect(await fs.readdir(temporary.path)).toEqual(['not', 'source']);
  });

  test('hard links, long names, PAX and GNU headers, sizes by PAX, implied parents and locked directories arrive', async () => {
    await using box = await hostileBox();
    const long = `${'d'.repeat(150)}/${'f'.repeat(150)}`;
    const archive = rawArchive(
      { name: './', type: '5', mode: 0o1777 },
      { name: './a/b/c.txt', body: 'c', mode: 0o000 },
      { name: './a/hard', type: '1', linkname: './a/b/c.txt' },
      { name: './locked/', type: '5', mode: 0o000 },
      { name: './locked/x', body: 'x' },
      gnuLong('L', long),
      { name: 'cut', body: 'long' },
      pax({ path: 'ünïcödé\nname', size: '5' }),
      { name: 'cut', body: 'twelve', size: 0 },
      { name: './twice', body: 'first' },
      { name: './twice', body: 'second' },
    );
    await extractArchive(Readable.from([archive]), box.target, LIMITS);
    await fs.chmod(join(box.target, 'locked'), 0o700);
    const stats = await fs.stat(join(box.target, 'a/hard'));
    expect(stats.nlink).toBe(2);
    expect(stats.mode & 0o7777).toBe(0);
    expect(await fs.readFile(join(box.target, long), 'utf8')).toBe('long');
    expect(await fs.readFile(join(box.target, 'ünïcödé\nname'), 'utf8')).toBe('twelv');
    expect(await fs.readFile(join(box.target, 'twice'), 'utf8')).toBe('second');
    expect(await fs.readFile(join(box.target, 'locked/x'), 'utf8')).toBe('x');
  });

  test('files and links in the target are replaced, not written through', async () => {
    await using box = await hostileBox();
    const before = await describeTree(box.canary);
    await extractArchive(Readable.from([rawArchive({ name: 'out', body: 'mine' })]), box.target, LIMITS);
    expect((await fs.lstat(join(box.target, 'out'))).isFile()).toBe(true);
    expect(await describeTree(box.canary)).toEqual(before);
  });
});

describe('hostile archives', () => {
  test.each(hostileArchives('').map(({ what }, index) => [what, index] as const))('refuses %s', async (_, index) => {
    await using box = await hostileBox();
    const archive = hostileArchives(box.canary)[index];
    if (archive === undefined) throw new Error('no such archive');
    const { entries, names, why } = archive;
    const before = await describeTree(box.root);
    const error = await failure(extractArchive(Readable.from([rawArchive(...entries)]), box.target, LIMITS));
    expect(error).toMatchObject({ code: 'unsafe_archive', hint: expect.any(String) as string });
    expect(error.message).toContain(names);
    expect(error.message).toMatch(why);
    expect(error.message.length).toBeLessThan(400);
    expect(await describeTree(box.root)).toEqual(ignoringTimeOf(before, 'target', await describeTree(box.root)));
  });

  test('nothing lands outside, whatever the names and links are', async () => {
    await using box = await hostileBox();
    const part = fc.oneof(
      fc.constantFrom('..', '.', '', 'a', 'b', 'out', 'kept.txt', '/', '\\'),
      fc.string({ maxLength: 6 }),
    );
    const path = fc.array(part, { maxLength: 5 }).map((parts) => parts.join('/'));
    const entry = fc.record({
      name: path,
      linkname: path,
      type: fc.constantFrom('0', '1', '2', '5'),
      body: fc.constant(''),
    });
    const before = await describeTree(box.canary);
    await fc.assert(
      fc.asyncProperty(fc.array(entry, { maxLength: 6 }), async (entries) => {
        await extractArchive(Readable.from([rawArchive(...entries)]), join(box.target, 'new'), LIMITS).catch(
          expectSandyardError,
        );
        await extractArchive(Readable.from([rawArchive(...entries)]), box.target, LIMITS).catch(expectSandyardError);
        expect(await fs.readdir(box.root)).toEqual(['canary', 'target']);
        expect(await describeTree(box.canary)).toEqual(before);
        await expectLinksInside(box.target);
      }),
      { numRuns: 60 },
    );
  });

  test('random bytes and flipped bytes never crash it', async () => {
    await using box = await hostileBox();
    const good = rawArchive(pax({ path: 'p' }), { name: 'a', body: 'x'.repeat(700) }, { name: 'd', type: '5' });
    await fc.assert(
      fc.asyncProperty(fc.nat(good.length - 1), fc.nat(255), async (at, byte) => {
        const bad = Buffer.from(good);
        bad[at] = byte;
        await extractArchive(Readable.from([bad]), join(box.target, 'new'), LIMITS).catch(expectSandyardError);
      }),
      { numRuns: 60 },
    );
    const noise = extractArchive(Readable.from([Buffer.alloc(4096, 'noise')]), box.target, LIMITS);
    expect(await failure(noise)).toMatchObject({ code: 'unsafe_archive' });
    expect(await fs.readdir(box.root)).toEqual(['canary', 'target']);
  });
});

describe('an archive that ends badly', () => {
  const whole = Buffer.concat([
    rawEntry({ name: 'a', body: 'x'.repeat(1000) }),
    rawEntry({ name: 'b' }),
    END_OF_ARCHIVE,
  ]);

  test.each([0, 100, 512, 700, 1536, 2048, 2560])(
    'cut after %i bytes is damaged, and leaves nothing',
    async (length) => {
      await using box = await hostileBox();
      const tar = Readable.from([whole.subarray(0, length)], { objectMode: false });
      const error = await failure(extractArchive(tar, box.target, LIMITS));
      expect(error).toMatchObject({ code: 'unsafe_archive', message: expect.stringContaining('damaged') as string });
      expect(await fs.readdir(box.target)).toEqual(['kept-dir', 'kept.txt', 'out']);
    },
  );

  test('limits hold by what headers declare, before it is written', async () => {
    await using box = await hostileBox();
    const large = rawArchive(pax({ size: '5000000000' }), { name: 'large', body: 'x', size: 1 });
    const many = rawArchive(...Array.from({ length: 20 }, (_, index) => ({ name: `f${index}` })));
    const deep = rawArchive({ name: 'd/'.repeat(40), type: '5' });
    for (const [archive, limits, why] of [
      [large, LIMITS, /more than 100000000 bytes/],
      [many, { ...LIMITS, maxEntries: 19 }, /more than 19 entries/],
      [deep, { ...LIMITS, maxEntries: 39 }, /more than 39 entries/],
    ] as const) {
      const error = await failure(extractArchive(Readable.from([archive]), box.target, limits));
      expect(error).toMatchObject({ code: 'archive_too_large', message: expect.stringMatching(why) as string });
    }
    expect(await extractArchive(Readable.from([many]), box.target, { maxBytes: 0, maxEntries: 20 })).toEqual({
      entries: 20,
      bytes: 0,
    });
  });

  test.each([
    ['empty blocks', Buffer.alloc(65_536)],
    ['PAX headers', Buffer.concat(Array.from({ length: 64 }, () => rawEntry(pax({ path: 'x' }))))],
  ])('an endless run of %s is cut off', async (_, piece) => {
    await using box = await hostileBox();
    const endless = Readable.from(
      (function* () {
        for (;;) yield piece;
      })(),
    );
    expect(await failure(extractArchive(endless, box.target, LIMITS))).toMatchObject({ code: 'archive_too_large' });
    expect(endless.destroyed).toBe(true);
  });

  test.each([
    ['its own error', new SandyardError('sandbox_died', 'gone'), 'sandbox_died'],
    [
      'a foreign error',
      Object.assign(new Error('reset'), { code: 'ECONNRESET', syscall: 'read' }),
      'file_operation_failed',
    ],
  ])('a source that fails with %s', async (_, fault, code) => {
    await using box = await hostileBox();
    const tar = Readable.from(
      (function* () {
        yield whole.subarray(0, 700);
        throw fault;
      })(),
    );
    const error = await failure(extractArchive(tar, box.target, LIMITS));
    expect(error.code).toBe(code);
    expect(await fs.readdir(box.target)).toEqual(['kept-dir', 'kept.txt', 'out']);
  });

  test('a source that was destroyed or had failed before is an error, too', async () => {
    await using box = await hostileBox();
    const gone = Readable.from([whole]);
    gone.destroy();
    expect(await failure(extractArchive(gone, box.target, LIMITS))).toMatchObject({ code: 'file_operation_failed' });
  });

  test('abort in the middle leaves the target as it was', async () => {
    await using box = await hostileBox();
    const controller = new AbortController();
    const tar = Readable.from(
      (async function* () {
        yield whole.subarray(0, 700);
        setTimeout(() => controller.abort(), 10);
        await new Promise(() => undefined);
      })(),
    );
    const { signal } = controller;
    expect(await failure(extractArchive(tar, box.target, { ...LIMITS, signal }))).toMatchObject({ code: 'aborted' });
    expect(await fs.readdir(box.target)).toEqual(['kept-dir', 'kept.txt', 'out']);
    expect(await failure(extractArchive(Readable.from([whole]), box.target, { ...LIMITS, signal }))).toMatchObject({
      code: 'aborted',
    });
  });
});

describe('one file', () => {
  const archive = rawArchive({ name: 'a.txt', body: 'new', mode: 0o640 });

  test.each([
    ['new.txt', 'new.txt'],
    ['kept.txt', 'kept.txt'],
    ['new/', 'new/a.txt'],
    ['kept-dir', 'kept-dir/a.txt'],
    ['x/y/new.txt', 'x/y/new.txt'],
  ])('to %s is written as %s', async (hostTarget, written) => {
    await using box = await hostileBox();
    const result = await extractFile(Readable.from([archive]), `${box.target}/${hostTarget}`, LIMITS);
    expect(result).toEqual({ entries: 1, bytes: 3 });
    expect(await fs.readFile(join(box.target, written), 'utf8')).toBe('new');
    expect((await fs.stat(join(box.target, written))).mode & 0o777).toBe(0o640);
  });

  test.each([
    ['several entries', rawArchive({ name: 'a' }, { name: 'b' }), 'archive_too_large'],
    ['a directory', rawArchive({ name: 'a', type: '5' }), 'unsafe_archive'],
    ['a symlink', rawArchive({ name: 'a', type: '2', linkname: 'b' }), 'unsafe_archive'],
    ['nothing', rawArchive(), 'unsafe_archive'],
  ])('is not %s', async (_, tar, code) => {
    await using box = await hostileBox();
    expect((await failure(extractFile(Readable.from([tar]), join(box.target, 'x'), LIMITS))).code).toBe(code);
    expect(await fs.readdir(box.target)).toEqual(['kept-dir', 'kept.txt', 'out']);
  });

  test('a target of the wrong kind is refused', async () => {
    await using box = await hostileBox();
    const { target } = box;
    await fs.mkdir(join(target, 'kept-dir/a.txt'));
    expect((await failure(extractFile(Readable.from([archive]), join(target, 'kept-dir'), LIMITS))).code).toBe(
      'is_a_directory',
    );
    expect((await failure(extractFile(Readable.from([archive]), `${target}/kept.txt/`, LIMITS))).code).toBe(
      'not_a_directory',
    );
    expect((await failure(extractArchive(Readable.from([archive]), `${target}/kept.txt`, LIMITS))).code).toBe(
      'not_a_directory',
    );
  });
});

describe('packing', () => {
  test('names the owner, masks special bits, keeps mode 0, skips sockets and reads nothing before it is read', async () => {
    await using temporary = await temporaryDirectory();
    const root = join(temporary.path, 'p');
    await fs.mkdir(root);
    const socket = createServer().listen(join(root, 'socket'));
    await fs.writeFile(join(root, 'suid'), 'x');
    await fs.chmod(join(root, 'suid'), 0o4755);
    await fs.writeFile(join(root, 'zero'), '');
    // Nobody but root can read what has no mode at all.
    const mode = process.getuid?.() === 0 ? 0 : 0o400;
    await fs.chmod(join(root, 'zero'), mode);
    const { tar } = await packDirectory(root, { uid: 5_000_000, gid: 7 });
    await fs.writeFile(join(root, 'later'), 'x'.repeat(100_000));
    expect(await headersOf(tar)).toEqual([
      { name: 'later', type: 'file', mode: 0o644, gid: 7, paxUid: '5000000' },
      { name: 'suid', type: 'file', mode: 0o755, gid: 7, paxUid: '5000000' },
      { name: 'zero', type: 'file', mode, gid: 7, paxUid: '5000000' },
    ]);
    socket.close();
  });

  test('a file that shrinks while it is packed is an error, and no whole archive', async () => {
    await using temporary = await temporaryDirectory();
    const chunks = await packChanging(join(temporary.path, 'changing'), 999_000);
    expect(chunks.pop()?.toString()).toBe('failed');
    const cut = extractFile(Readable.from([Buffer.concat(chunks)]), join(temporary.path, 'copy'), LIMITS);
    expect(await failure(cut)).toMatchObject({ code: 'unsafe_archive' });
  });

  test('a file that grows while it is packed is packed as long as it was', async () => {
    await using temporary = await temporaryDirectory();
    const chunks = await packChanging(join(temporary.path, 'changing'), 1_001_000);
    await extractFile(Readable.from([Buffer.concat(chunks)]), join(temporary.path, 'copy'), LIMITS);
    expect((await fs.stat(join(temporary.path, 'copy'))).size).toBe(1_000_000);
  });

  test.skipIf(process.platform !== 'linux')('a small file that holds more than its size says is an error', async () => {
    expect(await failure(packAll('/proc/self/status'))).toMatchObject({ code: 'file_operation_failed' });
  });

  test('a host path that is not there, abort, and a reader that goes away', async () => {
    await using temporary = await temporaryDirectory();
    expect(await failure(packDirectory(join(temporary.path, 'no')))).toMatchObject({ code: 'file_not_found' });
    await fs.writeFile(join(temporary.path, 'large'), Buffer.alloc(3_000_000));
    const controller = new AbortController();
    const { tar } = await packDirectory(temporary.path, { signal: controller.signal });
    const reading = (async () => {
      for await (const _ of tar) controller.abort();
    })();
    expect(await failure(reading)).toMatchObject({ code: 'aborted' });
    expect(await failure(packAll(temporary.path, { signal: controller.signal }))).toMatchObject({ code: 'aborted' });
    const left = await packDirectory(temporary.path);
    for await (const _ of left.tar) break;
    expect(left.tar.destroyed).toBe(true);
  });

  test('a file goes under its own or a given name', async () => {
    await using temporary = await temporaryDirectory();
    await fs.writeFile(join(temporary.path, 'f'), 'x');
    expect((await packAll(join(temporary.path, 'f')))[0]?.name).toBe('f');
    expect((await packAll(join(temporary.path, 'f'), { name: 'other' }))[0]?.name).toBe('other');
  });
});

describe('excludes', () => {
  test.each([
    ['node_modules', ['node_modules', 'a/node_modules', 'a/node_modules/b'], ['node_modules2', 'a/xnode_modules']],
    ['node_modules/', ['node_modules/x'], ['node']],
    ['*.log', ['a.log', '.log', 'a/b.log', 'd.log/x'], ['a.log2', 'log']],
    ['/build', ['build', 'build/x'], ['a/build']],
    ['./build/x', ['build/x'], ['a/build/x']],
    ['a/b/**', ['a/b/c', 'a/b/c/d'], ['a/b', 'x/a/b/c']],
    ['**/b/c', ['b/c', 'a/b/c', 'a/x/b/c/d'], ['bc', 'b/x/c']],
    ['a/**/c', ['a/c', 'a/b/c', 'a/b/b/c'], ['a', 'c', 'b/a/c']],
    ['a/*', ['a/b', 'a/.b'], ['a', 'b/a/c']],
    ['?', ['a', '🚀', 'b/x'], ['ab']],
    ['a*b*c', ['abc', 'aXbXc', 'abbcc'], ['ab', 'acb']],
    ['[a].$', ['[a].$'], ['a', '.a']],
    ['', [], ['a']],
  ])('%j', (pattern, excluded, kept) => {
    const test = compileExcludes([pattern]);
    expect(excluded.filter((path) => !test(path))).toEqual([]);
    expect(kept.filter((path) => test(path))).toEqual([]);
  });

  test('many stars stay fast on a crafted name', () => {
    expect(compileExcludes([`${'*a'.repeat(30)}b`])('a'.repeat(4000))).toBe(false);
  });

  test('hold when packing and when unpacking, where what is left out may even be unsafe and large', async () => {
    await using box = await hostileBox();
    const root = join(box.target, 'kept-dir');
    await fs.mkdir(join(root, 'node_modules/x'), { recursive: true });
    await fs.writeFile(join(root, 'a.txt'), 'a');
    const headers = await packAll(root, { exclude: ['node_modules'] });
    expect(headers.map(({ name }) => name)).toEqual(['a.txt', 'kept']);
    const archive = rawArchive(
      { name: 'node_modules/pipe', type: '6' },
      { name: 'node_modules/large', body: 'x'.repeat(5000) },
      { name: 'b.txt', body: 'b' },
    );
    const options = { maxBytes: 10, maxEntries: 1, exclude: ['node_modules'] };
    const copied = await extractArchive(Readable.from([archive]), join(box.target, 'new'), options);
    expect(copied).toEqual({ entries: 1, bytes: 1 });
    expect(await fs.readdir(join(box.target, 'new'))).toEqual(['b.txt']);
  });
});

/** A target with something in it, among that a link to a canary beside it that must never change. */
/** The target's own time changes when the staging directory comes and goes. */
function ignoringTimeOf(
  tree: Record<string, string>,
  name: string,
  now: Record<string, string>,
): Record<string, string> {
  return { ...tree, [name]: now[name] ?? 'missing' };
}

/** Packs a file and has its size changed as soon as its first part was read. */
async function packChanging(path: string, size: number): Promise<Buffer[]> {
  await fs.writeFile(path, 'x'.repeat(1_000_000));
  const { tar } = await packDirectory(path);
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of tar) {
      chunks.push(chunk as Buffer);
      await fs.truncate(path, size);
    }
  } catch (error) {
    expect(error).toMatchObject({
      code: 'file_operation_failed',
      message: expect.stringMatching(/changing" changed its size/) as string,
    });
    chunks.push(Buffer.from('failed'));
  }
  return chunks;
}

async function failure(promise: Promise<unknown>): Promise<SandyardError> {
  const error = await promise.then(
    () => new Error('it succeeded'),
    (error: unknown) => error,
  );
  expect(error).toBeInstanceOf(SandyardError);
  return error as SandyardError;
}

function expectSandyardError(error: unknown): void {
  expect(error).toBeInstanceOf(SandyardError);
}

/** Every link below a directory, but the one that the test put there, resolves to inside or to nothing. */
async function expectLinksInside(root: string): Promise<void> {
  for (const entry of await fs.readdir(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (!entry.isSymbolicLink() || path === join(root, 'out')) continue;
    const real = await fs.realpath(path).catch(() => root);
    expect(real === root || real.startsWith(`${root}/`), `${path} leads to ${real}`).toBe(true);
  }
}

async function packAll(path: string, options: PackOptions = {}) {
  return headersOf((await packDirectory(path, options)).tar);
}

async function headersOf(tar: Readable) {
  const parser = tarExtract();
  const chunks = await tar.toArray();
  parser.end(Buffer.concat(chunks as Buffer[]));
  const headers = [];
  for await (const entry of parser) {
    const { name, type, mode, gid, pax } = entry.header;
    headers.push({ name, type, mode, gid, paxUid: (pax as Record<string, string> | null)?.['uid'] });
    entry.resume();
  }
  return headers;
}
