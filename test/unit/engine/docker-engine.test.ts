import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { pack } from 'tar-stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { DockerEngine } from '../../../src/engine/docker-engine.js';
import type { ContainerSpec, ExecSpec, OutputChunk } from '../../../src/engine/engine.js';
import { FakeDaemon, frame, json, type DaemonHandler, type DaemonRequest } from '../../fixtures/fake-daemon.js';

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

/** Answers by method and path: a status and a body, or what a function does. */
type Answer = [status: number, body?: unknown] | ((request: DaemonRequest) => unknown);
const answers =
  (table: Record<string, Answer>): DaemonHandler =>
  async (request) => {
    const answer = table[`${request.method} ${request.path.split('?')[0]}`];
    if (answer === undefined) return false;
    if (typeof answer === 'function') return (await answer(request)) !== false;
    const [status, body] = answer;
    if (body !== undefined) return json(request.response, status, body);
    request.response.writeHead(status).end();
    return true;
  };

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
    ExecIDs: null,
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
    ['busy', { ...inspected(), ExecIDs: ['e1'] }, { busy: true }],
    ['quiet', inspected(), { busy: false, name: 'box', image: 'x', id: 'c1', labels: { a: 'b' } }],
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
    { Id: 'c1', Names: ['/box'], Image: 'x', State: 'dead', Labels: { a: 'b' } },
    { Id: 'c2', Names: ['/bax'], Image: 'x', State: 'restarting', Labels: {} },
  ];
  const engine = await start(answers({ 'GET /containers/json': [200, found] }));
  expect(await engine.listContainers(['a', 'b=c'])).toEqual([
    { id: 'c1', name: 'box', image: 'x', state: 'exited', labels: { a: 'b' } },
    { id: 'c2', name: 'bax', image: 'x', state: 'running', labels: {} },
  ]);
  const query = new URLSearchParams(daemon.requests.at(-1)?.path.split('?')[1]);
  expect(query.get('all')).toBe('true');
  expect(JSON.parse(query.get('filters') ?? '')).toEqual({ label: ['a', 'b=c'] });
});

describe('verifyContainer', () => {
  it('tells why a container ended as soon as it was started', async () => {
    const ended = inspected({ Running: false, Status: 'exited', ExitCode: 127, Error: 'exec: "sleep": not found' });
    const engine = await start(answers({ 'GET /containers/box/json': [200, ended] }));
    await expect(engine.verifyContainer('box', SPEC)).rejects.toMatchObject({
      code: 'engine_error',
      message: expect.stringContaining('"sleep": not found'),
    });
  });
});

describe('readFile and putArchive', () => {
  async function tarOf(name: string, content: string): Promise<Buffer> {
    const tar = pack();
    tar.entry({ name }, content);
    tar.finalize();
    return buffer(tar);
  }
  const archive =
    (tar: Buffer): Answer =>
    ({ response }) => {
      response.writeHead(200, { 'content-type': 'application/x-tar' }).end(tar);
      return true;
    };

  it('reads the one file of an archive', async () => {
    const engine = await start(answers({ 'GET /containers/box/archive': archive(await tarOf('lease.json', '{}')) }));
    expect(String(await engine.readFile('box', '/var/lease.json'))).toBe('{}');
  });

  it('has nothing where there is no file', async () => {
    const engine = await start(
      answers({ 'GET /containers/box/archive': [404, { message: 'Could not find the file' }] }),
    );
    expect(await engine.readFile('box', '/var/lease.json')).toBeUndefined();
  });

  it('refuses more than it was to read', async () => {
    const engine = await start(answers({ 'GET /containers/box/archive': archive(await tarOf('x', 'x'.repeat(11))) }));
    await expect(engine.readFile('box', '/x', { maxBytes: 10 })).rejects.toMatchObject({ code: 'engine_error' });
    expect((await engine.readFile('box', '/x', { maxBytes: 11 }))?.length).toBe(11);
  });

  it('rejects, and does not end the program, when an archive breaks off', async () => {
    const engine = await start(
      answers({ 'GET /containers/box/archive': archive((await tarOf('x', 'abc')).subarray(0, 514)) }),
    );
    await expect(engine.readFile('box', '/x')).rejects.toMatchObject({ name: 'SandyardError' });
  });

  it('sends an archive as it is', async () => {
    let body = '';
    const engine = await start(
      answers({
        'PUT /containers/box/archive': (request) => {
          body = request.body;
          request.response.writeHead(200).end();
        },
      }),
    );
    await engine.putArchive('box', Readable.from([Buffer.from('some tar')]));
    expect(body).toBe('some tar');
    expect(daemon.requests.at(-1)?.path).toContain('path=%2F');
  });
});

describe('stats', () => {
  it('has what there is, and zero for the rest', async () => {
    const stats = {
      memory_stats: { usage: 5, limit: 10 },
      cpu_stats: { cpu_usage: { total_usage: 7 } },
      pids_stats: { current: 2 },
      networks: { eth0: { rx_bytes: 1, tx_bytes: 2 }, eth1: { rx_bytes: 10, tx_bytes: 20 } },
    };
    const engine = await start(
      answers({ 'GET /containers/box/stats': [200, stats], 'GET /containers/none/stats': [200, {}] }),
    );
    const zero = { memoryBytes: 0, memoryLimitBytes: 0, cpuNanoseconds: 0, pids: 0 };
    expect(await engine.stats('box')).toEqual({
      memoryBytes: 5,
      memoryLimitBytes: 10,
      cpuNanoseconds: 7,
      pids: 2,
      networkReceivedBytes: 11,
      networkSentBytes: 22,
    });
    expect(await engine.stats('none')).toEqual({ ...zero, networkReceivedBytes: 0, networkSentBytes: 0 });
  });
});

describe('exec', () => {
  const EXEC: ExecSpec = { command: ['make', 'all'], env: ['A=b'], user: '1000:1000', workdir: '/w', stdin: false };

  interface Script {
    readonly output?: readonly Uint8Array[];
    /** What becomes of the stream after the output. */
    readonly finally?: 'end' | 'reset' | 'stay open';
    readonly exec?: object | 404;
    readonly container?: object | 404;
    readonly events?: readonly object[];
  }

  /** An exec that prints, and what the engine says of it and of its container. */
  function scripted({ output = [], finally: last = 'end', exec = {}, container = inspected(), events = [] }: Script) {
    const or404 = (found: object | 404, what: string): Answer =>
      found === 404 ? [404, { message: `No such ${what}` }] : [200, found];
    return start(
      answers({
        'POST /containers/box/exec': [201, { Id: 'e1' }],
        'POST /exec/e1/start': ({ response, socket }) => {
          response.writeHead(200, { 'content-type': 'application/vnd.docker.raw-stream' });
          response.flushHeaders();
          for (const chunk of output) response.write(chunk);
          if (last === 'end') response.end();
          if (last === 'reset') setTimeout(() => socket.destroy(), 20);
        },
        'GET /exec/e1/json': or404(exec === 404 ? 404 : { Running: false, ExitCode: 0, Pid: 7, ...exec }, 'exec'),
        'GET /containers/box/json': or404(container, 'container'),
        'GET /events': ({ response }) => {
          for (const event of events) response.write(`${JSON.stringify(event)}\n`);
        },
      }),
    );
  }

  async function run(engine: DockerEngine) {
    const exec = await engine.exec('box', EXEC);
    const chunks: OutputChunk[] = [];
    for await (const chunk of exec.output()) chunks.push({ ...chunk, data: Buffer.from(chunk.data) });
    const of = (name: string) => Buffer.concat(chunks.filter(({ stream }) => stream === name).map(({ data }) => data));
    return { end: await exec.end(), stdout: String(of('stdout')), stderr: String(of('stderr')) };
  }

  it('asks for what the spec says', async () => {
    let body = '';
    const engine = await start(
      answers({
        'POST /containers/box/exec': (request) => {
          body = request.body;
          return json(request.response, 409, { message: 'Container c1 is not running' });
        },
      }),
    );
    await expect(engine.exec('box', EXEC)).rejects.toMatchObject({ code: 'wrong_state' });
    expect(JSON.parse(body)).toMatchObject({
      Cmd: ['make', 'all'],
      Env: ['A=b'],
      User: '1000:1000',
      WorkingDir: '/w',
      AttachStdin: false,
      Tty: false,
    });
  });

  it('gives the output and the exit code', async () => {
    const engine = await scripted({ output: [frame(1, 'out'), frame(2, 'err')], exec: { ExitCode: 3 } });
    expect(await run(engine)).toEqual({
      end: { kind: 'exited', exitCode: 3, oomKilled: false, outputHeldOpen: false },
      stdout: 'out',
      stderr: 'err',
    });
  });

  it.each([
    [
      'OCI runtime exec failed: exec failed: "make": executable file not found in $PATH: unknown',
      127,
      'command_not_found',
    ],
    [
      'OCI runtime exec failed: exec failed: fork/exec /x: no such file or directory: unknown',
      126,
      'command_not_found',
    ],
    ['OCI runtime exec failed: exec failed: permission denied: unknown', 126, 'command_not_executable'],
    ['OCI runtime exec failed: exec failed: exec format error', 126, 'command_not_executable'],
    [
      'OCI runtime exec failed: exec failed: chdir to cwd ("/w") set in config.json failed: no such file or directory',
      126,
      'workdir_not_found',
    ],
    ['OCI runtime exec failed: something else', 126, 'engine_error'],
  ])('takes "%s" for what it is', async (text, ExitCode, code) => {
    const engine = await scripted({ output: [frame(1, `${text}\r\n`)], exec: { ExitCode, Pid: 0 } });
    await expect(run(engine)).rejects.toMatchObject({ code });
  });

  it('leaves a command its own words and exit codes', async () => {
    const text = 'OCI runtime exec failed: not found';
    const engine = await scripted({ output: [frame(1, text), frame(1, '!')], exec: { ExitCode: 127, Pid: 7 } });
    expect(await run(engine)).toMatchObject({ end: { exitCode: 127 }, stdout: `${text}!` });
  });

  it('takes a stream that breaks off from a running command for no end', async () => {
    const engine = await scripted({
      output: [frame(1, 'half')],
      finally: 'reset',
      exec: { Running: true, ExitCode: null },
    });
    await expect(run(engine)).rejects.toMatchObject({ code: 'engine_unavailable' });
  });

  it('takes a clean end of the stream of a running command for no end', async () => {
    const engine = await scripted({ exec: { Running: true, ExitCode: null } });
    await expect(run(engine)).rejects.toMatchObject({ code: 'engine_unavailable' });
  });

  it.each<[what: string, script: Script]>([
    ['its container has ended', { exec: { Running: true, ExitCode: null }, container: inspected({ Running: false }) }],
    ['its container is gone', { exec: 404, container: 404 }],
    ['it was killed with its container', { exec: { ExitCode: 137 }, container: inspected({ Running: false }) }],
  ])('tells when %s', async (_, script) => {
    expect((await run(await scripted(script))).end).toEqual({ kind: 'container_died', oomKilled: false });
  });

  it('tells when its container was out of memory', async () => {
    const container = inspected({ Running: false, OOMKilled: true });
    const engine = await scripted({ exec: { ExitCode: 137 }, container });
    expect((await run(engine)).end).toEqual({ kind: 'container_died', oomKilled: true });
  });

  const oom = { Action: 'oom', Actor: { Attributes: {} } };
  const began = (execID: string) => ({ Action: 'exec_start: make', Actor: { Attributes: { execID } } });
  it.each<[what: string, events: object[], oomKilled: boolean]>([
    ['an event since it began', [began('e1'), oom], true],
    ['no event', [began('e1')], false],
    ['an event before it began', [oom, began('e1')], false],
    ['events before and since', [oom, began('e1'), oom], true],
    ['an event after another began', [began('e1'), began('e2'), oom], true],
  ])('knows a kill for memory by %s', async (_, events, oomKilled) => {
    const engine = await scripted({ exec: { ExitCode: 137 }, events });
    expect((await run(engine)).end).toMatchObject({ kind: 'exited', exitCode: 137, oomKilled });
  });

  it('ends when the command has, though something holds its output open', async () => {
    const engine = await scripted({ output: [frame(1, 'ok')], finally: 'stay open' });
    expect(await run(engine)).toEqual({
      end: { kind: 'exited', exitCode: 0, oomKilled: false, outputHeldOpen: true },
      stdout: 'ok',
      stderr: '',
    });
  });

  it('hangs up when it is left, and says that the end is not known', async () => {
    const engine = await scripted({
      output: [frame(1, 'a'), frame(1, 'b')],
      finally: 'stay open',
      exec: { Running: true },
    });
    const exec = await engine.exec('box', EXEC);
    for await (const _ of exec.output()) break;
    await expect(exec.end()).rejects.toMatchObject({ code: 'aborted' });
  });

  it('carries input to its end, and output from the same connection', async () => {
    const engine = await start(
      answers({
        'POST /containers/box/exec': [201, { Id: 'e1' }],
        'POST /exec/e1/start': async ({ socket }) => {
          socket.write('HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n');
          const chunks: Buffer[] = [];
          socket.on('data', (chunk: Buffer) => chunks.push(chunk));
          socket.once('end', () => socket.end(frame(1, Buffer.concat(chunks).subarray(-5))));
        },
        'GET /exec/e1/json': [200, { Running: false, ExitCode: 0, Pid: 7 }],
      }),
    );
    const exec = await engine.exec('box', { ...EXEC, stdin: true });
    exec.stdin?.end('hello');
    let output = '';
    for await (const { data } of exec.output()) output += String(data);
    expect(output).toBe('hello');
    expect(await exec.end()).toMatchObject({ exitCode: 0 });
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
    Runtimes: { runc: {}, runsc: {}, 'io.containerd.runc.v2': {} },
    DefaultRuntime: 'runc',
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
    cgroupVersion: '1',
    runtimes: ['runc', 'runsc'],
    defaultRuntime: 'runc',
    securityOptions: [],
    liveRestore: false,
  });
});

it('connects at the first call, not before', async () => {
  const engine = await start(() => false);
  expect(daemon.requests).toEqual([]);
  await engine.ping();
  expect(daemon.count('GET /_ping')).toBeGreaterThan(0);
  engine.close();
});
