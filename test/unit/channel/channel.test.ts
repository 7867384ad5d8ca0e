import { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Channel, type ChannelOptions } from '../../../src/channel/channel.js';
import type { SpawnRequest } from '../../../src/channel/messages.js';
import { FrameType } from '../../../src/channel/wire.js';
import { SandyardError } from '../../../src/errors.js';
import { FakeWarden, type FakeCommands } from '../../fixtures/fake-warden.js';
import { answer, frame, u64 } from '../../fixtures/warden-wire.js';

const ALL_ONES = 2n ** 64n - 1n;

/** So that a test of what happens after a while doesn't take it. */
const TIMES = { retryFirstMs: 1, retryMostMs: 2, patienceMs: 300, shortPatienceMs: 50, connectMs: 200 };

const channels: Channel[] = [];
const unhandled: unknown[] = [];
const onUnhandled = (reason: unknown) => unhandled.push(reason);

beforeEach(() => {
  process.on('unhandledRejection', onUnhandled);
});
afterEach(async () => {
  for (const channel of channels.splice(0)) channel.close();
  await sleep(5);
  process.off('unhandledRejection', onUnhandled);
  expect(unhandled.splice(0)).toEqual([]);
});

function open(warden: { connect: ChannelOptions['connect'] }, options: Partial<ChannelOptions> = {}): Channel {
  const channel = new Channel({ connect: warden.connect, times: TIMES, ...options });
  channels.push(channel);
  return channel;
}

function start(commands: FakeCommands = {}, options: Partial<ChannelOptions> = {}) {
  const warden = new FakeWarden({ commands });
  return { warden, channel: open(warden, options) };
}

let lastId = 0;
function request(argv: readonly string[], more: Partial<SpawnRequest> = {}): SpawnRequest {
  lastId += 1;
  return { id: `p${lastId}`, argv, cwd: '/', env: [], uid: 1000, gid: 1000, graceMs: 100, ...more };
}

/** A connection that nothing ever comes from. */
function silence(): Duplex {
  return new Duplex({ read: () => {}, write: (_chunk, _encoding, callback) => callback() });
}

describe('requests', () => {
  it('lists processes', async () => {
    const { channel } = start();
    const running = channel.spawn(request(['sleep', 'infinity'], { id: 'sleeps', tty: { rows: 1, columns: 2 } }));
    await running.started;
    const over = channel.spawn(request(['false'], { id: 'over' }));
    await over.exit;
    const listed = await channel.list();
    expect(listed).toMatchObject([
      { id: 'sleeps', outcome: null, exitCode: null, signal: null, argv: ['sleep', 'infinity'], tty: true, readers: 1 },
      { id: 'over', pid: null, outcome: 'exited', exitCode: 1, argv: ['false'], tty: false },
    ]);
    expect(listed[0]?.pid).toBeGreaterThan(1);
  });

  it('signals, kills, waits and forgets', async () => {
    const { warden, channel } = start({ stubborn: (process) => (process.ignore(15), process.forever()) });
    const process = channel.spawn(request(['stubborn'], { id: 'a' }));
    await process.started;
    await channel.signal('a', 15, { tree: true });
    expect(warden.processes.get('a')?.signals).toEqual([15]);
    const waiting = channel.wait('a');
    await channel.kill('a', { signal: 15, graceMs: 10 });
    expect(await waiting).toMatchObject({ outcome: 'killed', signal: 9, exitCode: null });
    expect(await process.exit).toMatchObject({ outcome: 'killed' });
    await channel.forget('a');
    await expect(channel.wait('a')).rejects.toMatchObject({ name: 'RemoteError', errno: 2, stage: 0 });
  });

  it('tells what the sandbox uses, where there is a limit and where not', async () => {
    const { warden, channel } = start();
    expect(await channel.usage()).toEqual({
      memoryBytes: 1000,
      memoryLimitBytes: null,
      cpuSeconds: 0.005,
      processes: 3,
      networkReceivedBytes: 10,
      networkSentBytes: 20,
      oomKills: 0,
      machineAvailableBytes: 64 * 2 ** 30,
      diskFreeBytes: 100 * 2 ** 30,
      diskBytes: 4096,
      inodes: 2,
    });
    warden.usage = { ...warden.usage, limit: 4096n, machineAvailable: ALL_ONES, diskFree: ALL_ONES };
    expect(await channel.usage()).toMatchObject({
      memoryLimitBytes: 4096,
      machineAvailableBytes: null,
      diskFreeBytes: null,
    });
  });

  it('tells what the sandbox used, and once, however often the connection is cut', async () => {
    const { warden, channel } = start();
    expect(await channel.usageHistory()).toEqual([]);
    warden.samples = Array.from({ length: 360 }, (_, index) => ({
      at: index * 10_000,
      memory: index,
      cpuNs: 2n ** 60n,
      processes: 1,
      received: 2,
      sent: 3,
    }));
    let cuts = 0;
    warden.intercept = ({ type, stream }, tunnel) => {
      if (type !== FrameType.usageHistory || cuts > 0) return false;
      cuts += 1;
      tunnel.send(answer.samples(stream, warden.samples.slice(0, 5)));
      setTimeout(() => warden.cut(), 5);
      return true;
    };
    const history = await channel.usageHistory();
    expect(history.map(({ at }) => at.getTime())).toEqual(warden.samples.map(({ at }) => at));
    expect(history[7]).toMatchObject({ memoryBytes: 7, cpuSeconds: 2 ** 60 / 1e9, processes: 1 });
    expect(history[7]).toMatchObject({ networkReceivedBytes: 2, networkSentBytes: 3 });
    expect(cuts).toBe(1);
  });

  it.each([
    ['empty', 0],
    ['too many', 1],
  ])('takes no endless history: %s samples', async (_what, each) => {
    const { warden, channel } = start();
    const sample = { at: 1, memory: 1, cpuNs: 1, processes: 1, received: 1, sent: 1 };
    let sent = 0;
    warden.intercept = ({ type, stream }, tunnel) => {
      if (type !== FrameType.usageHistory) return false;
      for (let count = 0; count < 361; count++, sent++) {
        tunnel.send(
          answer.samples(
            stream,
            Array.from({ length: each }, () => sample),
          ),
        );
      }
      return true;
    };
    await expect(channel.usageHistory()).rejects.toMatchObject({ code: 'channel_failed' });
    expect(sent).toBeGreaterThan(0);
  });

  it('says all that a record can be, and is told it', async () => {
    const { channel } = start();
    const first = await channel.record();
    expect(first).toMatchObject({ renewMs: null, onExpiry: 'destroy', lastLeftMs: null, taken: false });
    expect(await channel.setRecord({ renewMs: 60_000, onExpiry: 'stop' })).toMatchObject({ taken: false });
    const taken = await channel.setRecord({ ttlMs: 500_000, lastMs: 100_000, onExpiry: 'pause' });
    expect(taken).toMatchObject({ renewMs: 60_000, onExpiry: 'pause', taken: true });
    expect(taken.lastLeftMs).toBeLessThanOrEqual(100_000);
    expect(taken.leaseLeftMs).toBe(taken.lastLeftMs);
    await expect(channel.setRecord({ ttlMs: -2 })).rejects.toMatchObject({ errno: 22 });
    expect(await channel.setRecord({ renewMs: 0 })).toMatchObject({ renewMs: null });
  });

  it('has a lease that has ended go on only for who has seen that', async () => {
    const { warden, channel } = start();
    const { version } = await channel.setRecord({ ttlMs: 1000, onExpiry: 'pause' });
    warden.record.expire();
    expect(await channel.record()).toMatchObject({ version, leaseLeftMs: 0 });
    await expect(channel.setRecord({ ttlMs: 1000 })).rejects.toMatchObject({ errno: 62 });
    await expect(channel.setRecord({ version: version - 1n, ttlMs: 1000 })).rejects.toMatchObject({ errno: 11 });
    expect((await channel.setRecord({ version, ttlMs: 1000 })).leaseLeftMs).toBeGreaterThan(0);
    await channel.setRecord({ ttlMs: 1000 });
  });

  it('reads and writes the record', async () => {
    const { channel } = start();
    expect(await channel.record()).toMatchObject({ version: 1n, leaseLeftMs: null, idleMs: null });
    const blob = Buffer.from('{"a":1}');
    const changed = await channel.setRecord({ version: 1n, ttlMs: 10_000, idleMs: 5000, blob });
    expect(changed).toMatchObject({ version: 2n, idleMs: 5000 });
    expect(changed.leaseLeftMs).toBeGreaterThan(9000);
    expect(Buffer.from(changed.blob)).toEqual(blob);
    expect(await channel.setRecord({ idleMs: null })).toMatchObject({ version: 3n, idleMs: null });
    await expect(channel.setRecord({ version: 1n, ttlMs: 1 })).rejects.toMatchObject({ errno: 11 });
  });

  it('connects once for all', async () => {
    const { warden, channel } = start();
    await Promise.all([channel.open(), channel.ping(), channel.list(), channel.usage()]);
    await channel.open();
    expect(warden.connects).toBe(1);
  });

  it('connects only when there is something to say', async () => {
    const { warden } = start();
    await sleep(5);
    expect(warden.connects).toBe(0);
  });

  it('sends what was asked for at once in one write', async () => {
    const warden = new FakeWarden();
    let writes = 0;
    const connect = async () => {
      const connection = await warden.connect();
      const write = connection.write.bind(connection) as (chunk: Buffer) => boolean;
      connection.write = (chunk: Buffer) => {
        writes += 1;
        return write(chunk);
      };
      return connection;
    };
    const channel = open({ connect });
    await channel.open();
    writes = 0;
    const processes = Array.from({ length: 100 }, () => channel.spawn(request(['true'])));
    await Promise.all(processes.map(({ started }) => started));
    expect(writes).toBe(1);
  });
});

describe('a connection that is cut', () => {
  it('is opened again, and what waits for an answer is asked again', async () => {
    const { warden, channel } = start();
    await channel.open();
    let cuts = 0;
    warden.intercept = ({ type }) => {
      if (type !== FrameType.usage || cuts >= 3) return false;
      cuts += 1;
      warden.cut();
      return true;
    };
    expect(await channel.usage()).toMatchObject({ processes: 3 });
    expect(warden.connects).toBe(4);
  });

  it('is not opened again while nobody waits', async () => {
    const { warden, channel } = start();
    await channel.open();
    warden.cut();
    await sleep(20);
    expect(warden.connects).toBe(1);
    await channel.ping();
    expect(warden.connects).toBe(2);
  });

  it('starts a process once, whose answer was lost', async () => {
    let starts = 0;
    const { warden, channel } = start({ once: () => void (starts += 1) });
    await channel.open();
    warden.intercept = ({ type }, tunnel) => {
      if (type !== FrameType.spawn) return false;
      warden.intercept = undefined;
      tunnel.send = () => {};
      setTimeout(() => warden.cut());
      return false;
    };
    const process = channel.spawn(request(['once']));
    expect(await process.started).toMatchObject({ existing: true });
    expect(await process.exit).toMatchObject({ exitCode: 0 });
    expect(starts).toBe(1);
  });

  it('takes a process for forgotten that is not there when it is asked again', async () => {
    const { warden, channel } = start();
    await channel.spawn(request(['true'], { id: 'f' })).exit;
    warden.intercept = ({ type }) => {
      if (type !== FrameType.forget) return false;
      warden.intercept = undefined;
      warden.processes.delete('f');
      warden.cut();
      return true;
    };
    await channel.forget('f');
    await expect(channel.forget('f')).rejects.toMatchObject({ errno: 2 });
  });

  it('waits for an engine that is away while something runs, and no longer than it is patient', async () => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['sleep', 'infinity']));
    await process.started;
    warden.refusal = new SandyardError('engine_unavailable', 'away');
    warden.cut();
    await sleep(50);
    warden.refusal = undefined;
    await channel.kill(process.id, { signal: 15, graceMs: 0 });
    expect(await process.exit).toMatchObject({ outcome: 'killed' });

    const second = channel.spawn(request(['sleep', 'infinity']));
    await second.started;
    warden.refusal = new SandyardError('engine_unavailable', 'away');
    warden.cut();
    await expect(second.exit).rejects.toMatchObject({ code: 'engine_unavailable' });
    await expect(channel.list()).rejects.toMatchObject({ code: 'engine_unavailable' });
    warden.refusal = undefined;
    expect(await channel.list()).toHaveLength(2);
  });

  it('is given up when each new one ends before anything has come', async () => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['sleep', 'infinity']));
    await process.started;
    warden.intercept = ({ type }) => {
      if (type === FrameType.attach) warden.cut();
      return type === FrameType.attach;
    };
    warden.cut();
    await expect(process.exit).rejects.toMatchObject({ code: 'channel_failed' });
    expect(warden.connects).toBeGreaterThan(10);
  });

  it('tells that the sandbox has died when it was stopped', async () => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['sleep', 'infinity']));
    await process.started;
    const waiting = channel.wait(process.id);
    warden.intercept = ({ type }) => type === FrameType.usage;
    const usage = channel.usage();
    await sleep(5);
    warden.refusal = new SandyardError('wrong_state', 'stopped');
    warden.cut();
    await expect(process.exit).rejects.toMatchObject({ code: 'sandbox_died' });
    await expect(waiting).rejects.toMatchObject({ code: 'sandbox_died' });
    await expect(usage).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(channel.spawn(request(['true'])).started).rejects.toMatchObject({ code: 'wrong_state' });
  });

  it('tells that the sandbox has died when it was started again', async () => {
    const onRestart = vi.fn();
    const { warden, channel } = start({}, { onRestart });
    const process = channel.spawn(request(['sleep', 'infinity']));
    await process.started;
    warden.restart();
    await expect(process.exit).rejects.toMatchObject({ code: 'sandbox_died' });
    expect(await channel.list()).toEqual([]);
    expect(onRestart).toHaveBeenCalledTimes(1);
  });

  it('is taken for cut when the warden stops answering', async () => {
    const { warden, channel } = start({}, { times: { ...TIMES, pingMs: 20, pongMs: 40 } });
    const process = channel.spawn(request(['sleep', '0.3']));
    await process.started;
    warden.intercept = ({ type }) => type === FrameType.ping;
    while (warden.connects < 2) await sleep(5);
    warden.intercept = undefined;
    expect(await process.exit).toMatchObject({ exitCode: 0 });
  });

  it('stays while the warden answers', async () => {
    const { warden, channel } = start({}, { times: { ...TIMES, pingMs: 10, pongMs: 40 } });
    await channel.open();
    await sleep(120);
    expect(warden.connects).toBe(1);
    expect(warden.count('ping')).toBeGreaterThan(3);
  });
});

describe('calls settle', () => {
  it('when connecting never does', async () => {
    let signal: AbortSignal | undefined;
    const connect = (options: { signal?: AbortSignal }) => {
      ({ signal } = options);
      return new Promise<Duplex>(() => {});
    };
    const channel = open({ connect });
    const process = channel.spawn(request(['true']));
    await expect(channel.list()).rejects.toMatchObject({ code: 'engine_timeout' });
    await expect(process.started).rejects.toMatchObject({ code: 'engine_timeout' });
    await expect(process.exit).rejects.toMatchObject({ code: 'engine_timeout' });
    expect(signal?.aborted).toBe(true);
  });

  it('when the connection comes too late, which is closed then', async () => {
    const late = silence();
    const channel = open({ connect: () => sleep(100, late) }, { times: { ...TIMES, connectMs: 20 } });
    await expect(channel.open()).rejects.toMatchObject({ code: 'engine_timeout' });
    await sleep(120);
    expect(late.destroyed).toBe(true);
  });

  it('when nothing ever comes from the sandbox', async () => {
    const channel = open({ connect: async () => silence() });
    await expect(channel.usage()).rejects.toMatchObject({ code: 'engine_timeout' });
  });

  it('when connecting throws what it should not', async () => {
    const connect = () => {
      throw new TypeError('oops');
    };
    await expect(open({ connect }).usage()).rejects.toMatchObject({ code: 'channel_failed' });
  });

  it('when the answer never comes, and when it comes after all, nothing happens', async () => {
    const { warden, channel } = start({}, { answerMs: 30 });
    await channel.open();
    warden.stall();
    await expect(channel.usage()).rejects.toMatchObject({
      code: 'engine_timeout',
      message: expect.stringMatching(/0\.03 s/),
    });
    await expect(channel.ping()).rejects.toMatchObject({ code: 'engine_timeout' });
    warden.resume();
    await channel.ping();
    expect(warden.connects).toBe(1);
  });

  it('when the engine goes before the answer, and is away for longer than that may take: as that', async () => {
    const { warden, channel } = start({}, { answerMs: 30 });
    await channel.open();
    warden.stall();
    const asked = channel.usage();
    warden.refusal = new SandyardError('engine_unavailable', 'away');
    warden.cut();
    await expect(asked).rejects.toMatchObject({ code: 'engine_unavailable' });
  });

  it('when the channel is closed', async () => {
    const { warden, channel } = start();
    await channel.open();
    warden.stall();
    const process = channel.spawn(request(['cat'], { stdin: true }));
    const output = process.output().next();
    const write = process.write(Buffer.alloc(2 * 1024 * 1024));
    const calls = [process.started, process.exit, output, write, channel.list(), channel.wait('x'), channel.ping()];
    await sleep(5);
    channel.close();
    channel.close();
    for (const call of calls) await expect(call).rejects.toMatchObject({ code: 'manager_closed' });
    await expect(channel.usage()).rejects.toMatchObject({ code: 'manager_closed' });
    await expect(channel.open()).rejects.toMatchObject({ code: 'manager_closed' });
    await expect(channel.spawn(request(['true'])).started).rejects.toMatchObject({ code: 'manager_closed' });
    await vi.waitFor(() => expect(warden.tunnels.size).toBe(0), { interval: 2 });
  });

  it('when the channel is closed while it connects', async () => {
    const channel = open({ connect: () => new Promise<Duplex>(() => {}) });
    const call = channel.usage();
    channel.close();
    await expect(call).rejects.toMatchObject({ code: 'manager_closed' });
  });

  it('when the caller gives up', async () => {
    const { warden, channel } = start();
    await channel.open();
    warden.stall();
    const caller = new AbortController();
    const process = channel.spawn(request(['true']), { signal: caller.signal });
    const waiting = channel.wait('x', { signal: caller.signal });
    await sleep(5);
    caller.abort(new Error('enough'));
    await expect(process.started).rejects.toMatchObject({ code: 'aborted' });
    await expect(waiting).rejects.toMatchObject({ code: 'aborted', cause: new Error('enough') });
    await expect(channel.spawn(request(['true']), { signal: caller.signal }).exit).rejects.toMatchObject({
      code: 'aborted',
    });
    await expect(channel.wait('x', { signal: caller.signal })).rejects.toMatchObject({ code: 'aborted' });
    warden.resume();
    await channel.ping();
    expect(warden.connects).toBe(1);
  });

  it('without leaving open what nobody waits for', async () => {
    const { warden, channel } = start();
    await channel.open();
    const process = channel.spawn(request(['sleep', 'infinity']));
    await process.started;
    for (let round = 0; round < 1100; round++) {
      const caller = new AbortController();
      const waiting = channel.wait(process.id, { signal: caller.signal });
      if (round % 100 === 0) await sleep(1);
      caller.abort();
      await expect(waiting).rejects.toMatchObject({ code: 'aborted' });
    }
    await channel.kill(process.id, { signal: 9, graceMs: 0 });
    expect(await process.exit).toMatchObject({ outcome: 'killed' });
    expect(warden.connects).toBeLessThan(4);
  });
});

describe('a sandbox that does not keep to the protocol', () => {
  const hostile: [name: string, bytes: Buffer][] = [
    ['a frame that is too long', Buffer.from('ffffffff4300000000', 'hex')],
    ['a frame one byte too long', Buffer.from('4100010043000000ff', 'hex')],
    ['an unknown type', frame(0x99, 0)],
    ['an unknown type on a stream', frame(0x99, 1)],
    ['a second greeting', answer.hello(Buffer.alloc(16))],
    ['an unknown stream', answer.done(77)],
    ['an answer that was not asked for', answer.pong(99n)],
    ['a payload that is too short', frame(FrameType.pong, 0, Buffer.alloc(7))],
    ['a payload that is too long', frame(FrameType.pong, 0, Buffer.alloc(9))],
    ['an absurd number', answer.lost(1, 1, Number.MAX_SAFE_INTEGER + 1)],
    ['output that skips', answer.output(1, { seq: 2, stream: 1, data: Buffer.from('x') })],
    ['output of no stream', frame(FrameType.output, 1, u64(1), Buffer.from([3, 1]))],
    ['empty output', frame(FrameType.output, 1, u64(1), Buffer.from([1]))],
    ['a loss that skips', answer.lost(1, 5, 6)],
    ['a loss backwards', answer.lost(1, 3, 1)],
    [
      'a second start',
      answer.started(1, { existing: true, pid: 1, firstSeq: 1, lastSeq: 0, stdinOffset: 0, startMs: 0 }),
    ],
    ['an end that leaves output out', answer.exit(1, { lastSeq: 4, outcome: 1, exitCode: 0 })],
    ['an outcome that there is not', answer.exit(1, { lastSeq: 0, outcome: 7 })],
    ['an exit code that there is not', answer.exit(1, { lastSeq: 0, outcome: 1, exitCode: 256 })],
    ['an error after the start', answer.error(1, { errno: 1, stage: 0, text: '' })],
    ['an answer of another kind', answer.done(1)],
    ['a list that was not asked for', frame(FrameType.listed, 1)],
    ['noise', Buffer.from('the quick brown fox jumps over the lazy dog')],
  ];

  it.each(hostile)('is left at once: %s', async (_name, bytes) => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['sleep', 'infinity']));
    await process.started;
    const waiting = channel.wait(process.id);
    const output = process.output().next();
    await sleep(1);
    warden.sendRaw(bytes);
    const failed = { code: 'channel_failed', hint: expect.stringMatching(/./) };
    await expect(process.exit).rejects.toMatchObject(failed);
    await expect(output).rejects.toMatchObject(failed);
    await expect(waiting).rejects.toMatchObject(failed);
    await vi.waitFor(() => expect(warden.tunnels.size).toBe(0), { interval: 2 });
    expect(await channel.list()).toHaveLength(1); // on another
  });

  it('is left when it sends more than was asked for', async () => {
    const { warden, channel } = start({}, { windowBytes: 128 * 1024 });
    const process = channel.spawn(request(['sleep', 'infinity']));
    await process.started;
    for (let seq = 1; seq < 10; seq++) warden.sendRaw(answer.output(1, { seq, stream: 1, data: Buffer.alloc(65_536) }));
    await expect(process.exit).rejects.toMatchObject({ code: 'channel_failed' });
  });

  it('is left when it lists no end of processes', async () => {
    const { warden, channel } = start();
    await channel.spawn(request(['true'], { id: 'x'.repeat(64) })).exit;
    warden.intercept = ({ type, stream }, tunnel) => {
      if (type !== FrameType.list) return false;
      const one = Buffer.concat([Buffer.from(`40000000${'78'.repeat(64)}`, 'hex'), Buffer.alloc(49)]);
      const many = Buffer.concat(Array.from({ length: 1000 }, () => frame(FrameType.listed, stream, one)));
      for (let sent = 0; sent <= 150; sent++) tunnel.send(many);
      return true;
    };
    await expect(channel.list()).rejects.toMatchObject({
      code: 'channel_failed',
      message: expect.stringMatching(/no end/),
    });
  });

  it('is told what it says itself, in one harmless line', async () => {
    const { warden, channel } = start();
    await channel.open();
    warden.intercept = (_frame, tunnel) => {
      tunnel.fault(`bad\n\u001b[31m\u202e${'x'.repeat(1000)}`);
      return true;
    };
    const error: unknown = await channel.usage().catch((error: unknown) => error);
    expect(error).toMatchObject({ code: 'channel_failed' });
    const { message } = error as Error;
    expect(message).toContain('bad\\u{a}\\u{1b}[31m\\u{202e}xxx');
    expect(message.length).toBeLessThan(500);
  });

  it('is told apart when it is of another version', async () => {
    const { warden, channel } = start();
    warden.version = 2;
    await expect(channel.usage()).rejects.toMatchObject({
      code: 'channel_failed',
      message: expect.stringMatching(/version 2/),
    });
  });

  it.each([
    ['something else', Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')],
    ['another frame', answer.done(1)],
    ['another magic number', frame(FrameType.helloBack, 0, Buffer.alloc(26))],
  ])('is left when it greets with %s', async (_name, bytes) => {
    const connect = async () => {
      const connection = silence();
      connection.push(bytes);
      return connection;
    };
    await expect(open({ connect }).usage()).rejects.toMatchObject({ code: 'channel_failed' });
  });

  it('may still send what it had sent when we let go of a process', async () => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['sleep', 'infinity']));
    await process.started;
    const asked = [channel.ping(), channel.ping(), channel.ping()]; // their answers say nothing of what is sent now
    process.detach();
    await Promise.all(asked);
    warden.sendRaw(answer.output(1, { seq: 1, stream: 1, data: Buffer.from('late') }));
    await channel.ping();
    expect(warden.connects).toBe(1);
    warden.sendRaw(answer.output(1, { seq: 2, stream: 1, data: Buffer.from('too late') }));
    await channel.ping();
    expect(warden.connects).toBe(2);
  });
});

describe('what is asked for', () => {
  it.each([
    ['an id with a slash', { id: 'a/b' }],
    ['an empty id', { id: '' }],
    ['an id that is too long', { id: 'x'.repeat(65) }],
    ['too much', { env: [`A=${'x'.repeat(5 * 1024 * 1024)}`] }],
  ])('is refused when it is %s', async (_name, more) => {
    const { warden, channel } = start();
    const process = channel.spawn(request(['true'], more));
    await expect(process.started).rejects.toMatchObject({ code: 'validation_failed' });
    await expect(process.output().next()).rejects.toMatchObject({ code: 'validation_failed' });
    expect(warden.connects).toBe(0);
  });

  it('may take several frames', async () => {
    const { warden, channel } = start();
    const env = Array.from({ length: 1000 }, (_, index) => `V${index}=${'x'.repeat(1000)}`);
    const process = channel.spawn(request(['true'], { id: 'large', env }));
    expect(await process.exit).toMatchObject({ exitCode: 0 });
    expect(warden.processes.get('large')?.env).toEqual(env);
  });

  it('gets to the warden as it is', async () => {
    const { warden, channel } = start();
    const more = {
      stdin: true,
      text: true,
      runUnread: true,
      nofile: 77,
      timeoutMs: 5000.5,
      maxOutputBytes: 3,
      cwd: '/é',
    };
    await channel.spawn(request(['true'], { ...more, id: 'all', env: ['A=b'], tty: { rows: 3, columns: 4 } })).exit;
    expect(warden.processes.get('all')?.request).toMatchObject({
      id: 'all',
      cwd: '/é',
      argv: ['true'],
      env: ['A=b'],
      uid: 1000,
      gid: 1000,
      timeoutMs: 5001,
      graceMs: 100,
      flags: 15,
      limit: 3n,
      rows: 3,
      columns: 4,
      limits: [{ resource: 7, soft: 77n, hard: 77n }],
    });
  });
});

describe('a connection that is given up', () => {
  it('is opened anew for what waits, and what runs is read on', async () => {
    const { warden, channel } = start();
    const running = channel.spawn(request(['sleep', 'infinity'], { id: 'a' }));
    await running.started;
    warden.intercept = ({ type }) => type === FrameType.usage; // answered on the next connection
    const waiting = channel.usage();
    await vi.waitFor(() => expect(warden.count('usage')).toBe(1));
    warden.intercept = undefined;
    channel.cut();
    expect((await waiting).processes).toBe(3);
    expect([warden.connects, warden.tunnels.size]).toEqual([2, 1]);
    await channel.kill('a', { signal: 9, graceMs: 0 });
    expect(await running.exit).toMatchObject({ outcome: 'killed' });
  });

  it('stays away while nobody waits, and nothing comes of giving it up again', async () => {
    const { warden, channel } = start();
    channel.cut();
    await channel.usage();
    channel.cut();
    channel.cut();
    await vi.waitFor(() => expect(warden.tunnels.size).toBe(0));
    expect(warden.connects).toBe(1);
    await channel.usage();
    expect(warden.connects).toBe(2);
    channel.close();
    channel.cut();
    await expect(channel.usage()).rejects.toMatchObject({ code: 'manager_closed' });
  });
});

describe('a sandbox that is paused', () => {
  const paused = new SandyardError('wrong_state', 'It is paused.', { details: { state: 'paused' } });

  async function pause() {
    const started = start();
    const running = started.channel.spawn(request(['sleep', 'infinity'], { id: 'a' }));
    await running.started;
    started.warden.stall();
    started.warden.refusal = paused;
    return { ...started, running };
  }

  it('refuses what is asked of it, also what was sent already, and keeps what runs', async () => {
    const { warden, channel, running } = await pause();
    const [sent, waits] = [channel.usage(), channel.wait('a')];
    sent.catch(() => {});
    channel.cut();
    await expect(sent).rejects.toBe(paused);
    await expect(channel.usage()).rejects.toBe(paused);
    await expect(channel.spawn(request(['true'])).started).rejects.toBe(paused);
    await sleep(2 * TIMES.patienceMs);
    warden.refusal = undefined;
    warden.resume();
    await channel.kill('a', { signal: 9, graceMs: 0 });
    expect(await running.exit).toMatchObject({ outcome: 'killed' });
    expect(await waits).toMatchObject({ outcome: 'killed' });
  });

  it('and is stopped then has ended what ran', async () => {
    const { warden, channel, running } = await pause();
    channel.cut();
    await sleep(5);
    warden.refusal = new SandyardError('wrong_state', 'It does not run.');
    await expect(running.exit).rejects.toMatchObject({ code: 'sandbox_died' });
  });

  it('is not asked again and again when nothing of it runs', async () => {
    const { warden, channel } = start();
    await channel.usage();
    const connect = vi.spyOn(warden, 'connect');
    warden.refusal = paused;
    channel.cut();
    await expect(channel.usage()).rejects.toBe(paused);
    await sleep(30);
    expect(connect.mock.calls.length).toBeLessThanOrEqual(1);
  });

  it('keeps nothing when the channel is closed', async () => {
    const { channel, running } = await pause();
    channel.cut();
    await sleep(5);
    channel.close();
    await expect(running.exit).rejects.toMatchObject({ code: 'manager_closed' });
  });
});
