import { judgeBounding } from '../create/disk-bounds.js';
import type { EngineExamination } from '../engine/engine.js';
import { holesOf, isDistributions } from './known-holes.js';
import type { RuntimeTrial } from './trials.js';

/* What was found out about an engine, judged. Pure: how it was found out is in doctor.ts. */

export interface DoctorCheck {
  /** What it is about: `runc`, `disk quota`. */
  readonly check: string;
  readonly expected: string;
  readonly found: string;
  /** `fail`: don't run hostile code there. `warn`: one wall less than there could be. */
  readonly severity: 'ok' | 'warn' | 'fail';
  /** What to do about it; `null` when it is ok. */
  readonly fix: string | null;
}

type Severity = DoctorCheck['severity'];

/** `otherwise`: how bad it is that it isn't so. */
export function toCheck(
  check: string,
  {
    expected,
    found,
    ok,
    otherwise,
    fix,
  }: {
    expected: string;
    found: string;
    ok: boolean;
    otherwise: Exclude<Severity, 'ok'>;
    fix: string;
  },
): DoctorCheck {
  return { check, expected, found, severity: ok ? 'ok' : otherwise, fix: ok ? null : fix };
}

const COMPONENTS = [
  { component: 'Engine', check: 'known holes of Docker' },
  { component: 'containerd', check: 'known holes of containerd' },
  { component: 'runc', check: 'known holes of runc' },
] as const;

/** Slow, or without any bound of what a container writes. */
const POOR_DRIVERS: ReadonlySet<string> = new Set(['vfs', 'devicemapper', 'aufs']);

/** What can be told by the engine's own description of itself. */
export function checkEngine(engine: EngineExamination): DoctorCheck[] {
  const { version, apiVersion, kernelVersion, address, cgroupVersion, storageDriver } = engine;
  return [
    toCheck('engine', {
      expected: 'answers',
      found: `Docker ${version}, API ${apiVersion}, kernel ${kernelVersion}`,
      ok: true,
      otherwise: 'fail',
      fix: '',
    }),
    checkTransport(engine),
    ...COMPONENTS.flatMap((one) => checkHoles(engine, one)),
    ...checkSecurity(engine),
    toCheck('limits', {
      expected: 'memory, swap, pids and cpu can be limited',
      found: describeLimits(engine),
      ok: Object.values(engine.limits).every(Boolean),
      otherwise: 'fail',
      fix: 'Enable these controllers in the kernel of the machine; for swap, boot it with swapaccount=1.',
    }),
    toCheck('cgroups', {
      expected: '1 or 2',
      found: cgroupVersion,
      ok: /^[12]$/.test(cgroupVersion),
      otherwise: 'warn',
      fix: 'Use a kernel with cgroup v2.',
    }),
    toCheck('storage driver', {
      expected: 'overlay2, btrfs, zfs or a snapshotter',
      found: storageDriver,
      ok: !POOR_DRIVERS.has(storageDriver),
      otherwise: 'warn',
      fix: 'Set "storage-driver": "overlay2" in daemon.json.',
    }),
    toCheck('live restore', {
      expected: 'on',
      found: engine.liveRestore ? 'on' : 'off: a restart of the engine ends all sandboxes',
      ok: engine.liveRestore,
      otherwise: 'warn',
      fix: 'Set "live-restore": true in daemon.json, and reload the engine.',
    }),
    ...engine.warnings.slice(0, 10).map((warning) =>
      toCheck('warning of the engine', {
        expected: 'none',
        found: warning,
        ok: false,
        otherwise: /without (tls|encryption)|without authentication/i.test(warning) ? 'fail' : 'warn',
        fix: `See what it says of ${address}, and change that.`,
      }),
    ),
  ];
}

function checkTransport({ transport, address }: EngineExamination): DoctorCheck {
  const isHere = /^tcp:\/\/(localhost|127\.\d+\.\d+\.\d+|\[?::1\]?)(:|$)/.test(address);
  const ways = { socket: 'a unix socket', tls: 'TLS or SSH', plain: 'TCP without TLS: root for whoever reaches it' };
  return toCheck('way to the engine', {
    expected: 'a unix socket, or TLS',
    found: `${address}, ${ways[transport]}`,
    ok: transport !== 'plain',
    otherwise: isHere ? 'warn' : 'fail',
    fix: 'Have the engine serve TLS with client certificates, and set DOCKER_TLS_VERIFY and DOCKER_CERT_PATH.',
  });
}

function checkHoles(
  { components }: EngineExamination,
  { component, check }: (typeof COMPONENTS)[number],
): DoctorCheck[] {
  const version = components.find(({ name }) => name === component)?.version;
  if (version === undefined) return [];
  const holes = holesOf(component, version);
  const isPackaged = isDistributions(version);
  const told = holes.map(({ id, what }) => `${id} (${what})`).join(', ');
  return [
    toCheck(check, {
      expected: 'none by its version',
      found:
        holes.length === 0
          ? `${version}: none`
          : `${version}: ${told}${isPackaged ? '; unless your distribution has patched it' : ''}`,
      ok: holes.length === 0,
      otherwise: holes.some(({ escape }) => escape) && !isPackaged ? 'fail' : 'warn',
      fix: isPackaged
        ? 'Look for them in the changelog of the package; install its updates, or a newer release.'
        : 'Install a newer release.',
    }),
  ];
}

function checkSecurity({ securityOptions }: EngineExamination): DoctorCheck[] {
  const option = (name: string) => securityOptions.find((text) => text === name || text.startsWith(`name=${name}`));
  const [seccomp, userns, rootless] = [option('seccomp'), option('userns'), option('rootless')];
  const modules = ['apparmor', 'selinux'].filter((name) => option(name) !== undefined);
  const separate = [userns && 'user namespaces', rootless && 'rootless'].filter(Boolean).join(', ');
  return [
    toCheck('seccomp', {
      expected: 'in force',
      found: seccomp ?? 'not there',
      ok: seccomp !== undefined && !/unconfined/.test(seccomp),
      otherwise: 'fail',
      fix: 'Use a kernel with CONFIG_SECCOMP_FILTER, and no "seccomp-profile": "unconfined" in daemon.json.',
    }),
    toCheck('user namespaces', {
      expected: "root in a container is not the machine's",
      found: separate || "root in a container is the machine's",
      ok: separate !== '',
      otherwise: 'warn',
      fix: 'Set "userns-remap": "default" in daemon.json, or run the engine rootless.',
    }),
    toCheck('security module', {
      expected: 'AppArmor or SELinux',
      found: modules.join(', ') || 'none',
      ok: modules.length > 0,
      otherwise: 'warn',
      fix: 'Use a kernel that has AppArmor or SELinux, and enable it there and in daemon.json.',
    }),
  ];
}

function describeLimits({ limits }: EngineExamination): string {
  const missing = Object.entries(limits).flatMap(([name, can]) => (can ? [] : [name]));
  return missing.length === 0 ? 'all of them' : `not ${missing.join(', ')}`;
}

export function checkRuntimes(
  trials: readonly RuntimeTrial[],
  { defaultRuntime }: Pick<EngineExamination, 'defaultRuntime'>,
): DoctorCheck[] {
  return [
    ...trials.map(({ runtime, seconds, fault }) =>
      toCheck(`runtime ${runtime}`, {
        expected: 'runs a sandbox',
        found: fault ?? `ran one in ${seconds.toFixed(1)} s`,
        ok: fault === undefined,
        otherwise: runtime === defaultRuntime ? 'fail' : 'warn',
        fix: 'Do not name it for sandboxes; repair it, or remove it from "runtimes" in daemon.json.',
      }),
    ),
    toCheck('second kernel', {
      expected: 'a runtime such as runsc (gVisor)',
      found: trials.some(({ runtime, fault }) => /runsc|gvisor|kata/i.test(runtime) && fault === undefined)
        ? 'there is one'
        : "none: all code talks to the machine's kernel",
      ok: trials.some(({ runtime, fault }) => /runsc|gvisor|kata/i.test(runtime) && fault === undefined),
      otherwise: 'warn',
      fix: 'Install gVisor, and register runsc in "runtimes" of daemon.json, for code that is hostile.',
    }),
  ];
}

/** `fault`: why the driver can't bound a disk; `undefined` when it can. */
export function checkQuota(fault: string | undefined, storageDriver: string): DoctorCheck {
  const { watched } = judgeBounding(storageDriver, fault);
  const instead = watched ? 'each sandbox watches its own' : 'nothing bounds what a sandbox writes';
  return toCheck('disk quota', {
    expected: 'the disk of a container can be bounded',
    found: fault === undefined ? 'it can' : `it can't, and ${instead}: ${fault}`,
    ok: fault === undefined,
    otherwise: watched ? 'warn' : 'fail',
    fix: 'Keep the data of the engine on XFS with project quotas (pquota), on btrfs or on zfs.',
  });
}

/** `labels`: of the image, `undefined` when it isn't there. */
export function checkImage(
  image: string,
  { protocol, expected }: { protocol: string | null | undefined; expected: string },
): DoctorCheck {
  const found =
    protocol === undefined
      ? 'it is not there'
      : protocol === null
        ? 'it is there, with no warden of its own'
        : `it is there, with a warden of protocol ${protocol}`;
  return toCheck('sandbox image', {
    expected: `${image}, with a warden of protocol ${expected}`,
    found,
    ok: protocol === expected,
    otherwise: protocol === undefined ? 'fail' : 'warn',
    fix: 'Run `npm run setup` to build it, or name one that the engine has in SANDBOX_IMAGE.',
  });
}
