import { appendFile, chmod, mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { ComposeProject } from '../fixtures/compose.js';
import { loadInto } from '../fixtures/dind.js';
import { connectToEngine, dindImage, findEngine, sandboxImage } from '../fixtures/images.js';
import { sleep } from '../fixtures/run.js';

interface CreatedSandbox {
  readonly id: string;
  readonly image: string;
}

async function createSandbox(project: ComposeProject): Promise<CreatedSandbox> {
  const body = { project_name: 'test', memory_limit: '256m', cpu_limit: '0.5' };
  const response = await project.post('/api/sandboxes/', body);
  if (response.status !== 201) throw new Error(`${response.status}: ${await response.text()}`);
  return (await response.json()) as CreatedSandbox;
}

async function execute(project: ComposeProject, id: string, command: string | string[]): Promise<unknown> {
  const response = await project.post(`/api/sandboxes/${id}/execute`, { command, workdir: '/workspace' });
  expect(response.status).toBe(200);
  return response.json();
}

describe('docker-compose.dev.yml', () => {
  let project: ComposeProject;

  beforeAll(async () => {
    const image = await sandboxImage();
    const address = await findEngine();
    if (address.kind !== 'unix') throw new Error('This file mounts the engine’s socket; DOCKER_HOST must name one.');
    const { gid } = await stat(address.socketPath);
    project = await ComposeProject.create({
      kind: 'dev',
      env: {
        SANDYARD_DEV_IMAGE: 'sandyard:test-development',
        NODE_IMAGE: image,
        SANDBOX_IMAGE: image,
        DOCKER_SOCKET: address.socketPath,
        DOCKER_GID: String(gid),
      },
    });
    await project.up();
    await project.waitUntilReady();
  });

  afterAll(async () => project?.[Symbol.asyncDispose]());

  test('a sandbox is created, used and destroyed on the machine’s own engine', async () => {
    const { id } = await createSandbox(project);
    expect(await execute(project, id, ['node', '--version'])).toMatchObject({
      exit_code: 0,
      stdout: expect.stringMatching(/^v\d+\./) as string,
    });
    const filters = { label: [`sandyard.owner=${project.name}`] };
    const docker = await connectToEngine();
    expect(await docker.listContainers({ filters })).toHaveLength(1);
    expect((await project.fetch(`/api/sandboxes/${id}`, { method: 'DELETE' })).status).toBe(204);
    expect(await docker.listContainers({ all: true, filters })).toHaveLength(0);
  });

  test('whoever has no token gets nothing', async () => {
    const response = await project.fetch('/api/sandboxes', { headers: { authorization: 'Bearer wrong' } });
    expect(response.status).toBe(401);
  });

  test('it is published on loopback only, and runs without root’s rights', async () => {
    const { HostConfig, NetworkSettings, Config } = await (await project.container('sandyard')).inspect();
    expect(NetworkSettings.Ports['8888/tcp']).toEqual([{ HostIp: '127.0.0.1', HostPort: String(project.port) }]);
    expect(Config.User).toBe('1000:1000');
    expect(HostConfig.CapDrop).toEqual(['ALL']);
  });

  test('Prometheus is there only when it is asked for, and then on loopback', async () => {
    const label = [`com.docker.compose.project=${project.name}`, 'com.docker.compose.service=prometheus'];
    expect(await (await connectToEngine()).listContainers({ all: true, filters: { label } })).toEqual([]);
    const config = await project.compose('--profile', 'monitoring', 'config');
    expect(config).toContain('127.0.0.1:9090:9090/tcp');
    expect(config).toContain(`${project.folder}/deploy/prometheus.yml:/etc/prometheus/prometheus.yml:ro`);
  });

  test('a change of the sources starts the service anew, and its sandboxes are still there', async () => {
    const { id } = await createSandbox(project);
    const mark = `changed-${project.name}`;
    await appendFile(join(project.folder, 'src/http/main.ts'), `\nprocess.stderr.write('${mark}\\n');\n`);
    await expect.poll(() => project.logs('sandyard'), { timeout: 30_000, interval: 500 }).toContain(mark);
    await project.waitUntilReady();
    expect(await execute(project, id, 'echo still here')).toMatchObject({ exit_code: 0, stdout: 'still here\n' });
  });
});

describe('docker-compose.prod.yml', () => {
  let project: ComposeProject;

  beforeAll(async () => {
    const [image, dind] = [await sandboxImage(), await dindImage()];
    project = await ComposeProject.create({
      kind: 'prod',
      env: {
        SANDYARD_IMAGE: 'sandyard:test',
        NODE_IMAGE: image,
        SANDBOX_IMAGE: image,
        DIND_IMAGE: dind,
      },
    });
    const secrets = join(project.folder, 'deploy/secrets');
    await mkdir(secrets, { recursive: true });
    await writeFile(join(secrets, 'token'), `${project.token}\n`);
    await writeFile(join(secrets, 'token-secret'), `${'x'.repeat(64)}\n`);
    await chmod(secrets, 0o700);
    await project.compose('up', '--detach', 'docker');
    await loadInto(await untilHealthy('docker'), image);
    await project.up();
    await project.waitUntilReady();
  });

  afterAll(async () => project?.[Symbol.asyncDispose]());

  async function untilHealthy(service: string) {
    const container = await project.container(service);
    const deadline = Date.now() + 60_000;
    for (;;) {
      const { State } = await container.inspect();
      if (State.Health?.Status === 'healthy') return container;
      if (!State.Running || Date.now() > deadline) {
        const probe = State.Health?.Log.at(-1)?.Output ?? '';
        throw new Error(`${service} is ${State.Status}, not healthy: ${probe}\n${await project.logs(service)}`);
      }
      await sleep(200);
    }
  }

  async function run(service: string, command: string[]): Promise<string> {
    return project.compose('exec', '-T', service, ...command);
  }

  test('a sandbox is created, used and destroyed on the engine in the container', async () => {
    const { id } = await createSandbox(project);
    expect(await execute(project, id, ['python3', '-c', 'print(6 * 7)'])).toMatchObject({
      exit_code: 0,
      stdout: '42\n',
    });

    const file = `/api/sandboxes/${id}/files?path=/workspace/notes.txt`;
    expect((await project.fetch(file, { method: 'PUT', body: 'kept\n' })).status).toBe(204);
    expect(await execute(project, id, ['cat', 'notes.txt'])).toMatchObject({ stdout: 'kept\n' });
    expect(await (await project.fetch(file)).text()).toBe('kept\n');

    const name = `sandyard-${id}`;
    expect(await run('docker', ['docker', '-H', 'unix:///var/run/docker.sock', 'ps', '--format={{.Names}}'])).toContain(
      name,
    );
    const docker = await connectToEngine();
    expect(await docker.listContainers({ all: true, filters: { name: [name] } })).toHaveLength(0);

    expect((await project.fetch(`/api/sandboxes/${id}`, { method: 'DELETE' })).status).toBe(204);
    expect((await project.fetch(`/api/sandboxes/${id}`)).status).toBe(404);
  });

  test('the limits of a sandbox hold in there', async () => {
    const { id } = await createSandbox(project);
    expect(await execute(project, id, ['python3', '-c', 'bytearray(1 << 30)'])).toMatchObject({
      outcome: 'oom_killed',
    });
    await project.fetch(`/api/sandboxes/${id}`, { method: 'DELETE' });
  });

  test('whoever has no token gets nothing', async () => {
    const response = await project.fetch('/api/sandboxes', { headers: { authorization: 'Bearer wrong' } });
    expect(response.status).toBe(401);
  });

  test('a token for a single use is issued, and good for one request', async () => {
    const issued = await project.post('/api/tokens', { owner: 'alice', scopes: ['read'], single_use: true });
    expect(issued.status).toBe(201);
    const { token } = (await issued.json()) as { token: string };
    const headers = { authorization: `Bearer ${token}` };
    expect((await project.fetch('/api/sandboxes', { headers })).status).toBe(200);
    expect((await project.fetch('/api/sandboxes', { headers })).status).toBe(401);
  });

  test('the engine is not published, and answers nobody without a certificate', async () => {
    const engine = await (await project.container('docker')).inspect();
    expect(Object.values(engine.NetworkSettings.Ports).flat().filter(Boolean)).toEqual([]);
    const ask = `require('node:https').get({ host: 'docker', port: 2376, path: '/_ping', rejectUnauthorized: false },
      (response) => console.log('answered', response.statusCode)).on('error', (error) => console.log('refused', error.code))`;
    expect(await run('sandyard', ['node', '-e', ask])).toMatch(/^refused /);
  });

  test('the service has no rights that it does not need, and can’t sign certificates', async () => {
    await untilHealthy('sandyard');
    const { HostConfig, Config, Mounts } = await (await project.container('sandyard')).inspect();
    expect(Config.User).toBe('1000:1000');
    expect(HostConfig).toMatchObject({ ReadonlyRootfs: true, CapDrop: ['ALL'], Privileged: false });
    expect(HostConfig.SecurityOpt).toEqual(['no-new-privileges:true']);
    // Which tokens were used must outlive the service.
    expect(Mounts.filter(({ RW }) => RW).map(({ Destination }) => Destination)).toEqual(['/var/lib/sandyard']);
    expect((await run('sandyard', ['ls', '/certs', '/certs/client'])).split(/\s+/)).not.toContain('ca');
  });

  test('Prometheus is there only when it is asked for, and then on loopback and away from the engine', async () => {
    const config = await project.compose('--profile', 'monitoring', 'config');
    const [service = ''] = /^ {2}prometheus:\n(?: {4}.*\n)+/m.exec(config) ?? [];
    expect(service).toContain('127.0.0.1:9090:9090/tcp');
    expect(service).toMatch(/networks:\n {6}monitoring: \{\}\n {4}\w/);
    expect(service).toMatch(/secrets:\n {4}- source: token\n/);
    const { Containers } = await (await connectToEngine()).getNetwork(`${project.name}_monitoring`).inspect();
    const names = Object.values(Containers ?? {}).map(({ Name }) => Name);
    expect(names).toEqual([expect.stringMatching(/sandyard/)]);
  });

  test('a second start changes nothing, and builds nothing again', async () => {
    const before = await (await project.container('sandyard')).inspect();
    await project.up();
    expect((await (await project.container('sandyard')).inspect()).Id).toBe(before.Id);
    expect(await project.logs('sandbox-image')).toContain('is there.');
  });

  test('an engine that starts again is found again', async () => {
    await project.compose('restart', '--timeout', '20', 'docker');
    await untilHealthy('docker');
    await project.waitUntilReady();
    const { id } = await createSandbox(project);
    expect(await execute(project, id, 'echo again')).toMatchObject({ stdout: 'again\n' });
  });
});
