import { EventEmitter, once } from 'node:events';
import { connect } from 'node:net';
import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';

import { readConfig } from '../../../src/config.js';
import { SandyardError } from '../../../src/errors.js';
import { startService } from '../../../src/http/service.js';
import { JSON_TYPE, until } from './harness.js';
import { StubManager } from './stub-manager.js';

const log = pino({ level: 'silent' });
const config = readConfig({ PORT: '0' });

async function start(stub = new StubManager()) {
  await stub.create({});
  const service = await startService(config, { manager: stub.manager, log });
  return { stub, service, port: Number(new URL(service.url).port) };
}

/** What the server answers to bytes that need not be HTTP. */
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

describe('the service', () => {
  test('starts without an engine and connects when one appears', async () => {
    const stub = new StubManager();
    stub.engineFault = new SandyardError('engine_unavailable', 'No engine.', { hint: 'Start dockerd.' });
    const { service } = await start(stub);
    expect((await fetch(`${service.url}/healthz`)).status).toBe(200);
    expect((await fetch(`${service.url}/readyz`)).status).toBe(503);
    expect(await service.banner({ showToken: false })).toContain('not there yet: Start dockerd.');
    const failed = stub.opened;
    stub.engineFault = undefined;
    await until(() => stub.opened > failed);
    expect((await fetch(`${service.url}/readyz`)).status).toBe(200);
    expect(await service.banner({ showToken: false })).toContain('Docker 20.10.24');
    await service.close();
  });

  test('closes: a stream is told, a plain call finishes, then nothing listens', async () => {
    const { stub, service } = await start();
    stub.script = { chunks: [{ stream: 'stdout', data: Buffer.from('ready') }], hangs: true };
    const stream = await fetch(`${service.url}/api/sandboxes/sb1/execute`, {
      method: 'POST',
      headers: { ...JSON_TYPE, Accept: 'text/event-stream' },
      body: '{"command":["sleep","1000"]}',
    });
    const text = stream.text();
    const gate = new EventEmitter();
    stub.execGate = once(gate, 'open');
    const plain = fetch(`${service.url}/api/sandboxes/sb1/execute`, {
      method: 'POST',
      headers: JSON_TYPE,
      body: '{"command":["node"]}',
    });
    await until(() => stub.calls.at(-1)?.call === 'exec');

    const closing = Promise.all([service.close(), service.close()]);
    expect(await text).toMatch(/event: error\ndata: .*"code":"manager_closed".*\n\n$/);
    expect(stub.closed).toBe(0);
    gate.emit('open');
    const answer = await plain;
    expect([answer.status, answer.headers.get('connection')]).toEqual([200, 'close']);
    await closing;
    expect(stub.closed).toBe(1);
    expect(stub.sandboxes.size).toBe(1);
    await expect(fetch(`${service.url}/healthz`)).rejects.toThrow();
  });

  test('closes terminals, also of clients that do not answer', async () => {
    const { stub, service, port } = await start();
    stub.script = { chunks: [], hangs: true };
    const url = `ws://127.0.0.1:${port}/api/sandboxes/sb1/terminal`;
    const [polite, silent] = [new WebSocket(url), new WebSocket(url)];
    const closed = once(polite, 'close');
    await Promise.all([once(polite, 'message'), once(silent, 'message')]);
    silent.pause();
    await service.close();
    expect((await closed)[0]).toBe(1001);
    expect(stub.latest.result).toBeUndefined();
    silent.terminate();
  });

  test('closes in time although the engine hangs', async () => {
    const { stub, service } = await start();
    stub.close = () => new Promise(() => {});
    const started = performance.now();
    await service.close();
    expect(performance.now() - started).toBeLessThan(5000);
  });

  test('a port that is taken is one clear sentence with a way out', async () => {
    const { service, port } = await start();
    const second = startService({ ...config, port }, { manager: new StubManager().manager, log });
    await expect(second).rejects.toMatchObject({
      code: 'config_invalid',
      message: `Port ${port} on 127.0.0.1 is in use by another program.`,
      hint: expect.stringContaining(`PORT=${port + 1} npm start`) as string,
    });
    await service.close();
  });

  test('an address that is not of this machine, too', async () => {
    const second = startService({ ...config, host: '192.0.2.1' }, { manager: new StubManager().manager, log });
    await expect(second).rejects.toMatchObject({
      code: 'config_invalid',
      hint: expect.stringContaining('HOST') as string,
    });
  });
});

describe('what is not a proper request', () => {
  test.each([
    { what: 'not HTTP', bytes: 'hello\r\n\r\n', status: 400 },
    {
      what: 'headers without end',
      bytes: `GET / HTTP/1.1\r\nHost: localhost\r\nA: ${'x'.repeat(20_000)}\r\n\r\n`,
      status: 431,
    },
    { what: 'no Host', bytes: 'GET /healthz HTTP/1.0\r\n\r\n', status: 403 },
  ])('$what: $status as a problem document', async ({ bytes, status }) => {
    const { service, port } = await start();
    const [head = '', body = ''] = (await exchange(port, bytes)).split('\r\n\r\n');
    expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(head).toMatch(/content-type: application\/problem\+json/i);
    expect(head).toMatch(/x-request-id: [\w-]{21}/i);
    expect(JSON.parse(body)).toMatchObject({ status });
    await service.close();
  });
});
