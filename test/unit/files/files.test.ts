import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';

import type { SandyardError } from '../../../src/errors.js';
import { SandboxFiles } from '../../../src/files/files.js';
import { connectPort } from '../../../src/files/port.js';
import { encodeEntry, encodeEvent, type FakeCommand, type FakeProcess } from '../../fixtures/fake-warden.js';
import { makeTarget } from '../../fixtures/process-target.js';

/** Files of a sandbox in which every operation does the same. */
function setUp(builtin: FakeCommand) {
  const seen: FakeProcess[] = [];
  const remember: FakeCommand = (process) => {
    seen.push(process);
    return builtin(process);
  };
  const made = makeTarget({ builtins: { '*': remember } });
  const argv = () => seen[0]?.argv;
  const running = () => seen.filter(({ ended }) => ended === undefined).length;
  return { ...made, files: new SandboxFiles(made.target), seen, argv, running };
}

const printing =
  (...out: (string | Uint8Array)[]): FakeCommand =>
  async (process) => {
    for (const piece of out) await process.print(piece);
  };
const failing =
  (errno: number, said = ''): FakeCommand =>
  async (process) => {
    if (said !== '') await process.printError(said);
    return errno;
  };
/** What `read` prints of a file. */
const file = (content: string | Uint8Array, more: object = {}) =>
  Buffer.concat([
    encodeEntry({ type: 'f', size: Buffer.from(content as string).length, ...more }),
    Buffer.from(content as string),
  ]);
const entry = encodeEntry({ type: 'f' });

describe('every operation', () => {
  const operations: [string, (files: SandboxFiles, path: string) => Promise<unknown>][] = [
    ['read', (files, path) => files.read(path)],
    ['readText', (files, path) => files.readText(path)],
    ['readStream', (files, path) => files.readStream(path)],
    ['open', (files, path) => files.open(path)],
    ['write', (files, path) => files.write(path, 'x')],
    ['append', (files, path) => files.append(path, 'x')],
    ['list', (files, path) => files.list(path)],
    ['stat', (files, path) => files.stat(path)],
    ['makeDir', (files, path) => files.makeDir(path)],
    ['rename', (files, path) => files.rename(path, '/workspace/b')],
    ['rename to', (files, path) => files.rename('/workspace/b', path)],
    ['remove', (files, path) => files.remove(path)],
    ['chmod', (files, path) => files.chmod(path, 0o600)],
    ['watch', (files, path) => files.watch(path)],
    ['readArchive', (files, path) => files.readArchive(path)],
    ['writeArchive', (files, path) => files.writeArchive(path, Readable.from([Buffer.from('x')]))],
  ];

  it.each(operations)('%s is a built-in one, with the rights of the sandbox user', async (_, act) => {
    const { files, seen } = setUp(failing(13));
    const path = '/workspace/$(touch x) \'a\' "b"\n-rf';
    await act(files, path).catch(() => {});
    expect(seen).toHaveLength(1);
    expect(seen[0]).toMatchObject({ cwd: '/', env: [], request: { uid: 1000, gid: 1000 } });
    expect(seen[0]?.argv).toContain(path);
  });

  it.each(operations)('%s refuses paths that are none', async (_, act) => {
    const { warden, files } = setUp(() => 0);
    for (const path of ['', 'a', '/a/../b', '/a\0b', '/proc/self/environ']) {
      await expect(act(files, path)).rejects.toMatchObject({ code: 'validation_failed' });
    }
    expect(warden.connects).toBe(0);
  });

  it.each(operations)('%s tells what it ended with, and leaves nothing behind', async (_, act) => {
    const { files, warden, target, held } = setUp(failing(13));
    await expect(act(files, '/a')).rejects.toMatchObject({ code: 'permission_denied' });
    expect(target.calls.size + held.count).toBe(0);
    await vi.waitFor(() => expect(warden.processes.size).toBe(0));
  });

  it.each(operations)('%s tells when the sandbox ended', async (_, act) => {
    const { files, warden, seen } = setUp((process) => process.forever());
    const done = act(files, '/a');
    done.catch(() => {});
    await vi.waitFor(() => expect(seen).toHaveLength(1));
    await sleep(2);
    warden.restart();
    await expect(done).rejects.toMatchObject({ code: 'sandbox_died' });
  });

  it.each(operations)('%s stops, and is ended, when its caller gives up', async (_, act) => {
    const { files, seen, running } = setUp((process) => process.forever());
    const caller = new AbortController();
    const given = new Proxy(files, {
      get: (target, name) => {
        const method = Reflect.get(target, name) as (...args: unknown[]) => unknown;
        const withSignal = (...args: unknown[]) => {
          const options =
            name === 'write' || name === 'append' || name === 'rename' || name === 'chmod' || name === 'writeArchive'
              ? 2
              : 1;
          args[options] = { signal: caller.signal };
          return method.apply(target, args);
        };
        return withSignal;
      },
    });
    const done = act(given, '/a');
    done.catch(() => {});
    await vi.waitFor(() => expect(seen).toHaveLength(1));
    caller.abort();
    await expect(done).rejects.toMatchObject({ code: 'aborted' });
    expect(running()).toBe(0);
  });
});

describe('failures', () => {
  it.each([
    [1, 'permission_denied'],
    [2, 'file_not_found'],
    [11, 'limit_exceeded'],
    [12, 'limit_exceeded'],
    [13, 'permission_denied'],
    [16, 'permission_denied'],
    [17, 'file_exists'],
    [18, 'file_operation_failed'],
    [20, 'not_a_directory'],
    [21, 'is_a_directory'],
    [22, 'validation_failed'],
    [27, 'limit_exceeded'],
    [28, 'out_of_disk'],
    [30, 'permission_denied'],
    [36, 'validation_failed'],
    [39, 'is_a_directory'],
    [40, 'validation_failed'],
    [61, 'file_operation_failed'],
    [74, 'invalid_request'],
    [95, 'not_a_file'],
    [116, 'precondition_failed'],
    [122, 'out_of_disk'],
    [5, 'file_operation_failed'],
    [255, 'file_operation_failed'],
  ] as const)('%d is %s', async (errno, code) => {
    const { files } = setUp(failing(errno));
    const error = await files.stat('/a').catch((error: unknown) => error);
    expect(error).toMatchObject({ code, message: expect.stringContaining('"/a"') });
    expect((error as SandyardError).hint).toMatch(/\.$/);
  });

  it('name the file that they are about, where it is another', async () => {
    const { files } = setUp(failing(13, '/workspace/a/b'));
    await expect(files.remove('/workspace/a')).rejects.toMatchObject({
      message: expect.stringMatching(/"\/workspace\/a".*"\/workspace\/a\/b"/),
    });
  });

  it('are told in one line, of a bounded length', async () => {
    const { files } = setUp(failing(13, `${'x'.repeat(100_000)}\nlast\u202E\n`));
    const path = `/${'p'.repeat(200)}/${'p'.repeat(200)}\n\u202E`;
    const error = (await files.stat(path).catch((error: unknown) => error)) as Error;
    expect(error.message.length).toBeLessThan(700);
    expect(error.message).not.toMatch(/[\n\u202E]/);
  });

  it.each([
    ['timed_out', { signal: 15 }],
    ['oom_killed', { signal: 9 }],
    ['signaled', { signal: 11 }],
  ] as const)('are told where it %s', async (outcome, end) => {
    const { files } = setUp((process) => process.end(outcome, end));
    await expect(files.stat('/a')).rejects.toMatchObject({
      code: 'file_operation_failed',
      message: expect.stringContaining(outcome),
    });
  });

  it('name the bound where the sandbox has written more than it may: while it wrote, and before', async () => {
    const full = {
      code: 'out_of_disk',
      message: expect.stringContaining('64m and 1000 files and directories') as string,
    };
    const ended = setUp((process) => process.end('disk_full', { signal: 15 }));
    await expect(ended.files.write('/a', 'x')).rejects.toMatchObject(full);
    const refused = makeTarget({ builtins: { '*': { errno: 122, stage: 0 } } });
    await expect(new SandboxFiles(refused.target).write('/a', 'x')).rejects.toMatchObject(full);
  });

  it.each([
    ['nothing', Buffer.alloc(0)],
    ['half an entry', entry.subarray(0, 20)],
    ['an entry that claims too much', Buffer.from([255, 255, 255, 255, 1])],
    ['an entry with an end of its own', Buffer.concat([Buffer.from([4, 0, 0, 0]), Buffer.from('fabc')])],
    ['an entry of no known type', Buffer.from(entry).fill('x', 4, 5)],
    ['more than an answer has', Buffer.alloc(200_000)],
  ])('include %s in place of an entry', async (_, printed) => {
    const { files } = setUp(printing(printed));
    for (const act of [() => files.stat('/a'), () => files.write('/a', 'x'), () => files.read('/a')]) {
      await expect(act()).rejects.toMatchObject({ code: 'channel_failed' });
    }
  });
});

describe('list and stat', () => {
  const modified = { modified: 1_700_000_000, nanoseconds: 500_000_000 };
  const MODIFIED = new Date('2023-11-14T22:13:20.500Z');

  it('tells all that is known, in the order of the paths', async () => {
    const output = [
      encodeEntry({ type: 'o', ...modified, name: 'pipe', mode: 0o600, uid: 0, gid: 0 }),
      encodeEntry({ type: 'f', ...modified, name: 'a.txt', size: 5, uid: 1000, gid: 1001, inode: 255 }),
      encodeEntry({ type: 'l', ...modified, name: 'dir/link', size: 7, mode: 0o777, target: '../x y', uid: 0, gid: 0 }),
      encodeEntry({ type: 'd', ...modified, name: 'dir', size: 4096, mode: 0o2755, uid: 0, gid: 0 }),
    ];
    const { files } = setUp(printing(...output));
    const common = { modifiedAt: MODIFIED, uid: 0, gid: 0, linkTarget: null };
    expect(await files.list('/workspace/')).toEqual([
      {
        ...common,
        path: '/workspace/a.txt',
        name: 'a.txt',
        type: 'file',
        sizeBytes: 5,
        mode: 0o644,
        uid: 1000,
        gid: 1001,
        etag: 'ff-6553f100-1dcd6500-5',
      },
      {
        ...common,
        path: '/workspace/dir',
        name: 'dir',
        type: 'directory',
        sizeBytes: 4096,
        mode: 0o2755,
        etag: '1-6553f100-1dcd6500-1000',
      },
      {
        ...common,
        path: '/workspace/dir/link',
        name: 'link',
        type: 'symlink',
        sizeBytes: 7,
        mode: 0o777,
        linkTarget: '../x y',
        etag: '1-6553f100-1dcd6500-7',
      },
      {
        ...common,
        path: '/workspace/pipe',
        name: 'pipe',
        type: 'other',
        sizeBytes: 0,
        mode: 0o600,
        etag: '1-6553f100-1dcd6500-0',
      },
    ]);
  });

  it.each(['a\nb', ' ', '"', 'ünï', '-n', '%s', '\t', "it's"])('reads the name %j', async (name) => {
    const { files } = setUp(printing(encodeEntry({ type: 'f', name })));
    expect(await files.list('/')).toMatchObject([{ name, path: `/${name}` }]);
  });

  it('reads a name that is no text', async () => {
    const { files } = setUp(printing(encodeEntry({ type: 'f', name: Buffer.from([0x61, 0xff]) })));
    expect(await files.list('/')).toMatchObject([{ name: 'a\uFFFD' }]);
  });

  it('reads a link whose target has a newline', async () => {
    const { files } = setUp(printing(encodeEntry({ type: 'l', name: 'x', target: 'a\nb' })));
    expect(await files.list('/')).toMatchObject([{ linkTarget: 'a\nb' }]);
  });

  it.each([
    [{ modified: 2 ** 52 }, new Date(8.64e15)],
    [{ modified: -(2 ** 52) }, new Date(-8.64e15)],
    [{ modified: -1, nanoseconds: 999_999_999 }, new Date(-1)],
  ])('takes the time %j for the nearest that there is', async (time, expected) => {
    const { files } = setUp(printing(encodeEntry({ type: 'f', name: 'x', ...time })));
    expect((await files.list('/'))[0]?.modifiedAt).toEqual(expected);
  });

  it('takes a size beyond all numbers for the largest', async () => {
    const bytes = Buffer.from(encodeEntry({ type: 'f', name: 'x' }));
    bytes.fill(0xff, 9, 17);
    const { files } = setUp(printing(bytes));
    expect(await files.list('/')).toMatchObject([{ sizeBytes: Number.MAX_SAFE_INTEGER }]);
  });

  it('reads what comes in pieces', async () => {
    const output = Buffer.concat([encodeEntry({ type: 'f', name: 'ü' }), encodeEntry({ type: 'f', name: 'b' })]);
    const { files } = setUp(async (process) => {
      for (const byte of output) await process.print(Buffer.of(byte));
    });
    expect(await files.list('/')).toMatchObject([{ name: 'b' }, { name: 'ü' }]);
  });

  it('reads an empty directory', async () => {
    const { files } = setUp(() => 0);
    expect(await files.list('/workspace')).toEqual([]);
  });

  it('goes down as deep as asked', async () => {
    const { files, argv } = setUp(() => 0);
    await files.list('/workspace', { depth: 3 });
    expect(argv()).toEqual(['list', '/workspace', '3']);
  });

  it.each([0, 65, 1.5])('refuses a depth of %d', async (depth) => {
    const { files } = setUp(() => 0);
    await expect(files.list('/workspace', { depth })).rejects.toMatchObject({ code: 'validation_failed' });
  });

  it('ends at its bound, and ends the operation', async () => {
    const many = Buffer.concat(Array(500).fill(encodeEntry({ type: 'f', name: 'x'.repeat(4000) })) as Buffer[]);
    const { files, running } = setUp(async (process) => {
      for (;;) await process.print(many);
    });
    await expect(files.list('/')).rejects.toMatchObject({ code: 'limit_exceeded' });
    expect(running()).toBe(0);
  });

  it.each([
    [undefined, '0'],
    [false, '0'],
    [true, '1'],
  ])('stats the path itself, or with followLinks %s what it links to', async (followLinks, told) => {
    const { files, argv } = setUp(printing(encodeEntry({ type: 'd', name: 'anything' })));
    const found = await files.stat('/workspace/', { followLinks });
    expect(found).toMatchObject({ path: '/workspace/', name: 'workspace', type: 'directory' });
    expect(argv()).toEqual(['stat', '/workspace/', told]);
  });
});

describe('read', () => {
  it('returns the bytes as they are', async () => {
    const bytes = Buffer.from([0, 255, 10, 128]);
    const { files, argv } = setUp(printing(file(bytes)));
    expect(Buffer.from(await files.read('/a'))).toEqual(bytes);
    expect(argv()).toEqual(['read', '/a', '0', '-']);
  });

  it('returns a text of characters that come in pieces', async () => {
    const { files } = setUp(async (process) => {
      for (const byte of file('€ü')) await process.print(Buffer.of(byte));
    });
    expect(await files.readText('/a')).toBe('€ü');
  });

  it('refuses what is larger than its bound, and ends the operation', async () => {
    const { files, running } = setUp(printing(file('123456')));
    await expect(files.read('/a', { maxBytes: 5 })).rejects.toMatchObject({ code: 'limit_exceeded' });
    expect(running()).toBe(0);
  });

  it('may have as many bytes as its bound', async () => {
    const { files } = setUp(printing(file('12345')));
    expect(await files.readText('/a', { maxBytes: 5 })).toBe('12345');
  });

  it('is one exchange with the sandbox', async () => {
    const { files, warden } = setUp(printing(file('hello')));
    await files.read('/a');
    expect(warden.connects).toBe(1);
    expect(warden.count('spawn')).toBe(1);
    expect(['attach', 'wait', 'kill', 'signal'].map((name) => warden.count(name as 'wait'))).toEqual([0, 0, 0, 0]);
  });

  it.each([
    ['more', '123456'],
    ['less', '1234'],
  ])('takes no %s than the file was said to have', async (_, content) => {
    const { files } = setUp(printing(encodeEntry({ type: 'f', size: 5 }), content));
    await expect(files.read('/a')).rejects.toMatchObject({ code: 'channel_failed' });
  });
});

describe('open', () => {
  it.each<[options: object, argv: string[], start: number, length: number]>([
    [{}, ['0', '-'], 0, 10],
    [{ offset: 0, length: 0 }, ['0', '0'], 0, 0],
    [{ offset: 3 }, ['3', '-'], 3, 7],
    [{ offset: 3, length: 4 }, ['3', '4'], 3, 4],
    [{ offset: 8, length: 100 }, ['8', '100'], 8, 2],
    [{ offset: -4 }, ['-4', '-'], 6, 4],
    [{ offset: -100 }, ['-100', '-'], 0, 10],
  ])('with %j reads %j: %d, %d', async (options, told, start, length) => {
    const content = '0123456789';
    const { files, argv } = setUp(printing(encodeEntry({ type: 'f', size: 10 }), content.slice(start, start + length)));
    const opened = await files.open('/a', options);
    expect(argv()).toEqual(['read', '/a', ...told]);
    expect(opened).toMatchObject({ start, length, info: { sizeBytes: 10, path: '/a' } });
    expect(await text(opened.body)).toBe(content.slice(start, start + length));
  });

  it.each([
    [10, 10],
    [11, 10],
    [1, 0],
  ])('refuses to begin at %d of %d bytes', async (offset, size) => {
    const { files, running } = setUp(printing(encodeEntry({ type: 'f', size })));
    const opened = files.open('/a', { offset });
    await expect(opened).rejects.toMatchObject({ code: 'range_not_satisfiable', details: { sizeBytes: size } });
    expect(running()).toBe(0);
  });

  it('opens an empty file', async () => {
    const { files } = setUp(printing(file('')));
    expect(await text((await files.open('/a')).body)).toBe('');
  });

  it.each([{ offset: 1.5 }, { length: -1 }])('refuses %j', async (options) => {
    const { files } = setUp(() => 0);
    await expect(files.open('/a', options)).rejects.toMatchObject({ code: 'validation_failed' });
  });
});

describe('readStream', () => {
  const endless: FakeCommand = async (process) => {
    await process.print(encodeEntry({ type: 'f', size: 2 ** 40 }));
    for (;;) await process.print(Buffer.alloc(64 * 1024));
  };

  it('streams the content', async () => {
    const content = Array.from({ length: 50 }, (_, n) => `${n}\n`);
    const { files } = setUp(printing(encodeEntry({ type: 'f', size: content.join('').length }), ...content));
    expect(await text(await files.readStream('/a'))).toBe(content.join(''));
  });

  it('does not fetch more than is read, and a bit', async () => {
    let printed = 0;
    const { files } = setUp(async (process) => {
      await process.print(encodeEntry({ type: 'f', size: 2 ** 40 }));
      for (; ; printed += 64 * 1024) await process.print(Buffer.alloc(64 * 1024));
    });
    const stream = await files.readStream('/a');
    stream.once('readable', () => {});
    await sleep(50);
    expect(printed).toBeLessThan(3 * 1024 * 1024);
    stream.destroy();
  });

  it('breaks where the operation fails after its first bytes', async () => {
    const { files } = setUp(async (process) => {
      await process.print(encodeEntry({ type: 'f', size: 100 }));
      await process.print('half');
      return 61;
    });
    await expect(text(await files.readStream('/a'))).rejects.toMatchObject({
      code: 'file_operation_failed',
      message: expect.stringContaining('shorter'),
    });
  });

  it.each(['before it is read', 'while it is read'])('ends the operation when it is destroyed %s', async (when) => {
    const { files, running, held, target } = setUp(endless);
    const stream = await files.readStream('/a');
    if (when === 'while it is read') await new Promise((resolve) => stream.once('data', resolve));
    stream.destroy();
    await vi.waitFor(() => expect(running() + held.count + target.calls.size).toBe(0));
  });

  it('ends the operation when it is destroyed while it waits', async () => {
    const { files, running, held } = setUp(async (process) => {
      await process.print(encodeEntry({ type: 'f', size: 100 }));
      await process.forever();
    });
    const stream = await files.readStream('/a');
    stream.resume();
    await sleep(5);
    stream.destroy();
    await vi.waitFor(() => expect(running() + held.count).toBe(0));
  });
});

describe('write and append', () => {
  /** Keeps what was written. */
  function keeper() {
    const kept: { content?: Buffer } = {};
    const made = setUp(async (process) => {
      kept.content = await process.readAll();
      await process.print(encodeEntry({ type: 'f', size: kept.content.length, inode: 7 }));
    });
    return { ...made, kept };
  }

  it.each<[what: string, data: string | Uint8Array | AsyncIterable<Uint8Array | string>, content: string]>([
    ['a text', 'hällo', 'hällo'],
    ['nothing', '', ''],
    ['bytes', Buffer.from('hällo'), 'hällo'],
    ['a stream', Readable.from([Buffer.from('häl'), Buffer.from('lo')]), 'hällo'],
    ['a stream of nothing', Readable.from([]), ''],
  ])('writes %s, and tells of the file', async (_, data, content) => {
    const { files, kept } = keeper();
    const info = await files.write('/workspace/a', data);
    expect(kept.content?.toString()).toBe(content);
    expect(info).toMatchObject({ path: '/workspace/a', name: 'a', sizeBytes: Buffer.byteLength(content) });
    expect(info.etag).toBe(`7-0-0-${Buffer.byteLength(content).toString(16)}`);
  });

  it('writes a lot', async () => {
    const { files, kept } = keeper();
    const bytes = Buffer.alloc(3_000_000, 'abc');
    await files.write('/a', Readable.from([bytes.subarray(0, 1_234_567), bytes.subarray(1_234_567)]));
    expect(hash(kept.content)).toBe(hash(bytes));
  });

  it('is one exchange with the sandbox', async () => {
    const { files, warden } = keeper();
    await files.write('/a', 'x');
    expect(warden.count('spawn')).toBe(1);
    expect(['attach', 'wait', 'kill', 'signal'].map((name) => warden.count(name as 'wait'))).toEqual([0, 0, 0, 0]);
  });

  it('does not end the input when the data fails, and tells that failure', async () => {
    const { files, kept, running } = keeper();
    async function* broken() {
      yield 'half';
      throw new Error('the disk broke');
    }
    await expect(files.write('/a', broken())).rejects.toThrow('the disk broke');
    expect(kept.content).toBeUndefined();
    expect(running()).toBe(0);
  });

  it('does not wait for data that the operation does not want', async () => {
    const { files } = setUp(failing(21));
    let closed = false;
    async function* slow() {
      try {
        for (;;) yield await sleep(5, 'x');
      } finally {
        closed = true;
      }
    }
    await expect(files.write('/a', slow())).rejects.toMatchObject({ code: 'is_a_directory' });
    await vi.waitFor(() => expect(closed).toBe(true));
  });

  it.each([
    [{ mode: 0o600 }, ['600', '-']],
    [{ mode: 0 }, ['0', '-']],
    [{}, ['-', '-']],
    [{ ifMatch: '1f-2-3-4' }, ['-', '1f-2-3-4']],
    [{ ifMatch: '*' }, ['-', '*']],
    [{ ifNoneMatch: '*' as const }, ['-', '!']],
  ])('with %j tells the sandbox %j', async (options, told) => {
    const { files, argv } = keeper();
    await files.write('/a', 'x', options);
    expect(argv()).toEqual(['write', '/a', ...told]);
  });

  it.each([
    { mode: -1 },
    { mode: 0o1000 },
    { mode: 1.5 },
    { ifMatch: '"x"' },
    { ifMatch: '!' },
    { ifMatch: '-' },
    { ifNoneMatch: '1-2-3-4' },
    { ifMatch: '*', ifNoneMatch: '*' },
  ])('refuses %j', async (options) => {
    const { files, warden } = keeper();
    await expect(files.write('/a', 'x', options as object)).rejects.toMatchObject({ code: 'validation_failed' });
    expect(warden.connects).toBe(0);
  });

  it.each([
    [{ ifMatch: '1-2-3-4' }, 116, 'precondition_failed'],
    [{ ifMatch: '1-2-3-4' }, 2, 'precondition_failed'],
    [{ ifMatch: '*' }, 2, 'precondition_failed'],
    [{ ifNoneMatch: '*' as const }, 17, 'precondition_failed'],
    [{ ifNoneMatch: '*' as const }, 2, 'file_not_found'],
    [{ ifMatch: '*' }, 17, 'file_exists'],
    [{}, 2, 'file_not_found'],
  ])('with %j and error %d is %s', async (options, errno, code) => {
    const { files } = setUp(failing(errno));
    await expect(files.write('/a', 'x', options)).rejects.toMatchObject({ code });
  });

  it('appends', async () => {
    const { files, kept, argv } = keeper();
    expect(await files.append('/a', 'x', { mode: 0o600 })).toMatchObject({ sizeBytes: 1 });
    expect(kept.content?.toString()).toBe('x');
    expect(argv()).toEqual(['append', '/a', '600']);
  });

  it.each([7, null, {}])('refuses the data %j', async (data) => {
    const { files } = keeper();
    await expect(files.write('/a', data as never)).rejects.toMatchObject({ code: 'validation_failed' });
  });
});

describe('directories and names', () => {
  it.each<[act: (files: SandboxFiles) => Promise<void>, argv: string[]]>([
    [(files) => files.makeDir('/a/'), ['mkdir', '/a', '755', '1']],
    [(files) => files.makeDir('/a', { mode: 0o700, parents: false }), ['mkdir', '/a', '700', '0']],
    [(files) => files.rename('/a', '/b'), ['rename', '/a', '/b', '1']],
    [(files) => files.rename('/a', '/b', { replace: false }), ['rename', '/a', '/b', '0']],
    [(files) => files.remove('/a'), ['remove', '/a', '0']],
    [(files) => files.remove('/a//', { recursive: true }), ['remove', '/a', '1']],
    [(files) => files.remove('/', { recursive: false }), ['remove', '/', '0']],
    [(files) => files.chmod('/a', 0o7), ['chmod', '/a', '7']],
  ])('%s', async (act, expected) => {
    const { files, argv } = setUp(() => 0);
    await act(files);
    expect(argv()).toEqual(expected);
  });
});

describe('watch', () => {
  const ready = encodeEvent({ kind: 'ready' });

  it('resolves when it watches, and tells what happens', async () => {
    const events = [
      encodeEvent({ kind: 'create', path: 'a' }),
      encodeEvent({ kind: 'create', path: 'dir', isDirectory: true }),
      encodeEvent({ kind: 'write', path: 'dir/b\n' }),
      encodeEvent({ kind: 'rename', path: 'a', to: 'c' }),
      encodeEvent({ kind: 'chmod', path: '' }),
      encodeEvent({ kind: 'remove', path: 'c' }),
      encodeEvent({ kind: 'overflow' }),
    ];
    const { files, argv } = setUp(printing(ready, Buffer.concat(events)));
    const seen = [];
    for await (const event of await files.watch('/workspace', { recursive: true })) seen.push(event);
    const one = { isDirectory: false };
    expect(argv()).toEqual(['watch', '/workspace', '1']);
    expect(seen).toEqual([
      { ...one, type: 'create', path: '/workspace/a' },
      { type: 'create', path: '/workspace/dir', isDirectory: true },
      { ...one, type: 'write', path: '/workspace/dir/b\n' },
      { ...one, type: 'rename', path: '/workspace/a', to: '/workspace/c' },
      { ...one, type: 'chmod', path: '/workspace' },
      { ...one, type: 'remove', path: '/workspace/c' },
      { ...one, type: 'overflow', path: '/workspace' },
    ]);
  });

  const quiet: FakeCommand = async (process) => {
    await process.print(ready);
    await process.forever();
  };

  it('has no time limit', async () => {
    const { files, seen } = setUp(quiet);
    await (await files.watch('/a')).return();
    expect(seen[0]?.request.timeoutMs).toBe(0);
  });

  it('can be left while nothing happens', async () => {
    const { files, running, held } = setUp(quiet);
    const events = await files.watch('/a');
    const next = events.next();
    await sleep(2);
    await events.return();
    expect(await next.catch(() => ({ done: true }))).toMatchObject({ done: true });
    expect(running() + held.count).toBe(0);
  });

  it('ends when its caller gives up', async () => {
    const { files, running } = setUp(quiet);
    const caller = new AbortController();
    const events = await files.watch('/a', { signal: caller.signal });
    const next = events.next();
    caller.abort();
    await expect(next).rejects.toMatchObject({ code: 'aborted' });
    expect(running()).toBe(0);
  });

  it.each([
    ['another first event', encodeEvent({ kind: 'create', path: 'a' })],
    ['no event', Buffer.alloc(0)],
  ])('is refused with %s', async (_, printed) => {
    const { files } = setUp(printing(printed));
    await expect(files.watch('/a')).rejects.toMatchObject({ code: 'channel_failed' });
  });
});

describe('archives', () => {
  it('are read as they are', async () => {
    const { files, argv } = setUp(printing('some ', 'tar'));
    expect(await text(await files.readArchive('/workspace'))).toBe('some tar');
    expect(argv()).toEqual(['pack', '/workspace']);
  });

  it('may be of nothing', async () => {
    const { files } = setUp(() => 0);
    expect((await buffer(await files.readArchive('/workspace'))).length).toBe(0);
  });

  it('break where packing fails on the way', async () => {
    const { files } = setUp(async (process) => {
      await process.print('some');
      await process.printError('/workspace/x');
      return 13;
    });
    await expect(text(await files.readArchive('/workspace'))).rejects.toMatchObject({ code: 'permission_denied' });
  });

  it('are written as they are', async () => {
    let received = '';
    const { files, argv } = setUp(async (process) => {
      received = String(await process.readAll());
    });
    await files.writeArchive('/workspace', Readable.from([Buffer.from('some '), Buffer.from('tar')]));
    expect(received).toBe('some tar');
    expect(argv()).toEqual(['unpack', '/workspace']);
  });

  it('are refused with the name of the entry that leads out of them', async () => {
    const { files } = setUp(failing(18, '../../etc/passwd'));
    await expect(files.writeArchive('/workspace', Readable.from([]))).rejects.toMatchObject({
      code: 'unsafe_archive',
      message: expect.stringContaining('"../../etc/passwd"'),
    });
  });
});

describe('connectPort', () => {
  const dialing = (dial: FakeCommand) => makeTarget({ builtins: { dial } });

  it('joins a stream to the port, and passes its ends on', async () => {
    const { target, held } = dialing(async (process) => {
      expect(process.argv).toEqual(['dial', '8080']);
      await process.print('\0hello ');
      await process.print((await process.readAll()).toString().toUpperCase());
    });
    const connection = await connectPort(target, 8080);
    connection.write('wor');
    connection.end('ld');
    expect(await text(connection)).toBe('hello WORLD');
    await vi.waitFor(() => expect(held.count).toBe(0));
  });

  it('throws when nothing listens there', async () => {
    const { target, held } = dialing(() => 111);
    const connecting = connectPort(target, 8080);
    await expect(connecting).rejects.toMatchObject({ code: 'port_not_open', message: expect.stringContaining('8080') });
    expect(held.count).toBe(0);
  });

  it('ends when it is destroyed', async () => {
    const { target, held, warden } = dialing(async (process) => {
      await process.print('\0');
      await process.forever();
    });
    const connection = await connectPort(target, 8080);
    connection.destroy();
    await vi.waitFor(() => expect(held.count).toBe(0));
    expect(warden.count('kill')).toBe(1);
  });

  it.each(['', 'hello'])('throws when %j comes before the connection', async (printed) => {
    const { target, held } = dialing((process) => process.print(printed));
    await expect(connectPort(target, 8080)).rejects.toMatchObject({ code: 'channel_failed' });
    expect(held.count).toBe(0);
  });

  it('can be given up', async () => {
    const { target, held } = dialing((process) => process.forever());
    const caller = new AbortController();
    const connecting = connectPort(target, 8080, { signal: caller.signal });
    caller.abort();
    await expect(connecting).rejects.toMatchObject({ code: 'aborted' });
    expect(held.count).toBe(0);
  });

  it.each([0, 65_536, 1.5, -1])('refuses the port %d', async (port) => {
    const { target, warden } = dialing(() => 0);
    await expect(connectPort(target, port)).rejects.toMatchObject({ code: 'validation_failed' });
    expect(warden.connects).toBe(0);
  });
});

function hash(bytes: Uint8Array | undefined): string {
  return createHash('sha256')
    .update(bytes ?? '')
    .digest('hex');
}
