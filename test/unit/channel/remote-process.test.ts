import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';

import { Channel, type ChannelOptions } from '../../../src/channel/channel.js';
import type { RemoteOutput, SpawnRequest } from '../../../src/channel/messages.js';
import type { RemoteProcess } from '../../../src/channel/remote-process.js';
import { FrameType } from '../../../src/channel/wire.js';
import { FakeWarden, type FakeCommands, type FakeProcess } from '../../fixtures/fake-warden.js';

const TIMES = { retryFirstMs: 1, retryMostMs: 2 };
const KIB = 1024;

const channels: Channel[] = [];
afterEach(() => {
  for (const channel of channels.splice(0)) channel.close();
});

function start(commands: FakeCommands = {}, options: Partial<ChannelOptions> & { chunkBytes?: number } = {}) {
  const warden = new FakeWarden({ commands, ...options });
  const channel = new Channel({ connect: warden.connect, times: TIMES, ...options });
  channels.push(channel);
  return { warden, channel };
}

let lastId = 0;
function request(argv: readonly string[], more: Partial<SpawnRequest> = {}): SpawnRequest {
  lastId += 1;
  return { id: `r${lastId}`, argv, cwd: '/', env: [], uid: 1000, gid: 1000, graceMs: 100, ...more };
}

async function read(process: RemoteProcess): Promise<{ seqs: number[]; stdout: Buffer; stderr: Buffer }> {
  const pieces: RemoteOutput[] = [];
  for await (const piece of process.output()) pieces.push(piece);
  const of = (stream: string) =>
    Buffer.concat(pieces.filter((piece) => piece.stream === stream).map(({ data }) => data));
  return { seqs: pieces.map(({ seq }) => seq), stdout: of('stdout'), stderr: of('stderr') };
}

const upTo = (last: number) => Array.from({ length: last }, (_, index) => index + 1);

describe('a process', () => {
  it('is started and ends', async () => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['echo', 'hi']));
    expect(await process.started).toMatchObject({
      existing: false,
      firstSeq: 1,
      lastSeq: 0,
      startedAt: expect.any(Date),
    });
    expect((await read(process)).stdout.toString()).toBe('hi\n');
    expect(await process.exit).toMatchObject({
      outcome: 'exited',
      exitCode: 0,
      signal: null,
      processesLeft: false,
      lastSeq: 1,
      stdoutBytes: 3,
      stderrBytes: 0,
    });
    expect(warden.processes.get(process.id)?.readers.size).toBe(1);
    await expect.poll(() => warden.processes.get(process.id)?.readers.size).toBe(0); // which the warden is told a moment later
  });

  it('prints on both streams, in one order', async () => {
    const mixed = async (process: FakeProcess) => {
      for (let line = 0; line < 10; line++) await (line % 2 === 0 ? process.print('o') : process.printError('e'));
    };
    const { channel } = start({ mixed });
    expect(await read(channel.spawn(request(['mixed'])))).toEqual({
      seqs: upTo(10),
      stdout: Buffer.from('ooooo'),
      stderr: Buffer.from('eeeee'),
    });
  });

  it('that cannot be started says why', async () => {
    const { channel } = start({ locked: { errno: 13, stage: 4, text: 'locked\n' } });
    const process = channel.spawn(request(['locked']));
    const refused = { name: 'RemoteError', errno: 13, stage: 4, text: 'locked\\u{a}' };
    await expect(process.started).rejects.toMatchObject(refused);
    await expect(process.exit).rejects.toMatchObject(refused);
    await expect(process.output().next()).rejects.toMatchObject(refused);
    await expect(process.write(Buffer.from('x'))).rejects.toThrow();
    await expect(channel.attach('nobody').started).rejects.toMatchObject({ errno: 2, stage: 0 });
  });

  it('is forgotten when it was asked for and we know of its end', async () => {
    const { channel } = start();
    await channel.spawn(request(['true'], { forget: true })).exit;
    await channel.spawn(request(['true'], { forget: false, id: 'kept' })).exit;
    await channel.ping();
    expect((await channel.list()).map(({ id }) => id)).toEqual(['kept']);
  });

  it('is not started twice, and read from the beginning', async () => {
    const { channel } = start();
    const first = channel.spawn(request(['echo', 'hi'], { id: 'same' }));
    await read(first);
    const second = channel.spawn(request(['echo', 'other'], { id: 'same' }));
    expect(await second.started).toMatchObject({ existing: true, lastSeq: 1 });
    expect((await read(second)).stdout.toString()).toBe('hi\n');
  });

  it('can be one of very many', async () => {
    const { warden, channel } = start();
    const results = await Promise.all(
      Array.from({ length: 500 }, async (_, index) => {
        const process = channel.spawn(request(['echo', String(index)], { forget: true }));
        const { stdout } = await read(process);
        return { text: stdout.toString(), exit: await process.exit };
      }),
    );
    for (const [index, { text, exit }] of results.entries()) {
      expect(text).toBe(`${index}\n`);
      expect(exit.exitCode).toBe(0);
    }
    expect(warden.connects).toBe(1);
    await expect.poll(() => warden.processes.size).toBe(0);
  });
});

describe('output', () => {
  const pattern = randomBytes(3 * KIB * KIB + 17);

  it.each([1, 7, 1000, 40_000])('comes whole through chunks of %i bytes', async (chunkBytes) => {
    const data = pattern.subarray(0, chunkBytes === 1 ? 20_000 : pattern.length);
    const { channel } = start({ big: (process) => process.print(data) }, { chunkBytes });
    const { stdout } = await read(channel.spawn(request(['big'])));
    expect(stdout.equals(data)).toBe(true);
  });

  it('is not asked for beyond the window while nobody reads', async () => {
    const { warden, channel } = start({ big: (process) => process.print(pattern) }, { windowBytes: 256 * KIB });
    const process = channel.spawn(request(['big'], { id: 'big' }));
    await process.started;
    const sent = () => [...(warden.processes.get('big')?.readers ?? [])].at(-1)?.sentBytes ?? 0;
    await expect.poll(sent).toBeGreaterThan(128 * KIB);
    await sleep(30); // for what it must not send
    expect(sent()).toBeLessThanOrEqual(256 * KIB);
    const { stdout } = await read(process);
    expect(stdout.equals(pattern)).toBe(true);
  });

  it('takes little memory however small its pieces are', async () => {
    const tiny = 300_000;
    const { warden, channel } = start({ tiny: (process) => process.forever() });
    const process = channel.spawn(request(['tiny']));
    await process.started;
    const piece = Buffer.alloc(9 + 9 + 1);
    piece.writeUInt32LE(10, 0);
    piece.writeUInt8(FrameType.output, 4);
    piece.writeUInt32LE(1, 5);
    piece.writeUInt8(1, 17);
    globalThis.gc?.();
    const before = memory();
    const batch: Buffer[] = [];
    for (let seq = 1; seq <= tiny; seq++) {
      piece.writeUInt32LE(seq, 9);
      batch.push(Buffer.from(piece));
      if (batch.length === 1000) warden.sendRaw(Buffer.concat(batch.splice(0)));
    }
    globalThis.gc?.();
    expect(memory() - before).toBeLessThan(60 * KIB * KIB);
    let pieces = 0;
    for await (const { seq } of process.output()) {
      pieces += 1;
      expect(seq).toBe(pieces);
      if (pieces === 1000) break;
    }
  });

  it('is acknowledged a moment after the reader has asked for more, and not before', async () => {
    const { warden, channel } = start({ one: async (process) => (await process.print('x'), process.forever()) });
    const process = channel.spawn(request(['one'], { id: 'one' }));
    const output = process.output();
    await output.next();
    await sleep(40);
    expect(warden.count('ack')).toBe(0);
    output.next().catch(() => {}); // which waits
    expect(warden.count('ack')).toBe(0);
    await expect.poll(() => warden.count('ack')).toBe(1);
    await sleep(40);
    expect(warden.count('ack')).toBe(1);
  });

  it('is dropped after discard(), and the process goes on', async () => {
    const { channel } = start({ big: (process) => process.print(pattern) });
    const process = channel.spawn(request(['big']));
    process.discard();
    expect(await process.exit).toMatchObject({ exitCode: 0, stdoutBytes: pattern.length });
  });

  it('is dropped after the reader has left', async () => {
    const { channel } = start({ big: (process) => process.print(pattern) });
    const process = channel.spawn(request(['big']));
    for await (const { seq } of process.output()) if (seq === 3) break;
    expect(await process.exit).toMatchObject({ exitCode: 0 });
    expect(() => process.output()).toThrow(/one reader/);
  });

  it('has the exit wait until it was read', async () => {
    const { channel } = start();
    const process = channel.spawn(request(['echo', 'hi']));
    await process.started;
    await sleep(10);
    let ended = false;
    void process.exit.then(() => {
      ended = true;
    });
    await sleep(10);
    expect(ended).toBe(false);
    await read(process);
    await sleep(0);
    expect(ended).toBe(true);
  });

  it('is kept for a reader that comes later, from where it asks', async () => {
    const { channel } = start({
      lines: async (process) => {
        for (let n = 1; n <= 5; n++) await process.print(`${n}`);
      },
    });
    await channel.spawn(request(['lines'], { id: 'lines' })).started;
    await channel.wait('lines');
    expect((await read(channel.attach('lines'))).stdout.toString()).toBe('12345');
    expect(await read(channel.attach('lines', { after: 3 }))).toMatchObject({ seqs: [4, 5] });
    expect(await read(channel.attach('lines', { after: 5 }))).toMatchObject({ seqs: [] });
    const wrong = channel.attach('lines', { after: 6 });
    await expect(wrong.started).rejects.toMatchObject({
      code: 'validation_failed',
      message: expect.stringMatching(/none after 6/),
    });
    await expect(channel.attach('lines', { after: -1 }).started).rejects.toMatchObject({ code: 'validation_failed' });
    expect(await channel.list()).toHaveLength(1);
  });

  it('that is lost is told, and what follows can be read', async () => {
    const { channel } = start({ big: (process) => process.print(pattern) });
    const spawned = channel.spawn(request(['big'], { id: 'big', runUnread: true }));
    await spawned.started;
    spawned.detach();
    await channel.wait('big');
    const reader = channel.attach('big');
    const output = reader.output();
    const error: unknown = await output.next().catch((error: unknown) => error);
    expect(error).toMatchObject({ code: 'output_lost', message: expect.stringMatching(/^Output 1 to \d+ of/) });
    const { firstSeq } = (error as { details: { firstSeq: number } }).details;
    expect(await reader.exit).toMatchObject({ exitCode: 0 });
    const { seqs, stdout } = await read(channel.attach('big', { after: firstSeq - 1 }));
    expect(seqs[0]).toBe(firstSeq);
    expect(stdout.equals(pattern.subarray(-stdout.length))).toBe(true);
  });
});

function memory(): number {
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

describe('letting go', () => {
  it('ends what waits here, not the process', async () => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['cat'], { id: 'cat', stdin: true }));
    await process.started;
    const output = process.output().next();
    process.detach();
    process.detach();
    await expect(output).rejects.toMatchObject({ code: 'aborted' });
    await expect(process.exit).rejects.toMatchObject({ code: 'aborted' });
    await expect(process.write(Buffer.from('x'))).rejects.toMatchObject({ code: 'aborted' });
    await expect.poll(() => warden.processes.get('cat')).toMatchObject({ ended: undefined, readers: new Set() });
  });

  it('of one that was not started yet starts nothing', async () => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['true']));
    process.detach();
    await expect(process.started).rejects.toMatchObject({ code: 'aborted' });
    await channel.ping();
    expect(warden.count('spawn')).toBe(0);
  });
});

describe('input', () => {
  const data = randomBytes(2 * KIB * KIB + 5);

  it('comes to the process, and back', async () => {
    const { channel } = start();
    const process = channel.spawn(request(['cat'], { stdin: true }));
    const output = read(process);
    await process.write(Buffer.from('a'));
    await process.write(data); // larger than the window
    await process.write(new Uint8Array());
    await process.endInput();
    expect((await output).stdout.equals(Buffer.concat([Buffer.from('a'), data]))).toBe(true);
  });

  it('is copied', async () => {
    const { channel } = start();
    const process = channel.spawn(request(['cat'], { stdin: true }));
    const text = Buffer.from('abc');
    await process.write(text);
    text.fill('x');
    await process.endInput();
    expect((await read(process)).stdout.toString()).toBe('abc');
  });

  it('goes out with what starts the process', async () => {
    const { warden, channel } = start();
    await channel.open();
    const order: number[] = [];
    warden.intercept = ({ type }) => {
      order.push(type);
      return false;
    };
    const process = channel.spawn(request(['cat'], { stdin: true }));
    await process.write(Buffer.from('abc'));
    await process.endInput();
    expect((await read(process)).stdout.toString()).toBe('abc');
    expect(order.slice(0, 3)).toEqual([FrameType.spawn, FrameType.stdin, FrameType.stdinEnd]);
  });

  it('waits when the process does not read, with no more than a window of it underway', async () => {
    const { warden, channel } = start({ deaf: (process) => process.forever() });
    const process = channel.spawn(request(['deaf'], { id: 'deaf', stdin: true }));
    let done = false;
    const write = process.write(data).then(() => {
      done = true;
    });
    write.catch(() => {});
    await expect.poll(() => warden.processes.get('deaf')?.mostWaitingInput).toBe(1024 * KIB);
    expect(done).toBe(false);
    await channel.kill('deaf', { signal: 9, graceMs: 0 });
    await expect(write).rejects.toMatchObject({ code: 'wrong_state' });
  });

  it('is refused by a process that reads no more, and that is no input to end', async () => {
    const { channel } = start({ shuts: (process) => (process.closeStdin(), process.forever()) });
    const process = channel.spawn(request(['shuts'], { stdin: true }));
    await expect(process.write(data)).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(process.write(data)).rejects.toMatchObject({ code: 'wrong_state' });
    await process.endInput();
  });

  it('may be under way when the process ends', async () => {
    const { warden, channel } = start({ deaf: (process) => process.forever() });
    warden.intercept = ({ type }) => {
      if (type === FrameType.stdin) warden.processes.get('deaf')?.end('exited', { exitCode: 0 });
      return false;
    };
    const process = channel.spawn(request(['deaf'], { id: 'deaf', stdin: true }));
    await process.write(Buffer.from('abc'));
    await process.endInput();
    process.discard();
    expect(await process.exit).toMatchObject({ outcome: 'exited', exitCode: 0 });
    await channel.ping();
    expect(warden.connects).toBe(1);
  });

  it('is refused after its end, and by a process that has none', async () => {
    const { channel } = start();
    const process = channel.spawn(request(['cat'], { stdin: true }));
    await process.endInput();
    await expect(process.write(Buffer.from('x'))).rejects.toMatchObject({ code: 'wrong_state' });
    const other = channel.spawn(request(['cat']));
    await expect(other.write(Buffer.from('x'))).rejects.toMatchObject({ code: 'wrong_state' });
  });

  it('goes on where it was when another reader attaches', async () => {
    const { channel } = start();
    const first = channel.spawn(request(['cat'], { id: 'cat', stdin: true }));
    await first.write(Buffer.from('abc'));
    await first.started;
    const output = first.output();
    expect((await output.next()).value?.data.toString()).toBe('abc');
    const second = channel.attach('cat', { after: 1 });
    const text = read(second);
    await second.write(Buffer.from('def'));
    await second.endInput();
    expect((await text).stdout.toString()).toBe('def');
  });

  it('of a process that was spawned before with the same input is not given twice', async () => {
    const { channel } = start();
    const first = channel.spawn(request(['cat'], { id: 'cat', stdin: true }));
    await first.write(Buffer.from('abcdef'));
    expect((await first.output().next()).value?.data.toString()).toBe('abcdef');
    const second = channel.spawn(request(['cat'], { id: 'cat', stdin: true }));
    expect(await second.started).toMatchObject({ existing: true });
    const text = read(second);
    await second.write(Buffer.from('abc'));
    await second.write(Buffer.from('defghi'));
    await second.endInput();
    expect((await text).stdout.toString()).toBe('abcdefghi');
  });

  it('carries the size of a terminal, also to the next tunnel', async () => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['sleep', 'infinity'], { id: 'tty', tty: { rows: 24, columns: 80 } }));
    await process.started;
    expect(warden.processes.get('tty')?.size).toEqual({ rows: 24, columns: 80 });
    process.resize({ rows: 50, columns: 132 });
    await channel.ping();
    expect(warden.processes.get('tty')?.size).toEqual({ rows: 50, columns: 132 });
  });
});

describe('across cuts', () => {
  it('every piece of output comes once and in order', async () => {
    const lines = 3000;
    const numbered = async (process: FakeProcess) => {
      for (let line = 1; line <= lines; line++) {
        while (process.readers.size === 0) await process.sleep(1); // so that there is something to cut
        await process.print(`${line}\n`);
      }
    };
    const { warden, channel } = start({ numbered }, { chunkBytes: 13 });
    const process = channel.spawn(request(['numbered']));
    let next = 1;
    let cuts = 0;
    let cutAt = 0;
    for await (const { seq, data } of process.output()) {
      expect([seq, Buffer.from(data).toString()]).toEqual([next, `${next}\n`]);
      next += 1;
      if (cuts < 50 && warden.connects > cuts && next - cutAt > 20) {
        cuts += 1;
        cutAt = next;
        warden.cut();
      }
    }
    expect(next).toBe(lines + 1);
    expect(cuts).toBe(50);
    expect(warden.connects).toBe(51);
    expect(await process.exit).toMatchObject({ exitCode: 0, lastSeq: lines });
  });

  it('large output comes whole to a reader that is slow', async () => {
    const big = randomBytes(6 * KIB * KIB);
    const { warden, channel } = start({ big: (process) => process.print(big) }, { windowBytes: 256 * KIB });
    const process = channel.spawn(request(['big']));
    const pieces: Uint8Array[] = [];
    for await (const { seq, data } of process.output()) {
      pieces.push(data);
      if (seq % 5 === 0) {
        warden.cut();
        await sleep(seq % 10 === 0 ? 0 : 4);
      }
    }
    expect(Buffer.concat(pieces).equals(big)).toBe(true);
  });

  it('gets no more than a window while nobody reads, however often it is cut', async () => {
    const big = randomBytes(1 * KIB * KIB);
    const { warden, channel } = start({ big: (process) => process.print(big) }, { windowBytes: 128 * KIB });
    const process = channel.spawn(request(['big'], { id: 'big' }));
    await process.started;
    for (let cut = 0; cut < 10; cut++) {
      await sleep(5);
      warden.cut();
    }
    await sleep(5);
    expect(warden.count('ack')).toBe(0);
    const { stdout } = await read(process);
    expect(stdout.equals(big)).toBe(true);
  });

  it('every byte of input comes once and in order', async () => {
    const data = randomBytes(8 * KIB * KIB);
    const { warden, channel } = start({
      slow: async (process) => {
        for await (const chunk of process.stdin()) {
          await process.print(chunk);
          if (warden.connects < 20) setImmediate(() => warden.cut());
        }
      },
    });
    const process = channel.spawn(request(['slow'], { stdin: true }));
    const output = read(process);
    for (let at = 0; at < data.length; at += 100_000) await process.write(data.subarray(at, at + 100_000));
    await process.endInput();
    expect((await output).stdout.equals(data)).toBe(true);
    expect(warden.connects).toBeGreaterThan(10);
  });

  it('the end of the input is told again', async () => {
    const { warden, channel } = start();
    warden.intercept = ({ type }) => {
      if (type !== FrameType.stdinEnd || warden.connects > 1) return false;
      warden.cut();
      return true;
    };
    const process = channel.spawn(request(['cat'], { stdin: true }));
    await process.write(Buffer.from('abc'));
    await process.endInput();
    expect((await read(process)).stdout.toString()).toBe('abc');
    expect(warden.connects).toBe(2);
  });

  it('what is typed comes at most once, and in order', async () => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['cat'], { id: 'tty', tty: { rows: 1, columns: 1 } }));
    const output = read(process);
    let typed = '';
    for (let line = 0; line < 200; line++) {
      typed += `${line} `;
      await process.write(Buffer.from(`${line} `));
      if (line % 10 === 0) warden.cut();
      if (line % 3 === 0) await sleep(1);
    }
    await process.endInput();
    expect((await output).stdout.toString()).toBe(typed);
    expect(warden.connects).toBeGreaterThan(10);
  });

  it('the end of the input is told once, when it has come', async () => {
    const { warden, channel } = start({ reads: async (process) => (await process.readAll(), process.forever()) });
    const process = channel.spawn(request(['reads'], { id: 'reads', tty: { rows: 1, columns: 1 } }));
    await process.endInput();
    await process.started;
    await sleep(5);
    warden.cut();
    await channel.ping();
    expect(warden.processes.get('reads')?.inputEnds).toBe(1);
  });

  it('what has ended is not asked for again', async () => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['echo', 'hi']));
    await channel.wait(process.id);
    await channel.ping();
    warden.cut();
    await channel.ping();
    expect(warden.count('attach')).toBe(0);
    expect((await read(process)).stdout.toString()).toBe('hi\n');
    expect(await process.exit).toMatchObject({ exitCode: 0 });
  });

  it('what was received is delivered before the failure', async () => {
    const { warden, channel } = start({ one: async (process) => (await process.print('x'), process.forever()) });
    const process = channel.spawn(request(['one']));
    await process.started;
    await channel.ping();
    warden.restart();
    await expect(process.exit).rejects.toMatchObject({ code: 'sandbox_died' });
    const output = process.output();
    expect(await output.next()).toMatchObject({ done: false, value: { seq: 1 } });
    await expect(output.next()).rejects.toMatchObject({ code: 'sandbox_died' });
  });

  it('many processes go on', async () => {
    const slow = async (process: FakeProcess) => {
      for (let line = 1; line <= 20; line++) {
        await process.print(`${line} `);
        await process.sleep(1);
      }
    };
    const { warden, channel } = start({ slow });
    const all = Promise.all(Array.from({ length: 100 }, () => read(channel.spawn(request(['slow'])))));
    for (let cut = 0; cut < 10; cut++) {
      await sleep(5);
      warden.cut();
    }
    for (const { stdout, seqs } of await all) {
      expect(seqs).toEqual(upTo(20));
      expect(stdout.toString()).toBe(
        upTo(20)
          .map((line) => `${line} `)
          .join(''),
      );
    }
  });
});
