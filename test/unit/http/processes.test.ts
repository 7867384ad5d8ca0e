import { request as httpRequest } from 'node:http';
import { describe, expect, test, vi } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { ProcessInputs } from '../../../src/http/process-inputs.js';
import type { Sandbox } from '../../../src/index.js';
import { JSON_TYPE, post, runApp, send, until, type RunningApp } from './harness.js';
import { StubManager } from './stub-manager.js';
import { exitOf } from './stub-processes.js';

const PROCESSES = '/api/sandboxes/sb1/processes';
const NDJSON = 'application/x-ndjson';

/** A process that goes on until a test ends it, under the id `p1`. */
async function start(app: RunningApp, body: object = {}) {
  app.stub.script = { chunks: [], hangs: true };
  const answer = await post(app, PROCESSES, { command: ['serve'], ...body });
  return { answer, process: app.stub.latest };
}

const lines = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe('starting a process', () => {
  test('answers what it is, and where', async () => {
    await using app = await runApp();
    const { answer, process } = await start(app);
    expect(answer.status).toBe(201);
    expect(answer.headers.location).toBe(`${PROCESSES}/p1`);
    const described = {
      id: 'p1',
      pid: 1,
      command: ['serve'],
      state: 'running',
      outcome: null,
      exit_code: null,
      signal: null,
      started_at: '2026-01-01T00:00:02.000Z',
      pty: false,
      first_seq: 1,
      last_seq: 0,
      readers: 0,
    };
    expect(answer.json).toEqual(described);
    expect((await send(app, `${PROCESSES}/p1`)).json).toEqual(described);
    expect((await send(app, PROCESSES)).json).toEqual({ processes: [described] });
    expect(app.stub.calls.at(-1)?.args).toEqual([['serve'], { whenUnread: 'run', text: true }]);
    expect(process.held).toBe(0);
  });

  test('every field of the body reaches the library, in its words', async () => {
    await using app = await runApp();
    const common = { env: { A: 'b' }, user: '1001', id: 'My_1.x-y' };
    const rest = {
      workdir: '/srv',
      timeout: 1.5,
      pty: { rows: 30, columns: 100 },
      when_unread: 'wait',
      stdin_open: true,
    };
    const { answer } = await start(app, { ...common, ...rest });
    expect(answer.json).toMatchObject({ id: 'My_1.x-y', pty: true });
    expect(app.stub.calls.at(-1)?.args[1]).toEqual({
      ...common,
      cwd: '/srv',
      timeoutMs: 1500,
      pty: { rows: 30, columns: 100 },
      whenUnread: 'wait',
      stdin: 'pipe',
      text: true,
    });
  });

  test('under an id that is in use, nothing is started', async () => {
    await using app = await runApp();
    const body = { command: ['serve'], id: 'mine', stdin: 'once' };
    app.stub.script = { chunks: [], hangs: true };
    expect((await post(app, PROCESSES, body)).status).toBe(201);
    const again = await post(app, PROCESSES, { ...body, command: ['other'] });
    expect([again.status, again.headers.location]).toEqual([200, `${PROCESSES}/mine`]);
    expect(again.json).toMatchObject({ id: 'mine', command: ['serve'] });
    expect(app.stub.latest.input).toBe('once');
  });

  test.each([
    { body: { stdin: 'pipe' }, input: 'pipe', ended: true },
    { body: { stdin: 'a', stdin_open: true }, input: 'a', ended: false },
    { body: { stdin: 'a', pty: true }, input: 'a', ended: false },
    { body: { stdin_open: true }, input: '', ended: false },
    { body: { pty: false }, input: '', ended: false },
  ])('$body: it reads "$input", and then its end: $ended', async ({ body, input, ended }) => {
    await using app = await runApp();
    const { process } = await start(app, body);
    expect([process.input, process.inputEnded]).toEqual([input, ended]);
  });

  test('a client that hangs up before the answer leaves nothing behind', async () => {
    await using app = await runApp();
    const client = new AbortController();
    const body = JSON.stringify({ command: ['slow-start'] });
    const init = { method: 'POST', headers: JSON_TYPE, body, signal: client.signal };
    const pending = fetch(`${app.url}${PROCESSES}`, init);
    await until(() => app.stub.calls.at(-1)?.call === 'spawn');
    client.abort();
    await expect(pending).rejects.toThrow();
    await until(() => app.stub.aborted.includes('spawn'));
  });

  test('one that hangs up after it does not end it', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    app.calls.abandon();
    expect([process.result, app.stub.aborted]).toEqual([undefined, []]);
  });
});

describe('the output of a process', () => {
  test('follows it to its end', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    process.print('one\n');
    const pending = send(app, `${PROCESSES}/p1/output`);
    await until(() => process.readers === 1);
    process.print('two\n', 'stderr');
    process.end(exitOf(0));
    const { status, headers, text } = await pending;
    expect([status, headers['content-type']]).toEqual([200, `${NDJSON}; charset=utf-8`]);
    expect(lines(text)).toMatchObject([
      { type: 'output', seq: 1, stream: 'stdout', data: 'one\n' },
      { type: 'output', seq: 2, stream: 'stderr', data: 'two\n' },
      { type: 'exit', exit_code: 0, outcome: 'exited' },
    ]);
    expect(process.held).toBe(0);
  });

  test('goes on after a number, of the query or of Last-Event-ID, which is the newer', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    for (const text of ['a', 'b', 'c']) process.print(text);
    process.end(exitOf(0));
    const seqs = async (query: string, headers = {}) => {
      const answer = await send(app, `${PROCESSES}/p1/output${query}`, { headers });
      return lines(answer.text).flatMap(({ seq }) => (seq === undefined ? [] : [seq]));
    };
    expect(await seqs('')).toEqual([1, 2, 3]);
    expect(await seqs('?after=1')).toEqual([2, 3]);
    expect(await seqs('?after=1', { 'Last-Event-ID': '2' })).toEqual([3]);
    expect(await seqs('?after=3')).toEqual([]);
    const wrong = await send(app, `${PROCESSES}/p1/output`, { headers: { 'Last-Event-ID': 'x' } });
    expect([wrong.status, wrong.json['code']]).toEqual([400, 'invalid_request']);
  });

  test('as server-sent events has ids to go on after', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    process.print('a');
    process.end(exitOf(0));
    const { text } = await send(app, `${PROCESSES}/p1/output`, { headers: { Accept: 'text/event-stream' } });
    expect(text).toMatch(/^id: 1\nevent: output\ndata: \{.*\}\n\nevent: exit\ndata: \{.*\}\n\n$/);
  });

  test('with follow=false is what there is', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    const path = `${PROCESSES}/p1/output?follow=false`;
    expect(lines((await send(app, path)).text)).toEqual([{ type: 'end', seq: 0 }]);
    process.print('a');
    process.print('b');
    expect(lines((await send(app, path)).text)).toMatchObject([{ seq: 1 }, { seq: 2 }, { type: 'end', seq: 2 }]);
    expect(lines((await send(app, `${path}&after=2`)).text)).toEqual([{ type: 'end', seq: 2 }]);
    process.end(exitOf(0));
    expect(lines((await send(app, `${path}&after=1`)).text)).toMatchObject([{ seq: 2 }, { type: 'exit' }]);
    expect([process.held, process.readers]).toEqual([0, 0]);
  });

  test('that is lost is a 410 that says from where on there is some', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    for (const text of ['a', 'b', 'c']) process.print(text);
    process.lose(2);
    const lost = await send(app, `${PROCESSES}/p1/output?after=1`);
    expect(lost.status).toBe(410);
    expect(lost.json).toMatchObject({ code: 'output_lost', first_seq: 3, hint: 'Go on after 2.' });
    expect(lines((await send(app, `${PROCESSES}/p1/output?after=2&follow=false`)).text)).toMatchObject([
      { seq: 3, data: 'c' },
      { type: 'end' },
    ]);
  });

  test('a fault in the middle is the last event', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    process.print('a');
    const pending = send(app, `${PROCESSES}/p1/output`);
    await until(() => process.readers === 1);
    process.fail(new SandyardError('output_lost', 'Lost.', { details: { firstSeq: 9 } }));
    expect(lines((await pending).text).at(-1)).toMatchObject({
      type: 'error',
      problem: { code: 'output_lost', first_seq: 9 },
    });
  });

  test('a reader that hangs up ends nothing but its reading', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    process.print('a');
    const client = new AbortController();
    const answer = await fetch(`${app.url}${PROCESSES}/p1/output`, { signal: client.signal });
    await answer.body?.getReader().read();
    expect(process.readers).toBe(1);
    client.abort();
    await until(() => process.readers === 0 && process.held === 0);
    expect([process.result, process.kills]).toEqual([undefined, []]);
  });

  test('when the service drains, a reader is told why it ends; the process runs on', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    process.print('a');
    const pending = send(app, `${PROCESSES}/p1/output`);
    await until(() => process.readers === 1);
    app.calls.drain();
    expect(lines((await pending).text).at(-1)).toMatchObject({ problem: { code: 'manager_closed' } });
    await until(() => process.held === 0);
    expect(process.result).toBeUndefined();
  });
});

describe('waiting for a process', () => {
  test('answers how it ended', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    const pending = send(app, `${PROCESSES}/p1/wait`);
    await until(() => process.held === 1);
    process.end(exitOf(null, { outcome: 'oom_killed', signal: 'SIGKILL' }));
    expect(await pending).toMatchObject({
      status: 200,
      json: { exit_code: null, outcome: 'oom_killed', signal: 'SIGKILL', usage: { user_seconds: 0.005 } },
    });
    expect(process.held).toBe(0);
  });

  test('is 204 when it still runs at the timeout', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    const answer = await send(app, `${PROCESSES}/p1/wait?timeout=0.05`);
    expect([answer.status, answer.text, process.held]).toEqual([204, '', 0]);
    expect((await send(app, `${PROCESSES}/p1/wait?timeout=0`)).status).toBe(422);
  });

  test('ends when the service does', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    const pending = send(app, `${PROCESSES}/p1/wait`);
    await until(() => process.held === 1);
    app.calls.drain();
    expect(await pending).toMatchObject({ status: 503, json: { code: 'manager_closed' } });
  });

  test('tells of a process that died with its sandbox', async () => {
    await using app = await runApp();
    const { process } = await start(app);
    process.end(exitOf(null, { outcome: 'sandbox_died', usage: null }));
    expect((await send(app, `${PROCESSES}/p1/wait`)).json).toMatchObject({ outcome: 'sandbox_died', usage: null });
  });
});

describe('what is done to a process', () => {
  test('signal, kill, resize, delete', async () => {
    await using app = await runApp();
    const { process } = await start(app, { pty: true });
    expect((await post(app, `${PROCESSES}/p1/signal`, { signal: 'SIGUSR1' })).status).toBe(204);
    expect(process.signals).toEqual(['SIGUSR1']);
    expect((await post(app, `${PROCESSES}/p1/resize`, { rows: 50, columns: 200 })).status).toBe(204);
    expect(process.sizes).toEqual([{ rows: 50, columns: 200 }]);
    expect((await post(app, `${PROCESSES}/p1/kill`, { signal: 'SIGINT', grace: 0.5 })).status).toBe(204);
    expect((await send(app, `${PROCESSES}/p1/kill`, { method: 'POST' })).status).toBe(204);
    expect((await send(app, `${PROCESSES}/p1`, { method: 'DELETE' })).status).toBe(204);
    expect(process.kills).toEqual([['SIGINT', { graceMs: 500 }], [undefined, {}], []]);
    expect((await send(app, `${PROCESSES}/p1`)).json).toMatchObject({ code: 'process_not_found' });
  });

  test('its input streams, and ends only when that is asked for', async () => {
    await using app = await runApp();
    const { process } = await start(app, { stdin_open: true });
    const stdin = `${PROCESSES}/p1/stdin`;
    expect((await send(app, stdin, { method: 'POST', body: 'one\n' })).status).toBe(204);
    expect([process.input, process.inputEnded]).toEqual(['one\n', false]);
    const request = httpRequest({ port: app.port, path: `${stdin}?close=true`, method: 'POST', agent: false });
    const answered = new Promise((resolve) => {
      request.once('response', (response) => resolve(response.statusCode));
    });
    request.write('two\n');
    await until(() => process.input === 'one\ntwo\n');
    request.end('three\n');
    expect(await answered).toBe(204);
    expect([process.input, process.inputEnded]).toEqual(['one\ntwo\nthree\n', true]);
  });

  test('its input is taken no faster than it reads', async () => {
    await using app = await runApp();
    const { process } = await start(app, { stdin_open: true });
    let open = () => {};
    process.inputGate = new Promise<void>((resolve) => (open = resolve));
    const path = `${PROCESSES}/p1/stdin`;
    const request = httpRequest({ port: app.port, path, method: 'POST', agent: false });
    const answered = new Promise((resolve) => {
      request.once('response', (response) => resolve(response.statusCode));
    });
    request.flushHeaders();
    const chunk = Buffer.alloc(64 * 1024);
    let sent = 0;
    while (request.write(chunk) || sent < 100) sent += 1;
    await new Promise((resolve) => {
      setTimeout(resolve, 200);
    });
    expect(request.writableLength).toBeGreaterThan(0);
    open();
    request.end();
    expect(await answered).toBe(204);
    expect(process.input.length).toBe((sent + 1) * chunk.length);
  });

  test('two clients that write at once take turns over one handle', async () => {
    await using app = await runApp();
    const { process } = await start(app, { stdin_open: true });
    let open = () => {};
    process.inputGate = new Promise<void>((resolve) => (open = resolve));
    const write = (body: string) => send(app, `${PROCESSES}/p1/stdin`, { method: 'POST', body });
    const both = Promise.all([write('a'), write('b')]);
    await until(() => process.held === 1);
    open();
    expect((await both).map(({ status }) => status)).toEqual([204, 204]);
    expect([process.input.length, process.held]).toEqual([2, 1]);
  });

  test('a process that reads no more is a 409', async () => {
    await using app = await runApp();
    const { process } = await start(app, { stdin_open: true });
    process.end(exitOf(0));
    const answer = await send(app, `${PROCESSES}/p1/stdin`, { method: 'POST', body: 'x' });
    expect([answer.status, answer.json['code']]).toEqual([409, 'wrong_state']);
  });
});

describe('the input of processes', () => {
  test('is let go of a while after its last client, and is found again when it is another process', async () => {
    const stub = new StubManager();
    stub.script = { chunks: [], hangs: true };
    const sandbox = (await stub.create({})) as unknown as Sandbox;
    const inputs = new ProcessInputs({ lingerMs: 50 });
    const spawn = async () => {
      (await sandbox.spawn('cat', { id: 'p' })).detach();
      return stub.latest;
    };
    const old = await spawn();
    const [one, two] = [inputs.acquire(sandbox, 'p'), inputs.acquire(sandbox, 'p')];
    await Promise.all([one.write(Buffer.from('a')), two.write(Buffer.from('b'))]);
    one.release();
    one.release();
    old.end(exitOf(0));
    await sandbox.processes.forget('p');
    const other = await spawn();
    await two.write(Buffer.from('c'));
    expect([old.input, other.input, old.held, other.held]).toEqual(['ab', 'c', 0, 1]);
    two.release();
    expect(other.held).toBe(1);
    await until(() => other.held === 0);
  });

  test('whose process is not there is said to each who writes', async () => {
    const stub = new StubManager();
    const inputs = new ProcessInputs({ lingerMs: 0 });
    const input = inputs.acquire((await stub.create({})) as unknown as Sandbox, 'nope');
    for (const _ of [1, 2]) {
      await expect(input.write(Buffer.from('x'))).rejects.toMatchObject({ code: 'process_not_found' });
    }
    input.release();
  });
});

describe('a slow reader', () => {
  test('makes the source wait', async () => {
    await using app = await runApp();
    let produced = 0;
    const chunks = {
      *[Symbol.iterator]() {
        for (; produced < 2000; produced += 1) yield { stream: 'stdout' as const, data: Buffer.alloc(100_000, 'x') };
      },
    };
    app.stub.script = { chunks };
    await post(app, PROCESSES, { command: ['yes'] });
    const request = httpRequest({ port: app.port, path: `${PROCESSES}/p1/output`, agent: false }).end();
    await new Promise((resolve) => {
      request.once('response', (response) => resolve(response.pause()));
    });
    const settle = () => new Promise((resolve) => setTimeout(resolve, 300));
    await settle();
    const before = produced;
    await settle();
    expect(produced).toBe(before);
    expect(produced).toBeLessThan(300);
    request.destroy();
    await until(() => app.stub.latest.readers === 0);
  });

  test('NDJSON has a line every 15 s', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    try {
      await using app = await runApp();
      await start(app);
      const reader = (await fetch(`${app.url}${PROCESSES}/p1/output`)).body?.getReader();
      vi.advanceTimersByTime(15_000);
      expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toBe('{"type":"heartbeat"}\n');
      await reader?.cancel();
    } finally {
      vi.useRealTimers();
    }
  });
});
