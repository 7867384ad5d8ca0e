import * as fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import * as answers from '../../../src/channel/answers.js';
import { FrameReader, type Frame } from '../../../src/channel/frame-reader.js';
import { OutputQueue } from '../../../src/channel/output-queue.js';
import * as requests from '../../../src/channel/requests.js';
import {
  FrameType,
  MAX_PAYLOAD_BYTES,
  ON_EXPIRY,
  ProtocolFault,
  SpawnFlag,
  showText,
} from '../../../src/channel/wire.js';
import { answer, decodeSpawn, frame, i64, str, u64, u8 } from '../../fixtures/warden-wire.js';

/*
 * warden/vectors.txt has a line for each frame: its name, `>` from the manager or `<` from the warden, its fields as
 * `key=value` words, and the whole frame in hexadecimal, with tabs between the four. Numbers are decimal; text, bytes and boot
 * ids hexadecimal; a list is its count, and each item by its key and a number from 0.
 */
interface Vector {
  readonly name: string;
  readonly direction: string;
  readonly fields: Fields;
  readonly hex: string;
}

class Fields {
  readonly #values: Map<string, string>;

  constructor(words: string) {
    this.#values = new Map(words.split(' ').map((word) => word.split('=', 2) as [string, string]));
  }

  text(key: string): string {
    const value = this.#values.get(key);
    if (value === undefined) throw new Error(`there is no field ${key}`);
    return value;
  }

  number = (key: string) => Number(this.text(key));
  big = (key: string) => BigInt(this.text(key));
  flag = (key: string) => this.text(key) === '1';
  bytes = (key: string) => Buffer.from(this.text(key), 'hex');
  string = (key: string) => this.bytes(key).toString();
  list = (key: string) => Array.from({ length: this.number(key) }, (_, index) => this.string(`${key}${index}`));
}

const lines = readFileSync(new URL('../../../warden/vectors.txt', import.meta.url), 'utf8').split('\n');
const vectors: Vector[] = lines
  .filter((line) => line !== '' && !line.startsWith('#'))
  .map((line) => {
    const [name = '', direction = '', words = '', hex = ''] = line.split('\t');
    return { name, direction, fields: new Fields(words), hex };
  });

const ALL_ONES = 2n ** 64n - 1n;
const offset = (fields: Fields) => (fields.big('offset') === ALL_ONES ? requests.APPENDED : fields.number('offset'));

/** What this side sends, from the fields. */
const encode: Record<string, (fields: Fields, stream: number) => Buffer> = {
  hello: () => requests.encodeHello(),
  ping: (fields) => requests.encodePing(fields.number('token')),
  spawn: (fields, stream) => requests.toFrames(requests.encodeSpawn(spawnOf(fields), fields.number('window')), stream),
  attach: (fields, stream) =>
    requests.toFrames(
      requests.encodeAttach(fields.string('id'), { after: fields.number('after'), window: fields.number('window') }),
      stream,
    ),
  ack: (fields, stream) => requests.encodeAck(stream, fields.number('seq')),
  stdin: (fields, stream) => {
    const data = fields.bytes('data');
    return Buffer.concat([requests.encodeStdinHead(stream, { offset: offset(fields), length: data.length }), data]);
  },
  stdin_end: (fields, stream) => requests.encodeStdinEnd(stream, offset(fields)),
  resize: (fields, stream) =>
    requests.encodeResize(stream, { rows: fields.number('rows'), columns: fields.number('columns') }),
  detach: (_fields, stream) => requests.encodeDetach(stream),
  signal: (fields, stream) =>
    requests.toFrames(
      requests.encodeSignal(fields.string('id'), { signal: fields.number('signal'), tree: fields.flag('tree') }),
      stream,
    ),
  kill: (fields, stream) =>
    requests.toFrames(
      requests.encodeKill(fields.string('id'), { signal: fields.number('signal'), graceMs: fields.number('grace') }),
      stream,
    ),
  list: (_fields, stream) => requests.toFrames(requests.encodePlain('list'), stream),
  usage_history: (_fields, stream) => requests.toFrames(requests.encodePlain('usageHistory'), stream),
  usage: (_fields, stream) => requests.toFrames(requests.encodePlain('usage'), stream),
  record_get: (_fields, stream) => requests.toFrames(requests.encodePlain('recordGet'), stream),
  forget: (fields, stream) => requests.toFrames(requests.encodeNamed('forget', fields.string('id')), stream),
  wait: (fields, stream) => requests.toFrames(requests.encodeNamed('wait', fields.string('id')), stream),
  record_set: (fields, stream) => {
    const given = (key: string) => (fields.number(key) === -1 ? undefined : fields.number(key));
    const change = {
      version: fields.big('version'),
      ttlMs: given('lease'),
      idleMs: given('idle') === 0 ? null : given('idle'),
      renewMs: given('ttl'),
      onExpiry: ON_EXPIRY[fields.number('on_expiry')],
      lastMs: given('last'),
      blob: fields.flag('has_blob') ? fields.bytes('blob') : undefined,
    };
    return requests.toFrames(requests.encodeRecordSet(change), stream);
  },
};

function spawnOf(fields: Fields) {
  const has = (flag: number) => (fields.number('flags') & flag) !== 0;
  const limit = fields.big('limit');
  return {
    id: fields.string('id'),
    argv: fields.list('argv'),
    cwd: fields.string('cwd'),
    env: fields.list('env'),
    uid: fields.number('uid'),
    gid: fields.number('gid'),
    timeoutMs: fields.number('timeout'),
    graceMs: fields.number('grace'),
    maxOutputBytes: limit === ALL_ONES ? undefined : Number(limit),
    tty: has(SpawnFlag.tty) ? { rows: fields.number('rows'), columns: fields.number('columns') } : undefined,
    stdin: has(SpawnFlag.stdin),
    runUnread: has(SpawnFlag.runUnread),
    text: has(SpawnFlag.text),
    forget: has(SpawnFlag.forget),
    builtin: has(SpawnFlag.builtin),
    nofile: fields.number('limits') === 0 ? undefined : fields.number('soft0'),
  };
}

/** What this side reads of a payload, and what the fields say it is. */
const decode: Record<string, (payload: Buffer, fields: Fields) => [unknown, unknown]> = {
  hello: (payload, fields) => [
    answers.decodeHello(payload),
    { version: fields.number('version'), bootId: fields.text('boot'), build: fields.string('build') },
  ],
  pong: (payload, fields) => [answers.decodePong(payload), fields.number('token')],
  fault: (payload, fields) => [answers.decodeFault(payload), fields.string('text')],
  started: (payload, fields) => [
    answers.decodeStarted(payload),
    {
      existing: fields.flag('existing'),
      pid: fields.number('pid'),
      firstSeq: fields.number('first'),
      lastSeq: fields.number('last'),
      stdinOffset: fields.number('stdin'),
      startedAt: new Date(fields.number('start')),
    },
  ],
  output: (payload, fields) => [
    answers.decodeOutput(payload),
    {
      seq: fields.number('seq'),
      stream: fields.number('of') === 1 ? 'stdout' : 'stderr',
      data: fields.bytes('data'),
    },
  ],
  lost: (payload, fields) => [
    answers.decodeLost(payload),
    { firstSeq: fields.number('first'), lastSeq: fields.number('last') },
  ],
  stdin_ack: (payload, fields) => [
    answers.decodeStdinAck(payload),
    { offset: fields.number('offset'), closed: fields.flag('closed') },
  ],
  exit: (payload, fields) => [
    answers.decodeExit(payload),
    {
      lastSeq: fields.number('last'),
      outcome: OUTCOMES[fields.number('outcome')],
      processesLeft: fields.flag('left'),
      exitCode: fields.number('code') === -1 ? null : fields.number('code'),
      signal: fields.number('signal') === 0 ? null : fields.number('signal'),
      durationMs: fields.number('duration') / 1000,
      userMs: fields.number('user') / 1000,
      systemMs: fields.number('system') / 1000,
      maxRssBytes: fields.number('rss'),
      stdoutBytes: fields.number('stdout'),
      stderrBytes: fields.number('stderr'),
    },
  ],
  done: (payload) => [answers.decodeDone(payload), undefined],
  error: (payload, fields) => {
    const { errno, stage, text } = answers.decodeError(payload);
    return [
      { errno, stage, text },
      { errno: fields.number('errno'), stage: fields.number('stage'), text: fields.string('text') },
    ];
  },
  listed: (payload, fields) => [
    answers.decodeListed(payload),
    {
      id: fields.string('id'),
      pid: fields.number('pid') === 0 ? null : fields.number('pid'),
      outcome: OUTCOMES[fields.number('outcome')] ?? null,
      exitCode: fields.number('code') === -1 ? null : fields.number('code'),
      signal: fields.number('signal') === 0 ? null : fields.number('signal'),
      startedAt: new Date(fields.number('start')),
      firstSeq: fields.number('first'),
      lastSeq: fields.number('last'),
      readers: fields.number('readers'),
      argv: fields.list('argv'),
      tty: (fields.number('flags') & SpawnFlag.tty) !== 0,
      stdin: (fields.number('flags') & SpawnFlag.stdin) !== 0,
      builtin: (fields.number('flags') & SpawnFlag.builtin) !== 0,
    },
  ],
  usage_is: (payload, fields) => [
    answers.decodeUsage(payload),
    {
      memoryBytes: fields.number('memory'),
      memoryLimitBytes: fields.big('limit') === ALL_ONES ? null : fields.number('limit'),
      cpuSeconds: fields.number('cpu') / 1e9,
      processes: fields.number('processes'),
      networkReceivedBytes: fields.number('received'),
      networkSentBytes: fields.number('sent'),
      oomKills: fields.number('oom_kills'),
      machineAvailableBytes: fields.big('machine') === ALL_ONES ? null : fields.number('machine'),
      diskFreeBytes: fields.big('disk') === ALL_ONES ? null : fields.number('disk'),
      diskBytes: fields.big('written') === ALL_ONES ? null : fields.number('written'),
      inodes: fields.big('inodes') === ALL_ONES ? null : fields.number('inodes'),
    },
  ],
  usage_samples: (payload, fields) => [
    answers.decodeSamples(payload),
    Array.from({ length: fields.number('samples') }, (_, index) => ({
      at: new Date(fields.number(`at${index}`)),
      memoryBytes: fields.number(`memory${index}`),
      cpuSeconds: fields.number(`cpu${index}`) / 1e9,
      processes: fields.number(`processes${index}`),
      networkReceivedBytes: fields.number(`received${index}`),
      networkSentBytes: fields.number(`sent${index}`),
    })),
  ],
  record_is: (payload, fields) => [
    answers.decodeRecord(payload),
    {
      version: fields.big('version'),
      leaseLeftMs: fields.number('lease') === -1 ? null : fields.number('lease'),
      idleMs: fields.number('idle') === 0 ? null : fields.number('idle'),
      renewMs: fields.number('ttl') === 0 ? null : fields.number('ttl'),
      onExpiry: ON_EXPIRY[fields.number('on_expiry')],
      lastLeftMs: fields.number('last') === -1 ? null : fields.number('last'),
      taken: fields.flag('taken'),
      blob: fields.bytes('blob'),
    },
  ],
};

const OUTCOMES = [undefined, 'exited', 'signaled', 'timed_out', 'oom_killed', 'killed', 'disk_full'];

function readAll(bytes: Buffer, splits: readonly number[] = []): Frame[] {
  const frames: Frame[] = [];
  const reader = new FrameReader((frame) => frames.push({ ...frame, payload: Buffer.from(frame.payload) }));
  let at = 0;
  for (const size of splits) {
    reader.push(bytes.subarray(at, at + size));
    at += size;
  }
  reader.push(bytes.subarray(at));
  expect(reader.within).toBe(false);
  return frames;
}

describe('the vectors', () => {
  it('have every frame', () => {
    const snake = (name: string) => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const known = Object.keys(FrameType).map((name) => (name === 'helloBack' ? 'hello' : snake(name)));
    expect(new Set(vectors.map(({ name }) => name))).toEqual(new Set(known));
  });

  it.each(vectors.filter(({ direction, name }) => direction === '>' && name !== 'part'))(
    'are what is sent: $name $hex',
    ({ name, fields, hex }) => {
      expect(encode[name]?.(fields, fields.number('stream')).toString('hex')).toBe(hex);
    },
  );

  it.each(vectors.filter(({ direction }) => direction === '<'))(
    'are what is read: $name $hex',
    ({ name, fields, hex }) => {
      const [found] = readAll(Buffer.from(hex, 'hex'));
      expect(found?.stream).toBe(fields.number('stream'));
      const [value, expected] = decode[name]?.(found?.payload ?? Buffer.alloc(0), fields) ?? [undefined, null];
      expect(value).toEqual(expected);
    },
  );

  it.each(vectors.filter(({ direction }) => direction === '<'))(
    'are no longer it when cut: $name $hex',
    ({ name, fields, hex }) => {
      const payload = Buffer.from(hex, 'hex').subarray(9);
      const read = (bytes: Buffer) => decode[name]?.(bytes, fields);
      if (name !== 'output') expect(() => read(Buffer.concat([payload, Buffer.alloc(1)]))).toThrow(ProtocolFault);
      if (payload.length > 0 && name !== 'output') expect(() => read(payload.subarray(0, -1))).toThrow(ProtocolFault);
    },
  );
});

describe('requests', () => {
  it('of more than one frame are parts of it, in one piece', () => {
    const payload = Buffer.alloc(2 * MAX_PAYLOAD_BYTES + 1, 'x');
    const frames = readAll(requests.toFrames({ type: FrameType.spawn, payload }, 5));
    expect(frames.map(({ type, stream }) => [type, stream])).toEqual([
      [FrameType.part, 5],
      [FrameType.part, 5],
      [FrameType.spawn, 5],
    ]);
    expect(Buffer.concat(frames.map(({ payload }) => payload)).equals(payload)).toBe(true);
    expect(
      readAll(requests.toFrames({ type: FrameType.spawn, payload: payload.subarray(0, MAX_PAYLOAD_BYTES) }, 5)),
    ).toHaveLength(1);
  });

  it('to spawn survive the way', () => {
    const text = fc.string({ unit: 'binary' });
    const u32 = fc.nat(0xffff_ffff);
    const request = fc.record({
      id: fc.stringMatching(/^[A-Za-z0-9_.-]{1,64}$/),
      cwd: text,
      argv: fc.array(text),
      env: fc.array(text),
      uid: u32,
      gid: u32,
      timeoutMs: u32,
      graceMs: u32,
      maxOutputBytes: fc.maxSafeNat(),
      nofile: u32,
    });
    fc.assert(
      fc.property(request, (request) => {
        const { payload } = requests.encodeSpawn(request, 1000);
        const { id, cwd, argv, env, uid, gid, timeoutMs, graceMs, limit, limits } = decodeSpawn(payload);
        const asSent = (texts: string[]) => texts.map((text) => Buffer.from(text).toString());
        expect({ id, cwd, argv, env, uid, gid, timeoutMs, graceMs, maxOutputBytes: Number(limit) }).toEqual({
          id: request.id,
          cwd: asSent([request.cwd])[0],
          argv: asSent(request.argv),
          env: asSent(request.env),
          uid: request.uid,
          gid: request.gid,
          timeoutMs: request.timeoutMs,
          graceMs: request.graceMs,
          maxOutputBytes: request.maxOutputBytes,
        });
        expect(limits).toEqual([{ resource: 7, soft: BigInt(request.nofile), hard: BigInt(request.nofile) }]);
      }),
    );
  });
});

describe('the reader', () => {
  const anyFrame = fc.record({
    type: fc.nat(255),
    stream: fc.nat(0xffff_ffff),
    payload: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  });

  it('finds the same frames however they are cut', () => {
    fc.assert(
      fc.property(fc.array(anyFrame), fc.array(fc.nat(50)), (frames, splits) => {
        const bytes = Buffer.concat(frames.map(({ type, stream, payload }) => frame(type, stream, payload)));
        expect(readAll(bytes, splits)).toEqual(frames);
        expect(
          readAll(
            bytes,
            Array.from(bytes, () => 1),
          ),
        ).toEqual(frames);
      }),
    );
  });

  it('passes a payload on without a copy where it came whole', () => {
    const bytes = frame(FrameType.output, 1, Buffer.alloc(1000));
    let payload: Buffer | undefined;
    new FrameReader((frame) => {
      payload = frame.payload;
    }).push(bytes);
    expect(payload?.buffer).toBe(bytes.buffer);
  });

  it('takes the longest frame and none that is longer', () => {
    expect(readAll(frame(1, 1, Buffer.alloc(MAX_PAYLOAD_BYTES)))).toHaveLength(1);
    for (const bytes of [frame(1, 1, Buffer.alloc(MAX_PAYLOAD_BYTES + 1)), Buffer.alloc(9, 0xff)]) {
      expect(() => new FrameReader(() => {}).push(bytes.subarray(0, 9))).toThrow(ProtocolFault);
    }
  });

  it('and the readings of what it finds throw nothing but faults at noise', () => {
    const decoders = [
      answers.decodeHello,
      answers.decodePong,
      answers.decodeFault,
      answers.decodeStarted,
      answers.decodeOutput,
      answers.decodeLost,
      answers.decodeStdinAck,
      answers.decodeExit,
      answers.decodeError,
      answers.decodeDone,
      answers.decodeListed,
      answers.decodeUsage,
      answers.decodeSamples,
      answers.decodeRecord,
    ];
    const payloads = vectors.map(({ hex }) => Buffer.from(hex, 'hex').subarray(9));
    const mutated = fc
      .tuple(fc.constantFrom(...payloads), fc.array(fc.tuple(fc.nat(1000), fc.nat(255)), { maxLength: 4 }))
      .map(([payload, changes]) => {
        const copy = Buffer.from(payload);
        for (const [at, value] of changes) if (copy.length > 0) copy[at % copy.length] = value;
        return copy;
      });
    const noise = fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes));
    fc.assert(
      fc.property(fc.oneof(noise, mutated), (bytes) => {
        for (const decode of decoders) {
          try {
            decode(bytes);
          } catch (error) {
            expect(error).toBeInstanceOf(ProtocolFault);
          }
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('a record', () => {
  const fields = [u64(1), i64(-1), i64(0), i64(0), u8(0), i64(-1), u8(0), str('')];
  const FAR = 10 ** 15 + 1;

  it.each([
    ['no version', 0, u64(0)],
    ['a lease that has more than ended', 1, i64(-2)],
    ['an endless lease', 1, i64(FAR)],
    ['an idle timeout of less than none', 2, i64(-1)],
    ['an endless idle timeout', 2, i64(FAR)],
    ['a lease of less than none to come', 3, i64(-1)],
    ['an endless lease to come', 3, i64(FAR)],
    ['another end', 4, u8(3)],
    ['an end left as it was', 4, u8(255)],
    ['an endless lifetime', 5, i64(FAR)],
    ['neither taken nor not', 6, u8(2)],
    ['too large a blob', 7, str(Buffer.alloc(32 * 1024 + 1))],
  ])('is none with %s', (_what, index, field) => {
    expect(answers.decodeRecord(Buffer.concat(fields))).toMatchObject({ version: 1n, taken: false });
    expect(() => answers.decodeRecord(Buffer.concat(fields.with(index, field)))).toThrow(ProtocolFault);
  });
});

describe('text from the sandbox', () => {
  it('is one bounded line', () => {
    expect(showText(Buffer.from('a\r\n\tb\u0000\u2028\u202e\u{1f600}é'))).toBe(
      'a\\u{d}\\u{a}\\u{9}b\\u{0}\\u{2028}\\u{202e}\u{1f600}é',
    );
    expect(showText(Buffer.from([0xff, 0x41]))).toBe('\ufffdA');
    expect(showText(Buffer.alloc(100_000, 'x')).length).toBeLessThan(310);
  });
});

describe('the queue of output', () => {
  it('gives back what came, in order', () => {
    const sizes = fc.array(
      fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 9000 }), fc.constant(-1)),
    );
    fc.assert(
      fc.property(sizes, fc.array(fc.boolean()), (sizes, reads) => {
        const queue = new OutputQueue();
        const expected: unknown[] = [];
        const found: unknown[] = [];
        let seq = 0;
        for (const [index, size] of sizes.entries()) {
          seq += 1;
          if (size === -1) {
            queue.pushLost({ firstSeq: seq, lastSeq: seq + 4 });
            expected.push({ firstSeq: seq, lastSeq: seq + 4 });
            seq += 4;
          } else {
            const piece = { seq, stream: size % 2 === 0 ? 'stdout' : 'stderr', data: Buffer.alloc(size, seq) } as const;
            queue.push(piece);
            expected.push(piece);
          }
          if (reads[index] === true) found.push(queue.shift());
        }
        while (!queue.empty) found.push(queue.shift());
        expect(found).toEqual(expected);
        expect(queue.shift()).toBeUndefined();
      }),
    );
  });
});

describe('the fake', () => {
  it('says what the vectors say', () => {
    const { fields, hex } = vectors.find(({ name }) => name === 'lost') ?? { fields: new Fields(''), hex: '' };
    const { stream, first, last } = {
      stream: fields.number('stream'),
      first: fields.number('first'),
      last: fields.number('last'),
    };
    expect(answer.lost(stream, first, last).toString('hex')).toBe(hex);
  });
});
