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
  readonly seq: number;
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
      signal: null,
      truncated: false,
      dropped_bytes: { stdout: 0, stderr: 0 },
      processes_left: false,
    });
    expect(app.stub.calls.at(-1)).toEqual({ call: 'exec', args: [BODY.command, { cwd: '/workspace' }] });
  });

  test('every field of the body reaches the library, in its words', async () => {
    await using app = await runApp();
    const body = { command: 'echo $A', env: { A: 'b' }, timeout: 1.5, stdin: 'in', user: '1001', max_output_bytes: 10 };
    expect((await post(app, EXECUTE, body)).status).toBe(200);
    expect(app.stub.calls.at(-1)?.args).toEqual([
      'echo $A',
      { env: { A: 'b' }, timeoutMs: 1500, stdin: 'in', user: '1001', maxOutputBytes: 10 },
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
});

describe('execute, streamed', () => {
  test('as NDJSON: numbered without gaps, the exit last', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [out('one\n'), err('two\n'), out('three\n')] };
    const { status, type } = await streamed(app, NDJSON);
    expect([status, type]).toEqual([200, 'application/x-ndjson; charset=utf-8']);
    expect(await events(app)).toEqual([
      { type: 'output', seq: 1, stream: 'stdout', data: 'one\n' },
      { type: 'output', seq: 2, stream: 'stderr', data: 'two\n' },
      { type: 'output', seq: 3, stream: 'stdout', data: 'three\n' },
      {
        type: 'exit',
        seq: 4,
        exit_code: 3,
        signal: null,
        execution_time: 0.0125,
        outcome: 'exited',
        truncated: false,
        dropped_bytes: { stdout: 0, stderr: 0 },
        processes_left: false,
      },
    ]);
    expect(app.stub.disposed).toBe(2);
  });

  test('as server-sent events', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [out('a\nb')] };
    const { text, type } = await streamed(app, SSE);
    expect(type).toBe('text/event-stream; charset=utf-8');
    const [first, last, rest] = text.split('\n\n');
    expect(first).toBe('id: 1\nevent: output\ndata: {"type":"output","stream":"stdout","data":"a\\nb","seq":1}');
    expect(last).toMatch(/^id: 2\nevent: exit\ndata: \{"type":"exit",/);
    expect(rest).toBe('');
  });

  test('server-sent events have a heartbeat, so that nobody on the way gives up', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    try {
      await using app = await runApp();
      app.stub.script = { chunks: [out('ready')], hangs: true };
      const init = { method: 'POST', headers: { ...JSON_TYPE, Accept: SSE }, body: JSON.stringify(BODY) };
      const reader = (await fetch(`${app.url}${EXECUTE}`, init)).body?.getReader();
      await reader?.read();
      vi.advanceTimersByTime(15_000);
      expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toBe(': still running\n\n');
      app.calls.abandon();
      expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toContain('manager_closed');
    } finally {
      vi.useRealTimers();
    }
  });

  test('a fault in the middle is the last event', async () => {
    await using app = await runApp();
    const fault = new SandyardError('sandbox_died', 'It died.', { hint: 'Make a new one.' });
    app.stub.script = { chunks: [out('one')], fault };
    const [, last] = await events(app);
    expect(last).toMatchObject({ type: 'error', seq: 2, problem: { code: 'sandbox_died', hint: 'Make a new one.' } });
  });

  test('a fault before the first output is a proper answer', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [], fault: new SandyardError('workdir_not_found', 'There is no /nope.') };
    expect(await streamed(app, NDJSON)).toMatchObject({ status: 422, type: 'application/problem+json; charset=utf-8' });
  });

  test('output that says nothing for long does not hold the headers back', async () => {
    await using app = await runApp();
    app.stub.script = { chunks: [], hangs: true };
    const client = new AbortController();
    const init = { method: 'POST', headers: { ...JSON_TYPE, Accept: NDJSON }, body: JSON.stringify(BODY) };
    const answer = await fetch(`${app.url}${EXECUTE}`, { ...init, signal: client.signal });
    expect(answer.status).toBe(200);
    client.abort();
    await until(() => app.stub.aborted.includes('spawn') && app.stub.disposed === 1);
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

  test('characters are never cut, whatever the chunks', async () => {
    await using app = await runApp();
    const bytes = Buffer.from('aé€😀z');
    for (let cut = 1; cut < bytes.length; cut += 1) {
      app.stub.script = { chunks: [out(bytes.subarray(0, cut)), err('|'), out(bytes.subarray(cut))] };
      const output = (await events(app)).filter(({ type }) => type === 'output');
      expect(output.every(({ data }) => data !== undefined && !data.includes('\uFFFD'))).toBe(true);
      const stdout = output.filter(({ stream }) => stream === 'stdout').map(({ data }) => data);
      expect(stdout.join('')).toBe('aé€😀z');
    }
  });

  test('any bytes come through, whatever the chunks', async () => {
    await using app = await runApp();
    await assert(
      asyncProperty(array(uint8Array({ maxLength: 6 }), { maxLength: 6 }), async (chunks) => {
        app.stub.script = { chunks: chunks.map((data) => out(data)) };
        const all = await events(app);
        const parts = all
          .slice(0, -1)
          .map(({ data, data_base64 }) =>
            data_base64 === undefined ? Buffer.from(data ?? '') : Buffer.from(data_base64, 'base64'),
          );
        expect(Buffer.concat(parts)).toEqual(Buffer.concat(chunks));
        expect(all.map(({ seq }) => seq)).toEqual(all.map((_, index) => index + 1));
      }),
      { numRuns: 50 },
    );
  });
});
