/** The numbers of the protocol, and what its fields are read from. `warden/PROTOCOL.md` is what this is written from. */

export const PROTOCOL_VERSION = 1;
export const HELLO_MAGIC = 0x44575953;
export const HEADER_BYTES = 9;
export const MAX_PAYLOAD_BYTES = 65_600;
/** Of one piece of output or input. */
export const MAX_PIECE_BYTES = 65_536;
/** Of one request with its PART frames. */
export const MAX_REQUEST_BYTES = 4 * 1024 * 1024;

export const FrameType = {
  hello: 0x01,
  part: 0x02,
  ping: 0x03,
  spawn: 0x10,
  attach: 0x11,
  ack: 0x12,
  stdin: 0x13,
  stdinEnd: 0x14,
  resize: 0x15,
  detach: 0x16,
  signal: 0x20,
  kill: 0x21,
  list: 0x22,
  forget: 0x23,
  usage: 0x24,
  recordGet: 0x25,
  recordSet: 0x26,
  wait: 0x27,
  usageHistory: 0x28,

  helloBack: 0x41,
  pong: 0x43,
  fault: 0x44,
  started: 0x50,
  output: 0x51,
  lost: 0x52,
  stdinAck: 0x53,
  exit: 0x54,
  done: 0x60,
  error: 0x61,
  listed: 0x62,
  usageIs: 0x63,
  recordIs: 0x64,
  usageSamples: 0x67,
} as const;

/** What the end of a lease does, each at its number. */
export const ON_EXPIRY = ['destroy', 'stop', 'pause'] as const;
export const MAX_BLOB_BYTES = 32 * 1024;
/** Of the times in a record. */
export const MAX_TIME_MS = 1e15;
/** How many samples of its usage the warden keeps. */
export const MAX_SAMPLES = 360;

export const SpawnFlag = { tty: 1, stdin: 2, runUnread: 4, text: 8, forget: 16, builtin: 32 } as const;

const U32 = 2 ** 32;
const MAX_SAFE_HIGH = 0x1f_ffff;

/** What came isn't the protocol. The message says what is wrong with it, and quotes nothing unbounded or unescaped. */
export class ProtocolFault extends Error {
  override readonly name = 'ProtocolFault';
}

/** Reads the fields of one payload; one that isn't there, or bytes after the last, is a fault. */
export class PayloadReader {
  readonly #payload: Buffer;
  #at = 0;

  constructor(payload: Buffer) {
    this.#payload = payload;
  }

  u8(): number {
    return this.#payload.readUInt8(this.#take(1));
  }

  u16(): number {
    return this.#payload.readUInt16LE(this.#take(2));
  }

  u32(): number {
    return this.#payload.readUInt32LE(this.#take(4));
  }

  i32(): number {
    return this.#payload.readInt32LE(this.#take(4));
  }

  /** One that a number can't hold exactly is a fault: no count of bytes, pieces or microseconds comes near it. */
  u64(): number {
    return readU64(this.#payload, this.#take(8));
  }

  bigU64(): bigint {
    return this.#payload.readBigUInt64LE(this.#take(8));
  }

  i64(): number {
    const value = Number(this.#payload.readBigInt64LE(this.#take(8)));
    if (!Number.isSafeInteger(value)) throw new ProtocolFault('a number is absurdly large');
    return value;
  }

  bool(): boolean {
    const value = this.u8();
    if (value > 1) throw new ProtocolFault(`${value} stands where 0 or 1 is due`);
    return value === 1;
  }

  bytes(length: number): Buffer {
    const start = this.#take(length);
    return this.#payload.subarray(start, start + length);
  }

  str(): Buffer {
    return this.bytes(this.u32());
  }

  list(): Buffer[] {
    const count = this.u32();
    const items: Buffer[] = [];
    for (let index = 0; index < count; index++) items.push(this.str());
    return items;
  }

  rest(): Buffer {
    return this.bytes(this.#payload.length - this.#at);
  }

  end(): void {
    const left = this.#payload.length - this.#at;
    if (left > 0) throw new ProtocolFault(`${left} bytes follow the last field`);
  }

  #take(length: number): number {
    const start = this.#at;
    if (length > this.#payload.length - start) throw new ProtocolFault('a field goes beyond the end of its frame');
    this.#at += length;
    return start;
  }
}

export function readU64(payload: Buffer, at: number): number {
  const high = payload.readUInt32LE(at + 4);
  if (high > MAX_SAFE_HIGH) throw new ProtocolFault('a number is absurdly large');
  return high * U32 + payload.readUInt32LE(at);
}

export function writeU64(target: Buffer, value: number, at: number): void {
  target.writeUInt32LE(value % U32, at);
  target.writeUInt32LE(Math.floor(value / U32), at + 4);
}

export function writeHeader(
  target: Buffer,
  { type, stream, length }: { type: number; stream: number; length: number },
  at = 0,
): void {
  target.writeUInt32LE(length, at);
  target.writeUInt8(type, at + 4);
  target.writeUInt32LE(stream, at + 5);
}

const SHOWN_CHARACTERS = 300;

/** Text from the sandbox, for a message: one line, bounded, with nothing in it that changes how it is shown. */
export function showText(text: Uint8Array): string {
  const decoded = new TextDecoder().decode(text.subarray(0, 4 * SHOWN_CHARACTERS));
  const escaped = decoded.replaceAll(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`,
  );
  return escaped.length > SHOWN_CHARACTERS ? `${escaped.slice(0, SHOWN_CHARACTERS)}…` : escaped;
}
