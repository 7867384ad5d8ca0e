import { SandyardError } from '../errors.js';
import type { RecordChange, SpawnRequest, TerminalSize } from './messages.js';
import {
  FrameType,
  HEADER_BYTES,
  MAX_PAYLOAD_BYTES,
  MAX_REQUEST_BYTES,
  MAX_TIME_MS,
  ON_EXPIRY,
  PROTOCOL_VERSION,
  SpawnFlag,
  writeHeader,
  writeU64,
} from './wire.js';

/** RLIMIT_NOFILE on Linux. */
const NOFILE = 7;
/** As an offset of input: behind whatever was sent before. Not a number that can be an offset. */
export const APPENDED = -1;
/** As what the end of a lease does: as it was. */
const KEEP_ON_EXPIRY = 255;
const PROCESS_ID = /^[A-Za-z0-9_.-]{1,64}$/;

/** A request without its header, which waits for a stream number; it may be sent again on another tunnel. */
export interface Encoded {
  readonly type: number;
  readonly payload: Buffer;
}

/** One request's frame, after as many PART frames as it needs; in one buffer, because nothing may come between them. */
export function toFrames({ type, payload }: Encoded, stream: number): Buffer {
  const parts = Math.max(0, Math.ceil(payload.length / MAX_PAYLOAD_BYTES) - 1);
  const frames = Buffer.allocUnsafe(payload.length + (parts + 1) * HEADER_BYTES);
  let at = 0;
  for (let part = 0; part <= parts; part++) {
    const begin = part * MAX_PAYLOAD_BYTES;
    const length = Math.min(MAX_PAYLOAD_BYTES, payload.length - begin);
    writeHeader(frames, { type: part < parts ? FrameType.part : type, stream, length }, at);
    payload.copy(frames, at + HEADER_BYTES, begin, begin + length);
    at += HEADER_BYTES + length;
  }
  return frames;
}

export function encodeHello(): Buffer {
  const payload = Buffer.alloc(2);
  payload.writeUInt16LE(PROTOCOL_VERSION);
  return toFrames({ type: FrameType.hello, payload }, 0);
}

export function encodePing(token: number): Buffer {
  return toFrames({ type: FrameType.ping, payload: u64(token) }, 0);
}

/** Throws where what is asked for can't be said. */
export function encodeSpawn(request: SpawnRequest, window: number): Encoded {
  const fixed = Buffer.alloc(4 * 6 + 8 + 4);
  const numbers = [flagsOf(request), request.uid, request.gid, request.timeoutMs ?? 0, request.graceMs, window];
  for (const [index, value] of numbers.entries()) fixed.writeUInt32LE(clampU32(value), index * 4);
  if (request.maxOutputBytes === undefined) fixed.fill(0xff, 24, 32);
  else writeU64(fixed, request.maxOutputBytes, 24);
  fixed.writeUInt16LE(request.tty?.rows ?? 0, 32);
  fixed.writeUInt16LE(request.tty?.columns ?? 0, 34);
  const texts = [processId(request.id), str(request.cwd), list(request.argv), list(request.env)];
  const payload = Buffer.concat([fixed, ...texts, limits(request.nofile)]);
  if (payload.length > MAX_REQUEST_BYTES) {
    throw new SandyardError('validation_failed', 'A command and its environment may take 4 MiB at the most.', {
      hint: 'Write what is large to a file, or pass it on the standard input.',
    });
  }
  return { type: FrameType.spawn, payload };
}

export function encodeAttach(id: string, { after, window }: { after: number; window: number }): Encoded {
  const payload = Buffer.concat([u64(after), u32(window), processId(id)]);
  return { type: FrameType.attach, payload };
}

export function encodeAck(stream: number, seq: number): Buffer {
  return toFrames({ type: FrameType.ack, payload: u64(seq) }, stream);
}

/** What goes before `length` bytes of input: they follow without a copy. */
export function encodeStdinHead(stream: number, { offset, length }: { offset: number; length: number }): Buffer {
  const head = Buffer.allocUnsafe(HEADER_BYTES + 8);
  writeHeader(head, { type: FrameType.stdin, stream, length: length + 8 });
  writeOffset(head, offset, HEADER_BYTES);
  return head;
}

export function encodeStdinEnd(stream: number, offset: number): Buffer {
  const payload = Buffer.allocUnsafe(8);
  writeOffset(payload, offset, 0);
  return toFrames({ type: FrameType.stdinEnd, payload }, stream);
}

export function encodeResize(stream: number, { rows, columns }: TerminalSize): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt16LE(rows, 0);
  payload.writeUInt16LE(columns, 2);
  return toFrames({ type: FrameType.resize, payload }, stream);
}

export function encodeDetach(stream: number): Buffer {
  return toFrames({ type: FrameType.detach, payload: Buffer.alloc(0) }, stream);
}

export function encodeSignal(id: string, { signal, tree }: { signal: number; tree: boolean }): Encoded {
  return { type: FrameType.signal, payload: Buffer.concat([u32(signal), Buffer.from([tree ? 1 : 0]), processId(id)]) };
}

export function encodeKill(id: string, { signal, graceMs }: { signal: number; graceMs: number }): Encoded {
  return { type: FrameType.kill, payload: Buffer.concat([u32(signal), u32(clampU32(graceMs)), processId(id)]) };
}

export function encodeNamed(name: 'forget' | 'wait', id: string): Encoded {
  return { type: FrameType[name], payload: processId(id) };
}

export function encodePlain(name: 'list' | 'usage' | 'usageHistory' | 'recordGet'): Encoded {
  return { type: FrameType[name], payload: Buffer.alloc(0) };
}

export function encodeRecordSet(change: RecordChange): Encoded {
  const { version = 0n, ttlMs, idleMs, renewMs, onExpiry, lastMs, blob } = change;
  const fixed = Buffer.alloc(42);
  fixed.writeBigUInt64LE(version, 0);
  fixed.writeBigInt64LE(timeOrKeep(ttlMs), 8);
  fixed.writeBigInt64LE(timeOrKeep(idleMs), 16);
  fixed.writeBigInt64LE(timeOrKeep(renewMs), 24);
  fixed.writeUInt8(onExpiry === undefined ? KEEP_ON_EXPIRY : ON_EXPIRY.indexOf(onExpiry), 32);
  fixed.writeBigInt64LE(timeOrKeep(lastMs), 33);
  fixed.writeUInt8(blob === undefined ? 0 : 1, 41);
  return {
    type: FrameType.recordSet,
    payload: Buffer.concat([fixed, u32(blob?.length ?? 0), blob ?? Buffer.alloc(0)]),
  };
}

/** Times that no number can hold are as good as the longest that the warden takes. */
function timeOrKeep(ms: number | null | undefined): bigint {
  return ms === undefined ? -1n : BigInt(Math.min(Math.ceil(ms ?? 0), MAX_TIME_MS));
}

function flagsOf(request: SpawnRequest): number {
  let flags = 0;
  if (request.tty !== undefined) flags |= SpawnFlag.tty;
  if (request.stdin === true) flags |= SpawnFlag.stdin;
  if (request.runUnread === true) flags |= SpawnFlag.runUnread;
  if (request.text === true) flags |= SpawnFlag.text;
  if (request.forget === true) flags |= SpawnFlag.forget;
  if (request.builtin === true) flags |= SpawnFlag.builtin;
  return flags;
}

function limits(nofile: number | undefined): Buffer {
  if (nofile === undefined) return u32(0);
  const encoded = Buffer.alloc(4 + 4 + 8 + 8);
  encoded.writeUInt32LE(1, 0);
  encoded.writeUInt32LE(NOFILE, 4);
  writeU64(encoded, nofile, 8);
  writeU64(encoded, nofile, 16);
  return encoded;
}

function processId(id: string): Buffer {
  if (!PROCESS_ID.test(id)) {
    throw new SandyardError('validation_failed', `${JSON.stringify(id.slice(0, 80))} can't be the id of a process.`, {
      hint: 'Use 1 to 64 letters, digits, "_", "." and "-".',
    });
  }
  return str(id);
}

function str(text: string): Buffer {
  const length = Buffer.byteLength(text);
  const encoded = Buffer.allocUnsafe(4 + length);
  encoded.writeUInt32LE(length, 0);
  encoded.write(text, 4);
  return encoded;
}

function list(texts: readonly string[]): Buffer {
  return Buffer.concat([u32(texts.length), ...texts.map(str)]);
}

function writeOffset(target: Buffer, offset: number, at: number): void {
  if (offset === APPENDED) target.fill(0xff, at, at + 8);
  else writeU64(target, offset, at);
}

function u32(value: number): Buffer {
  const encoded = Buffer.allocUnsafe(4);
  encoded.writeUInt32LE(value);
  return encoded;
}

function u64(value: number): Buffer {
  const encoded = Buffer.allocUnsafe(8);
  writeU64(encoded, value, 0);
  return encoded;
}

/** Times of more than 49 days are as good as 49 days; parts of a millisecond are rounded up, so that 0.5 isn't none. */
function clampU32(value: number): number {
  return Math.min(Math.ceil(value), 0xffff_ffff);
}
