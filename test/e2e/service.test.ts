import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { SandboxManager } from '../../src/index.js';
import { dockerClient, eventually, IMAGE, newOwner, removeAll, RUN_LABELS, RUN_SUFFIX, run } from '../fixtures/run.js';
import { call, startServiceProcess, type ServiceProcess } from '../fixtures/service.js';

const owner = newOwner();

afterAll(async () => {
  await removeAll(new SandboxManager({ owner, reaper: false }));
});

describe('the service as a process', () => {
  let service: ServiceProcess;
  beforeAll(async () => {
    service = await startServiceProcess({ SANDBOX_OWNER: owner, SANDBOX_MAX_MEMORY: '2g' });
  });
  afterAll(() => service[Symbol.asyncDispose]());

  it('answers the requests that clients send', async () => {
    const created = await call(service, 'POST', {
      path: '/api/sandboxes/',
      json: { project_name: 'test', memory_limit: '1g', cpu_limit: '1.0' },
    });
    expect(created.status).toBe(201);
    const path = `/api/sandboxes/${created.body.id}`;
    expect(created.headers.get('location')).toBe(path);
    expect(created.body).toMatchObject({
      project_name: 'test',
      memory_limit: 1024 ** 3,
      cpu_limit: 1,
      state: 'running',
    });

    const executed = await call(service, 'POST', {
      path: `${path}/execute`,
      json: { command: ['node', '--version'], workdir: '/workspace' },
    });
    expect(executed.status).toBe(200);
    expect(executed.body).toMatchObject({ exit_code: 0, stderr: '', outcome: 'exited' });
    expect(executed.body.stdout).toMatch(/^v\d+\.\d+\.\d+\n$/);

    const listed = await call(service, 'GET', { path: '/api/sandboxes/' });
    expect(listed.body.sandboxes.map((one: { id: string }) => one.id)).toContain(created.body.id);
    expect((await call(service, 'GET', { path })).body.id).toBe(created.body.id);
    expect((await call(service, 'POST', { path: `${path}/stop` })).body.state).toBe('exited');
    expect((await call(service, 'POST', { path: `${path}/start` })).body.state).toBe('running');
    expect((await call(service, 'DELETE', { path })).status).toBe(204);
    expect((await call(service, 'GET', { path })).status).toBe(404);
  });

  it('runs the lines that it prints at the start', async () => {
    const lines = service
      .output()
      .split('Try it:\n')[1]
      ?.split('\n')
      .slice(0, 3)
      .map((line) => line.trim());
    const { stdout } = await run('bash', ['-euc', (lines ?? []).join('\necho\n')]);
    expect(stdout).toMatch(/"stdout":"v\d+/);
  });

  it('streams files, archives and numbered output', async () => {
    const { body } = await call(service, 'POST', { path: '/api/sandboxes', json: {} });
    const path = `/api/sandboxes/${body.id}`;
    const content = Buffer.alloc(3_000_000, 'sand\0\xff', 'latin1');
    const file = `${path}/files?path=/workspace/in/data.bin`;
    expect((await call(service, 'PUT', { path: file, body: content })).status).toBeLessThan(205);
    const read = Buffer.from(await (await fetch(`${service.url}${file}`)).arrayBuffer());
    expect(read.equals(content)).toBe(true);
    const tar = await fetch(`${service.url}${path}/archive?path=/workspace/in`);
    expect(tar.headers.get('content-type')).toBe('application/x-tar');
    const archive = Buffer.from(await tar.arrayBuffer());
    const put = await call(service, 'PUT', {
      path: `${path}/archive?path=/workspace/out`,
      body: archive,
      headers: { 'content-type': 'application/x-tar' },
    });
    expect(put.status).toBeLessThan(205);
    const same = await call(service, 'POST', {
      path: `${path}/execute`,
      json: { command: 'cmp in/data.bin out/data.bin && echo same' },
    });
    expect(same.body.stdout).toBe('same\n');
    const streamed = await call(service, 'POST', {
      path: `${path}/execute`,
      json: { command: 'echo one; sleep 0.2; echo two >&2; exit 3' },
      headers: { accept: 'application/x-ndjson' },
    });
    const events = (streamed.body as string)
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(events).toMatchObject([
      { type: 'started', process_id: expect.stringMatching(/^\w+$/) },
      { type: 'output', seq: 1, stream: 'stdout', data: 'one\n' },
      { type: 'output', seq: 2, stream: 'stderr', data: 'two\n' },
      { type: 'exit', exit_code: 3, outcome: 'exited' },
    ]);
    expect((await call(service, 'DELETE', { path })).status).toBe(204);
  });

  it('lists a file whose time no Date can hold', async () => {
    const { body } = await call(service, 'POST', { path: '/api/sandboxes', json: {} });
    const path = `/api/sandboxes/${body.id}`;
    await call(service, 'POST', {
      path: `${path}/execute`,
      json: { command: 'touch -d @99999999999999 /dev/shm/far' },
    });
    const listed = await call(service, 'GET', { path: `${path}/files/list?path=/dev/shm` });
    expect(listed).toMatchObject({ status: 200, body: { entries: [{ name: 'far' }] } });
    await call(service, 'DELETE', { path });
  });

  describe('wrong input', () => {
    let id: string;
    let stopped: string;
    beforeAll(async () => {
      id = (await call(service, 'POST', { path: '/api/sandboxes', json: {} })).body.id;
      stopped = (await call(service, 'POST', { path: '/api/sandboxes', json: {} })).body.id;
      await call(service, 'POST', { path: `/api/sandboxes/${stopped}/stop` });
      await call(service, 'POST', { path: `/api/sandboxes/${id}/execute`, json: { command: 'ln -s loop loop' } });
    });

    const json = { 'content-type': 'application/json' };
    const cases: [what: string, method: string, path: string, send: object, status: number, code: string][] = [
      ['an unknown id', 'GET', '/api/sandboxes/nosuchid', {}, 404, 'sandbox_not_found'],
      ['an id that is none', 'GET', '/api/sandboxes/..%2f..%2fetc', {}, 404, 'sandbox_not_found'],
      [
        'an unknown id to execute in',
        'POST',
        '/api/sandboxes/nosuchid/execute',
        { json: { command: 'true' } },
        404,
        'sandbox_not_found',
      ],
      ['an unknown id to delete', 'DELETE', '/api/sandboxes/nosuchid', {}, 404, 'sandbox_not_found'],
      [
        'a stopped sandbox',
        'POST',
        '/api/sandboxes/STOPPED/execute',
        { json: { command: 'true' } },
        409,
        'wrong_state',
      ],
      ['a file of a stopped sandbox', 'GET', '/api/sandboxes/STOPPED/files?path=/etc/hosts', {}, 409, 'wrong_state'],
      ['bad JSON', 'POST', '/api/sandboxes', { body: '{"project_name":', headers: json }, 400, 'invalid_request'],
      ['a wrong type', 'POST', '/api/sandboxes', { json: { project_name: 7 } }, 422, 'validation_failed'],
      ['an unknown field', 'POST', '/api/sandboxes', { json: { projectname: 'x' } }, 422, 'validation_failed'],
      ['a size that is none', 'POST', '/api/sandboxes', { json: { memory_limit: 'lots' } }, 422, 'validation_failed'],
      ['no command', 'POST', '/api/sandboxes/ID/execute', { json: {} }, 422, 'validation_failed'],
      ['an empty command', 'POST', '/api/sandboxes/ID/execute', { json: { command: [] } }, 422, 'validation_failed'],
      [
        'root',
        'POST',
        '/api/sandboxes/ID/execute',
        { json: { command: 'id', user: 'root' } },
        422,
        'validation_failed',
      ],
      [
        'a body of 10 MB',
        'POST',
        '/api/sandboxes',
        { json: { metadata: { a: 'x'.repeat(10_000_000) } } },
        413,
        'payload_too_large',
      ],
      [
        'a wrong content type',
        'POST',
        '/api/sandboxes',
        { body: 'a=b', headers: { 'content-type': 'text/plain' } },
        415,
        'unsupported_media_type',
      ],
      ['an unknown route', 'GET', '/api/nothing', {}, 404, 'route_not_found'],
      ['a wrong method', 'PATCH', '/api/sandboxes', {}, 405, 'method_not_allowed'],
      [
        'a command that is not there',
        'POST',
        '/api/sandboxes/ID/execute',
        { json: { command: ['no-such'] } },
        422,
        'command_not_found',
      ],
      [
        'a directory that is not there',
        'POST',
        '/api/sandboxes/ID/execute',
        { json: { command: 'true', workdir: '/no/such' } },
        422,
        'workdir_not_found',
      ],
      ['a directory as a file', 'GET', '/api/sandboxes/ID/files?path=/workspace', {}, 409, 'is_a_directory'],
      ['a file as a directory', 'GET', '/api/sandboxes/ID/files/list?path=/etc/hosts', {}, 409, 'not_a_directory'],
      ['a file that is not there', 'GET', '/api/sandboxes/ID/files?path=/workspace/none', {}, 404, 'file_not_found'],
      ['a path that is not absolute', 'GET', '/api/sandboxes/ID/files?path=etc/hosts', {}, 422, 'validation_failed'],
      ['a path outside', 'GET', '/api/sandboxes/ID/files?path=/workspace/../etc/hosts', {}, 422, 'validation_failed'],
      ['no path', 'GET', '/api/sandboxes/ID/files', {}, 422, 'validation_failed'],
      [
        'a file that is closed to the user',
        'GET',
        '/api/sandboxes/ID/files?path=/etc/shadow',
        {},
        403,
        'permission_denied',
      ],
      [
        'a place that is closed to the user',
        'PUT',
        '/api/sandboxes/ID/files?path=/etc/new',
        { body: 'x' },
        403,
        'permission_denied',
      ],
      ['a limit above its ceiling', 'POST', '/api/sandboxes', { json: { memory_limit: '4g' } }, 422, 'limit_exceeded'],
      [
        'an image that is missing',
        'POST',
        '/api/sandboxes',
        { json: { image: 'sandyard-none:1' } },
        404,
        'image_not_found',
      ],
      ['a lease of nothing', 'POST', '/api/sandboxes/ID/renew', { json: { timeout: 0 } }, 422, 'validation_failed'],
      [
        'a lease of a year',
        'POST',
        '/api/sandboxes/ID/renew',
        { json: { timeout: 365 * 86_400 } },
        422,
        'limit_exceeded',
      ],
      ['a cursor that is none', 'GET', '/api/sandboxes?cursor=x', {}, 422, 'validation_failed'],
      ['a loop of links', 'GET', '/api/sandboxes/ID/files?path=/workspace/loop', {}, 422, 'validation_failed'],
      [
        'a loop to write',
        'PUT',
        '/api/sandboxes/ID/files?path=/workspace/loop',
        { body: 'x' },
        422,
        'validation_failed',
      ],
      [
        'a name that is too long',
        'GET',
        `/api/sandboxes/ID/files?path=/${'x'.repeat(256)}`,
        {},
        422,
        'validation_failed',
      ],
      [
        'a slash at the end of a file',
        'PUT',
        '/api/sandboxes/ID/files?path=/workspace/new/',
        { body: 'x' },
        409,
        'is_a_directory',
      ],
      [
        'a directory that must stay',
        'DELETE',
        '/api/sandboxes/ID/files?path=/workspace&recursive=true',
        {},
        403,
        'permission_denied',
      ],
      [
        'a working directory that is a file',
        'POST',
        '/api/sandboxes',
        { json: { workdir: '/etc/passwd' } },
        422,
        'validation_failed',
      ],
      [
        'half a surrogate pair',
        'POST',
        '/api/sandboxes',
        { body: String.raw`{"env":{"A":"\ud800"}}`, headers: json },
        422,
        'validation_failed',
      ],
      [
        'another host, by a name in front',
        'GET',
        '/api/sandboxes',
        { headers: { origin: 'http://127.0.0.1.evil.example' } },
        403,
        'forbidden',
      ],
      ['no origin at all', 'GET', '/api/sandboxes', { headers: { origin: 'null' } }, 403, 'forbidden'],
      [
        'another origin',
        'GET',
        '/api/sandboxes',
        { headers: { origin: 'https://elsewhere.example' } },
        403,
        'forbidden',
      ],
    ];

    it.each(cases)('%s', async (_what, method, path, send, status, code) => {
      const answer = await call(service, method, { path: path.replace('STOPPED', stopped).replace('ID', id), ...send });
      expect(answer.body).toMatchObject({ status, code, title: expect.any(String), detail: expect.any(String) });
      expect(answer.status).toBe(status);
      expect(answer.headers.get('content-type')).toContain('application/problem+json');
      expect(answer.body.hint).toEqual(expect.stringMatching(/\w/));
      expect(answer.body.request_id).toBe(answer.headers.get('x-request-id'));
      expect(JSON.stringify(answer.body)).not.toMatch(/node_modules|\bat .*\.js:\d+/);
    });
  });
});

describe('the life of the service', () => {
  it('is killed with -9 and started again: sandboxes are there, half-made ones are not', async () => {
    await using first = await startServiceProcess({ SANDBOX_OWNER: owner });
    const { body } = await call(first, 'POST', { path: '/api/sandboxes', json: { project_name: 'survivor' } });
    const path = `/api/sandboxes/${body.id}`;
    await call(first, 'PUT', { path: `${path}/files?path=/workspace/note`, body: 'still here' });
    const docker = dockerClient();
    const { Config } = await docker.getContainer(`sandyard-${body.id}`).inspect();
    // One whose manager died before it gave it to anybody: it has ended by itself.
    const halfMade = await docker.createContainer({
      name: `sandyard-halfmade${RUN_SUFFIX}`,
      Image: IMAGE,
      User: '0:0',
      Entrypoint: ['/usr/lib/sandyard/warden', 'init', '--setup-ms=500', '--ttl-ms=3600000'],
      Labels: { ...Config.Labels, ...RUN_LABELS, 'sandyard.id': `halfmade${RUN_SUFFIX}` },
    });
    await halfMade.start();
    expect(await halfMade.wait()).toMatchObject({ StatusCode: 94 });
    expect(await first.stop('SIGKILL')).toBe('SIGKILL');

    await using second = await startServiceProcess({ SANDBOX_OWNER: owner });
    const listed = async () =>
      (await call(second, 'GET', { path: '/api/sandboxes' })).body.sandboxes as { id: string }[];
    expect((await listed()).map(({ id }) => id)).toContain(body.id);
    const read = await call(second, 'POST', { path: `${path}/execute`, json: { command: ['cat', 'note'] } });
    expect(read.body.stdout).toBe('still here');
    await eventually(async () => ((await listed()).some(({ id }) => id.startsWith('halfmade')) ? undefined : true));
    await call(second, 'DELETE', { path });
  });

  it('starts without an engine and is not ready', async () => {
    await using service = await startServiceProcess({ DOCKER_HOST: 'unix:///tmp/sandyard-no-such.sock' });
    expect((await call(service, 'GET', { path: '/healthz' })).status).toBe(200);
    expect((await call(service, 'GET', { path: '/readyz' })).status).toBe(503);
    const created = await call(service, 'POST', { path: '/api/sandboxes', json: {} });
    expect(created).toMatchObject({ status: 503, body: { code: 'engine_unavailable' } });
    expect(created.headers.get('retry-after')).toMatch(/^\d+$/);
    expect(await service.stop('SIGTERM')).toBe(0);
  });

  it('wants its token, and binds to others only with one', async () => {
    const token = 'a-token-of-the-test';
    await using service = await startServiceProcess({ SANDBOX_TOKEN: token, HOST: '0.0.0.0', SANDBOX_OWNER: owner });
    const path = '/api/sandboxes';
    expect((await call(service, 'GET', { path })).status).toBe(401);
    expect((await call(service, 'GET', { path, headers: { authorization: 'Bearer wrong' } })).status).toBe(401);
    expect((await call(service, 'GET', { path, headers: { authorization: `Bearer ${token}` } })).status).toBe(200);
    expect(service.output()).not.toContain(token);
    await expect(startServiceProcess({ HOST: '0.0.0.0' })).rejects.toThrow('there is no token');
  });

  it('tells how to go on when its port is taken or a setting is wrong', async () => {
    await using service = await startServiceProcess({ SANDBOX_OWNER: owner });
    const { port } = new URL(service.url);
    await expect(startServiceProcess({ PORT: port })).rejects.toThrow(`Port ${port} on 127.0.0.1 is in use`);
    await expect(startServiceProcess({ SANDBOX_MEMORY: 'much' })).rejects.toThrow('SANDBOX_MEMORY is "much"');
  });
});
