import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { dockerClient, removeAll, RUN_LABELS, RUN_SUFFIX, testManager, testSandbox, IMAGE } from '../fixtures/run.js';

describe('isolation of a default sandbox', () => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ memoryLimit: '256m' });
  });
  afterAll(() => removeAll(manager));

  const sh = async (script: string) => (await sandbox.exec(`${script} 2>&1`)).stdout.trim();

  it('runs user code without privileges', async () => {
    const status = await sh(
      "grep -E '^(Uid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status",
    );
    expect(
      status
        .replaceAll(/[ \t]+/g, ' ')
        .split('\n')
        .map((line) => line.trim()),
    ).toEqual([
      'Uid: 1000 1000 1000 1000',
      // By this the warden knows what belongs to the command.
      expect.stringMatching(/^Groups: (1000 )?1\d{9}$/),
      'CapInh: 0000000000000000',
      'CapPrm: 0000000000000000',
      'CapEff: 0000000000000000',
      'CapBnd: 0000000000000000',
      'CapAmb: 0000000000000000',
      'NoNewPrivs: 1',
      'Seccomp: 2',
    ]);
  });

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
      'CapPrm: 00000000000000e0', // KILL, SETGID, SETUID
      'CapEff: 00000000000000e0',
      'CapBnd: 0000000000000000',
      'CapAmb: 0000000000000000',
      'NoNewPrivs: 1',
    ]);
  });

  it.each([
    ['signal PID 1', 'kill -TERM 1 || echo refused'],
    ['write to the streams of PID 1', 'echo x > /proc/1/fd/1 || echo refused'],
    ['read the environment of PID 1', 'cat /proc/1/environ || echo refused'],
    ['write to the system', 'touch /etc/x /usr/x /var/x || echo refused'],
    ['read the lease', 'ls /var/lib/sandyard || echo refused'],
    ['mount', 'mount -t tmpfs none /mnt || echo refused'],
    ['make a user namespace', 'unshare -U true || echo refused'],
    ['make a device', 'mknod /tmp/device b 8 0 || echo refused'],
    ['become root', 'su -c true </dev/null || echo refused'],
    ['write to the kernel', 'echo 1 > /proc/sys/kernel/panic || echo refused'],
  ])("can't %s", async (_what, script) => {
    await sandbox.renew();
    expect((await sh(script)).split('\n').at(-1)).toBe('refused');
    expect((await sandbox.inspect()).state).toBe('running');
  });

  it('survives a kill of everything', async () => {
    await sandbox.exec('kill -9 -1');
    expect(await sandbox.exec(['echo', 'alive'])).toMatchObject({ stdout: 'alive\n' });
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

  it('makes the container as promised', async () => {
    const found = await dockerClient().getContainer(`sandyard-${sandbox.id}`).inspect();
    expect(found.Mounts).toEqual([]);
    expect(found.Config.User).toBe('0:0');
    expect(found.HostConfig).toMatchObject({
      Privileged: false,
      CapDrop: ['ALL'],
      CapAdd: ['CHOWN', 'KILL', 'SETGID', 'SETPCAP', 'SETUID'],
      SecurityOpt: ['no-new-privileges:true', expect.stringMatching(/^seccomp=\{/)],
      NetworkMode: 'none',
      IpcMode: 'private',
      CgroupnsMode: 'private',
      LogConfig: { Type: 'none' },
      RestartPolicy: { Name: 'no' },
      Memory: 256 * 1024 ** 2,
      MemorySwap: 256 * 1024 ** 2,
      NanoCpus: 1e9,
      PidsLimit: 256,
    });
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
