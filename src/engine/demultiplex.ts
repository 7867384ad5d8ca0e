import { SandyardError } from '../errors.js';
import type { OutputChunk } from './engine.js';

const HEADER_BYTES = 8;
const STDERR = 2;

/**
 * Takes apart the engine's multiplexed stream (Engine API, "Attach to a container", stream format): frames of an
 * eight-byte header, whose first byte is 1 for stdout or 2 for stderr and whose last four are the big-endian
 * length, and a payload. Payloads are passed on as they arrive, never joined, so memory stays at one read.
 */
export async function* demultiplex(reads: AsyncIterable<Uint8Array>): AsyncGenerator<OutputChunk> {
  const header = Buffer.alloc(HEADER_BYTES);
  let headerBytes = 0;
  let left = 0;
  for await (const read of reads) {
    let rest = read;
    while (rest.length > 0) {
      if (left === 0) {
        const taken = Math.min(HEADER_BYTES - headerBytes, rest.length);
        header.set(rest.subarray(0, taken), headerBytes);
        headerBytes += taken;
        rest = rest.subarray(taken);
        if (headerBytes < HEADER_BYTES) break;
        headerBytes = 0;
        if ((header[0] ?? 0) > STDERR || header[1] !== 0 || header[2] !== 0 || header[3] !== 0) {
          throw new SandyardError('engine_error', 'The engine sent output that is not in the format of its API.');
        }
        left = header.readUInt32BE(4);
        continue;
      }
      const data = rest.subarray(0, left);
      left -= data.length;
      rest = rest.subarray(data.length);
      yield { stream: header[0] === STDERR ? 'stderr' : 'stdout', data };
    }
  }
}
