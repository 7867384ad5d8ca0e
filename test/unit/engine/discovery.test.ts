import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type Server, createServer } from 'node:http';
import { type AddressInfo, type Server as NetServer, type Socket, createServer as createNetServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isSandyardError } from '../../../src/errors.js';
import { describeAddress, discoverEngine, parseDockerHost, usualSockets } from '../../../src/engine/discovery.js';

const TLS = { ca: 'ca text', cert: 'cert text', key: 'key text' };

describe('parseDockerHost', () => {
  it.each([
    ['unix:///run/x/docker.sock', { kind: 'unix', socketPath: '/run/x/docker.sock' }],
    ['unix:///with space.sock', { kind: 'unix', socketPath: '/with space.sock' }],
    ['unix://', { kind: 'unix', socketPath: '/var/run/docker.sock' }],
    [' UNIX:///a.sock ', { kind: 'unix', socketPath: '/a.sock' }],
    ['tcp://10.0.0.5:4000', { kind: 'tcp', host: '10.0.0.5', port: 4000 }],
    ['tcp://engine', { kind: 'tcp', host: 'engine', port: 2375 }],
    ['tcp://engine:2376/', { kind: 'tcp', host: 'engine', port: 2376 }],
    ['http://engine:80', { kind: 'tcp', host: 'engine', port: 80 }],
    ['https://engine:443', { kind: 'tcp', host: 'engine', port: 443 }],
    ['tcp://[::1]:2375', { kind: 'tcp', host: '::1', port: 2375 }],
  ])('reads %s', (value, address) => {
    expect(parseDockerHost(value)).toEqual(address);
  });

  it('takes 2376 as the port of TLS', () => {
    expect(parseDockerHost('tcp://engine', TLS)).toEqual({ kind: 'tcp', host: 'engine', port: 2376, tls: TLS });
  });

  it.each([
    ['ssh://root@engine', /ssh is not supported/, /-L/],
    ['npipe:////./pipe/docker_engine', /named pipes/, /WSL/],
    ['fd://3', /fd is not supported/, /unix:\/\//],
    ['engine:2375', /no scheme/, /tcp:\/\//],
    ['/var/run/docker.sock', /no scheme/, /unix:\/\//],
    ['unix://relative.sock', /not absolute/, /unix:\/\//],
    ['tcp://', /names no host/, /tcp:\/\//],
    ['tcp://engine:port', /names no host/, /tcp:\/\//],
    ['tcp://engine:2375/v1.41', /more than a host/, /tcp:\/\//],
    ['tcp://user@engine', /more than a host/, /tcp:\/\//],
  ])('refuses %s and says what to set', (value, message, hint) => {
    const error = thrownBy(() => parseDockerHost(value));
    expect(error).toMatchObject({ code: 'config_invalid' });
    expect(error.message).toMatch(message);
    expect(error.message).toContain(value);
    expect(error.hint).toMatch(hint);
  });

  it.each(['unix:///a.sock', 'tcp://engine:2375', 'tcp://[::1]:2375'])(
    'is the inverse of describeAddress for %s',
    (value) => {
      expect(describeAddress(parseDockerHost(value))).toBe(value);
    },
  );
});

describe('usualSockets', () => {
  const sockets = usualSockets({ HOME: '/home/me', XDG_RUNTIME_DIR: '/run/user/77' });

  it('starts with the system engine and ends with podman', () => {
    expect(sockets[0]).toBe('/var/run/docker.sock');
    expect(sockets.at(-1)).toBe('/run/podman/podman.sock');
  });

  it('knows rootless engines and those of desktops', () => {
    expect(sockets).toEqual(
      expect.arrayContaining([
        '/run/user/77/docker.sock',
        '/home/me/.docker/run/docker.sock',
        '/home/me/.docker/desktop/docker.sock',
        '/home/me/.colima/default/docker.sock',
        '/home/me/.config/colima/default/docker.sock',
        '/home/me/.orbstack/run/docker.sock',
        '/home/me/.rd/docker.sock',
        '/run/user/77/podman/podman.sock',
      ]),
    );
  });

  it('names none twice, and needs no variable', () => {
    const uid = process.getuid?.() ?? 0;
    const twice = usualSockets({ XDG_RUNTIME_DIR: `/run/user/${uid}` });
    expect(new Set(twice).size).toBe(twice.length);
    expect(usualSockets({})).toContain('/var/run/docker.sock');
  });
});

describe('discoverEngine', () => {
  let folder: string;
  const servers: (Server | NetServer)[] = [];

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sandyard-discovery-'));
  });

  afterEach(async () => {
    await Promise.all(servers.splice(0).map(close));
    await rm(folder, { recursive: true });
  });

  async function engineAt(where: string | number, status = 200): Promise<number> {
    const server = createServer((request, response) => {
      response.writeHead(request.url === '/_ping' ? status : 404).end('OK');
    });
    return listen(server, where);
  }

  async function listen(server: Server | NetServer, where: string | number): Promise<number> {
    servers.push(server);
    await new Promise<void>((resolve) => {
      if (typeof where === 'string') server.listen(where, resolve);
      else server.listen(where, '127.0.0.1', resolve);
    });
    return typeof where === 'string' ? 0 : (server.address() as AddressInfo).port;
  }

  it('takes the first socket that answers, and tells of those before it', async () => {
    const [absent, broken, good, later] = ['absent', 'broken', 'good', 'later'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
      string,
    ];
    await engineAt(broken, 500);
    await engineAt(good);
    await engineAt(later);
    const found = await discoverEngine({}, { sockets: [absent, broken, good, later] });
    expect(found.address).toEqual({ kind: 'unix', socketPath: good });
    expect(found.attempts).toMatchObject([
      { where: `unix://${absent}`, problem: 'absent' },
      { where: `unix://${broken}`, problem: 'unusable', detail: expect.stringContaining('500') },
    ]);
  });

  it('gives no address when none answers', async () => {
    const found = await discoverEngine({}, { sockets: [join(folder, 'a'), join(folder, 'b')] });
    expect(found.address).toBeUndefined();
    expect(found.attempts.map(({ problem }) => problem)).toEqual(['absent', 'absent']);
  });

  it('calls a file that is no socket refused', async () => {
    const path = join(folder, 'file');
    await writeFile(path, '');
    const found = await discoverEngine({}, { sockets: [path] });
    expect(found.attempts).toMatchObject([{ problem: 'refused' }]);
  });

  it('gives up on a socket that says nothing', async () => {
    const path = join(folder, 'silent');
    await listen(
      createNetServer((socket) => silence(socket)),
      path,
    );
    const found = await discoverEngine({}, { sockets: [path], timeoutMs: 100 });
    expect(found.attempts).toMatchObject([{ problem: 'timeout', detail: 'no answer within 100 ms' }]);
  });

  it('calls something that speaks no HTTP unusable', async () => {
    const path = join(folder, 'garbage');
    await listen(
      createNetServer((socket) => silence(socket).end('SSH-2.0\r\n')),
      path,
    );
    const found = await discoverEngine({}, { sockets: [path] });
    expect(found.attempts).toMatchObject([{ problem: 'unusable' }]);
  });

  it('tells of one that hangs up in words', async () => {
    const path = join(folder, 'closing');
    await listen(
      createNetServer((socket) => silence(socket).destroy()),
      path,
    );
    const found = await discoverEngine({}, { sockets: [path] });
    expect(found.attempts).toMatchObject([{ problem: 'unusable', detail: 'it closed the connection' }]);
  });

  it('tries nothing but DOCKER_HOST when it is set', async () => {
    const good = join(folder, 'good');
    await engineAt(good);
    const env = { DOCKER_HOST: `unix://${join(folder, 'absent')}` };
    const found = await discoverEngine(env, { sockets: [good] });
    expect(found).toMatchObject({ attempts: [{ problem: 'absent' }] });
    expect(found.address).toBeUndefined();
  });

  it('finds an engine behind TCP, and tells a closed port', async () => {
    const port = await engineAt(0);
    const env = { DOCKER_HOST: `tcp://127.0.0.1:${port}` };
    expect((await discoverEngine(env)).address).toEqual({ kind: 'tcp', host: '127.0.0.1', port });
    await Promise.all(servers.splice(0).map(close));
    expect((await discoverEngine(env)).attempts).toMatchObject([{ problem: 'refused' }]);
  });

  it('reads the certificates of a TLS engine from DOCKER_CERT_PATH', async () => {
    await Promise.all(Object.entries(TLS).map(([name, text]) => writeFile(join(folder, `${name}.pem`), text)));
    const port = await engineAt(0);
    const env = { DOCKER_HOST: `tcp://127.0.0.1:${port}`, DOCKER_TLS_VERIFY: '1', DOCKER_CERT_PATH: folder };
    // The server speaks no TLS and the certificates are none: what counts is that TLS was tried with them
    expect((await discoverEngine(env)).attempts).toMatchObject([{ problem: 'unusable' }]);
  });

  it.each([
    { DOCKER_HOST: 'tcp://engine:2376', DOCKER_TLS_VERIFY: '1' },
    { DOCKER_HOST: 'https://engine' },
    { DOCKER_HOST: 'tcp://engine:2376', DOCKER_CERT_PATH: '/nowhere' },
  ])('says which certificate is missing for %o', async (env) => {
    const error = await discoverEngine({ HOME: folder, ...env }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'config_invalid', hint: expect.stringContaining('DOCKER_CERT_PATH') });
    expect((error as Error).message).toMatch(/(ca|cert|key)\.pem/);
  });

  it('stops when its caller gives up', async () => {
    const path = join(folder, 'silent');
    await listen(
      createNetServer((socket) => silence(socket)),
      path,
    );
    const search = discoverEngine({}, { sockets: [path], signal: AbortSignal.timeout(50) });
    await expect(search).rejects.toMatchObject({ code: 'aborted' });
  });
});

/** Reads on, so that the connection can end, and lets the other side break it off. */
function silence(socket: Socket): Socket {
  return socket.on('error', () => undefined).resume();
}

function thrownBy(action: () => unknown) {
  try {
    action();
  } catch (error) {
    if (isSandyardError(error)) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

async function close(server: Server | NetServer): Promise<void> {
  if ('closeAllConnections' in server) server.closeAllConnections();
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
}
