import type { OutputPiece } from './answers.js';

/** A smaller piece is copied next to others: kept as a slice, one byte would keep the whole chunk that it came in. */
const SMALL_BYTES = 4096;
const BLOCK_BYTES = 32 * 1024;
const FIRST_BLOCK_BYTES = 1024;
const RECORD_HEAD_BYTES = 3;

/** A run of numbers that are no longer kept. */
export interface LostPieces {
  readonly firstSeq: number;
  readonly lastSeq: number;
}

/** Small pieces of consecutive numbers, each as its stream, its length and its bytes. */
interface Block {
  seq: number;
  readonly bytes: Buffer;
  readAt: number;
  writtenTo: number;
}

type Entry = { readonly piece: OutputPiece } | { readonly lost: LostPieces } | { readonly block: Block };

/** What was received and not consumed yet, in order. Takes little more memory than the bytes, however small the pieces. */
export class OutputQueue {
  #entries: Entry[] = [];
  #head = 0;

  get empty(): boolean {
    return this.#head === this.#entries.length;
  }

  push(piece: OutputPiece): void {
    if (piece.data.length < SMALL_BYTES) this.#pack(piece);
    else this.#entries.push({ piece: fillsItsChunk(piece.data) ? piece : { ...piece, data: Buffer.from(piece.data) } });
  }

  pushLost(lost: LostPieces): void {
    this.#entries.push({ lost });
  }

  shift(): OutputPiece | LostPieces | undefined {
    const entry = this.#entries[this.#head];
    if (entry === undefined) return undefined;
    if ('block' in entry) {
      const piece = unpack(entry.block);
      if (entry.block.readAt === entry.block.writtenTo) this.#drop();
      return piece;
    }
    this.#drop();
    return 'piece' in entry ? entry.piece : entry.lost;
  }

  clear(): void {
    this.#entries = [];
    this.#head = 0;
  }

  #drop(): void {
    this.#head += 1;
    if (this.#head === this.#entries.length) this.clear();
    else if (this.#head >= 64) {
      this.#entries.splice(0, this.#head);
      this.#head = 0;
    }
  }

  #pack({ seq, stream, data }: OutputPiece): void {
    const size = RECORD_HEAD_BYTES + data.length;
    const last = this.#entries.at(-1);
    let block = last !== undefined && 'block' in last ? last.block : undefined;
    if (block === undefined || block.bytes.length - block.writtenTo < size) {
      const capacity = block === undefined ? FIRST_BLOCK_BYTES : Math.min(BLOCK_BYTES, 2 * block.bytes.length);
      block = { seq, bytes: Buffer.allocUnsafe(Math.max(capacity, size)), readAt: 0, writtenTo: 0 };
      this.#entries.push({ block });
    }
    block.bytes.writeUInt8(stream === 'stdout' ? 1 : 2, block.writtenTo);
    block.bytes.writeUInt16LE(data.length, block.writtenTo + 1);
    data.copy(block.bytes, block.writtenTo + RECORD_HEAD_BYTES);
    block.writtenTo += size;
  }
}

function unpack(block: Block): OutputPiece {
  const { bytes, readAt } = block;
  const start = readAt + RECORD_HEAD_BYTES;
  const end = start + bytes.readUInt16LE(readAt + 1);
  const piece = { seq: block.seq, stream: bytes[readAt] === 1 ? 'stdout' : 'stderr', data: bytes.subarray(start, end) };
  block.readAt = end;
  block.seq += 1;
  return piece as OutputPiece;
}

function fillsItsChunk(data: Buffer): boolean {
  return data.length * 4 >= data.buffer.byteLength;
}
