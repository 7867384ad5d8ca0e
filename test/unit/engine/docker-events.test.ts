import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { DockerEngine } from '../../../src/engine/docker-engine.js';
import type { ContainerEvent } from '../../../src/engine/engine.js';
import { answers, FakeDaemon } from '../../fixtures/fake-daemon.js';

let daemon: FakeDaemon;
let engine: DockerEngine;
/** The answers to those who watch. */
let streams: ServerResponse[];

beforeEach(async () => {
  daemon = await FakeDaemon.make();
  streams = [];
  daemon.handler = answers({
    'GET /info': [200, { SystemTime: '2026-01-01T00:00:00.123456789Z' }],
    'GET /events': ({ response }) => {
      response.writeHead(200).flushHeaders();
      streams.push(response);
    },
  });
  await daemon.listen();
  engine = new DockerEngine({ env: daemon.env });
});
afterEach(async () => {
  engine.close();
  await daemon[Symbol.asyncDispose]();
});

function told(action: string, { attributes = {}, ...more }: { attributes?: object; [field: string]: unknown } = {}) {
  const Attributes = { image: 'x', name: 'box', 'sandyard.id': 'a', ...attributes };
  const timeNano = 1767225600123456800;
  return { Type: 'container', Action: action, Actor: { ID: 'c1', Attributes }, time: 1767225600, timeNano, ...more };
}

/** What is read of one stream, and what it ended with. */
function watch({ signal }: { signal?: AbortSignal } = {}) {
  const events: ContainerEvent[] = [];
  let ready = () => {};
  const isReady = new Promise<void>((resolve) => {
    ready = resolve;
  });
  const ended = (async () => {
    try {
      for await (const event of engine.watchContainers(['a', 'b=c'], { signal, ready })) events.push(event);
      return undefined;
    } catch (error) {
      return error;
    }
  })();
  return { events, isReady, ended };
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await sleep(5);
}

it('asks for what happens to containers with the labels, since before it asked', async () => {
  const { isReady } = watch();
  await isReady;
  const query = new URLSearchParams(daemon.requests.at(-1)?.path.split('?')[1]);
  expect(JSON.parse(query.get('filters') ?? '')).toEqual({
    type: ['container'],
    label: ['a', 'b=c'],
    event: ['create', 'start', 'die', 'oom', 'pause', 'unpause', 'rename', 'destroy'],
  });
  expect(query.get('since')).toBe('1767225600.123');
  expect([...query.keys()].toSorted()).toEqual(['filters', 'since']);
});

describe('an event', () => {
  async function read(...given: unknown[]): Promise<ContainerEvent[]> {
    const { events, isReady, ended } = watch();
    await isReady;
    streams[0]?.end(given.map((event) => `${JSON.stringify(event)}\n`).join(''));
    expect(await ended).toMatchObject({ code: 'engine_unavailable' });
    return events;
  }

  it('has its container, by the name that it has now, with its labels alone', async () => {
    const events = await read(
      told('create'),
      told('die', { attributes: { exitCode: '137', execDuration: '3' } }),
      told('rename', { attributes: { name: '/bax', oldName: '/box' } }),
    );
    const common = { id: 'c1', image: 'x', labels: { 'sandyard.id': 'a' }, at: new Date('2026-01-01T00:00:00.123Z') };
    expect(events).toEqual([
      { ...common, action: 'create', name: 'box', exitCode: undefined },
      { ...common, action: 'die', name: 'box', exitCode: 137 },
      { ...common, action: 'rename', name: 'bax', exitCode: undefined },
    ]);
  });

  it('is left out when it is of another kind', async () => {
    const others = ['exec_create: sh -c true', 'exec_die', 'health_status: healthy', 'kill', 'update', 'tomorrows'];
    const volume = told('create', { Type: 'volume' });
    const events = await read(...others.map((action) => told(action)), volume, { status: 'pull' }, told('start'));
    expect(events.map(({ action }) => action)).toEqual(['start']);
  });

  it('has a time where the engine gives no more than seconds', async () => {
    expect(await read(told('start', { timeNano: undefined }))).toMatchObject([
      { at: new Date('2026-01-01T00:00:00Z') },
    ]);
  });

  it('is read whole however it is cut, and whatever its letters', async () => {
    const { events, isReady, ended } = watch();
    await isReady;
    const bytes = Buffer.from(
      ['α', '🙂'].map((label) => `${JSON.stringify(told('start', { attributes: { label } }))}\r\n`).join('\n'),
    );
    for (let at = 0; at < bytes.length; at += 7) {
      streams[0]?.write(bytes.subarray(at, at + 7));
      if (at % 70 === 0) await sleep(0);
    }
    streams[0]?.end();
    await ended;
    expect(events.map(({ labels }) => labels['label'])).toEqual(['α', '🙂']);
  });
});

describe('the stream', () => {
  it.each([
    ['no JSON', 'hello\n'],
    ['no object', '7\n'],
    ['null', 'null\n'],
    ['no container', `${JSON.stringify(told('start', { Actor: {} }))}\n`],
    ['attributes that are none', `${JSON.stringify(told('start', { Actor: { ID: 'c1', Attributes: 7 } }))}\n`],
    ['no time', `${JSON.stringify(told('start', { timeNano: undefined, time: 'soon' }))}\n`],
    ['a line without end', 'x'.repeat(1024 * 1024 + 1)],
    ['a line that is too long', `${JSON.stringify(told('start', { attributes: { a: 'x'.repeat(1024 * 1024) } }))}\n`],
  ])('ends with engine_error at %s, and the connection with it', async (_, text) => {
    const { isReady, ended } = watch();
    await isReady;
    streams[0]?.write(text);
    expect(await ended).toMatchObject({ code: 'engine_error' });
    await until(() => streams[0]?.destroyed === true);
  });

  it('ends with engine_unavailable where the engine is killed, even within an event', async () => {
    const { events, isReady, ended } = watch();
    await isReady;
    streams[0]?.write(`${JSON.stringify(told('start'))}\n{"Type":`);
    await until(() => events.length === 1);
    await daemon.stop();
    expect(await ended).toMatchObject({ code: 'engine_unavailable', retryable: true });
  });

  it.each([
    [500, 'engine_error'],
    [200, 'engine_unavailable'],
  ])('is told apart when it never begins: status %d', async (status, code) => {
    const table = { 'GET /info': [200, {}] as [number, object] };
    daemon.handler = answers({ ...table, 'GET /events': [status, status === 200 ? undefined : { message: 'no' }] });
    expect(await watch().ended).toMatchObject({ code });
  });

  it('is given up before it begins, and in between', async () => {
    expect(await watch({ signal: AbortSignal.abort() }).ended).toMatchObject({ code: 'aborted' });
    const caller = new AbortController();
    const { isReady, ended } = watch({ signal: caller.signal });
    await isReady;
    caller.abort();
    expect(await ended).toMatchObject({ code: 'aborted' });
    await until(() => streams[0]?.destroyed === true);
  });

  it('is given up while the engine does not answer', async () => {
    const caller = new AbortController();
    daemon.handler = answers({ 'GET /info': [200, {}], 'GET /events': () => {} });
    const { ended } = watch({ signal: caller.signal });
    await until(() => daemon.count('GET /events') === 1);
    caller.abort();
    expect(await ended).toMatchObject({ code: 'aborted' });
  });

  it('leaves no connection behind when its reader has enough', async () => {
    for (let round = 0; round < 3; round += 1) {
      const events = engine.watchContainers([], {
        ready: () => streams.at(-1)?.write(`${JSON.stringify(told('start'))}\n`),
      });
      for await (const { action } of events) {
        expect(action).toBe('start');
        break;
      }
      await until(() => streams.at(-1)?.destroyed === true);
    }
    expect(streams).toHaveLength(3);
    expect(daemon.connections).toBeLessThanOrEqual(1); // the one that is kept for the next call
  });

  it('waits for a reader that is slow, and loses nothing', async () => {
    const count = 5000;
    const names: string[] = [];
    const events = engine.watchContainers([], {
      ready: () => {
        for (let i = 0; i < count; i += 1) {
          streams[0]?.write(
            `${JSON.stringify(told('start', { attributes: { name: `box-${i}`, pad: 'x'.repeat(500) } }))}\n`,
          );
        }
      },
    });
    for await (const { name } of events) {
      if (names.length === 0) {
        await sleep(50);
        expect(streams[0]?.writableLength).toBeGreaterThan(0);
      }
      names.push(name);
      if (names.length === count) break;
    }
    expect(names).toEqual(Array.from({ length: count }, (_, index) => `box-${index}`));
  });
});
