import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { dockerClient, removeAll, testManager } from '../fixtures/run.js';
import { watchesDisk } from '../fixtures/security-sandbox.js';
import { ROOT } from '../fixtures/service.js';
import { attemptsOn } from './attempts.js';

/*
 * What two well-known programs look for, written anew: the section on running containers of docker-bench-security (which
 * follows the CIS Docker Benchmark, whose numbers these are), from outside; and deepce, which looks from inside for ways
 * out. A sandbox may give them nothing to report but what SANDBOX.md says.
 */

/** What an engine says of a container, as far as these look at it. */
interface Inspected {
  readonly AppArmorProfile: string;
  readonly Config: { readonly Healthcheck?: { readonly Test?: readonly string[] } };
  readonly HostConfig: Readonly<Record<string, unknown>> & {
    readonly CapAdd: readonly string[] | null;
    readonly SecurityOpt: readonly string[] | null;
    readonly RestartPolicy: { readonly Name: string; readonly MaximumRetryCount: number };
  };
  readonly Mounts: readonly { readonly Source: string; readonly Propagation: string; readonly Type: string }[];
  readonly NetworkSettings: {
    readonly Networks: Readonly<Record<string, unknown>>;
    readonly Ports: Readonly<Record<string, readonly { HostIp: string; HostPort: string }[] | null>>;
  };
}

/** Those that Docker gives by default are not reported. */
const DEFAULT_CAPABILITIES = new Set(
  (
    'AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID ' +
    'SYS_CHROOT'
  ).split(' '),
);
const SENSITIVE = /^\/($|(boot|dev|etc|lib|proc|sys|usr)(\/|$))/;
const published = ({ NetworkSettings }: Inspected) =>
  Object.values(NetworkSettings.Ports).flatMap((ports) => ports ?? []);
const option = ({ HostConfig }: Inspected, pattern: RegExp) =>
  (HostConfig.SecurityOpt ?? []).some((one) => pattern.test(one));
const isSet = (value: unknown) => Array.isArray(value) && value.length > 0;

/** Whether there is something to report. */
const BENCH: readonly [check: string, reports: (found: Inspected) => boolean][] = [
  ['5.2 no AppArmor profile', ({ AppArmorProfile }) => ['', 'unconfined'].includes(AppArmorProfile)],
  ['5.3 no SELinux label', (found) => option(found, /^label[:=]disable/)],
  [
    '5.4 capabilities added',
    ({ HostConfig }) => (HostConfig.CapAdd ?? []).some((name) => !DEFAULT_CAPABILITIES.has(name.replace(/^CAP_/, ''))),
  ],
  ['5.5 privileged', ({ HostConfig }) => HostConfig['Privileged'] !== false],
  [
    '5.6 sensitive directories of the host',
    ({ Mounts }) => Mounts.some(({ Type, Source }) => Type === 'bind' && SENSITIVE.test(Source)),
  ],
  ['5.8 privileged ports', (found) => published(found).some(({ HostPort }) => Number(HostPort) < 1024)],
  ['5.10 network of the host', ({ HostConfig }) => HostConfig['NetworkMode'] === 'host'],
  ['5.11 no memory limit', ({ HostConfig }) => HostConfig['Memory'] === 0],
  ['5.12 no CPU limit', ({ HostConfig }) => HostConfig['NanoCpus'] === 0 && HostConfig['CpuShares'] === 0],
  ['5.13 root file system writable', ({ HostConfig }) => HostConfig['ReadonlyRootfs'] !== true],
  [
    '5.14 ports on all interfaces',
    (found) => published(found).some(({ HostIp }) => ['0.0.0.0', '::', ''].includes(HostIp)),
  ],
  [
    '5.15 restarts for ever',
    ({ HostConfig: { RestartPolicy } }) =>
      RestartPolicy.Name === 'always' || (RestartPolicy.Name === 'on-failure' && RestartPolicy.MaximumRetryCount > 5),
  ],
  ['5.16 processes of the host', ({ HostConfig }) => HostConfig['PidMode'] === 'host'],
  ['5.17 messages of the host', ({ HostConfig }) => HostConfig['IpcMode'] === 'host'],
  ['5.18 devices of the host', ({ HostConfig }) => isSet(HostConfig['Devices'])],
  ['5.19 no limits of files', ({ HostConfig }) => !isSet(HostConfig['Ulimits'])],
  ['5.20 mounts that propagate', ({ Mounts }) => Mounts.some(({ Propagation }) => Propagation === 'shared')],
  ['5.21 names of the host', ({ HostConfig }) => HostConfig['UTSMode'] === 'host'],
  ['5.22 seccomp is off', (found) => option(found, /^seccomp[:=]unconfined$/)],
  ['5.25 a control group of its own choice', ({ HostConfig }) => HostConfig['CgroupParent'] !== ''],
  ['5.26 new privileges', (found) => !option(found, /^no-new-privileges(?:[:=]true)?$/)],
  [
    '5.27 no health check',
    ({ Config: { Healthcheck } }) => Healthcheck?.Test === undefined || Healthcheck.Test[0] === 'NONE',
  ],
  ['5.29 no limit of processes', ({ HostConfig }) => !(Number(HostConfig['PidsLimit']) > 0)],
  ['5.30 the default bridge', ({ NetworkSettings }) => 'bridge' in NetworkSettings.Networks],
  ['5.31 user namespaces of the host', ({ HostConfig }) => HostConfig['UsernsMode'] === 'host'],
  ['5.32 the socket of the engine', ({ Mounts }) => Mounts.some(({ Source }) => Source.endsWith('docker.sock'))],
];

/** A script for each way out; it reports where it ends with 0. */
const WAYS_OUT: readonly [check: string, script: string][] = [
  ['is root', 'test "$(id -u)" = 0'],
  ['is in the group of an engine', "id -Gn 2>/dev/null | grep -qwE 'docker|root|sudo|wheel|lxd|disk'"],
  ['sudo without a password', 'sudo -n true 2>/dev/null'],
  [
    'a password of root that is empty',
    'awk -F: \'$1 == "root" && $2 == "" {found = 1} END {exit !found}\' /etc/passwd',
  ],
  ['the hashes of passwords', 'test -r /etc/shadow'],
  [
    'a socket of an engine',
    'find / -xdev -name "docker*.sock" -o -xdev -name "containerd*.sock" 2>/dev/null | grep -q .',
  ],
  ['a client of an engine', 'command -v docker podman ctr nerdctl crictl kubectl'],
  ['capabilities', "grep -qE '^Cap(Inh|Prm|Eff|Bnd|Amb):.*[1-9a-f]' /proc/self/status"],
  ['seccomp is off', "grep -q '^Seccomp:[[:space:]]*0' /proc/self/status"],
  ['new privileges', "grep -q '^NoNewPrivs:[[:space:]]*0' /proc/self/status"],
  ['privileged, by a new interface', 'ip link add dummy0 type dummy 2>/dev/null'],
  ['privileged, by the disks of the host', 'find /dev -type b | grep -q .'],
  ['the memory of the host', 'test -r /dev/mem || test -r /dev/kmem || test -r /proc/kcore'],
  ['mounting', 'mount -t tmpfs none /mnt 2>/dev/null'],
  ['a user namespace', 'unshare -Ur true 2>/dev/null'],
  ['release_agent of cgroups', 'find /sys/fs/cgroup -name release_agent -writable 2>/dev/null | grep -q .'],
  ['core_pattern', 'test -w /proc/sys/kernel/core_pattern'],
  ['modules of the kernel', 'test -w /proc/sys/kernel/modprobe || test -w /sys/module'],
  [
    'directories of the host, or what is in its own',
    "awk '{print $5, $4}' /proc/self/mountinfo | grep -vE '^/(proc|sys|dev|etc/(hosts|hostname|resolv.conf))' | grep -vqE '^(/|/usr/lib/sandyard|/run/sandyard) ' || ls /run/sandyard || touch /run/sandyard/file",
  ],
  ['the processes of the host', "cat /proc/[0-9]*/comm | grep -qE '^(dockerd|containerd|systemd|kthreadd)$'"],
  ['secrets in the environment', "env | cut -d= -f1 | grep -qiE 'pass|secret|token|key|credential'"],
  ['secrets in the environment of PID 1', 'cat /proc/1/environ 2>/dev/null | grep -q .'],
  [
    'keys of SSH',
    'find / -xdev \\( -name "id_rsa" -o -name "id_ed25519" -o -name authorized_keys \\) 2>/dev/null | grep -q .',
  ],
  ['a server of SSH', "cat /proc/[0-9]*/comm | grep -q '^sshd$'"],
  ['an address of the network', 'awk \'NR > 2 && $1 != "lo:" {found = 1} END {exit !found}\' /proc/net/dev'],
  ['a route to the network', "awk 'NR > 1 {found = 1} END {exit !found}' /proc/net/route"],
  [
    'a program of the host that runc left open',
    "ls -l /proc/self/fd 2>/dev/null | grep -qE '/sys/fs/cgroup$|/var/lib/docker'",
  ],
];

describe('what others look for in a container', () => {
  const attempt = attemptsOn('runc');
  let manager: SandboxManager;
  let sandbox: Sandbox;
  let found: Inspected;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ memoryLimit: '256m' });
    found = (await dockerClient().getContainer(`sandyard-${sandbox.id}`).inspect()) as unknown as Inspected;
  });
  afterAll(() => removeAll(manager));

  attempt(45, async () => {
    const { securityOptions } = await manager.engineInfo();
    const hasAppArmor = securityOptions.some((one) => one.includes('apparmor'));
    const documented = [
      ...(hasAppArmor ? [] : ['5.2']),
      ...((await watchesDisk(manager)) ? ['5.4'] : []),
      '5.13',
      '5.27',
    ];
    const reported = BENCH.filter(([, reports]) => reports(found)).map(([check]) => check.split(' ')[0]);
    expect(reported).toEqual(documented);
    const text = await readFile(`${ROOT}/SANDBOX.md`, 'utf8');
    const told = [...text.matchAll(/^\| (5\.\d+) +\|/gm)].map(([, number]) => number);
    expect(told).toEqual(['5.2', '5.4', '5.13', '5.27']);

    const inside: string[] = [];
    for (const [check, script] of WAYS_OUT) {
      const { exitCode, stdout } = await sandbox.exec(script, { timeoutMs: 20_000 });
      if (exitCode === 0) inside.push(`${check}: ${stdout.slice(0, 500)}`);
    }
    expect(inside).toEqual([]);
    return `from outside ${reported.join(', ')}; from inside ${inside.length} of ${WAYS_OUT.length}`;
  });

  it('is found where it is there: a container as Docker makes it by default has much of it', () => {
    const naive = {
      ...found,
      AppArmorProfile: '',
      Config: {},
      HostConfig: {
        ...found.HostConfig,
        Memory: 0,
        NanoCpus: 0,
        CpuShares: 0,
        PidsLimit: null,
        Ulimits: null,
        SecurityOpt: null,
        CapAdd: ['SYS_ADMIN'],
      },
      Mounts: [{ Type: 'bind', Source: '/var/run/docker.sock', Propagation: 'rprivate' }],
      NetworkSettings: { Networks: { bridge: {} }, Ports: { '80/tcp': [{ HostIp: '0.0.0.0', HostPort: '80' }] } },
    };
    const reported = BENCH.filter(([, reports]) => reports(naive)).map(([check]) => check.split(' ')[0]);
    expect(reported).toEqual('5.2 5.4 5.8 5.11 5.12 5.13 5.14 5.19 5.26 5.27 5.29 5.30 5.32'.split(' '));
  });
});
