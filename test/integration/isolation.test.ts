import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { PROFILES } from '../../src/isolation.js';
import type { Sandbox, SandboxManager } from '../../src/index.js';
import {
  dockerClient,
  IMAGE,
  removeAll,
  RUN_LABELS,
  RUN_SUFFIX,
  RUNTIMES,
  testManager,
  testSandbox,
} from '../fixtures/run.js';

/** Listens at the addresses of a name, as far as there are any of that version of IP, and says where it was reached. */
const MEET = `
import errno, socket
for family, _, _, _, address in sorted(set(socket.getaddrinfo('localhost', 0, type=socket.SOCK_STREAM))):
    try:
        listener = socket.create_server((address[0], 0), family=family)
    except OSError as error:
        if family == socket.AF_INET6 and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT): continue
        raise
    client = socket.create_connection(listener.getsockname()[:2], timeout=5)
    listener.accept()[0].sendall(b'met at ' + client.getpeername()[0].encode())
    print(client.recv(100).decode())`;

describe('isolation of a default sandbox', () => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ memoryLimit: '256m' });
  });
  afterAll(() => removeAll(manager));

  const sh = async (script: string) => (await sandbox.exec(`${script} 2>&1`)).stdout.trim();

  it("has PID 1 keep no more of root than ends what it starts, and makes it some user's", async () => {
    const status = await sh("grep -E '^(Name|Uid|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs):' /proc/1/status");
    expect(
      status
        .replaceAll(/[ \t]+/g, ' ')
        .split('\n')
        .map((line) => line.trim()),
    ).toEqual([
      'Name: warden',
      'Uid: 0 0 0 0',
      'CapInh: 0000000000000000',
      'CapPrm: 00000000000000e4', // DAC_READ_SEARCH, by which it counts what is on the disk, KILL, SETGID, SETUID
      'CapEff: 00000000000000e4',
      'CapBnd: 0000000000000000',
      'CapAmb: 0000000000000000',
      'NoNewPrivs: 1',
    ]);
  });

  it('has only a loopback interface unless it asks for more', async () => {
    expect(await sh('ls /sys/class/net')).toBe('lo');
    const bridged = await testSandbox(manager, { network: 'bridge' });
    expect((await bridged.exec('ls /sys/class/net')).stdout.trim().split('\n')).toEqual(['eth0', 'lo']);
  });

  it.each(['root', '0', '0:0', '1000:0', '65532', '65532:65532', 'nobody'])('refuses to run as %s', async (user) => {
    await expect(sandbox.exec(['id'], { user })).rejects.toMatchObject({ code: 'validation_failed' });
    await expect(manager.create({ user })).rejects.toMatchObject({ code: 'validation_failed' });
  });

  it('runs as another ordinary user when asked to', async () => {
    expect((await sandbox.exec('id -u; id -g; id -G', { user: '2000' })).stdout).toMatch(/^2000\n2000\n2000 1\d{9}\n$/);
  });

  it('touches nothing that is not its own', async () => {
    const docker = dockerClient();
    const foreign = await docker.createContainer({
      Image: IMAGE,
      name: `sandyard-foreign${RUN_SUFFIX}`,
      Labels: { ...RUN_LABELS },
    });
    const other = await testManager();
    try {
      const theirs = await other.create();
      for (const id of [`foreign${RUN_SUFFIX}`, theirs.id]) {
        await expect(manager.get(id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
        await expect(manager.destroy(id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
      }
      expect((await manager.list()).sandboxes.map(({ id }) => id)).not.toContain(theirs.id);
      await manager.prune();
      await expect(foreign.inspect()).resolves.toBeDefined();
      expect((await theirs.inspect()).state).toBe('running');
    } finally {
      await foreign.remove({ force: true });
      await removeAll(other);
    }
  });
});

describe.each(RUNTIMES)('localhost on %s', (runtime) => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  it.each(PROFILES)('is the sandbox itself, under %s', async (profile) => {
    const sandbox = await testSandbox(manager, { profile, runtime });
    expect(await sandbox.exec(['python3', '-c', MEET])).toMatchObject({
      stdout: expect.stringMatching(/^met at 127\.0\.0\.1\n(met at ::1\n)?$/),
      stderr: '',
    });
  });

  it('is what root commands have made of it, over a stop, too', async () => {
    const sandbox = await testSandbox(manager, { profile: 'dev', runtime });
    await sandbox.exec('echo 127.0.0.2 localhost elsewhere > /etc/hosts', { user: 'root' });
    await sandbox.restart();
    expect((await sandbox.exec('getent hosts elsewhere')).stdout).toMatch(/^127\.0\.0\.2 /);
  });
});
