import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { CreateOptions, Sandbox, SandboxManager } from '../../src/index.js';
import { countProcesses, eventually, removeAll, RUNTIMES, testManager, testSandbox } from '../fixtures/run.js';

/** CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID and SETUID, as /proc/self/status has them. */
const SIX = '00000000000000eb';
const NONE = '0000000000000000';
const STATUS = ['sh', '-c', "grep -E '^(Uid|Groups|Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status"];

/** A package of one file, made by the sandbox's own user. */
const BUILD = `
mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin && cd /tmp
printf 'Package: probe\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b.example>\\nDescription: x\\n' > p/DEBIAN/control
printf '#!/bin/sh\\nid nobody > /etc/probe.installed\\nchown nobody /etc/probe.installed\\n' > p/DEBIAN/postinst
printf '#!/bin/sh\\necho probed\\n' > p/usr/bin/probe && chmod 755 p/usr/bin/probe p/DEBIAN/postinst
dpkg-deb -b p probe.deb > /dev/null`;

/** Gives up its groups, and with them its mark; then makes a child that goes on. */
const SHED = `
import os, sys, time
os.setgroups([])
if sys.argv[1] == 'session': os.setsid() if os.fork() == 0 else os._exit(0)
if os.fork() == 0:
    time.sleep(600)
time.sleep(600)`;

describe.each(RUNTIMES)('a dev sandbox of %s', (runtime) => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  const create = (options: CreateOptions = {}) => testSandbox(manager, { profile: 'dev', runtime, ...options });
  const status = async (sandbox: Sandbox, user?: string) => {
    const { stdout } = await sandbox.exec(STATUS, { user });
    return Object.fromEntries(
      stdout
        .trim()
        .split('\n')
        .map((line) => line.split(/:\s+/) as [string, string]),
    );
  };

  it('runs commands as its user, without any capability and no way to one, unless they are to be root', async () => {
    const sandbox = await create();
    const user = await status(sandbox);
    expect(user).toMatchObject({ CapPrm: NONE, CapEff: NONE, CapBnd: NONE });
    expect(user['Uid']).toMatch(/^1000\t1000/);
    const root = await status(sandbox, 'root');
    expect(root).toMatchObject({ CapInh: NONE, CapPrm: SIX, CapEff: SIX, CapBnd: SIX });
    expect(root['Uid']).toMatch(/^0\t0\t0\t0/);
    expect(await status(sandbox, '0')).toMatchObject({ CapEff: SIX });
    if (runtime === 'runc') expect([user['NoNewPrivs'], root['NoNewPrivs']]).toEqual(['1', '1']);
    expect((await sandbox.exec('echo $HOME', { user: 'root' })).stdout).toBe('/root\n');
  });

  it('installs packages as root, and what they install is there for its user', async () => {
    const sandbox = await create({ memoryLimit: '512m' });
    expect(await sandbox.exec(BUILD)).toMatchObject({ exitCode: 0 });
    const installed = await sandbox.exec('apt-get install -y -q /tmp/probe.deb', { user: 'root', timeoutMs: 100_000 });
    expect(installed).toMatchObject({ outcome: 'exited', exitCode: 0 });
    expect(
      await sandbox.exec(
        'probe; stat -c %U /etc/probe.installed 2>/dev/null || find /etc/probe.installed -printf "%u\\n"',
      ),
    ).toMatchObject({
      stdout: 'probed\nnobody\n',
    });
    await sandbox.exec('rm -rf /tmp/probe.deb', { user: 'root' });
    await sandbox.stop({ graceMs: 0 });
    await sandbox.start();
    expect(await sandbox.exec('probe')).toMatchObject({ stdout: 'probed\n' });
    expect(await status(sandbox, 'root')).toMatchObject({ CapEff: SIX });
  });

  it('has root see to any file, in commands and in calls for files', async () => {
    const sandbox = await create({ user: 'root' });
    await sandbox.files.write('/etc/written', 'by root');
    expect(await sandbox.files.readText('/etc/shadow')).toContain('root');
    expect(await sandbox.exec('id -u; cat /etc/written', {})).toMatchObject({ stdout: '0\nby root' });
    const user = await sandbox.exec('cat /etc/shadow', { user: 'sandbox' });
    expect(user.exitCode).not.toBe(0);
  });

  it("keeps root from the kernel's and the engine's things, and from the program and memory of PID 1", async () => {
    const sandbox = await create();
    const attempts = [
      'mount -t tmpfs x /mnt',
      'unshare -m true',
      'mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk',
      'echo x > /usr/lib/sandyard/warden',
      'rm -f /usr/lib/sandyard/warden',
      'mv /usr/lib/sandyard /usr/lib/moved',
      'head -c 1 /proc/1/mem',
      ...(runtime === 'runc' ? ['cat /proc/1/environ'] : []), // what gVisor shows of PID 1 to all
      'echo 1 > /proc/sys/kernel/panic',
      'echo c > /proc/sysrq-trigger',
      'hostname x',
      'date -s 2030-01-01',
    ];
    for (const attempt of attempts) {
      const { exitCode, outcome } = await sandbox.exec(attempt, { user: 'root' });
      expect({ attempt, outcome, failed: exitCode !== 0 }).toEqual({ attempt, outcome: 'exited', failed: true });
    }
    expect(await sandbox.exec('kill -KILL 1; kill -STOP 1; echo alive', { user: 'root' })).toMatchObject({
      stdout: 'alive\n',
    });
    expect(await sandbox.exec('echo still', {})).toMatchObject({ stdout: 'still\n' });
  });

  it("doesn't let its user become root, by whatever program", async () => {
    const sandbox = await create();
    await sandbox.exec('cp /bin/sh /tmp/suid && cp /usr/bin/id /tmp/suid-id && chmod 4755 /tmp/suid /tmp/suid-id', {
      user: 'root',
    });
    expect((await sandbox.exec('/tmp/suid-id -u', {})).stdout).toBe('1000\n');
    expect((await sandbox.exec('su -c id root < /dev/null', {})).exitCode).not.toBe(0);
    expect((await sandbox.exec('kill -TERM 1', {})).exitCode).not.toBe(0);
    expect((await sandbox.exec('ls /var/lib/sandyard', {})).exitCode).not.toBe(0);
  });

  it('ends all of a root command at its timeout, also what has given up its groups', async () => {
    const sandbox = await create();
    const shedding = await sandbox.exec(['python3', '-c', SHED, 'groups'], { user: 'root', timeoutMs: 1000 });
    expect(shedding.outcome).toBe('timed_out');
    expect(await countProcesses(sandbox, 'os.setgroups')).toBe(0);
  });

  // What follows is what this profile doesn't protect, as SANDBOX.md says.
  it('lets root keep a process beyond its command, which lives no longer than the sandbox', async () => {
    const sandbox = await create();
    await sandbox.exec(['python3', '-c', SHED, 'session'], { user: 'root', timeoutMs: 1500 });
    expect(await countProcesses(sandbox, 'os.setgroups')).toBeGreaterThan(0);
    await sandbox.stop({ graceMs: 0 });
    await sandbox.start();
    expect(await countProcesses(sandbox, 'os.setgroups')).toBe(0);
  });

  it('lets root end the sandbox where the kernel does, which is told as such', async () => {
    const sandbox = await create();
    const ended = await sandbox.exec('kill -TERM 1 && sleep 30', { user: 'root' });
    if (runtime === 'runsc') {
      // All signals are kept from PID 1 there, as the kernel would have any of them end it.
      expect(ended).toMatchObject({ outcome: 'exited', exitCode: 1 });
      return;
    }
    expect(ended).toMatchObject({ outcome: 'sandbox_died' });
    await eventually(async () => ((await sandbox.inspect()).state === 'exited' ? true : undefined));
  });

  it('is not root without the profile', async () => {
    for (const profile of ['standard', 'strict'] as const) {
      const refusal = { code: 'validation_failed', issues: [{ path: ['user'] }] };
      await expect(manager.create({ profile, runtime, user: 'root' })).rejects.toMatchObject(refusal);
      const sandbox = await testSandbox(manager, { profile, runtime });
      for (const user of ['root', '0', '0:0']) {
        await expect(sandbox.exec(['id'], { user })).rejects.toMatchObject(refusal);
        await expect(sandbox.spawn(['id'], { user })).rejects.toMatchObject(refusal);
      }
    }
  });

  it('is not kept warm, as root could write who has claimed it', async () => {
    await expect(testManager({ pool: { size: 1, profile: 'dev' } })).rejects.toMatchObject({
      code: 'validation_failed',
      issues: [{ path: ['profile'] }],
    });
  });
});
