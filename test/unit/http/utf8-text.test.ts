import { array, assert, nat, property, string } from 'fast-check';
import { expect, test } from 'vitest';

import { Utf8Text, type EncodedData } from '../../../src/http/utf8-text.js';

function feed(chunks: readonly Uint8Array[]): EncodedData[] {
  const text = new Utf8Text();
  return [...chunks.map((chunk) => text.push(chunk)), text.end()].filter((piece) => piece !== undefined);
}

test('text stays text however it is cut', () => {
  assert(
    property(string({ unit: 'binary' }), array(nat(40)), (value, cuts) => {
      const bytes = Buffer.from(value);
      const ends = [...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
      const pieces = feed(ends.map((end, index) => bytes.subarray(index === 0 ? 0 : ends[index - 1], end)));
      expect(pieces.map((piece) => ('data' in piece ? piece.data : '(bytes)')).join('')).toBe(bytes.toString());
    }),
  );
});

test('a mark at the start of a text is kept', () => {
  expect(feed([Buffer.from('\uFEFFa')])).toEqual([{ data: '\uFEFFa' }]);
});

test('bytes that are no text are base64, also when the stream ends in the middle of a character', () => {
  expect(feed([Buffer.from([0xff, 0x41])])).toEqual([{ data_base64: '/0E=' }]);
  expect(feed([Buffer.from([0x41, 0xe2, 0x82])])).toEqual([{ data: 'A' }, { data_base64: '4oI=' }]);
});

test("a chunk's memory may be used again after push", () => {
  const text = new Utf8Text();
  const chunk = Buffer.from([0xe2, 0x82]);
  text.push(chunk);
  chunk.fill(0);
  expect(text.push(Buffer.from([0xac]))).toEqual({ data: '€' });
});
