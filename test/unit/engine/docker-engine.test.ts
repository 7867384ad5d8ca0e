import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { DockerEngine } from '../../../src/engine/docker-engine.js';
import type { ContainerSpec } from '../../../src/engine/engine.js';
import { answers, FakeDaemon, json, type DaemonHandler, type DaemonRequest } from '../../fixtures/fake-daemon.js';

let daemon: FakeDaemon;
beforeEach(async () => {
  daemon = await FakeDaemon.make();
});
afterEach(() => daemon[Symbol.asyncDispose]());

async function start(handler: DaemonHandler): Promise<DockerEngine> {
  daemon.handler = handler;
  await daemon.listen();
  return new DockerEngine({ env: daemon.env });
}

const SPEC: ContainerSpec = {
  name: 'sandyard-abc',
  image: 'x',
  labels: {},
  env: [],
  entrypoint: ['sleep', 'infinity'],
  workdir: '/',
  hostname: 'abc',
  memoryBytes: 2 ** 30,
  cpus: 1,
  pids: 64,
  nofile: 1024,
  network: 'none',
};

function inspected(state: object = {}): object {
  return {
    Id: 'c1',
    Name: '/box',
    Created: '2025-12-31T23:59:59.123456789Z',
    Config: { Image: 'x', Labels: { a: 'b' } },
    State: {
      Status: 'running',
      Running: true,
      StartedAt: '2026-01-01T00:00:00.5Z',
      FinishedAt: '0001-01-01T00:00:00Z',
      ExitCode: 0,
      OOMKilled: false,
      Error: '',
      ...state,
    },
    HostConfig: {},
  };
}

describe('inspectContainer', () => {
  it.each<[what: string, answer: object, expected: object]>([
    [
      'running',
      inspected(),
      { state: 'running', finishedAt: undefined, startedAt: new Date('2026-01-01T00:00:00.5Z') },
    ],
    [
      'never run',
      inspected({ Status: 'created', Running: false, StartedAt: '0001-01-01T00:00:00Z' }),
      { state: 'created', startedAt: undefined },
    ],
    [
      'exited',
      inspected({
        Status: 'exited',
        Running: false,
        FinishedAt: '2026-01-02T00:00:00Z',
        ExitCode: 137,
        OOMKilled: true,
      }),
      { state: 'exited', finishedAt: new Date('2026-01-02T00:00:00Z'), exitCode: 137, oomKilled: true },
    ],
    ['dead', inspected({ Status: 'dead', Running: false }), { state: 'exited' }],
    ['paused', inspected({ Status: 'paused' }), { state: 'paused' }],
    ['named', inspected(), { name: 'box', image: 'x', id: 'c1', labels: { a: 'b' } }],
    ['made', inspected(), { createdAt: new Date('2025-12-31T23:59:59.123Z') }],
  ])('reads one that is %s', async (_, answer, expected) => {
    const engine = await start(answers({ 'GET /containers/box/json': [200, answer] }));
    expect(await engine.inspectContainer('box')).toMatchObject(expected);
  });

  it.each([
    [404, 'No such container: box', 'sandbox_not_found'],
    [500, 'broken', 'engine_error'],
  ])('translates %d', async (status, message, code) => {
    const engine = await start(answers({ 'GET /containers/box/json': [status, { message }] }));
    await expect(engine.inspectContainer('box')).rejects.toMatchObject({ code });
  });
});

describe('createContainer', () => {
  it('sends the settings under the name', async () => {
    let body = '';
    const engine = await start(
      answers({
        'POST /containers/create': (request) => {
          body = request.body;
          return json(request.response, 201, { Id: 'c1' });
        },
      }),
    );
    expect(await engine.createContainer(SPEC)).toBe('c1');
    expect(daemon.requests.at(-1)?.path).toMatch(/^\/containers\/create\?name=sandyard-abc(&|$)/);
    expect(JSON.parse(body)).toMatchObject({ Image: 'x', HostConfig: { Privileged: false, CapDrop: ['ALL'] } });
  });

  it.each([
    [404, 'No such image: x', 'image_not_found'],
    [409, 'Conflict. The container name is already in use', 'name_conflict'],
    [400, 'Range of CPUs is from 0.01 to 2.00', 'limit_exceeded'],
    [500, 'no space left on device', 'out_of_disk'],
  ])('translates %d "%s"', async (status, message, code) => {
    const engine = await start(answers({ 'POST /containers/create': [status, { message }] }));
    await expect(engine.createContainer(SPEC)).rejects.toMatchObject({ code });
  });
});

describe('changes', () => {
  it.each([204, 304])('start and stop take %d for done', async (status) => {
    const engine = await start(
      answers({ 'POST /containers/box/start': [status], 'POST /containers/box/stop': [status] }),
    );
    await engine.startContainer('box');
    await engine.stopContainer('box', { graceSeconds: 0 });
    expect(daemon.requests.at(-1)?.path).toBe('/containers/box/stop?t=0');
  });

  it.each([
    [204, undefined],
    [404, { message: 'No such container: box' }],
  ])('remove takes %d for done', async (status, body) => {
    const engine = await start(answers({ 'DELETE /containers/box': [status, body] }));
    await engine.removeContainer('box');
    expect(daemon.requests.at(-1)?.path).toMatch(/force=true/);
    expect(daemon.requests.at(-1)?.path).toMatch(/v=true/);
  });

  it('remove tries again where the engine was writing down the container', async () => {
    let answered = 0;
    const engine = await start(
      answers({
        'DELETE /containers/box': ({ response }) => {
          answered += 1;
          if (answered > 1) return json(response, 204, undefined);
          return json(response, 500, {
            message: 'unable to remove filesystem for c1: unlinkat /var/lib/docker/containers/c1: directory not empty',
          });
        },
      }),
    );
    await engine.removeContainer('box');
    expect(answered).toBe(2);
  });

  it('removes no container while it renames it, nor the other way round', async () => {
    const order: string[] = [];
    const slowly =
      (what: string) =>
      ({ response }: DaemonRequest): boolean => {
        order.push(`${what} begins`);
        setTimeout(() => {
          order.push(`${what} ends`);
          json(response, 204, undefined);
        }, 30);
        return true;
      };
    const engine = await start(
      answers({ 'POST /containers/box/rename': slowly('rename'), 'DELETE /containers/box': slowly('remove') }),
    );
    const steps = ['rename begins', 'rename ends', 'remove begins', 'remove ends'];
    await Promise.all([engine.renameContainer('box', 'new'), engine.removeContainer('box')]);
    await Promise.all([engine.removeContainer('box'), engine.renameContainer('box', 'new')]);
    expect(order).toEqual([...steps, ...steps.slice(2), ...steps.slice(0, 2)]);
  });

  it('remove waits with whoever else removes it', async () => {
    let left = 3;
    const engine = await start(
      answers({
        'DELETE /containers/box': [409, { message: 'removal of container box is already in progress' }],
        'GET /containers/box/json': ({ response }) =>
          (left -= 1) > 0 ? json(response, 200, inspected()) : json(response, 404, { message: 'No such container' }),
      }),
    );
    await engine.removeContainer('box');
    expect(left).toBe(0);
  });
});

it('lists by all labels, in any state', async () => {
  const found = [
    { Id: 'c1', Names: ['/box'], Image: 'x', State: 'dead', Created: 1767225600, Labels: { a: 'b' } },
    { Id: 'c2', Names: ['/bax'], Image: 'x', State: 'restarting', Created: 1767225601, Labels: {} },
  ];
  const engine = await start(answers({ 'GET /containers/json': [200, found] }));
  expect(await engine.listContainers(['a', 'b=c'])).toEqual([
    {
      id: 'c1',
      name: 'box',
      image: 'x',
      state: 'exited',
      createdAt: new Date('2026-01-01T00:00:00Z'),
      labels: { a: 'b' },
    },
    { id: 'c2', name: 'bax', image: 'x', state: 'running', createdAt: new Date('2026-01-01T00:00:01Z'), labels: {} },
  ]);
  const query = new URLSearchParams(daemon.requests.at(-1)?.path.split('?')[1]);
  expect(query.get('all')).toBe('true');
  expect(JSON.parse(query.get('filters') ?? '')).toEqual({ label: ['a', 'b=c'] });
});

describe('verifyContainer', () => {
  it.each<[what: string, state: object, told: RegExp]>([
    [
      'by the words of the engine',
      { ExitCode: 127, Error: 'exec: "x":\nnot found' },
      /\(exit code 127: exec: "x": not found\)/,
    ],
    ['by what 127 means', { ExitCode: 127 }, /exit code 127: there is no sleep in it/],
    ['by what 126 means', { ExitCode: 126 }, /exit code 126: sleep can't be executed there/],
    ['by what 137 means', { ExitCode: 137 }, /killed/],
    ["by what the warden's codes mean", { ExitCode: 92 }, /exit code 92: the warden could not get/],
    ['by its exit code', { ExitCode: 3 }, /\(exit code 3\)/],
  ])('tells why a container ended as soon as it was started, %s', async (_, state, told) => {
    const ended = inspected({ Running: false, Status: 'exited', ...state });
    const engine = await start(answers({ 'GET /containers/box/json': [200, ended] }));
    await expect(engine.verifyContainer('box', SPEC)).rejects.toMatchObject({
      code: 'engine_error',
      message: expect.stringMatching(told),
      hint: expect.stringContaining('warden'),
    });
  });
});

it('describes the engine', async () => {
  const info = {
    ServerVersion: '20.10.24',
    OperatingSystem: 'Debian',
    Architecture: 'x86_64',
    NCPU: 4,
    MemTotal: 8e9,
    Driver: 'overlay2',
    DockerRootDir: '/srv/docker',
    Runtimes: { runc: {}, runsc: { runtimeArgs: ['--network=none'] }, 'runsc-net': {}, 'io.containerd.runc.v2': {} },
    DefaultRuntime: 'runc',
    SystemTime: '2026-01-01T01:00:00.123456789+01:00',
  };
  const engine = await start(answers({ 'GET /info': [200, info] }));
  expect(await engine.info()).toEqual({
    address: `unix://${daemon.socketPath}`,
    apiVersion: '1.41',
    version: '20.10.24',
    operatingSystem: 'Debian',
    architecture: 'x86_64',
    cpus: 4,
    memoryBytes: 8e9,
    storageDriver: 'overlay2',
    dataRoot: '/srv/docker',
    cgroupVersion: '1',
    runtimes: ['runc', 'runsc', 'runsc-net'],
    runtimesWithoutNetwork: ['runsc'],
    defaultRuntime: 'runc',
    securityOptions: [],
    liveRestore: false,
    systemTime: new Date('2026-01-01T00:00:00.123Z'),
  });
});

it('connects at the first call, not before', async () => {
  const engine = await start(() => false);
  expect(daemon.requests).toEqual([]);
  await engine.ping();
  expect(daemon.count('GET /_ping')).toBeGreaterThan(0);
  engine.close();
});
