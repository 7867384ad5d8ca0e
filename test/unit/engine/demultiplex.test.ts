import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { Demultiplexer } from '../../../src/engine/demultiplex.js';
import { frame } from '../../fixtures/fake-daemon.js';

function read(reads: readonly Buffer[]): [stream: string, data: string][] {
  const found: [string, string][] = [];
  const demultiplexer = new Demultiplexer((stream, data) => found.push([stream, data.toString('latin1')]));
  for (const chunk of reads) demultiplexer.read(chunk);
  return found;
}

/** What came on each stream in all. */
function joined(reads: readonly Buffer[]): { stdout: string; stderr: string } {
  const chunks = read(reads);
  const of = (name: string) => chunks.map(([stream, data]) => (stream === name ? data : '')).join('');
  return { stdout: of('stdout'), stderr: of('stderr') };
}

/** `bytes` in reads that end at each of the places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const edges = [0, ...places.toSorted((a, b) => a - b), bytes.length];
  return edges.slice(1).map((end, index) => bytes.subarray(edges[index], end));
}

const STREAM = Buffer.concat([frame(1, 'out'), frame(2, 'err'), frame(1, ''), frame(0, 'in'), frame(2, '!')]);

describe('Demultiplexer', () => {
  it('tells the streams apart, and stdin, which a terminal echoes, is stdout', () => {
    expect(read([STREAM])).toEqual([
      ['stdout', 'out'],
      ['stderr', 'err'],
      ['stdout', 'in'],
      ['stderr', '!'],
    ]);
  });

  it('reads nothing from nothing', () => {
    expect(read([])).toEqual([]);
    expect(read([Buffer.alloc(0), Buffer.alloc(0)])).toEqual([]);
  });

  it('gives the same wherever it is cut in two', () => {
    for (let at = 0; at <= STREAM.length; at++) {
      expect(joined(cut(STREAM, [at]))).toEqual({ stdout: 'outin', stderr: 'err!' });
    }
  });

  it('gives the same byte by byte', () => {
    expect(joined([...STREAM].map((byte) => Buffer.of(byte)))).toEqual({ stdout: 'outin', stderr: 'err!' });
  });

  it('passes data on before its frame is whole, and copies none of it', () => {
    const chunk = frame(1, 'abcdef').subarray(0, 10);
    const found: Buffer[] = [];
    const demultiplexer = new Demultiplexer((_stream, data) => found.push(data));
    demultiplexer.read(chunk);
    expect(found.map(String)).toEqual(['ab']);
    expect(found[0]?.buffer).toBe(chunk.buffer);
    expect(found[0]?.byteOffset).toBe(chunk.byteOffset + 8);
  });

  it.each([
    ['at the beginning', 0, false],
    ['within a header', 3, true],
    ['within a payload', 10, true],
    ['between frames', 11, false],
  ])('knows whether it is within a frame: %s', (_, bytes, expected) => {
    const demultiplexer = new Demultiplexer(() => {});
    demultiplexer.read(STREAM.subarray(0, bytes));
    expect(demultiplexer.isWithinFrame).toBe(expected);
  });

  it.each([
    ['another stream', [3, 0, 0, 0, 0, 0, 0, 1, 65]],
    ['something in the bytes that are zero', [1, 0, 0, 1, 0, 0, 0, 1, 65]],
    ['text', [...Buffer.from('no frames at all')]],
  ])('refuses a header with %s', (_, bytes) => {
    expect(() => read([STREAM, Buffer.from(bytes)])).toThrow(expect.objectContaining({ code: 'engine_error' }));
  });

  it('keeps nothing for the length that a header claims', () => {
    expect(read([Buffer.of(1, 0, 0, 0, 255, 255, 255, 255), Buffer.from('x')])).toEqual([['stdout', 'x']]);
  });

  it('gives what was framed, however it was framed and cut', () => {
    const frames = fc.array(fc.tuple(fc.constantFrom<1 | 2>(1, 2), fc.uint8Array({ maxLength: 20 })), { maxLength: 8 });
    fc.assert(
      fc.property(frames, fc.array(fc.nat(1000), { maxLength: 20 }), (frames, places) => {
        const bytes = Buffer.concat(frames.map(([stream, data]) => frame(stream, data)));
        const of = (wanted: number) =>
          Buffer.concat(frames.filter(([stream]) => stream === wanted).map(([, data]) => data)).toString('latin1');
        const within = places.map((place) => Math.min(place, bytes.length));
        expect(joined(cut(bytes, within))).toEqual({ stdout: of(1), stderr: of(2) });
      }),
    );
  });
});
