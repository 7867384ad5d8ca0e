import { request as httpRequest } from 'node:http';
import { array, assert, asyncProperty, uint8Array } from 'fast-check';
import { describe, expect, test, vi } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { JSON_TYPE, post, runApp, send, until, type RunningApp } from './harness.js';

const EXECUTE = '/api/sandboxes/sb1/execute';
const BODY = { command: ['node', '--version'], workdir: '/workspace' };
const NDJSON = 'application/x-ndjson';
const SSE = 'text/event-stream';

interface Event {
  readonly type: string;
  readonly seq?: number;
  readonly data?: string;
  readonly data_base64?: string;
  readonly stream?: string;
  readonly problem?: { code: string };
}

const out = (data: string | Uint8Array) => ({ stream: 'stdout' as const, data: Buffer.from(data as string) });
const err = (data: string | Uint8Array) => ({ stream: 'stderr' as const, data: Buffer.from(data as string) });

async function streamed(app: RunningApp, accept: string): Promise<{ text: string; type: string; status: number }> {
  const headers = { ...JSON_TYPE, Accept: accept };
  const answer = await send(app, EXECUTE, { method: 'POST', headers, body: JSON.stringify(BODY) });
  return { text: answer.text, type: answer.headers['content-type'] ?? '', status: answer.status };
}

async function events(app: RunningApp): Promise<Event[]> {
  const { text } = await streamed(app, NDJSON);
  expect(text.endsWith('\n')).toBe(true);
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Event);
}

describe('execute, plain', () => {
  test('answers how it ended and what it printed', async () => {
    await using app = await runApp();
    const answer = await post(app, EXECUTE, BODY);
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({
      exit_code: 0,
      stdout: 'v20.20.2\n',
      stderr: '',
      execution_time: 0.0125,
      outcome: 'exited',
      died_of: null,
      signal: null,
      truncated: false,
      dropped_bytes: { stdout: 0, stderr: 0 },
      processes_left: false,
    });
    expect(app.stub.calls.at(-1)).toEqual({ call: 'exec', args: [BODY.command, { cwd: '/workspace' }] });
  });

  test('every field of the body reaches the library, in its words', async () => {
    await using app = await runApp();
    const common = { env: { A: 'b' }, user: '1001' };
    const rest = { timeout: 1.5, stdin: 'pipe', max_output_bytes: 10, exec_id: 'my-1' };
    expect((await post(app, EXECUTE, { command: 'echo $A', ...common, ...rest })).status).toBe(200);
    expect(app.stub.calls.at(-1)?.args).toEqual([
      'echo $A',
      { ...common, timeoutMs: 1500, stdin: Buffer.from('pipe'), maxOutputBytes: 10, execId: 'my-1' },
    ]);
  });

  test.each([
    { exitCode: 1, outcome: 'exited' as const, signal: null },
    { exitCode: null, outcome: 'timed_out' as const, signal: 'SIGKILL' },
    { exitCode: null, outcome: 'oom_killed' as const, signal: 'SIGKILL' },
  ])('a command that ends as $outcome with $exitCode is a 200', async (result) => {
    await using app = await runApp();
    app.stub.execResult = result;
    const answer = await post(app, EXECUTE, BODY);
    expect(answer.status).toBe(200);
    expect(answer.json).toMatchObject({ exit_code: result.exitCode, outcome: result.outcome, signal: result.signal });
  });

  test('a client that hangs up aborts it', async () => {
    await using app = await runApp();
    const client = new AbortController();
    const body = JSON.stringify({ command: ['hang'] });
    const init = { method: 'POST', headers: JSON_TYPE, body, signal: client.signal };
    const pending = fetch(`${app.url}${EXECUTE}`, init);
    await until(() => app.stub.calls.at(-1)?.call === 'exec');
    client.abort();
    await expect(pending).rejects.toThrow();
    await until(() => app.stub.aborted.includes('exec'));
  });

  test('a client that hangs up leaves one with an id to be asked for again', async () => {
    await using app = await runApp();
    app.stub.execGate = new Promise(() => {});
    const client = new AbortController();
    const body = JSON.stringify({ ...BODY, exec_id: 'mine' });
    const pending = fetch(`${app.url}${EXECUTE}`, { method: 'POST', headers: JSON_TYPE, body, signal: client.signal });
    await until(() => app.stub.calls.at(-1)?.call === 'exec');
    client.abort();
    await expect(pending).rejects.toThrow();
    expect(app.stub.calls.at(-1)?.args[1]).not.toHaveProperty('signal');
  });
});

describe('execute, streamed', () => {
  test('as NDJSON: numbered without gaps, the exit last', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [out('one\n'), err('two\n'), out('three\n')] };
    const { status, type } = await streamed(app, NDJSON);
    expect([status, type]).toEqual([200, 'application/x-ndjson; charset=utf-8']);
    expect(await events(app)).toEqual([
      { type: 'started', process_id: 'p2' },
      { type: 'output', seq: 1, stream: 'stdout', data: 'one\n' },
      { type: 'output', seq: 2, stream: 'stderr', data: 'two\n' },
      { type: 'output', seq: 3, stream: 'stdout', data: 'three\n' },
      {
        type: 'exit',
        exit_code: 3,
        signal: null,
        execution_time: 0.0125,
        outcome: 'exited',
        died_of: null,
        processes_left: false,
        usage: { user_seconds: 0.005, system_seconds: 0.0025, max_rss_bytes: 1_000_000 },
      },
    ]);
    expect(app.stub.calls.at(-1)?.args).toEqual([BODY.command, { cwd: '/workspace', timeoutMs: 300_000, text: true }]);
    expect(app.stub.disposed).toBe(2);
  });

  test('as server-sent events', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [out('a\nb')] };
    const { text, type } = await streamed(app, SSE);
    expect(type).toBe('text/event-stream; charset=utf-8');
    const [first, second, last, rest] = text.split('\n\n');
    expect(first).toBe('event: started\ndata: {"type":"started","process_id":"p1"}');
    expect(second).toBe('id: 1\nevent: output\ndata: {"type":"output","seq":1,"stream":"stdout","data":"a\\nb"}');
    expect(last).toMatch(/^event: exit\ndata: \{"type":"exit",/);
    expect(rest).toBe('');
  });

  test.each([
    { accept: SSE, heartbeat: ': still running\n\n' },
    { accept: NDJSON, heartbeat: '{"type":"heartbeat"}\n' },
  ])('$accept has a heartbeat, so that nobody on the way gives up', async ({ accept, heartbeat }) => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    try {
      await using app = await runApp();
      app.stub.script = { chunks: [], hangs: true };
      const init = { method: 'POST', headers: { ...JSON_TYPE, Accept: accept }, body: JSON.stringify(BODY) };
      const reader = (await fetch(`${app.url}${EXECUTE}`, init)).body?.getReader();
      const read = async () => Buffer.from((await reader?.read())?.value ?? []).toString();
      expect(await read()).toContain('"started"');
      vi.advanceTimersByTime(15_000);
      expect(await read()).toBe(heartbeat);
      app.calls.abandon();
      expect(await read()).toContain('manager_closed');
    } finally {
      vi.useRealTimers();
    }
  });

  test('under an id, the same again goes to the same process', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [out('once')] };
    const headers = { ...JSON_TYPE, Accept: NDJSON };
    const request = { method: 'POST', headers, body: JSON.stringify({ ...BODY, exec_id: 'mine' }) };
    const first = await send(app, EXECUTE, request);
    app.stub.script = { chunks: [out('twice')] };
    expect((await send(app, EXECUTE, request)).text).toBe(first.text);
    expect(first.text).toContain('"process_id":"mine"');
  });

  test('a fault in the middle is the last event', async () => {
    await using app = await runApp();
    const fault = new SandyardError('sandbox_died', 'It died.', { hint: 'Make a new one.' });
    app.stub.script = { chunks: [out('one')], fault };
    const [, , last] = await events(app);
    expect(last).toMatchObject({ type: 'error', problem: { code: 'sandbox_died', hint: 'Make a new one.' } });
  });

  test('what keeps it from being started is a proper answer', async () => {
    await using app = await runApp();
    const body = JSON.stringify({ command: ['no-such-program'] });
    const answer = await send(app, EXECUTE, { method: 'POST', headers: { ...JSON_TYPE, Accept: NDJSON }, body });
    expect([answer.status, answer.json['code']]).toEqual([422, 'command_not_found']);
  });

  test('a client that hangs up aborts it', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [out('ready')], hangs: true };
    const client = new AbortController();
    const init = { method: 'POST', headers: { ...JSON_TYPE, Accept: SSE }, body: JSON.stringify(BODY) };
    const answer = await fetch(`${app.url}${EXECUTE}`, { ...init, signal: client.signal });
    const reader = answer.body?.getReader();
    await reader?.read();
    client.abort();
    await until(() => app.stub.aborted.includes('spawn') && app.stub.disposed === 1);
  });

  test('when the service drains, a stream is told why it ends, and new calls are refused', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [out('ready')], hangs: true };
    const pending = events(app);
    await until(() => app.stub.calls.at(-1)?.call === 'spawn');
    app.calls.drain();
    expect((await pending).at(-1)).toMatchObject({ type: 'error', problem: { code: 'manager_closed' } });
    const refused = await post(app, EXECUTE, BODY);
    expect(refused.status).toBe(503);
    expect(refused.headers).toMatchObject({ connection: 'close', 'retry-after': '5' });
    expect((await send(app, '/healthz')).status).toBe(200);
    expect((await send(app, '/readyz')).status).toBe(503);
  });

  test('a slow reader makes the source wait', async () => {
    await using app = await runApp();
    let produced = 0;
    const chunk = out('x'.repeat(100_000));
    const chunks = {
      *[Symbol.iterator]() {
        for (; produced < 2000; produced += 1) yield chunk;
      },
    };
    app.stub.script = { chunks: chunks as never };
    const headers = { ...JSON_TYPE, Accept: NDJSON };
    const request = httpRequest({ port: app.port, path: EXECUTE, method: 'POST', headers, agent: false });
    request.end(JSON.stringify(BODY));
    await new Promise((resolve) => {
      request.once('response', (response) => resolve(response.pause()));
    });
    let before = -1;
    while (produced !== before) {
      before = produced;
      await new Promise((resolve) => {
        setTimeout(resolve, 200);
      });
    }
    expect(produced).toBeGreaterThan(0);
    expect(produced).toBeLessThan(300);
    request.destroy();
  });

  test('a piece that is not UTF-8 comes as base64, alone', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [out('aé€😀z'), out(Buffer.from([0xe2, 0x82])), err('ü')] };
    const output = (await events(app)).filter(({ type }) => type === 'output');
    expect(output).toEqual([
      { type: 'output', seq: 1, stream: 'stdout', data: 'aé€😀z' },
      { type: 'output', seq: 2, stream: 'stdout', data_base64: '4oI=' },
      { type: 'output', seq: 3, stream: 'stderr', data: 'ü' },
    ]);
  });

  test('any bytes come through, whatever the chunks', async () => {
    await using app = await runApp();
    await assert(
      asyncProperty(array(uint8Array({ maxLength: 6 }), { maxLength: 6 }), async (chunks) => {
        app.stub.script = { chunks: chunks.map((data) => out(data)) };
        const all = await events(app);
        const parts = all
          .slice(1, -1)
          .map(({ data, data_base64 }) =>
            data_base64 === undefined ? Buffer.from(data ?? '') : Buffer.from(data_base64, 'base64'),
          );
        expect(Buffer.concat(parts)).toEqual(Buffer.concat(chunks));
        expect(all.slice(1, -1).map(({ seq }) => seq)).toEqual(chunks.map((_, index) => index + 1));
      }),
      { numRuns: 50 },
    );
  });
});
