import { EventEmitter, once } from 'node:events';
import { Readable } from 'node:stream';

import { SandyardError } from '../../../src/errors.js';
import type { FileEvent, FileInfo } from '../../../src/index.js';
import type { StubManager } from './stub-manager.js';

export type StubContent = Uint8Array | 'directory';
export type StubTree = Map<string, StubContent>;

type Options = { readonly [name: string]: unknown; readonly signal?: AbortSignal | undefined };

/** Files in memory, of one sandbox. `tree` throws where it doesn't run. */
export function stubFiles(stub: StubManager, tree: () => StubTree) {
  const entry = (path: string): StubContent => {
    const found = tree().get(path);
    if (found === undefined) throw new SandyardError('file_not_found', `There is no ${path}.`, { hint: 'List it.' });
    return found;
  };
  const info = (path: string) => fileInfo(path, entry(path), stub.modifiedAt);
  const record = (call: string, args: unknown[], options: Options = {}) =>
    stub.calls.push({ call, args: [...args, withoutSignal(options)] });
  return {
    open: async (path: string, options: Options & { offset?: number; length?: number } = {}) => {
      record('open', [path], options);
      const content = entry(path);
      if (content === 'directory') {
        throw new SandyardError('is_a_directory', `${path} is a directory.`, { hint: 'Read it as an archive.' });
      }
      const size = content.length;
      const { offset = 0 } = options;
      const start = offset < 0 ? Math.max(0, size + offset) : offset;
      if (start > 0 && start >= size) {
        const more = { hint: 'Begin before its end.', details: { sizeBytes: size } };
        throw new SandyardError('range_not_satisfiable', `${path} has ${size} bytes.`, more);
      }
      const length = Math.min(options.length ?? size, size - start);
      const body = download(stub, content.subarray(start, start + length));
      return { info: fileInfo(path, content, stub.modifiedAt), start, length, body };
    },
    stat: async (path: string, options: Options) => {
      record('stat', [path], options);
      return info(path);
    },
    list: async () => [...tree()].map(([path, content]) => fileInfo(path, content, stub.modifiedAt)),
    readArchive: async (path: string) => download(stub, Buffer.from(`tar of ${path} ${String(entry(path)).length}`)),
    write: async (path: string, data: AsyncIterable<Uint8Array>, options: Options) => {
      record('write', [path], options);
      const old = tree().get(path);
      const { ifMatch, ifNoneMatch } = options;
      const isWrong = ifMatch !== undefined && ifMatch !== '*' && (old === undefined || info(path).etag !== ifMatch);
      if (isWrong || (ifMatch === '*' && old === undefined) || (ifNoneMatch === '*' && old !== undefined)) {
        throw new SandyardError('precondition_failed', `${path} is another.`, { hint: 'Read it again.' });
      }
      tree().set(path, await collect(stub, data));
      return info(path);
    },
    append: async (path: string, data: AsyncIterable<Uint8Array>, options: Options) => {
      record('append', [path], options);
      const old = (tree().get(path) ?? new Uint8Array()) as Uint8Array;
      tree().set(path, Buffer.concat([old, await collect(stub, data)]));
      return info(path);
    },
    writeArchive: async (path: string, tar: Readable) => {
      const bytes = await collect(stub, tar);
      if (bytes.includes('..')) {
        throw new SandyardError('unsafe_archive', 'The archive has ../x.', { hint: 'Leave it out.' });
      }
      tree().set(path, bytes);
    },
    remove: async (path: string, options: Options) => {
      entry(path);
      record('remove', [path], options);
      tree().delete(path);
    },
    makeDir: async (path: string, options: Options) => {
      record('makeDir', [path], options);
      tree().set(path, 'directory');
    },
    rename: async (from: string, to: string, options: Options) => {
      record('rename', [from, to], options);
      tree().set(to, entry(from));
      tree().delete(from);
    },
    chmod: async (path: string, mode: number, options: Options) => {
      entry(path);
      record('chmod', [path, mode], options);
    },
    watch: async (path: string, options: Options) => {
      entry(path);
      record('watch', [path], options);
      return changes(stub, options.signal);
    },
  };
}

/** What a test emits as `change` on the stub's `changes`. */
async function* changes(stub: StubManager, signal: AbortSignal | undefined): AsyncGenerator<FileEvent> {
  const queue: FileEvent[] = [];
  const wake = new EventEmitter();
  const onChange = (change: FileEvent) => {
    queue.push(change);
    wake.emit('go');
  };
  stub.changes.on('change', onChange);
  const onAbort = () => wake.emit('go');
  signal?.addEventListener('abort', onAbort);
  try {
    for (;;) {
      if (signal?.aborted === true) throw new SandyardError('aborted', 'The watch was aborted.');
      const change = queue.shift();
      if (change === undefined) await once(wake, 'go');
      else yield change;
    }
  } finally {
    stub.changes.off('change', onChange);
    stub.aborted.push('watch');
  }
}

/** Wraps what goes wrong, as a reader over a tunnel might. */
async function collect(stub: StubManager, data: AsyncIterable<Uint8Array>): Promise<Buffer> {
  try {
    const chunks: Uint8Array[] = [];
    for await (const chunk of data) chunks.push(chunk);
    return Buffer.concat(chunks);
  } catch (error) {
    stub.aborted.push('upload');
    throw new SandyardError('file_operation_failed', 'The upload broke.', { cause: error });
  }
}

function download(stub: StubManager, bytes: Uint8Array): Readable {
  const limit = stub.failAfterBytes;
  return Readable.from(
    (async function* () {
      const size = 64 * 1024;
      for (let at = 0; at < bytes.length; at += size) {
        if (at >= limit) throw new SandyardError('file_operation_failed', 'The disk broke.');
        yield bytes.subarray(at, at + size);
      }
    })(),
    { objectMode: false },
  );
}

function fileInfo(path: string, content: StubContent, modifiedAt: Date): FileInfo {
  const isDirectory = content === 'directory';
  const size = isDirectory ? 4096 : content.length;
  return {
    path,
    name: path.split('/').at(-1) ?? '',
    type: isDirectory ? 'directory' : 'file',
    sizeBytes: size,
    mode: isDirectory ? 0o755 : 0o644,
    modifiedAt,
    uid: 1000,
    gid: 1000,
    linkTarget: null,
    etag: `1-${Math.floor(modifiedAt.getTime() / 1000).toString(16)}-0-${size.toString(16)}`,
  };
}

/** What a call was asked for, for comparing. */
export function withoutSignal(options: object): object {
  return Object.fromEntries(Object.entries(options).filter(([name]) => name !== 'signal'));
}
