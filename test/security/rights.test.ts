import { afterAll, beforeAll, describe, expect } from 'vitest';

import type { Attestation, Sandbox, SandboxManager } from '../../src/index.js';
import { dockerClient, removeAll, RUNTIMES, testManager } from '../fixtures/run.js';
import { python, watchesDisk } from '../fixtures/security-sandbox.js';
import { attemptsOn } from './attempts.js';

const NONE = '0000000000000000';
/** Answers that say no. With any other the call has got through to what it is for. */
const REFUSALS = /^refused \((EPERM|EACCES|EROFS|ENOSYS|ENOENT|EAFNOSUPPORT|EPROTONOSUPPORT|ESOCKTNOSUPPORT|SIGSYS)\)$/;

const CALLS = {
  mount: 'mount',
  'make a user namespace': 'user namespace',
  "use the kernel's keys": 'keyctl',
  'use bpf': 'bpf',
  'use perf events': 'perf_event_open',
  'use userfaultfd': 'userfaultfd',
  'load a module into the kernel': 'init_module',
};
const SOCKETS = {
  'open a socket to the hypervisor (AF_VSOCK)': 'AF_VSOCK',
  'open a packet socket (AF_PACKET)': 'AF_PACKET',
  "open a socket to the kernel's ciphers (AF_ALG)": 'AF_ALG',
  'use io_uring': 'io_uring',
};
/** What gVisor's kernel, which is the sandbox's own, lets it have or answers in another way. */
const GVISORS_OWN: ReadonlySet<string> = new Set(['perf_event_open', 'io_uring']);

describe.each(RUNTIMES)('the rights of user code in a sandbox of %s', (runtime) => {
  const attempt = attemptsOn(runtime);
  let manager: SandboxManager;
  let sandbox: Sandbox;
  let attestation: Attestation;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ runtime, memoryLimit: '256m' });
    attestation = await sandbox.attest();
  });
  afterAll(() => removeAll(manager));

  const sh = async (script: string) => (await sandbox.exec(`{ ${script}; } 2>&1`)).stdout.trim();
  /** What the warden's probe was told, which has tried it. */
  const answersTo = (attempts: Readonly<Record<string, string>>) =>
    Object.entries(attempts).map(([what, name]) => {
      const found = attestation.checks.find(({ check }) => check === `attempt to ${what}`)?.found ?? 'not tried';
      return { name, found };
    });
  const allRefused = (attempts: Readonly<Record<string, string>>) => {
    const answers = answersTo(attempts).filter(({ name }) => runtime !== 'runsc' || !GVISORS_OWN.has(name));
    for (const { name, found } of answers) expect(found, name).toMatch(REFUSALS);
    return answers.map(({ name, found }) => `${name} ${found.replaceAll(/refused|[ ()]/g, '')}`).join(', ');
  };

  attempt(1, async () => {
    const status = Object.fromEntries(
      (await sh('cat /proc/self/status'))
        .split('\n')
        .map((line) => line.replaceAll(/\s+/g, ' ').trim().split(': ') as [string, string]),
    );
    expect(status).toMatchObject({
      Uid: '1000 1000 1000 1000',
      // By this the warden knows what belongs to the command.
      Groups: expect.stringMatching(/^(1000 )?1\d{9}$/) as string,
      CapInh: NONE,
      CapPrm: NONE,
      CapEff: NONE,
      CapBnd: NONE,
      Seccomp: '2',
    });
    // gVisor doesn't show the two.
    if (runtime !== 'runsc') expect(status).toMatchObject({ CapAmb: NONE, NoNewPrivs: '1' });
    const noNewPrivs = await python(sandbox, 'import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))');
    expect(noNewPrivs).toBe('1');
    const { Uid, CapEff, CapBnd, Seccomp } = status;
    const capabilities = `capabilities ${Number(`0x${CapEff}`)} of ${Number(`0x${CapBnd}`)}`;
    return `uid ${Uid?.split(' ')[0]}, ${capabilities}, \`no_new_privs\` ${noNewPrivs}, seccomp ${Seccomp}`;
  });

  attempt(2, async () => {
    const { Mounts, Config, HostConfig } = await dockerClient().getContainer(`sandyard-${sandbox.id}`).inspect();
    const watching = (await watchesDisk(manager)) ? ['DAC_READ_SEARCH'] : [];
    const others = Mounts.filter(({ Destination, RW }) => Destination !== '/run/sandyard' || RW);
    expect(others).toEqual([]);
    expect(Config.User).toBe('0:0');
    expect(HostConfig).toMatchObject({
      Privileged: false,
      CapDrop: ['ALL'],
      CapAdd: ['CHOWN', ...watching, 'KILL', 'SETGID', 'SETPCAP', 'SETUID'],
      SecurityOpt: ['no-new-privileges:true', expect.stringContaining('seccomp=') as string],
      NetworkMode: 'none',
      IpcMode: 'private',
      CgroupnsMode: 'private',
      LogConfig: { Type: 'none' },
      RestartPolicy: { Name: 'no' },
      Memory: 256 * 1024 ** 2,
      MemorySwap: 256 * 1024 ** 2,
      NanoCpus: 1e9,
      PidsLimit: runtime === 'runsc' ? 8 * 256 : 256, // of its kernel's threads, eight for each process
    });
    const settings = attestation.checks.filter(({ source }) => source === 'engine');
    expect(settings.filter(({ status }) => status !== 'ok')).toEqual([]);
    expect(settings.length).toBeGreaterThan(20);
    const privileged = HostConfig.Privileged === true ? 'privileged' : 'not privileged';
    const directories = `no directory of the host${Mounts.length === 0 ? '' : ' but its own'}`;
    return `${privileged}, network ${HostConfig.NetworkMode}, ${directories}, and the rest as asked for`;
  });

  attempt(4, async () => Promise.resolve(allRefused(CALLS)));

  attempt(5, async () => Promise.resolve(allRefused(SOCKETS)));

  attempt(6, async () => {
    for (const signal of ['TERM', 'INT', 'STOP', 'KILL']) {
      expect(await sh(`kill -${signal} 1 || echo refused`)).toMatch(/refused$/);
    }
    await sandbox.exec('kill -9 -1');
    expect(await sandbox.exec(['echo', 'alive'])).toMatchObject({ outcome: 'exited', stdout: 'alive\n' });
    const { state } = await sandbox.inspect();
    expect(state).toBe('running');
    return `signals to PID 1 refused; the sandbox is ${state}, and its next command runs`;
  });

  attempt(7, async () => {
    const flood = 'timeout 2 sh -c "yes > /proc/1/fd/1"; cat /proc/1/fd/1 | head -c 1';
    const said = await sh(flood);
    const { LogPath, SizeRw } = (await dockerClient()
      .getContainer(`sandyard-${sandbox.id}`)
      .inspect({ size: true } as object)) as { LogPath: string; SizeRw?: number };
    expect(LogPath).toBe('');
    expect(SizeRw ?? 0).toBeLessThan(1024 ** 2);
    const refused = /Permission denied/.test(said);
    expect(refused).toBe(runtime !== 'runsc'); // there it is the /dev/null of the sandbox's own kernel
    return `${refused ? 'EACCES' : 'it is `/dev/null`'}; no log, nothing on the host's disk`;
  });
});
