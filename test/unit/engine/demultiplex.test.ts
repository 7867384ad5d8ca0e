import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { demultiplex } from '../../../src/engine/demultiplex.js';
import type { OutputChunk } from '../../../src/engine/engine.js';
import { frame } from '../../fixtures/fake-daemon.js';

async function* asReads(reads: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* reads;
}

async function read(reads: readonly Uint8Array[]): Promise<OutputChunk[]> {
  const chunks: OutputChunk[] = [];
  for await (const { stream, data } of demultiplex(asReads(reads))) chunks.push({ stream, data: Buffer.from(data) });
  return chunks;
}

/** What came on each stream in all, as text. */
async function joined(reads: readonly Uint8Array[]): Promise<{ stdout: string; stderr: string }> {
  const chunks = await read(reads);
  const of = (name: string) =>
    Buffer.concat(chunks.filter(({ stream }) => stream === name).map(({ data }) => data)).toString('latin1');
  return { stdout: of('stdout'), stderr: of('stderr') };
}

/** `bytes` in reads that end at each of the places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const edges = [0, ...places.toSorted((a, b) => a - b), bytes.length];
  return edges.slice(1).map((end, index) => bytes.subarray(edges[index], end));
}

const STREAM = Buffer.concat([frame(1, 'out'), frame(2, 'err'), frame(1, ''), frame(0, 'in'), frame(2, '!')]);

describe('demultiplex', () => {
  it('tells the streams apart, and stdin, which a terminal echoes, is stdout', async () => {
    expect((await read([STREAM])).map(({ stream, data }) => [stream, String(data)])).toEqual([
      ['stdout', 'out'],
      ['stderr', 'err'],
      ['stdout', 'in'],
      ['stderr', '!'],
    ]);
  });

  it('reads nothing from nothing', async () => {
    expect(await read([])).toEqual([]);
    expect(await read([Buffer.alloc(0), Buffer.alloc(0)])).toEqual([]);
  });

  it('gives the same wherever it is cut in two', async () => {
    for (let at = 0; at <= STREAM.length; at++) {
      expect(await joined(cut(STREAM, [at]))).toEqual({ stdout: 'outin', stderr: 'err!' });
    }
  });

  it('gives the same byte by byte', async () => {
    expect(await joined([...STREAM].map((byte) => Buffer.of(byte)))).toEqual({ stdout: 'outin', stderr: 'err!' });
  });

  it('passes data on before its frame is whole', async () => {
    const chunks = demultiplex(asReads(cut(frame(1, 'abcdef'), [10])));
    expect(await chunks.next()).toMatchObject({ value: { stream: 'stdout', data: Buffer.from('ab') } });
  });

  it('passes on what there is of a frame that breaks off', async () => {
    expect(await joined([frame(1, 'abcdef').subarray(0, 11)])).toEqual({ stdout: 'abc', stderr: '' });
    expect(await joined([STREAM, Buffer.of(1, 0, 0)])).toEqual({ stdout: 'outin', stderr: 'err!' });
  });

  it.each([
    ['another stream', [3, 0, 0, 0, 0, 0, 0, 1, 65]],
    ['something in the bytes that are zero', [1, 0, 0, 1, 0, 0, 0, 1, 65]],
    ['text', [...Buffer.from('no frames at all')]],
  ])('refuses a header with %s', async (_, bytes) => {
    await expect(read([STREAM, Buffer.from(bytes)])).rejects.toMatchObject({ code: 'engine_error' });
  });

  it('closes what it reads from when it is left', async () => {
    let closed = false;
    async function* endless() {
      try {
        for (;;) yield frame(1, 'y');
      } finally {
        closed = true;
      }
    }
    for await (const _ of demultiplex(endless())) break;
    expect(closed).toBe(true);
  });

  it('gives what was framed, however it was framed and cut', async () => {
    const frames = fc.array(fc.tuple(fc.constantFrom<1 | 2>(1, 2), fc.uint8Array({ maxLength: 20 })), { maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(frames, fc.array(fc.nat(1000), { maxLength: 20 }), async (frames, places) => {
        const bytes = Buffer.concat(frames.map(([stream, data]) => frame(stream, data)));
        const of = (wanted: number) =>
          Buffer.concat(frames.filter(([stream]) => stream === wanted).map(([, data]) => data)).toString('latin1');
        const reads = cut(
          bytes,
          places.map((place) => Math.min(place, bytes.length)),
        );
        expect(await joined(reads)).toEqual({ stdout: of(1), stderr: of(2) });
      }),
    );
  });
});
