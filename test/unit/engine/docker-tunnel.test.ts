import { once } from 'node:events';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { DockerEngine } from '../../../src/engine/docker-engine.js';
import { FakeDaemon, frame, json, upgrade, type DaemonRequest } from '../../fixtures/fake-daemon.js';

const COMMAND = ['/usr/lib/sandyard/warden', 'connect'];

let daemon: FakeDaemon;
beforeEach(async () => {
  daemon = await FakeDaemon.make();
});
afterEach(() => daemon[Symbol.asyncDispose]());

interface Script {
  /** What the engine does with the connection once it has handed it over. */
  readonly run?: (socket: Socket) => unknown;
  readonly refusal?: { status: number; message: string };
  readonly create?: { status: number; body: object };
  readonly exec?: object | 404;
  readonly container?: object | 404;
}

/** An engine with a running container, whose commands do what the script says. */
async function scripted({ run, refusal, create, exec = {}, container = {} }: Script): Promise<DockerEngine> {
  const bodies: Record<string, unknown>[] = [];
  const answer = ({ response }: DaemonRequest, found: object | 404, defaults: object) =>
    found === 404
      ? json(response, 404, { message: 'No such container: box' })
      : json(response, 200, { ...defaults, ...found });
  daemon.handler = (request) => {
    const { method, path, response, body } = request;
    if (method === 'POST' && path === '/containers/box/exec') {
      bodies.push(JSON.parse(body) as Record<string, unknown>);
      sent = bodies;
      return json(response, create?.status ?? 201, create?.body ?? { Id: 'e1' });
    }
    if (method === 'POST' && path === '/exec/e1/start') {
      const socket = upgrade(request, refusal);
      if (refusal === undefined) void run?.(socket);
      return true;
    }
    if (path === '/exec/e1/json') return answer(request, exec, { Running: false, ExitCode: 0, Pid: 7 });
    if (path === '/containers/box/json')
      return answer(request, container, { State: { Running: true }, HostConfig: {} });
    return false;
  };
  await daemon.listen();
  return new DockerEngine({ env: daemon.env });
}
let sent: Record<string, unknown>[] = [];

/** A container that shows as running yet when it has stopped. */
function stopping(): object {
  let looks = 0;
  return {
    get State() {
      return { Running: (looks += 1) <= 2 };
    },
  };
}

/** Ends a connection as an engine does that is killed: with input left unread. */
function abandon(socket: Socket): void {
  setTimeout(() => socket.destroy(), 50);
}

async function failure(tunnel: Duplex): Promise<unknown> {
  tunnel.write(Buffer.alloc(1024 * 1024)); // more than fits on the way: so some of it stays unread
  tunnel.resume();
  const [error] = (await once(tunnel, 'error')) as [unknown];
  return error;
}

describe('openTunnel', () => {
  it('runs the command as root, with its streams attached and without a terminal', async () => {
    const engine = await scripted({});
    const tunnel = await engine.openTunnel('box', COMMAND);
    expect(sent).toMatchObject([
      { Cmd: COMMAND, User: '0:0', AttachStdin: true, AttachStdout: true, AttachStderr: true, Tty: false },
    ]);
    tunnel.destroy();
  });

  it('carries input to its end, and output back, by the same connection', async () => {
    const engine = await scripted({
      run: (socket) => {
        let input = '';
        socket.on('data', (chunk: Buffer) => (input += String(chunk))).resume();
        socket.once('end', () => {
          socket.write(frame(1, input));
          socket.end(frame(1, '!'));
        });
      },
    });
    const tunnel = await engine.openTunnel('box', COMMAND);
    tunnel.write('he');
    tunnel.end('llo');
    let output = '';
    for await (const chunk of tunnel) output += String(chunk);
    expect(output).toBe('hello!');
  });

  it('ends without a fault when the command printed something and ended', async () => {
    const engine = await scripted({ run: (socket) => socket.end(frame(1, 'all')) });
    expect(await text(await engine.openTunnel('box', COMMAND))).toBe('all');
  });

  it('ends without a fault when the command printed nothing and ended well', async () => {
    const engine = await scripted({ run: (socket) => socket.end() });
    expect(await text(await engine.openTunnel('box', COMMAND))).toBe('');
  });

  it('passes on what looks like the words of the engine when more follows', async () => {
    const engine = await scripted({
      run: (socket) => {
        socket.write(frame(1, 'a line\r\n'));
        socket.end(frame(1, 'and another'));
      },
    });
    expect(await text(await engine.openTunnel('box', COMMAND))).toBe('a line\r\nand another');
  });

  it('stops the sender when nobody reads', async () => {
    const piece = frame(1, Buffer.alloc(64 * 1024));
    let socketOf: Socket | undefined;
    const engine = await scripted({ run: (socket) => (socketOf = socket) });
    const tunnel = await engine.openTunnel('box', COMMAND);
    const socket = await vi.waitUntil(() => socketOf);
    let written = 0;
    while (written < 16 * 1024 * 1024 && socket.writableLength < 1024 * 1024) {
      socket.write(piece);
      written += 64 * 1024;
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(written).toBeLessThan(8 * 1024 * 1024);
    expect(tunnel.readableLength).toBeLessThan(2 * 1024 * 1024);
    let read = 0;
    tunnel.on('data', (chunk: Buffer) => (read += chunk.length));
    await vi.waitUntil(() => read === written, { timeout: 5000 });
    tunnel.destroy();
  });

  it('tells the writer to wait when the command reads nothing, and goes on when it does', async () => {
    let socketOf: Socket | undefined;
    const engine = await scripted({ run: (socket) => (socketOf = socket) });
    const tunnel = await engine.openTunnel('box', COMMAND);
    let written = 0;
    while (tunnel.write(Buffer.alloc(64 * 1024))) written += 64 * 1024;
    expect(written).toBeLessThanOrEqual(1024 * 1024);
    let got = 0;
    socketOf?.on('data', (chunk: Buffer) => (got += chunk.length));
    socketOf?.resume();
    await once(tunnel, 'drain');
    await vi.waitUntil(() => got === written + 64 * 1024, { timeout: 5000 });
    tunnel.destroy();
  });

  it('hangs up when it is destroyed', async () => {
    let hasHungUp = false;
    const engine = await scripted({
      run: (socket) => socket.resume().once('end', () => (hasHungUp = true)),
    });
    const tunnel = await engine.openTunnel('box', COMMAND);
    tunnel.destroy();
    await vi.waitUntil(() => hasHungUp, { timeout: 2000 });
  });

  it('gives up with the caller, and hangs up', async () => {
    const engine = await scripted({ create: { status: 201, body: { Id: 'e2' } } });
    const { handler } = daemon;
    let hasHungUp = false;
    daemon.handler = (request) => {
      if (request.path !== '/exec/e2/start') return handler(request);
      request.socket.resume().once('end', () => (hasHungUp = true));
      return true; // and never answers
    };
    const signal = AbortSignal.timeout(100);
    await expect(engine.openTunnel('box', COMMAND, { signal })).rejects.toMatchObject({ code: 'aborted' });
    await vi.waitUntil(() => hasHungUp, { timeout: 2000 });
  });
});

describe('attachTunnel', () => {
  /** An engine whose container does with its streams what is to be run. */
  async function attachable(run: (socket: Socket) => unknown): Promise<DockerEngine> {
    daemon.handler = (request) => {
      if (request.method !== 'POST' || !request.path.startsWith('/containers/box/attach?')) return false;
      run(upgrade(request));
      return true;
    };
    await daemon.listen();
    return new DockerEngine({ env: daemon.env });
  }

  it('carries both ways what PID 1 reads and prints', async () => {
    let input = '';
    const engine = await attachable((socket) => {
      socket.on('data', (chunk: Buffer) => (input += String(chunk))).resume();
      socket.once('end', () => socket.end(frame(1, `${input}, it said`)));
    });
    const tunnel = await engine.attachTunnel('box');
    tunnel.end('hello');
    expect(await text(tunnel)).toBe('hello, it said');
    const [, query = ''] = daemon.requests.at(-1)?.path.split('?') ?? [];
    expect(Object.fromEntries(new URLSearchParams(query))).toMatchObject({
      stream: 'true',
      stdin: 'true',
      stdout: 'true',
      stderr: 'true',
    });
  });

  it('ends without a fault where PID 1 ends before it has printed anything', async () => {
    const engine = await attachable((socket) => socket.end(frame(2, 'sandyard-warden: no room')));
    expect(await text(await engine.attachTunnel('box'))).toBe('');
  });

  it('is refused where there is no such container', async () => {
    const engine = await attachable(() => {});
    daemon.handler = (request) => {
      if (!request.path.includes('/attach?')) return false;
      upgrade(request, { status: 404, message: 'No such container: box' });
      return true;
    };
    await expect(engine.attachTunnel('box')).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });
});

describe('a tunnel under a runtime that leaves streams open', () => {
  it.each<[what: string, container: object, ends: boolean]>([
    ['ends with its container', { HostConfig: { Runtime: 'runsc' } }, true],
    ['is left alone under runc', { HostConfig: { Runtime: 'runc' } }, false],
  ])('%s', async (_, container, ends) => {
    const engine = await scripted({ container, run: (socket) => socket.write(frame(1, 'all')) });
    const { handler } = daemon;
    daemon.handler = (request) =>
      request.path.startsWith('/containers/box/wait')
        ? json(request.response, 200, { StatusCode: 0 })
        : handler(request);
    const tunnel = await engine.openTunnel('box', COMMAND);
    let output = '';
    let hasEnded = false;
    tunnel.on('data', (chunk: Buffer) => (output += String(chunk))).once('end', () => (hasEnded = true));
    await new Promise((resolve) => setTimeout(resolve, 900));
    expect({ output, hasEnded }).toEqual({ output: 'all', hasEnded: ends });
    expect(daemon.count('POST /containers/box/wait')).toBe(ends ? 1 : 0);
    tunnel.destroy();
  });
});

describe('a tunnel that can not be opened', () => {
  it.each([
    [409, 'Container c1 is not running', 'wrong_state'],
    [409, 'Container c1 is paused, unpause the container before exec', 'wrong_state'],
    [404, 'No such container: box', 'sandbox_not_found'],
    [500, 'broken', 'engine_error'],
  ])('is refused with %d "%s": %s', async (status, message, code) => {
    const engine = await scripted({ create: { status, body: { message } } });
    await expect(engine.openTunnel('box', COMMAND)).rejects.toMatchObject({ code });
  });

  it.each([
    [409, 'Container c1 is paused', 'wrong_state'],
    [404, 'No such exec instance: e1', 'engine_unavailable'],
    [500, 'broken', 'engine_error'],
  ])('is refused at its start with %d "%s": %s', async (status, message, code) => {
    const engine = await scripted({ refusal: { status, message } });
    await expect(engine.openTunnel('box', COMMAND)).rejects.toMatchObject({ code });
  });

  it('is not taken for one where the connection was not handed over', async () => {
    const engine = await scripted({});
    const { handler } = daemon;
    daemon.handler = (request) => {
      if (request.path !== '/exec/e1/start') return handler(request);
      request.socket.write('HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n');
      return true;
    };
    await expect(engine.openTunnel('box', COMMAND)).rejects.toMatchObject({
      code: 'engine_error',
      hint: expect.stringContaining('proxy'),
    });
  });
});

describe('a tunnel that ends before anything came', () => {
  const missing =
    'OCI runtime exec failed: exec failed: exec: "/usr/lib/sandyard/warden": no such file or directory: unknown\r\n';
  const notRunning = { State: { Running: false } };

  it.each<[what: string, script: Script, expected: object]>([
    [
      'the program is missing',
      { run: (socket) => socket.end(frame(1, missing)), exec: { ExitCode: 126, Pid: 0 } },
      {
        code: 'engine_error',
        message: expect.stringMatching(/warden could not be run .*no such file/),
        hint: expect.stringContaining('warden'),
      },
    ],
    [
      'the program failed',
      { run: (socket) => socket.end(frame(2, 'no\u001b[2J\nsocket')), exec: { ExitCode: 2 } },
      { code: 'engine_error', message: '/usr/lib/sandyard/warden could not be run in the sandbox: no [2J socket' },
    ],
    [
      'nobody takes it yet',
      { run: (socket) => socket.end(frame(2, 'socket: Connection refused')), exec: { ExitCode: 69 } },
      { code: 'channel_failed', message: expect.stringContaining('Connection refused') },
    ],
    [
      'the program failed without a word',
      { run: (socket) => socket.end(), exec: { ExitCode: 2 } },
      { code: 'engine_error', message: expect.stringContaining('exit code 2') },
    ],
    [
      'the program was killed before it said anything',
      { run: (socket) => socket.end(), exec: { ExitCode: 137 } },
      { code: 'engine_unavailable', retryable: true },
    ],
    [
      'it was cut while the program was started',
      { run: (socket) => socket.end(), exec: { ExitCode: 126 } },
      { code: 'engine_unavailable', retryable: true },
    ],
    [
      'the container has stopped',
      { run: (socket) => socket.end(), exec: { ExitCode: 137 }, container: notRunning },
      { code: 'wrong_state' },
    ],
    ...['cannot exec in a stopped state', 'cannot execute in container "c1" in state stopped'].map(
      (said): [what: string, script: Script, expected: object] => [
        `the container stopped while the program was started: ${said}`,
        {
          run: (socket) => socket.end(frame(1, `OCI runtime exec failed: ${said}: unknown\r\n`)),
          exec: { ExitCode: 126, Pid: 0 },
          container: stopping(),
        },
        { code: 'wrong_state' },
      ],
    ),
    [
      'the container is gone',
      { run: (socket) => socket.end(), exec: 404, container: 404 },
      { code: 'sandbox_not_found' },
    ],
    [
      'the program runs on',
      { run: (socket) => socket.end(), exec: { Running: true, ExitCode: null } },
      { code: 'engine_unavailable' },
    ],
    ['the engine closed the connection', { run: abandon }, { code: 'engine_unavailable' }],
  ])('tells that %s', async (_, script, expected) => {
    const engine = await scripted(script);
    expect(await failure(await engine.openTunnel('box', COMMAND))).toMatchObject(expected);
  });
});

describe('a tunnel that breaks', () => {
  it.each<[what: string, run: (socket: Socket) => unknown, expected: object]>([
    ['is reset', abandon, { code: 'engine_unavailable' }],
    ['ends within a frame', (socket) => socket.end(frame(1, 'abc').subarray(0, 10)), { code: 'engine_unavailable' }],
    ['has no frames', (socket) => socket.write('no frames at all'), { code: 'engine_error' }],
    [
      'ends with words on standard error',
      (socket) => socket.end(frame(2, `out of memory\n${'x'.repeat(10_000)}`)),
      { code: 'engine_unavailable', message: expect.stringMatching(/out of memory x{50}/) },
    ],
  ])('when it %s, says so', async (_, run, expected) => {
    const engine = await scripted({
      run: (socket) => {
        socket.write(frame(1, 'some'));
        setTimeout(run, 20, socket);
      },
    });
    const tunnel = await engine.openTunnel('box', COMMAND);
    const error = (await failure(tunnel)) as Error;
    expect(error).toMatchObject(expected);
    expect(error.message.length).toBeLessThan(700);
    expect(tunnel.destroyed).toBe(true);
  });

  it('takes writes without a further fault until its end is told', async () => {
    const engine = await scripted({ run: (socket) => socket.end(frame(1, 'bye')) });
    const tunnel = await engine.openTunnel('box', COMMAND);
    for (let i = 0; i < 20; i++) {
      tunnel.write(Buffer.alloc(1000));
      await new Promise((resolve) => setImmediate(resolve));
    }
    tunnel.on('error', () => {});
    tunnel.resume();
    await vi.waitUntil(() => tunnel.destroyed, { timeout: 2000 });
  });
});
