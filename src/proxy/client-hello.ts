/*
 * What a TLS client says first (RFC 8446, 4.1.2), read as far as the name that it asks for (RFC 6066, 3). Strict: what
 * can't be read is refused.
 */

/** More than any client says, with keys that withstand quantum computers. */
const MAX_HELLO_BYTES = 64 * 1024;

const RECORD_HANDSHAKE = 22;
const CLIENT_HELLO = 1;
const EXTENSION_SERVER_NAME = 0;
const NAME_TYPE_HOST = 0;

export type Hello =
  /** There is more to come. */
  | { readonly state: 'incomplete' }
  | { readonly state: 'not_tls' }
  /** The name as it was sent; `undefined` where there is none. */
  | { readonly state: 'read'; readonly serverName: string | undefined };

/** What the first bytes of a connection are. */
export function readClientHello(bytes: Buffer): Hello {
  if (bytes.length > MAX_HELLO_BYTES) return { state: 'not_tls' };
  const message = joinRecords(bytes);
  if (message === undefined) return { state: 'not_tls' };
  if (message.length > 0 && message[0] !== CLIENT_HELLO) return { state: 'not_tls' };
  if (message.length < 4) return { state: 'incomplete' };
  const length = message.readUIntBE(1, 3);
  if (length > MAX_HELLO_BYTES) return { state: 'not_tls' };
  if (message.length < 4 + length) return { state: 'incomplete' };
  try {
    return { state: 'read', serverName: serverNameOf(new Reader(message.subarray(4, 4 + length))) };
  } catch (error) {
    if (error instanceof RangeError) return { state: 'not_tls' };
    throw error;
  }
}

/** What is in the records so far; a handshake message may be cut into several. */
function joinRecords(bytes: Buffer): Buffer | undefined {
  const parts: Buffer[] = [];
  let have = 0;
  let wanted = Number.POSITIVE_INFINITY;
  for (let at = 0; at < bytes.length;) {
    if (bytes[at] !== RECORD_HANDSHAKE || (at + 1 < bytes.length && bytes[at + 1] !== 3)) return undefined;
    if (at + 5 > bytes.length) break;
    const length = bytes.readUInt16BE(at + 3);
    if (length === 0 || length > 16_384) return undefined;
    const part = bytes.subarray(at + 5, at + 5 + length);
    const before = have;
    parts.push(part);
    have += part.length;
    if (before < 4 && have >= 4) wanted = 4 + Buffer.concat(parts).readUIntBE(1, 3);
    if (have >= wanted) break; // what follows it is no longer the hello
    at += 5 + length;
  }
  return Buffer.concat(parts);
}

/** Throws RangeError where a length leads out of what there is. */
class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get done(): boolean {
    return this.#at >= this.#bytes.length;
  }

  number(size: number): number {
    return this.take(size).readUIntBE(0, size);
  }

  take(length: number): Buffer {
    if (this.#at + length > this.#bytes.length) throw new RangeError('past the end');
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  /** What a length of so many bytes stands before. */
  vector(size: number): Reader {
    return new Reader(this.take(this.number(size)));
  }
}

function serverNameOf(hello: Reader): string | undefined {
  hello.take(2 + 32); // version and random
  hello.vector(1); // session
  hello.vector(2); // ciphers
  hello.vector(1); // compression
  if (hello.done) return undefined;
  const extensions = hello.vector(2);
  const names: string[] = [];
  while (!extensions.done) {
    const type = extensions.number(2);
    const content = extensions.vector(2);
    if (type !== EXTENSION_SERVER_NAME) continue;
    const list = content.vector(2);
    while (!list.done) {
      const nameType = list.number(1);
      const { length } = names;
      const name = list.take(list.number(2)).toString('latin1');
      // Of two names nobody can tell which one a server goes by.
      if (nameType !== NAME_TYPE_HOST || length > 0) throw new RangeError('more than one name');
      names.push(name);
    }
  }
  return names[0];
}
