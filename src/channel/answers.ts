import type {
  RemoteExit,
  RemoteOutcome,
  RemoteProcessInfo,
  RemoteRecord,
  RemoteStage,
  RemoteUsage,
  RemoteSample,
} from './messages.js';
import { RemoteError } from './messages.js';
import {
  HELLO_MAGIC,
  MAX_BLOB_BYTES,
  MAX_PIECE_BYTES,
  MAX_SAMPLES,
  MAX_TIME_MS,
  ON_EXPIRY,
  PayloadReader,
  ProtocolFault,
  readU64,
  showText,
  SpawnFlag,
} from './wire.js';

const OUTCOMES: readonly (RemoteOutcome | undefined)[] = [
  undefined,
  'exited',
  'signaled',
  'timed_out',
  'oom_killed',
  'killed',
  'disk_full',
];
const MAX_DATE_MS = 8.64e15;
/** 2 KiB of arguments, each with its length, the id and the numbers. */
const MAX_LISTED_BYTES = 16 * 1024;
const PROCESS_ID = /^[A-Za-z0-9_.-]{1,64}$/;
const OUTPUT_HEAD_BYTES = 9;

export interface Hello {
  readonly version: number;
  /** In hexadecimal. */
  readonly bootId: string;
  readonly build: string;
}

export interface Started {
  readonly existing: boolean;
  readonly pid: number;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly stdinOffset: number;
  readonly startedAt: Date;
}

export interface OutputPiece {
  readonly seq: number;
  readonly stream: 'stdout' | 'stderr';
  readonly data: Buffer;
}

export function decodeHello(payload: Buffer): Hello {
  const reader = new PayloadReader(payload);
  if (reader.u32() !== HELLO_MAGIC) throw new ProtocolFault("its greeting isn't the warden's");
  const version = reader.u16();
  const bootId = reader.bytes(16).toString('hex');
  const build = showText(reader.str());
  // What other versions say after this is theirs.
  if (version === 1) reader.end();
  return { version, bootId, build };
}

export function decodePong(payload: Buffer): number {
  return readWhole(payload, (reader) => reader.u64());
}

export function decodeFault(payload: Buffer): string {
  return readWhole(payload, (reader) => showText(reader.str()));
}

export function decodeStarted(payload: Buffer): Started {
  return readWhole(payload, (reader) => {
    const existing = reader.bool();
    const pid = reader.u32();
    const firstSeq = reader.u64();
    const lastSeq = reader.u64();
    if (firstSeq < 1 || firstSeq > lastSeq + 1) throw new ProtocolFault('its first piece comes after its last');
    return { existing, pid, firstSeq, lastSeq, stdinOffset: reader.u64(), startedAt: date(reader.u64()) };
  });
}

/** Without a `PayloadReader`: this is the one that comes thousands of times a second. */
export function decodeOutput(payload: Buffer): OutputPiece {
  const length = payload.length - OUTPUT_HEAD_BYTES;
  if (length < 1 || length > MAX_PIECE_BYTES) throw new ProtocolFault('a piece of output has a wrong size');
  const seq = readU64(payload, 0);
  const stream = payload.readUInt8(8);
  if (stream !== 1 && stream !== 2) throw new ProtocolFault(`there is output on stream ${stream}`);
  return { seq, stream: stream === 1 ? 'stdout' : 'stderr', data: payload.subarray(OUTPUT_HEAD_BYTES) };
}

export function decodeLost(payload: Buffer): { firstSeq: number; lastSeq: number } {
  return readWhole(payload, (reader) => {
    const firstSeq = reader.u64();
    const lastSeq = reader.u64();
    if (firstSeq < 1 || firstSeq > lastSeq) throw new ProtocolFault('the first lost piece comes after the last');
    return { firstSeq, lastSeq };
  });
}

export function decodeStdinAck(payload: Buffer): { offset: number; closed: boolean } {
  return readWhole(payload, (reader) => ({ offset: reader.u64(), closed: reader.bool() }));
}

export function decodeExit(payload: Buffer): RemoteExit {
  return readWhole(payload, (reader) => {
    const lastSeq = reader.u64();
    const outcome = outcomeOf(reader.u8());
    if (outcome === null) throw new ProtocolFault('a process ended and still runs');
    const processesLeft = reader.bool();
    const { exitCode, signal } = endOf(reader);
    const [durationMs, userMs, systemMs] = [reader.u64() / 1000, reader.u64() / 1000, reader.u64() / 1000];
    const [maxRssBytes, stdoutBytes, stderrBytes] = [reader.u64(), reader.u64(), reader.u64()];
    return {
      outcome,
      exitCode,
      signal,
      processesLeft,
      durationMs,
      userMs,
      systemMs,
      maxRssBytes,
      stdoutBytes,
      stderrBytes,
      lastSeq,
    };
  });
}

export function decodeError(payload: Buffer): RemoteError {
  return readWhole(payload, (reader) => {
    const errno = reader.u32();
    const stage = reader.u8();
    if (stage > 4) throw new ProtocolFault(`there is no stage ${stage}`);
    return new RemoteError({ errno, stage: stage as RemoteStage, text: showText(reader.str()) });
  });
}

export function decodeDone(payload: Buffer): void {
  new PayloadReader(payload).end();
}

export function decodeListed(payload: Buffer): RemoteProcessInfo {
  if (payload.length > MAX_LISTED_BYTES) throw new ProtocolFault('a listed process is too large');
  return readWhole(payload, (reader) => {
    const id = reader.str().toString('latin1');
    if (!PROCESS_ID.test(id)) throw new ProtocolFault("a listed process has an id that isn't one");
    const pid = reader.u32();
    const outcome = outcomeOf(reader.u8());
    const flags = reader.u32();
    const { exitCode, signal } = endOf(reader);
    const startedAt = date(reader.u64());
    const [firstSeq, lastSeq, readers] = [reader.u64(), reader.u64(), reader.u32()];
    const argv = reader.list().map((argument) => argument.toString());
    const has = (flag: number) => (flags & flag) !== 0;
    return {
      id,
      pid: pid === 0 ? null : pid,
      outcome,
      exitCode: outcome === null ? null : exitCode,
      signal,
      startedAt,
      firstSeq,
      lastSeq,
      readers,
      argv,
      tty: has(SpawnFlag.tty),
      stdin: has(SpawnFlag.stdin),
      builtin: has(SpawnFlag.builtin),
    };
  });
}

export function decodeUsage(payload: Buffer): RemoteUsage {
  return readWhole(payload, (reader) => {
    const memoryBytes = reader.u64();
    const memoryLimitBytes = known(reader.bigU64());
    const cpuSeconds = seconds(reader.bigU64());
    const processes = reader.u64();
    const [networkReceivedBytes, networkSentBytes, oomKills] = [reader.u64(), reader.u64(), reader.u64()];
    const [machineAvailableBytes, diskFreeBytes] = [known(reader.bigU64()), known(reader.bigU64())];
    const [diskBytes, inodes] = [known(reader.bigU64()), known(reader.bigU64())];
    return {
      memoryBytes,
      memoryLimitBytes,
      cpuSeconds,
      processes,
      networkReceivedBytes,
      networkSentBytes,
      oomKills,
      machineAvailableBytes,
      diskFreeBytes,
      diskBytes,
      inodes,
    };
  });
}

export function decodeSamples(payload: Buffer): RemoteSample[] {
  return readWhole(payload, (reader) => {
    const count = reader.u32();
    if (count > MAX_SAMPLES) throw new ProtocolFault('there are more samples than are kept');
    return Array.from({ length: count }, () => ({
      at: date(reader.u64()),
      memoryBytes: reader.u64(),
      cpuSeconds: seconds(reader.bigU64()),
      processes: reader.u64(),
      networkReceivedBytes: reader.u64(),
      networkSentBytes: reader.u64(),
    }));
  });
}

export function decodeRecord(payload: Buffer): RemoteRecord {
  return readWhole(payload, (reader) => {
    const version = reader.bigU64();
    if (version === 0n) throw new ProtocolFault('the record has no version');
    const leaseLeftMs = leftOf(reader);
    const idleMs = timeout(reader.u64());
    const renewMs = timeout(reader.u64());
    const onExpiry = ON_EXPIRY[reader.u8()];
    if (onExpiry === undefined) throw new ProtocolFault('the record has no such end of a lease');
    const lastLeftMs = leftOf(reader);
    const taken = reader.bool();
    const blob = Buffer.from(reader.str()); // kept for long: not the chunk that it came in
    if (blob.length > MAX_BLOB_BYTES) throw new ProtocolFault('the record is too large');
    return { version, leaseLeftMs, idleMs, renewMs, onExpiry, lastLeftMs, taken, blob };
  });
}

function leftOf(reader: PayloadReader): number | null {
  const left = reader.i64();
  if (left < -1 || left > MAX_TIME_MS) throw new ProtocolFault('a time is absurdly long');
  return left === -1 ? null : left;
}

function timeout(ms: number): number | null {
  if (ms > MAX_TIME_MS) throw new ProtocolFault('a time is absurdly long');
  return ms === 0 ? null : ms;
}

/** One that no number can hold is as good as unknown. */
function known(bytes: bigint): number | null {
  return bytes > BigInt(Number.MAX_SAFE_INTEGER) ? null : Number(bytes);
}

/** Not exactly: the nanoseconds of a hundred days of all processors are more than a number holds. */
function seconds(nanoseconds: bigint): number {
  return Number(nanoseconds) / 1e9;
}

function readWhole<T>(payload: Buffer, read: (reader: PayloadReader) => T): T {
  const reader = new PayloadReader(payload);
  const value = read(reader);
  reader.end();
  return value;
}

/** `null` while it runs. */
function outcomeOf(code: number): RemoteOutcome | null {
  if (code === 0) return null;
  const outcome = OUTCOMES[code];
  if (outcome === undefined) throw new ProtocolFault(`there is no outcome ${code}`);
  return outcome;
}

function endOf(reader: PayloadReader): { exitCode: number | null; signal: number | null } {
  const code = reader.i32();
  const signal = reader.u32();
  if (code < -1 || code > 255 || signal > 64) throw new ProtocolFault('a process ended as none can');
  return { exitCode: code === -1 ? null : code, signal: signal === 0 ? null : signal };
}

function date(ms: number): Date {
  if (ms > MAX_DATE_MS) throw new ProtocolFault('a time is absurdly late');
  return new Date(ms);
}
