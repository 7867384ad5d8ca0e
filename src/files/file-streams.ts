import { Readable } from 'node:stream';

import type { Builtin } from './builtin.js';
import { notRecord, RecordReader, toFileEvent, toFileInfo, type FileEvent, type FileInfo } from './file-entries.js';

/** The entry that comes before a file's content. */
export async function readEntry(
  chunks: AsyncGenerator<Uint8Array, void>,
  { reader, path }: { reader: RecordReader; path: string },
): Promise<FileInfo> {
  for (;;) {
    const entry = reader.next();
    if (entry !== undefined) return toFileInfo(entry, path, { below: false });
    const chunk = await chunks.next();
    if (chunk.done === true) throw notRecord();
    reader.push(chunk.value);
  }
}

/** Exactly as many bytes as were promised, or a failure: whoever has told others of the length can rely on it. */
export async function* readContent(
  chunks: AsyncGenerator<Uint8Array, void>,
  { first, length }: { first: Uint8Array; length: number },
): AsyncGenerator<Uint8Array, void> {
  try {
    let left = length - first.length;
    if (left < 0) throw notRecord();
    if (first.length > 0) yield first;
    for await (const chunk of chunks) {
      left -= chunk.length;
      if (left < 0) throw notRecord();
      yield chunk;
    }
    if (left > 0) throw notRecord();
  } finally {
    await chunks.return();
  }
}

/** The first is undefined, and says that it has begun. */
export async function* readEvents(builtin: Builtin, path: string): AsyncGenerator<FileEvent | undefined, void> {
  const reader = new RecordReader();
  for await (const chunk of builtin.stdout()) {
    reader.push(chunk);
    for (let event = reader.next(); event !== undefined; event = reader.next()) yield toFileEvent(event, path);
  }
}

/** What an operation prints as a stream. */
export function toReadable(chunks: AsyncGenerator<Uint8Array, void>, builtin: Builtin): Readable {
  return new PrintedStream(chunks, builtin);
}

/** Not `Readable.from`: one of those that is destroyed while its generator waits goes on waiting. */
class PrintedStream extends Readable {
  readonly #chunks: AsyncGenerator<Uint8Array, void>;
  readonly #builtin: Builtin;

  constructor(chunks: AsyncGenerator<Uint8Array, void>, builtin: Builtin) {
    super();
    this.#chunks = chunks;
    this.#builtin = builtin;
  }

  override _read(): void {
    this.#chunks.next().then(
      ({ done, value }) => this.push(done === true ? null : value),
      (error: unknown) => this.destroy(error as Error),
    );
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    void this.#builtin.run.stop();
    done(error);
  }
}
