import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { ByteRing } from '../../../src/channel/byte-ring.js';

/** All that is kept, in pieces of this size at the most. */
function keptBy(ring: ByteRing, maxBytes = Infinity): Buffer {
  const pieces: Buffer[] = [];
  for (let offset = ring.from; offset < ring.to;) {
    const piece = ring.at(offset, maxBytes);
    expect(piece.length).toBeGreaterThan(0);
    expect(piece.length).toBeLessThanOrEqual(maxBytes);
    pieces.push(piece);
    offset += piece.length;
  }
  return Buffer.concat(pieces);
}

/** The byte that a stream of such has at an offset. */
const byteAt = (offset: number) => (offset * 31 + Math.floor(offset / 256)) % 256;
const bytesAt = (offset: number, length: number) =>
  Buffer.from(Array.from({ length }, (_, index) => byteAt(offset + index)));

describe('the bytes that are kept of a stream', () => {
  it('are those from what was dropped last to what was appended last, however that is done', () => {
    const append = fc.record({ append: fc.oneof(fc.nat(20), fc.nat(300)) });
    const drop = fc.record({ drop: fc.double({ min: 0, max: 1, noNaN: true }) });
    const skip = fc.record({ skip: fc.nat(300) });
    fc.assert(
      fc.property(fc.array(fc.oneof(append, append, drop, drop, skip), { maxLength: 40 }), fc.nat(99), (steps, max) => {
        const ring = new ByteRing();
        let [from, to] = [0, 0];
        for (const step of steps) {
          if ('append' in step) {
            ring.append(bytesAt(to, step.append));
            to += step.append;
          } else if ('drop' in step) {
            from += Math.round((to - from) * step.drop);
            ring.dropTo(from);
          } else {
            from = to += step.skip;
            ring.dropTo(from);
          }
          expect([ring.from, ring.to]).toEqual([from, to]);
          expect(keptBy(ring, max + 1)).toEqual(bytesAt(from, to - from));
        }
      }),
    );
  });

  it('are not dropped again, nor do they come back', () => {
    const ring = new ByteRing();
    ring.append(bytesAt(0, 10));
    ring.dropTo(6);
    ring.dropTo(2);
    expect([ring.from, ring.to]).toEqual([6, 10]);
    expect(keptBy(ring)).toEqual(bytesAt(6, 4));
  });

  it('are copies of what was appended, which may change', () => {
    const ring = new ByteRing();
    const data = bytesAt(0, 100);
    ring.append(data);
    data.fill(0);
    expect(keptBy(ring)).toEqual(bytesAt(0, 100));
  });

  it('lie in the same memory, however many there were', () => {
    const ring = new ByteRing();
    const memories = new Set<ArrayBufferLike>();
    for (let offset = 0; offset < 10_000_000; offset += 10_000) {
      ring.append(Buffer.alloc(10_000));
      memories.add(ring.at(offset, 1).buffer);
      ring.dropTo(Math.max(0, offset - 90_000));
    }
    expect(memories.size).toBeLessThan(10);
  });

  it('leave little behind when there are none any more', () => {
    const ring = new ByteRing();
    ring.append(Buffer.alloc(1_000_000));
    ring.dropTo(1_000_000);
    ring.append(Buffer.alloc(10));
    expect(ring.at(1_000_000, 10).buffer.byteLength).toBeLessThan(100_000);
    ring.clear();
    expect([ring.from, ring.to]).toEqual([1_000_010, 1_000_010]);
  });
});
