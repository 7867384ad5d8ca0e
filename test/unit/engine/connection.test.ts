import Docker from 'dockerode';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { compareVersions, EngineConnection, withDeadline } from '../../../src/engine/connection.js';
import { silentTelemetry } from '../../../src/telemetry.js';
import { FakeDaemon, json, type DaemonHandler } from '../../fixtures/fake-daemon.js';

let daemon: FakeDaemon;
beforeEach(async () => {
  daemon = await FakeDaemon.make();
});
afterEach(() => daemon[Symbol.asyncDispose]());

async function start(handler?: DaemonHandler): Promise<EngineConnection> {
  if (handler !== undefined) daemon.handler = handler;
  await daemon.listen();
  return new EngineConnection({ env: daemon.env });
}

const settings = { operation: 'info' as const, doing: 'list images', deadlineMs: 2000 };
const listImages = (docker: Docker, abortSignal: AbortSignal) => docker.listImages({ abortSignal });

describe('withDeadline', () => {
  const options = { doing: 'wait', deadlineMs: 20 };
  const forever = () => new Promise<never>(() => {});

  it('gives what comes in time', async () => {
    expect(await withDeadline(async () => 7, options)).toBe(7);
    await expect(withDeadline(() => Promise.reject(new Error('no')), options)).rejects.toThrow('no');
  });

  it('ends what never settles, and tells after how long', async () => {
    const error = withDeadline(forever, options);
    await expect(error).rejects.toMatchObject({
      code: 'engine_timeout',
      message: expect.stringMatching(/0\.02 s to wait/),
    });
  });

  it('tells what it ran that it gives up', async () => {
    let given: AbortSignal | undefined;
    await withDeadline((signal) => {
      given = signal;
      return forever();
    }, options).catch(() => {});
    expect(given?.aborted).toBe(true);
  });

  it('ends at once when the caller gives up', async () => {
    const caller = new AbortController();
    const reason = new Error('changed my mind');
    const waiting = withDeadline(forever, { ...options, deadlineMs: 60_000, signal: caller.signal });
    caller.abort(reason);
    await expect(waiting).rejects.toMatchObject({ code: 'aborted', cause: reason });
  });

  it('runs nothing when the caller has given up before', async () => {
    let ran = false;
    const run = async () => {
      ran = true;
    };
    await expect(withDeadline(run, { ...options, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'aborted',
    });
    expect(ran).toBe(false);
  });

  it('does not mind a failure after it gave up', async () => {
    const late = () => sleep(30).then(() => Promise.reject(new Error('late')));
    await expect(withDeadline(late, options)).rejects.toMatchObject({ code: 'engine_timeout' });
    await sleep(20);
  });
});

it.each([
  ['1.40', '1.40', 0],
  ['1.9', '1.40', -1],
  ['1.100', '1.48', 1],
  ['2.0', '1.48', 1],
])('version %s against %s: %d', (a, b, sign) => {
  expect(Math.sign(compareVersions(a, b))).toBe(sign);
});

describe('the API version', () => {
  it.each<[what: string, version: Record<string, unknown>, agreed: string]>([
    ["the engine's, where it is older than ours", { ApiVersion: '1.41', MinAPIVersion: '1.12' }, '1.41'],
    ['ours, where the engine is newer', { ApiVersion: '1.99', MinAPIVersion: '1.24' }, '1.48'],
    ["the engine's oldest, where ours is older still", { ApiVersion: '1.99', MinAPIVersion: '1.50' }, '1.50'],
    ['the oldest that will do', { ApiVersion: '1.40' }, '1.40'],
  ])('is %s', async (_, version, agreed) => {
    const connection = await start();
    daemon.version = version;
    expect(await connection.connected()).toMatchObject({ apiVersion: agreed, address: `unix://${daemon.socketPath}` });
    await connection.call(settings, (docker) => docker.info().catch(() => {}));
    expect(daemon.requests.at(-1)).toMatchObject({ path: '/info', apiVersion: `v${agreed}` });
  });

  it('is agreed on once, however many call at first', async () => {
    const connection = await start();
    await Promise.all(Array.from({ length: 8 }, () => connection.call(settings, listImages)));
    expect(daemon.count('GET /version')).toBe(1);
  });

  it('refuses an engine that is too old, and says what is needed', async () => {
    const connection = await start();
    daemon.version = { ApiVersion: '1.39' };
    await expect(connection.connected()).rejects.toMatchObject({
      code: 'engine_error',
      message: expect.stringContaining('1.39'),
      hint: expect.stringContaining('19.03'),
    });
  });

  it.each([[{}], [{ ApiVersion: 41 }], [{ ApiVersion: 'latest' }]])(
    'refuses what is no engine: %j',
    async (version) => {
      const connection = await start();
      daemon.version = version;
      await expect(connection.connected()).rejects.toMatchObject({ name: 'SandyardError' });
    },
  );
});

describe('finding the engine', () => {
  it('tells where it looked when there is none', async () => {
    const connection = new EngineConnection({ env: { DOCKER_HOST: `unix://${join(daemon.socketPath, 'none')}` } });
    await expect(connection.call(settings, listImages)).rejects.toMatchObject({
      code: 'engine_unavailable',
      message: expect.stringContaining(daemon.socketPath),
    });
  });

  it('finds one that appears later', async () => {
    const connection = new EngineConnection({ env: daemon.env });
    await expect(connection.call(settings, listImages)).rejects.toMatchObject({ code: 'engine_unavailable' });
    await daemon.listen();
    expect(await connection.call(settings, listImages)).toEqual([]);
  });

  it('finds it again after it was lost', async () => {
    const connection = await start();
    await connection.call(settings, listImages);
    await daemon.stop();
    await expect(connection.call(settings, listImages)).rejects.toMatchObject({ code: 'engine_unavailable' });
    daemon.version = { ApiVersion: '1.44' };
    await daemon.listen();
    await connection.call(settings, listImages);
    expect(await connection.connected()).toMatchObject({ apiVersion: '1.44' });
  });

  it('uses a client that it is given', async () => {
    await daemon.listen();
    const connection = new EngineConnection({ docker: new Docker({ socketPath: daemon.socketPath }) });
    expect(await connection.connected()).toMatchObject({ address: `unix://${daemon.socketPath}`, apiVersion: '1.41' });
  });

  it('refuses a DOCKER_HOST that is none', async () => {
    const connection = new EngineConnection({ env: { DOCKER_HOST: 'nonsense' } });
    await expect(connection.connected()).rejects.toMatchObject({ code: 'config_invalid' });
  });

  it('leaves no failure unhandled when its caller has given up before', async () => {
    const others = process.listeners('unhandledRejection');
    const unhandled: unknown[] = [];
    process.removeAllListeners('unhandledRejection');
    process.on('unhandledRejection', (error) => unhandled.push(error));
    try {
      const connection = new EngineConnection({ env: daemon.env });
      const connected = connection.connected({ signal: AbortSignal.abort() });
      await expect(connected).rejects.toMatchObject({ code: 'aborted' });
      await sleep(100);
    } finally {
      process.removeAllListeners('unhandledRejection');
      for (const listener of others) process.on('unhandledRejection', listener);
    }
    expect(unhandled).toEqual([]);
  });
});

describe('a call', () => {
  it('has a deadline when the engine never answers', async () => {
    const connection = await start(({ path }) => path === '/info');
    const call = connection.call({ operation: 'info', doing: 'describe', deadlineMs: 50 }, (docker) => docker.info());
    await expect(call).rejects.toMatchObject({ code: 'engine_timeout' });
  });

  it('has a deadline when the engine dies after its headers', async () => {
    const connection = await start(({ path, response, socket }) => {
      if (path !== '/info') return false;
      response.writeHead(200, { 'content-type': 'application/json' });
      response.write('{');
      setTimeout(() => socket.destroy(), 20);
      return true;
    });
    const call = connection.call({ operation: 'info', doing: 'describe', deadlineMs: 300 }, (docker) => docker.info());
    await expect(call).rejects.toMatchObject({ code: expect.stringMatching(/engine_(timeout|unavailable)/) });
  });

  it('hangs up when its caller gives up', async () => {
    let closed = false;
    const connection = await start(({ path, socket }) => {
      if (path !== '/images/json') return false;
      socket.once('close', () => (closed = true));
      return true;
    });
    await connection.connected();
    const caller = new AbortController();
    const call = connection.call({ ...settings, signal: caller.signal }, listImages);
    setTimeout(() => caller.abort(), 20);
    await expect(call).rejects.toMatchObject({ code: 'aborted' });
    await sleep(20);
    expect(closed).toBe(true);
  });

  it('translates what the engine answers', async () => {
    const connection = await start(({ path, response }) =>
      path === '/info' ? json(response, 500, { message: 'no space left on device' }) : false,
    );
    const call = connection.call(settings, (docker) => docker.info());
    await expect(call).rejects.toMatchObject({ code: 'out_of_disk' });
  });

  /** Every first use of a path ends with the connection reset, as that of a stale one does. */
  const resetFirst: DaemonHandler = ({ method, path, socket }) => {
    if (path === '/_ping' || path === '/version' || daemon.count(`${method} ${path}`) > 1) return false;
    socket.destroy();
    return true;
  };

  it('is made once more when the connection was stale and twice is as good as once', async () => {
    const connection = await start((request) => {
      if (resetFirst(request) === true) return true;
      return request.path === '/info' ? json(request.response, 200, { NCPU: 4 }) : false;
    });
    const call = connection.call({ ...settings, idempotent: true }, (docker) => docker.info());
    expect(await call).toEqual({ NCPU: 4 });
    expect(daemon.count('GET /info')).toBe(2);
  });

  it('is not made again where that could do it twice', async () => {
    const connection = await start(resetFirst);
    const call = connection.call(settings, (docker) => docker.createContainer({ Image: 'x' }));
    await expect(call).rejects.toMatchObject({ code: 'engine_unavailable' });
    expect(daemon.count('POST /containers/create')).toBe(1);
  });

  it('is made no more than twice', async () => {
    const connection = await start(({ path, socket }) => {
      if (path !== '/info') return false;
      socket.destroy();
      return true;
    });
    const call = connection.call({ ...settings, idempotent: true }, (docker) => docker.info());
    await expect(call).rejects.toMatchObject({ code: 'engine_unavailable' });
    expect(daemon.count('GET /info')).toBe(2);
  });

  it('leaves few connections open, however many there were at once', async () => {
    let most = 0;
    const connection = await start(async ({ path }) => {
      if (path === '/images/json') await sleep(100);
      most = Math.max(most, daemon.connections);
      return false;
    });
    await Promise.all(Array.from({ length: 40 }, () => connection.call(settings, listImages)));
    expect(most).toBeGreaterThanOrEqual(40);
    await expect.poll(() => daemon.connections).toBeLessThanOrEqual(20);
    expect(daemon.connections).toBeGreaterThan(1);
    connection.close();
  });

  it('survives a restart of the engine', async () => {
    const connection = await start();
    await Promise.all(Array.from({ length: 5 }, () => connection.call({ ...settings, idempotent: true }, listImages)));
    await daemon.stop();
    await daemon.listen();
    expect(await connection.call({ ...settings, idempotent: true }, listImages)).toEqual([]);
  });
});

describe('telemetry', () => {
  it('is told of each call: what it was, how it ended, and how long it took', async () => {
    const told: unknown[] = [];
    const telemetry = { ...silentTelemetry, engineCall: (measured: unknown) => void told.push(measured) };
    daemon.handler = async ({ path, response }) => path === '/info' && json(response, 500, { message: 'broken' });
    await daemon.listen();
    const connection = new EngineConnection({ env: daemon.env }, { telemetry });
    await connection.call(settings, listImages);
    await connection.call(settings, (docker) => docker.info()).catch(() => {});
    await connection.call({ ...settings, signal: AbortSignal.abort() }, listImages).catch(() => {});
    const seconds = expect.any(Number);
    expect(told).toEqual([
      { operation: 'info', status: 'ok', seconds },
      { operation: 'info', status: 'error', seconds },
      { operation: 'info', status: 'aborted', seconds },
    ]);
  });
});
