import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { describe, expect, it, vi } from 'vitest';

import type { ExecSpec } from '../../src/engine/engine.js';
import { SandboxFiles } from '../../src/files.js';
import { RunningProcesses } from '../../src/sandbox-process.js';
import { FakeEngine } from '../fixtures/fake-engine.js';
import type { FakeCommand } from '../fixtures/fake-exec.js';

/** Files of a sandbox in which every command does the same. */
function setUp(command: FakeCommand) {
  const engine = new FakeEngine();
  engine.plant({ name: 'box', labels: {} });
  engine.command = command;
  const files = new SandboxFiles({
    engine,
    container: 'box',
    user: '1000:1000',
    workdir: '/workspace',
    execTimeoutMs: 60_000,
    processes: new RunningProcesses(),
    noteActivity: () => {},
  });
  const spec = () => engine.calls[0]?.args[1] as ExecSpec;
  /** What came after the script: its $1, $2 and so on. */
  const args = () => spec().command.slice(4);
  return { engine, files, spec, args };
}

const printing =
  (out: string | Uint8Array, exitCode = 0): FakeCommand =>
  async (_, io) => {
    void io.print(out);
    return exitCode;
  };
const failing =
  (text: string, exitCode = 1): FakeCommand =>
  async (_, io) => {
    void io.printError(text);
    return exitCode;
  };

/** As find prints one. */
const found = (...fields: (string | number)[]) => fields.map((field) => `${field}\0`).join('');

describe('every operation', () => {
  const operations: [string, (files: SandboxFiles, path: string) => Promise<unknown>][] = [
    ['read', (files, path) => files.read(path)],
    ['readText', (files, path) => files.readText(path)],
    ['readStream', (files, path) => files.readStream(path)],
    ['write', (files, path) => files.write(path, 'x')],
    ['list', (files, path) => files.list(path)],
    ['stat', (files, path) => files.stat(path)],
    ['remove', (files, path) => files.remove(path)],
    ['readArchive', (files, path) => files.readArchive(path)],
    ['writeArchive', (files, path) => files.writeArchive(path, Readable.from([Buffer.from('x')]))],
  ];

  it.each(operations)(
    '%s runs as the user of the sandbox, in no directory of theirs, with a fixed language',
    async (_, act) => {
      const { files, spec, args } = setUp(failing('x'));
      const path = '/workspace/$(touch x) \'a\' "b"\n-rf';
      await act(files, path).catch(() => {});
      expect(spec()).toMatchObject({ user: '1000:1000', workdir: '/' });
      expect(spec().env).toContain('LC_ALL=C');
      expect(args()[0]).toBe(path);
      expect(spec().command[2]).not.toContain('touch x');
    },
  );

  it.each(operations)('%s refuses paths that are none', async (_, act) => {
    const { engine, files } = setUp(() => 0);
    for (const path of ['', 'a', '/a/../b', '/a\0b', '/proc/self/environ']) {
      await expect(act(files, path)).rejects.toMatchObject({ code: 'validation_failed' });
    }
    expect(engine.calls).toEqual([]);
  });

  it.each(operations)('%s tells what the command said', async (_, act) => {
    const { files } = setUp(failing('cat: /a: Permission denied\n'));
    await expect(act(files, '/a')).rejects.toMatchObject({ code: 'permission_denied' });
  });

  it.each(operations)('%s tells when the sandbox ended', async (_, act) => {
    const { files } = setUp(() => ({ kind: 'container_died', oomKilled: false }));
    await expect(act(files, '/a')).rejects.toMatchObject({ code: 'sandbox_died' });
  });
});

describe('failures', () => {
  it.each([
    ['cat: /a: No such file or directory\n', 'file_not_found'],
    ["find: '/a': No such file or directory\n", 'file_not_found'],
    ['/a: Is a directory\n', 'is_a_directory'],
    ["rmdir: failed to remove '/a': Directory not empty\n", 'is_a_directory'],
    ['/a: Not a directory\n', 'not_a_directory'],
    ["mkdir: cannot create directory '/a': File exists\n", 'file_exists'],
    ["mktemp: failed to create file via template '/a/.x': Permission denied\n", 'permission_denied'],
    ["rm: cannot remove '/a': Operation not permitted\n", 'permission_denied'],
    ["mkdir: cannot create directory '/a': Read-only file system\n", 'permission_denied'],
    ['cat: write error: No space left on device\n', 'out_of_disk'],
    ['cat: write error: Disk quota exceeded\n', 'out_of_disk'],
    ['tar: This does not look like a tar archive\n', 'invalid_request'],
    ['sh: find: not found\n', 'file_operation_failed'],
    ['', 'file_operation_failed'],
  ] as const)('%j is %s', async (said, code) => {
    const { files } = setUp(failing(said));
    const error = await files.stat('/a').catch((error: unknown) => error);
    expect(error).toMatchObject({ code, message: expect.stringContaining('"/a"') });
  });

  it('are told in one line, of a bounded length', async () => {
    const { files } = setUp(failing(`${'x'.repeat(100_000)}\nlast\n`));
    const path = `/${'p'.repeat(4000)}\n`;
    const error = (await files.stat(path).catch((error: unknown) => error)) as Error;
    expect(error.message.length).toBeLessThan(700);
    expect(error.message).not.toContain('\n');
  });

  it('are told with the exit code where there is nothing else', async () => {
    const { files } = setUp(() => 9);
    await expect(files.stat('/a')).rejects.toMatchObject({ message: expect.stringMatching(/exited, 9/) });
  });
});

describe('list and stat', () => {
  const [MODIFIED, SECONDS] = [new Date('2023-11-14T22:13:20.500Z'), '1700000000.5000000000'];

  it('reads what find prints', async () => {
    const output =
      found('f', 5, '644', SECONDS, 1000, 1001, '', 'a.txt') +
      found('d', 4096, '2755', SECONDS, 0, 0, '', 'dir') +
      found('l', 7, '777', SECONDS, 0, 0, '../x y', 'dir/link') +
      found('p', 0, '600', SECONDS, 0, 0, '', 'pipe');
    const { files } = setUp(printing(output));
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
      },
      { ...common, path: '/workspace/dir', name: 'dir', type: 'directory', sizeBytes: 4096, mode: 0o2755 },
      {
        ...common,
        path: '/workspace/dir/link',
        name: 'link',
        type: 'symlink',
        sizeBytes: 7,
        mode: 0o777,
        linkTarget: '../x y',
      },
      { ...common, path: '/workspace/pipe', name: 'pipe', type: 'other', sizeBytes: 0, mode: 0o600 },
    ]);
  });

  it.each(['a\nb', ' ', '"', 'ünï', '-n', '%s', '\t', "it's"])('reads the name %j', async (name) => {
    const { files } = setUp(printing(found('f', 0, '644', SECONDS, 0, 0, '', name)));
    expect(await files.list('/')).toMatchObject([{ name, path: `/${name}` }]);
  });

  it('reads a link whose target has a newline', async () => {
    const { files } = setUp(printing(found('l', 0, '777', SECONDS, 0, 0, 'a\nb', 'x')));
    expect(await files.list('/')).toMatchObject([{ linkTarget: 'a\nb' }]);
  });

  it('reads what comes in pieces', async () => {
    const output = Buffer.from(
      found('f', 1, '644', SECONDS, 0, 0, '', 'ü') + found('f', 2, '644', SECONDS, 0, 0, '', 'b'),
    );
    const { files } = setUp(async (_, io) => {
      for (const byte of output) void io.print(Buffer.of(byte));
    });
    expect(await files.list('/')).toMatchObject([{ name: 'ü' }, { name: 'b' }]);
  });

  it('reads an empty directory', async () => {
    const { files } = setUp(() => 0);
    expect(await files.list('/workspace')).toEqual([]);
  });

  it('goes down as deep as asked', async () => {
    const { files, args } = setUp(() => 0);
    await files.list('/workspace', { depth: 3 });
    expect(args().slice(0, 2)).toEqual(['/workspace', '3']);
  });

  it.each([0, 65, 1.5])('refuses a depth of %d', async (depth) => {
    const { files } = setUp(() => 0);
    await expect(files.list('/workspace', { depth })).rejects.toMatchObject({ code: 'validation_failed' });
  });

  it('stats the path itself', async () => {
    const { files } = setUp(printing(found('d', 4096, '755', SECONDS, 1000, 1000, '', '')));
    expect(await files.stat('/workspace')).toMatchObject({ path: '/workspace', name: 'workspace', type: 'directory' });
  });
});

describe('read', () => {
  it('returns the bytes as they are', async () => {
    const bytes = Buffer.from([0, 255, 10, 128]);
    const { files } = setUp(printing(bytes));
    expect(Buffer.from(await files.read('/a'))).toEqual(bytes);
  });

  it('returns a text of characters that come in pieces', async () => {
    const { files } = setUp(async (_, io) => {
      for (const byte of Buffer.from('€ü')) void io.print(Buffer.of(byte));
    });
    expect(await files.readText('/a')).toBe('€ü');
  });

  it('ends at its bound, and ends the command', async () => {
    const { engine, files } = setUp(async (_, io) => {
      for (;;) await io.print(Buffer.alloc(1000));
    });
    await expect(files.read('/a', { maxBytes: 5000 })).rejects.toMatchObject({ code: 'limit_exceeded' });
    await vi.waitFor(() => expect(engine.running).toBe(0));
  });

  it('may have as many bytes as its bound', async () => {
    const { files } = setUp(printing('12345'));
    expect(await files.readText('/a', { maxBytes: 5 })).toBe('12345');
  });
});

describe('readStream', () => {
  it('streams what is printed', async () => {
    const { files } = setUp(async (_, io) => {
      for (let n = 0; n < 50; n++) await io.print(`${n}\n`);
    });
    expect(await text(await files.readStream('/a'))).toBe(Array.from({ length: 50 }, (_, n) => `${n}\n`).join(''));
  });

  it('is empty for an empty file', async () => {
    const { files } = setUp(() => 0);
    expect((await buffer(await files.readStream('/a'))).length).toBe(0);
  });

  it('does not print more than is read, and a bit', async () => {
    let printed = 0;
    const { files } = setUp(async (_, io) => {
      for (; ; printed += 64 * 1024) await io.print(Buffer.alloc(64 * 1024));
    });
    const stream = await files.readStream('/a');
    stream.once('readable', () => {});
    await new Promise((resolve) => {
      setTimeout(resolve, 30);
    });
    expect(printed).toBeLessThan(1024 * 1024);
    stream.destroy();
  });

  it('breaks where the command fails after its first bytes', async () => {
    const { files } = setUp(async (_, io) => {
      await io.print('half');
      void io.printError('cat: read error: Input/output error\n');
      return 1;
    });
    await expect(text(await files.readStream('/a'))).rejects.toMatchObject({ code: 'file_operation_failed' });
  });

  it.each(['before it is read', 'while it is read'])('ends the command when it is destroyed %s', async (when) => {
    const { engine, files } = setUp(async (_, io) => {
      for (;;) await io.print(Buffer.alloc(64 * 1024));
    });
    const stream = await files.readStream('/a');
    if (when === 'while it is read') await new Promise((resolve) => stream.once('data', resolve));
    stream.destroy();
    await vi.waitFor(() => expect(engine.running).toBe(0));
  });

  it('rejects when its caller gives up before the first byte, and ends the command', async () => {
    const { engine, files } = setUp((_, io) => io.forever());
    const caller = new AbortController();
    const stream = files.readStream('/a', { signal: caller.signal });
    await vi.waitFor(() => expect(engine.running).toBe(1));
    caller.abort();
    await expect(stream).rejects.toMatchObject({ code: 'aborted' });
    expect(engine.running).toBe(0);
  });
});

describe('write', () => {
  /** Keeps what was written, and takes the last 32 bytes for the mark of the end, as the script does. */
  function keeper() {
    const kept: { content?: Buffer } = {};
    const made = setUp(async ({ command }, io) => {
      const all = await buffer(io.stdin);
      const nonce = command.at(-1) ?? '';
      if (all.subarray(-32).toString() !== nonce) {
        void io.printError('the input broke off\n');
        return 1;
      }
      kept.content = all.subarray(0, -32);
      return 0;
    });
    return { ...made, kept };
  }

  it.each<[what: string, data: string | Uint8Array | AsyncIterable<Uint8Array | string>, content: string]>([
    ['a text', 'hällo', 'hällo'],
    ['nothing', '', ''],
    ['bytes', Buffer.from('hällo'), 'hällo'],
    ['a stream', Readable.from([Buffer.from('häl'), Buffer.from('lo')]), 'hällo'],
    ['a stream of nothing', Readable.from([]), ''],
  ])('writes %s, and a mark of its end', async (_, data, content) => {
    const { files, kept } = keeper();
    await files.write('/a', data);
    expect(kept.content?.toString()).toBe(content);
  });

  it('writes a lot', async () => {
    const { files, kept } = keeper();
    const bytes = Buffer.alloc(3_000_000, 'abc');
    await files.write('/a', Readable.from([bytes.subarray(0, 1_234_567), bytes.subarray(1_234_567)]));
    expect(hash(kept.content)).toBe(hash(bytes));
  });

  it('has another mark each time, which nobody can foresee', async () => {
    const { engine, files } = keeper();
    await files.write('/a', 'x');
    await files.write('/a', 'x');
    const marks = engine.calls.map(({ args }) => (args[1] as ExecSpec).command.at(-1));
    expect(new Set(marks).size).toBe(2);
    expect(marks[0]).toMatch(/^[a-z0-9]{32}$/);
  });

  it('leaves out the mark when the data fails, and tells that failure', async () => {
    const { files, kept, engine } = keeper();
    async function* broken() {
      yield 'half';
      throw new Error('the disk broke');
    }
    await expect(files.write('/a', broken())).rejects.toThrow('the disk broke');
    expect(kept.content).toBeUndefined();
    expect(engine.running).toBe(0);
  });

  it.each([
    [0o600, '600'],
    [0, '0'],
    [undefined, ''],
  ])('passes mode %s on as %j', async (mode, told) => {
    const { files, args } = keeper();
    await files.write('/a', 'x', { mode });
    expect(args()[1]).toBe(told);
  });

  it.each([-1, 0o1000, 1.5])('refuses mode %d', async (mode) => {
    const { files } = keeper();
    await expect(files.write('/a', 'x', { mode })).rejects.toMatchObject({ code: 'validation_failed' });
  });

  it('stops and ends the command when its caller gives up', async () => {
    const { engine, files } = setUp((_, io) => io.forever());
    const caller = new AbortController();
    const written = files.write('/a', 'x', { signal: caller.signal });
    await vi.waitFor(() => expect(engine.running).toBe(1));
    caller.abort();
    await expect(written).rejects.toMatchObject({ code: 'aborted' });
    expect(engine.running).toBe(0);
  });
});

describe('archives', () => {
  const changed = 'tar: ./a: file changed as we read it\n';

  it.each([
    [changed, 1, true],
    [changed + changed, 1, true],
    ['tar: ./a: File removed before we read it\n', 1, true],
    [changed, 2, false],
    [`${changed}tar: ./b: Cannot open: Permission denied\n`, 1, false],
  ])('after %j and exit code %d are whole: %s', async (said, exitCode, whole) => {
    const { files } = setUp(async (_, io) => {
      void io.print('tar');
      void io.printError(said);
      return exitCode;
    });
    const read = text(await files.readArchive('/workspace'));
    await (whole ? expect(read).resolves.toBe('tar') : expect(read).rejects.toThrow());
  });

  it('are passed on as they are', async () => {
    let received = '';
    const { files } = setUp(async (_, io) => {
      received = await text(io.stdin);
    });
    await files.writeArchive('/workspace', Readable.from([Buffer.from('some '), Buffer.from('tar')]));
    expect(received).toBe('some tar');
  });
});

it.each([
  [undefined, 'no'],
  [false, 'no'],
  [true, 'yes'],
])('remove with recursive %s', async (recursive, told) => {
  const { files, args } = setUp(() => 0);
  await files.remove('/a', { recursive });
  expect(args()).toEqual(['/a', told]);
});

function hash(bytes: Uint8Array | undefined): string {
  return createHash('sha256')
    .update(bytes ?? '')
    .digest('hex');
}
