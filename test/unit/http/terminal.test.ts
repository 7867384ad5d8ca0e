import { connect } from 'node:net';
import { Writable } from 'node:stream';
import { pino } from 'pino';
import { describe, expect, test, vi } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { post, runApp, send, until, TOKEN, type RunningApp } from './harness.js';
import { exitOf } from './stub-processes.js';
import { refusal, TerminalClient } from './terminal-client.js';

const HANGS = { chunks: [], hangs: true };

async function openApp(settings = {}): Promise<RunningApp> {
  const app = await runApp(settings);
  app.stub.script = HANGS;
  return app;
}

/** A shell with a terminal that nobody looks at yet, under the id `sh`. */
async function startShell(app: RunningApp, pty: unknown = true) {
  await post(app, '/api/sandboxes/sb1/processes', { command: ['sh'], id: 'sh', pty });
  return app.stub.latest;
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 200));

describe('a terminal', () => {
  test('starts a login shell, and carries bytes both ways', async () => {
    await using app = await openApp();
    await using client = await TerminalClient.open(app);
    const shell = app.stub.latest;
    expect(client.messages).toEqual([{ type: 'ready', process_id: 'p1', seq: 0 }]);
    expect(shell.command).toEqual(['/bin/bash', '-l']);
    expect(shell.options).toEqual({
      env: { TERM: 'xterm-256color' },
      pty: { rows: 24, columns: 80 },
      whenUnread: 'run',
    });
    client.send('ls\r');
    await until(() => shell.input === 'ls\r');
    shell.print('a.txt\r\n');
    await until(() => client.output === 'a.txt\r\n');
    expect(await client.told('seq')).toEqual({ type: 'seq', seq: 1 });
  });

  test('starts what is asked for', async () => {
    await using app = await openApp();
    await using one = await TerminalClient.open(app, '?command=top%20-d1&rows=50&columns=200&workdir=/srv&user=1001');
    const { command, options } = app.stub.latest;
    expect(command).toEqual(['/bin/sh', '-c', 'top -d1']);
    expect(options).toMatchObject({ cwd: '/srv', user: '1001', pty: { rows: 50, columns: 200 } });
    await using two = await TerminalClient.open(app, '?command=python3&command=-i');
    expect(app.stub.latest.command).toEqual(['python3', '-i']);
    expect([one.code, two.code]).toEqual([undefined, undefined]);
  });

  test('starts /bin/sh where there is no bash', async () => {
    await using app = await openApp();
    app.stub.missing.add('/bin/bash');
    await using client = await TerminalClient.open(app);
    expect([app.stub.latest.command, client.code]).toEqual([['/bin/sh'], undefined]);
  });

  test('tells how the process ended, after all that it printed, and closes with 1000', async () => {
    await using app = await openApp();
    await using client = await TerminalClient.open(app);
    app.stub.latest.print('bye');
    app.stub.latest.end(exitOf(7));
    expect([await client.closed(), client.reason]).toEqual([1000, 'exited']);
    expect(client.output).toBe('bye');
    expect(client.messages.slice(1)).toMatchObject([
      { type: 'seq', seq: 1 },
      { type: 'exit', exit_code: 7, outcome: 'exited', usage: { max_rss_bytes: 1_000_000 } },
    ]);
  });

  test('is resized, signalled and ended by messages', async () => {
    await using app = await openApp();
    await using client = await TerminalClient.open(app);
    const shell = app.stub.latest;
    client.send({ type: 'resize', rows: 40, columns: 120 });
    client.send({ type: 'signal', signal: 'SIGINT' });
    client.send('x');
    client.send({ type: 'eof' });
    await until(() => shell.inputEnded);
    expect([shell.sizes, shell.signals, shell.input]).toEqual([[{ rows: 40, columns: 120 }], ['SIGINT'], 'x']);
  });

  test.each([
    'hello',
    '{"type":"resize","rows":0,"columns":1}',
    '{"type":"resize","rows":1}',
    '{"type":"signal","signal":"SIGNOT"}',
    '{"type":"explode"}',
    '[]',
  ])('closes with 4400 on %s', async (text) => {
    await using app = await openApp();
    await using client = await TerminalClient.open(app);
    client.webSocket.send(text);
    expect([await client.closed(), client.reason]).toEqual([4400, 'invalid_request']);
    expect(app.stub.latest.result).toBeUndefined();
  });

  test('closes with 1009 on a message of over 64 KiB', async () => {
    await using app = await openApp();
    await using client = await TerminalClient.open(app);
    client.send(Buffer.alloc(64 * 1024 + 1));
    expect(await client.closed()).toBe(1009);
  });

  test.each([
    { code: 'sandbox_not_found' as const, closes: 4404 },
    { code: 'process_not_found' as const, closes: 4404 },
    { code: 'sandbox_died' as const, closes: 4409 },
    { code: 'wrong_state' as const, closes: 4409 },
    { code: 'manager_closed' as const, closes: 1001 },
    { code: 'channel_failed' as const, closes: 1011 },
  ])('closes with $closes when its output fails with $code', async ({ code, closes }) => {
    await using app = await openApp();
    await using client = await TerminalClient.open(app);
    app.stub.latest.fail(new SandyardError(code, 'It failed.'));
    expect([await client.closed(), client.reason]).toEqual([closes, code]);
  });

  test('says nothing of what nobody foresaw', async () => {
    await using app = await openApp();
    await using client = await TerminalClient.open(app);
    app.stub.latest.fail(new Error('secret'));
    expect([await client.closed(), client.reason]).toEqual([1011, 'internal']);
  });
});

describe('joining a terminal', () => {
  test('gives what there is, and several may look and type', async () => {
    await using app = await openApp();
    const shell = await startShell(app);
    shell.print('$ ');
    await using one = await TerminalClient.open(app, '?process=sh&rows=30&columns=90');
    await using two = await TerminalClient.open(app, '?process=sh');
    expect(one.messages[0]).toEqual({ type: 'ready', process_id: 'sh', seq: 0 });
    one.send('a');
    await until(() => shell.input === 'a');
    two.send('b');
    await until(() => shell.input === 'ab');
    shell.print('ab');
    await until(() => one.output === '$ ab' && two.output === '$ ab');
    expect(shell.sizes).toEqual([{ rows: 30, columns: 90 }]);
    expect(shell.readers).toBe(2);
  });

  test('again goes on after the number that was told last', async () => {
    await using app = await openApp();
    const client = await TerminalClient.open(app);
    const shell = app.stub.latest;
    shell.print('one ');
    shell.print('two ');
    await until(() => client.messages.some(({ seq }) => seq === 2));
    client.webSocket.terminate();
    await until(() => shell.readers === 0);
    expect([shell.result, shell.kills]).toEqual([undefined, []]);
    shell.print('three');
    await using again = await TerminalClient.open(app, '?process=p1&after=2');
    await until(() => again.output === 'three');
    expect(again.messages[0]).toMatchObject({ type: 'ready', seq: 2 });
    expect((await again.told('seq'))['seq']).toBe(3);
  });

  test('too late for what it wants is told so, and closed with 4410', async () => {
    await using app = await openApp();
    const shell = await startShell(app);
    for (const text of ['a', 'b', 'c']) shell.print(text);
    shell.lose(2);
    await using client = await TerminalClient.open(app, '?process=sh&after=1');
    expect([await client.closed(), client.reason]).toEqual([4410, 'output_lost']);
    expect(await client.told('lost')).toEqual({ type: 'lost', first_seq: 3 });
  });

  test('without a number gets what is left, and is told that it is not all', async () => {
    await using app = await openApp();
    const shell = await startShell(app);
    for (const text of ['a', 'b', 'c']) shell.print(text);
    shell.lose(2);
    await using client = await TerminalClient.open(app, '?process=sh');
    await until(() => client.output === 'c');
    expect(await client.told('lost')).toEqual({ type: 'lost', first_seq: 3 });
    expect(client.code).toBeUndefined();
  });

  test('of a process that has ended shows it to the end', async () => {
    await using app = await openApp();
    const shell = await startShell(app);
    shell.print('done');
    shell.end(exitOf(0));
    await using client = await TerminalClient.open(app, '?process=sh');
    expect([await client.closed(), client.output]).toEqual([1000, 'done']);
  });
});

describe('a terminal whose client goes', () => {
  test('ends with it only when that was asked for', async () => {
    await using app = await openApp();
    const client = await TerminalClient.open(app, '?kill_on_close=true');
    const shell = app.stub.latest;
    client.webSocket.close();
    await until(() => shell.kills.length > 0);
    expect(shell.kills).toEqual([['SIGHUP']]);
    await until(() => shell.readers === 0);
  });

  test('is told when the service ends; the shell runs on in any case', async () => {
    await using app = await openApp();
    await using client = await TerminalClient.open(app, '?kill_on_close=true');
    const shell = app.stub.latest;
    app.calls.drain();
    expect([await client.closed(), client.reason]).toEqual([1001, 'manager_closed']);
    await until(() => shell.readers === 0);
    expect(shell.kills).toEqual([]);
    expect(await refusal(app)).toMatchObject({ status: 503, json: { code: 'manager_closed' } });
  });

  test('is dropped when it does not answer the service that ends', async () => {
    await using app = await openApp();
    await using client = await TerminalClient.open(app);
    client.webSocket.pause();
    app.calls.drain();
    await until(() => app.stub.latest.readers === 0);
  });

  test('is dropped when it answers no ping, and only then', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    try {
      await using app = await openApp();
      await using alive = await TerminalClient.open(app);
      let pings = 0;
      alive.webSocket.on('ping', () => (pings += 1));
      await using dead = await TerminalClient.open(app, '', { autoPong: false });
      for (const round of [1, 2]) {
        vi.advanceTimersByTime(20_000);
        await until(() => pings === round);
        await settle();
      }
      expect([await dead.closed(), alive.code]).toEqual([1006, undefined]);
    } finally {
      vi.useRealTimers();
    }
  });

  test('in one line of the log, without its ticket', async () => {
    const lines: string[] = [];
    const sink = new Writable({
      write(chunk: Buffer, _encoding, done) {
        lines.push(chunk.toString());
        done();
      },
    });
    await using app = await openApp({ log: pino({ level: 'info' }, sink) });
    const client = await TerminalClient.open(app, '?ticket=s3cret');
    client.webSocket.close();
    await until(() => lines.length > 0);
    expect(lines).toHaveLength(1);
    expect(lines[0]).not.toContain('s3cret');
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({
      req: { method: 'GET', path: '/api/sandboxes/sb1/terminal' },
      res: { status: 101 },
    });
  });
});

describe('back-pressure', () => {
  test('a client that reads slowly makes the process wait', async () => {
    await using app = await openApp();
    let produced = 0;
    const chunks = {
      *[Symbol.iterator]() {
        for (; produced < 2000; produced += 1) yield { stream: 'stdout' as const, data: Buffer.alloc(64 * 1024, 'x') };
      },
    };
    app.stub.script = { chunks };
    await using client = await TerminalClient.open(app);
    client.webSocket.pause();
    await settle();
    const before = produced;
    await settle();
    expect(produced).toBe(before);
    expect(produced).toBeLessThan(500);
    client.webSocket.resume();
    await until(() => produced > before);
  });

  test('a process that reads slowly makes the client wait', async () => {
    await using app = await openApp();
    await using client = await TerminalClient.open(app);
    const shell = app.stub.latest;
    let open = () => {};
    shell.inputGate = new Promise<void>((resolve) => (open = resolve));
    const chunk = Buffer.alloc(32 * 1024, 'x');
    for (let sent = 0; sent < 400; sent += 1) client.send(chunk);
    await settle();
    await settle();
    expect(client.webSocket.bufferedAmount).toBeGreaterThan(0);
    open();
    await until(() => shell.input.length === 400 * chunk.length);
  });
});

describe('a handshake that is refused', () => {
  test.each([
    { what: 'an unknown sandbox', sandbox: 'nope', query: '', status: 404, code: 'sandbox_not_found' },
    { what: 'an unknown process', query: '?process=nope', status: 404, code: 'process_not_found' },
    { what: 'a bad parameter', query: '?rows=0', status: 422, code: 'validation_failed' },
    { what: 'an unknown parameter', query: '?row=1', status: 422, code: 'validation_failed' },
    { what: 'two intents', query: '?process=sh&command=sh', status: 422, code: 'validation_failed' },
    { what: 'an unknown program', query: '?command=no-such-program&command=x', status: 422, code: 'command_not_found' },
  ])('for $what: $status $code', async ({ sandbox = 'sb1', query, status, code }) => {
    await using app = await openApp();
    expect(await refusal(app, query, { sandbox })).toMatchObject({ status, json: { status, code } });
  });

  test('for a sandbox that does not run, and a process without a terminal: 409', async () => {
    await using app = await openApp();
    await startShell(app, false);
    expect(await refusal(app, '?process=sh')).toMatchObject({ status: 409, json: { code: 'wrong_state' } });
    await send(app, '/api/sandboxes/sb1/stop', { method: 'POST' });
    expect(await refusal(app)).toMatchObject({ status: 409, json: { code: 'wrong_state' } });
  });

  test('for a page of another site, or a re-bound name: 403', async () => {
    await using app = await openApp();
    expect(await refusal(app, '', { origin: 'https://evil.example' })).toMatchObject({ status: 403 });
    expect(await refusal(app, '', { headers: { Host: 'evil.example' } })).toMatchObject({ status: 403 });
    const own = { origin: `http://127.0.0.1:${app.port}` };
    await using client = await TerminalClient.open(app, '', own);
    expect(client.code).toBeUndefined();
  });

  test('for what is no WebSocket: 426', async () => {
    await using app = await openApp();
    const plain = await send(app, '/api/sandboxes/sb1/terminal');
    expect([plain.status, plain.headers.upgrade, plain.json['status']]).toEqual([426, 'websocket', 426]);
    expect(plain.headers['content-type']).toMatch(/^application\/problem\+json/);
    expect((await post(app, '/api/sandboxes/sb1/terminal', {})).status).toBe(405);
  });

  test('for a malformed handshake: 400', async () => {
    await using app = await openApp();
    const head = 'GET /api/sandboxes/sb1/terminal HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n';
    const bad = [
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n',
      'Sec-WebSocket-Version: 12\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n',
    ];
    for (const headers of bad) {
      const answer = await exchange(app.port, `${head}Upgrade: websocket\r\n${headers}\r\n`);
      expect(answer).toMatch(/^HTTP\/1.1 400 [^]*"code":"invalid_request"/);
    }
    expect(app.stub.calls.filter(({ call }) => call === 'spawn')).toEqual([]);
  });

  test('an offer of another protocol, or on another route, is passed over', async () => {
    await using app = await openApp();
    const offer =
      'Host: localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n';
    expect(await exchange(app.port, `GET /healthz HTTP/1.1\r\n${offer}\r\n`)).toMatch(/^HTTP\/1.1 200 [^]*"ok"/);
    const body = '{"command":["node"]}';
    const type = `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n`;
    const executed = await exchange(app.port, `POST /api/sandboxes/sb1/execute HTTP/1.1\r\n${offer}${type}\r\n${body}`);
    expect(executed).toMatch(/^HTTP\/1.1 200 [^]*"exit_code":0/);
    const socket = 'Host: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n';
    expect(await exchange(app.port, `GET /api/nope HTTP/1.1\r\n${socket}\r\n`)).toMatch(/^HTTP\/1.1 404 /);
  });
});

describe('admission with a token in force', () => {
  const env = { SANDBOX_TOKEN: TOKEN };
  const Authorization = `Bearer ${TOKEN}`;
  const issue = async (app: RunningApp, sandbox = 'sb1') => {
    const path = `/api/sandboxes/${sandbox}/terminal/ticket`;
    return send(app, path, { method: 'POST', headers: { Authorization } });
  };

  test('the token is in the header, never in the query', async () => {
    await using app = await openApp({ env });
    await using client = await TerminalClient.open(app, '', { headers: { Authorization } });
    expect(client.code).toBeUndefined();
    expect(await refusal(app)).toMatchObject({ status: 401, json: { code: 'unauthorized' } });
    expect(await refusal(app, `?ticket=${TOKEN}`)).toMatchObject({ status: 401 });
  });

  test('a ticket admits once, from any page', async () => {
    await using app = await openApp({ env });
    const { status, json } = await issue(app);
    expect(status).toBe(201);
    expect(json['url']).toBe(`/api/sandboxes/sb1/terminal?ticket=${String(json['ticket'])}`);
    expect(Date.parse(String(json['expires_at'])) - Date.now()).toBeGreaterThan(25_000);
    const query = `?ticket=${String(json['ticket'])}`;
    await using client = await TerminalClient.open(app, query, { origin: 'https://app.example' });
    expect(client.code).toBeUndefined();
    expect(await refusal(app, query)).toMatchObject({ status: 401 });
  });

  test('a ticket is for its sandbox, and for nothing but its terminal', async () => {
    await using app = await openApp({ env });
    await app.stub.create({});
    const query = `?ticket=${String((await issue(app)).json['ticket'])}`;
    expect(await refusal(app, query, { sandbox: 'sb2' })).toMatchObject({ status: 401 });
    expect((await send(app, `/api/sandboxes/sb1${query}`)).status).toBe(401);
    expect((await send(app, `/api/sandboxes/sb1/terminal${query}`)).status).toBe(401);
    expect(await refusal(app, `${query}&${query.slice(1)}`)).toMatchObject({ status: 401 });
    await using client = await TerminalClient.open(app, query);
    expect(client.code).toBeUndefined();
  });

  test('a ticket is only for who has the token, and for a sandbox that there is', async () => {
    await using app = await openApp({ env });
    expect((await post(app, '/api/sandboxes/sb1/terminal/ticket', {})).status).toBe(401);
    expect((await issue(app, 'nope')).status).toBe(404);
  });
});

/** What the server answers to these bytes, until it closes. */
function exchange(port: number, bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    socket.on('data', (chunk) => {
      answer += chunk.toString();
    });
    socket.once('error', reject);
    socket.once('close', () => resolve(answer));
  });
}
