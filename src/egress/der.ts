/*
 * What of DER (ITU-T X.690) it takes to write a certificate. Nothing here reads any: that is for those who are shown it.
 */

function der(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(contents);
  return Buffer.concat([Buffer.from([tag, ...lengthOf(content.length)]), content]);
}

/** The short form below 128; above it, the bytes of the length after how many they are. */
function lengthOf(length: number): number[] {
  if (length < 128) return [length];
  const bytes: number[] = [];
  for (let rest = length; rest > 0; rest = Math.floor(rest / 256)) bytes.unshift(rest % 256);
  return [0x80 + bytes.length, ...bytes];
}

export const sequence = (...items: readonly Uint8Array[]) => der(0x30, ...items);
export const set = (...items: readonly Uint8Array[]) => der(0x31, ...items);
export const octets = (content: Uint8Array) => der(0x04, content);
export const utf8 = (text: string) => der(0x0c, Buffer.from(text));
export const yes = () => der(0x01, Buffer.from([0xff]));

/** With the tag of its place in what it is a part of, instead of one that says what it is. */
export const tagged = (place: number, content: Uint8Array) => der(0x80 + place, content);
/** The same around what has tags itself. */
export const within = (place: number, ...contents: readonly Uint8Array[]) => der(0xa0 + place, ...contents);

/** Of bytes that are a number from the highest on. As the first bit is its sign, a positive one may need a byte more. */
export function integer(bytes: Uint8Array): Buffer {
  const from = bytes.findIndex((byte) => byte !== 0);
  const digits = from < 0 ? Buffer.from([0]) : Buffer.from(bytes.subarray(from));
  return der(0x02, ...((digits[0] ?? 0) > 127 ? [Buffer.from([0])] : []), digits);
}

/** `unused` bits at the end of the last byte are none. */
export function bits(content: Uint8Array, unused = 0): Buffer {
  return der(0x03, Buffer.from([unused]), content);
}

export function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  return der(0x06, Buffer.from([first * 40 + second, ...rest.flatMap(inSevens)]));
}

/** Seven bits a byte, all but the last with the eighth one set. */
function inSevens(value: number): number[] {
  const sevens = [value % 128];
  for (let rest = Math.floor(value / 128); rest > 0; rest = Math.floor(rest / 128)) sevens.unshift((rest % 128) + 128);
  return sevens;
}

/** To the second, and in the form that its year demands (RFC 5280, 4.1.2.5). */
export function time(at: Date): Buffer {
  const text = at.toISOString().replaceAll(/[-:T]|\.\d+/g, '');
  return at.getUTCFullYear() < 2050 ? der(0x17, Buffer.from(text.slice(2))) : der(0x18, Buffer.from(text));
}
