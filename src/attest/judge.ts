import type { AppliedSetting, ContainerComparison } from '../engine/engine.js';
import type { UserIds } from '../process/remote-run.js';
import { ATTEMPTS, isRefused, type Attempt } from './attempts.js';
import type { ProbeMount, ProbeReport } from './probe-report.js';

/* What was found of a sandbox beside what it should be. Pure: what is asked and how is in attestation.ts. */

export interface AttestationCheck {
  /** What it is about; the same for every sandbox. */
  readonly check: string;
  /** Who says what was found: the engine of its container, or a probe in the sandbox, which tries. */
  readonly source: 'engine' | 'inside';
  readonly expected: string;
  readonly found: string;
  /** `drift`: it isn't what the sandbox was made with. `unknown`: it couldn't be found out. */
  readonly status: 'ok' | 'drift' | 'unknown';
  /** What to do about it; `null` when it is ok. */
  readonly fix: string | null;
}

/** What a sandbox is judged by. */
export interface Expectations {
  readonly comparison: ContainerComparison;
  readonly user: UserIds;
  /** Whether the kernel in the sandbox is gVisor's. */
  readonly gvisor: boolean;
}

/** Sockets that are root on the machine for whoever can open them. */
const ENGINE_SOCKETS = [
  '/var/run/docker.sock',
  '/run/docker.sock',
  '/run/containerd/containerd.sock',
  '/run/podman/podman.sock',
];

const UPDATABLE: ReadonlySet<string> = new Set(['Memory', 'MemorySwap', 'NanoCpus', 'PidsLimit']);
const DESTROY = 'Destroy the sandbox and create another.';
const RESET = 'Set it back with `docker update`, or destroy the sandbox and create another.';

/** The volume that brings the warden, which one is made for each version of it, so that it has no one name. */
const WARDEN_MOUNT = /^volume sandyard-warden-[0-9a-f]+ on \/usr\/lib\/sandyard, read-only$/;
/** The directory, with the id of the sandbox, in which managers listen. Where that is goes by the manager that made it. */
const SOCKETS_MOUNT = /^bind \S+\/(\w+) on \/run\/sandyard, read-only$/;

/** Of the first namespaces of a machine the kernel has fixed numbers: who has one of these shares it with the host. */
const FIRST_NAMESPACES: Readonly<Record<string, string>> = {
  cgroup: 'cgroup:[4026531835]',
  ipc: 'ipc:[4026531839]',
  pid: 'pid:[4026531836]',
  uts: 'uts:[4026531838]',
};

/** What every container has mounted, and where the engine and the runtime mount things of their own. */
const USUAL_MOUNTS = /^\/($|(proc|sys)($|\/)|dev$|dev\/(pts|shm|mqueue|console)$|etc\/(resolv\.conf|hostname|hosts)$)/;
const USUAL_TYPES = new Set(['proc', 'sysfs', 'tmpfs', 'devtmpfs', 'cgroup', 'cgroup2', 'mqueue', 'devpts']);

/** A kernel that rounds a limit to pages has kept to it. */
const PAGES_BYTES = 64 * 1024;

/** The paths that a probe is to try to read. */
export function probedPaths({ inside }: ContainerComparison): string[] {
  return [...inside.maskedPaths, ...ENGINE_SOCKETS];
}

/** Judges what the engine says of the container of the sandbox with that id. */
export function judgeContainer({ settings }: ContainerComparison, id: string): AttestationCheck[] {
  return settings.map((setting) => {
    const { asked, found } = setting.setting === 'Mounts' ? withoutOurs(setting, id) : setting;
    return judge('engine', setting.setting, {
      expected: asked,
      found,
      ok: asked === found,
      fix: UPDATABLE.has(setting.setting) ? RESET : DESTROY,
    });
  });
}

function withoutOurs({ asked, found }: AppliedSetting, id: string) {
  const isOurs = (mount: string) => WARDEN_MOUNT.test(mount) || SOCKETS_MOUNT.exec(mount)?.[1] === id;
  const rest = found.split('; ').filter((mount) => asked.includes(mount) || !isOurs(mount));
  return { asked, found: rest.join('; ') };
}

/** Judges what a probe in it has found. */
export function judgeInside(report: ProbeReport, expectations: Expectations): AttestationCheck[] {
  return [
    ...judgeRights(report, expectations),
    ...judgeLimits(report, expectations),
    ...judgeSurroundings(report, expectations),
    ...ATTEMPTS.map((attempt) => judgeAttempt(attempt, report.attempts.get(attempt.name), expectations)),
  ];
}

function judgeRights({ values }: ProbeReport, { user: { uid, gid } }: Expectations): AttestationCheck[] {
  const value = (name: string, expected: string) => judgeValue(name, expected, values.get(name));
  const sets = ['effective', 'permitted', 'inheritable', 'bounding', 'ambient'];
  return [
    value('uid', `${uid} ${uid} ${uid}`),
    value('gid', `${gid} ${gid} ${gid}`),
    ...sets.map((set) => value(`capabilities ${set}`, '0'.repeat(16))),
    value('no_new_privs', '1'),
    value('seccomp', '2'),
    value('init_name', 'warden'),
    value('init_uid', '0'),
  ];
}

function judgeLimits({ values }: ProbeReport, { comparison, gvisor }: Expectations): AttestationCheck[] {
  const { memoryBytes, swapBytes, pids, cpus, ulimits } = comparison.inside;
  const ofProcess = ulimits.map(({ name, value }) =>
    judgeValue(`limit ${name}`, `${value} ${value}`, values.get(`limit ${name}`)),
  );
  // Its kernel shows no groups, but as much memory as the sandbox may have.
  if (gvisor) return [judgeBytes('memory', memoryBytes, values.get('memory_total')), ...ofProcess];
  const group = (v1: string, v2: string) => values.get(`cgroup ${v1}`) ?? values.get(`cgroup ${v2}`);
  const withSwap = values.get('cgroup memory/memory.memsw.limit_in_bytes');
  const swap = withSwap === undefined ? values.get('cgroup memory.swap.max') : without(withSwap, memoryBytes);
  const quota = values.get('cgroup cpu/cpu.cfs_quota_us');
  const period = values.get('cgroup cpu/cpu.cfs_period_us');
  const share = quota === undefined ? values.get('cgroup cpu.max') : `${quota} ${period}`;
  return [
    judgeBytes('memory', memoryBytes, group('memory/memory.limit_in_bytes', 'memory.max')),
    judgeBytes('swap', swapBytes, swap),
    judgePids(String(pids), group('pids/pids.max', 'pids.max')),
    judgeCpus(cpus, share),
    ...ofProcess,
  ];
}

function without(total: string, bytes: number): string {
  return /^\d+$/.test(total) ? String(Math.max(0, Number(total) - bytes)) : total;
}

function judgeSurroundings(report: ProbeReport, expectations: Expectations): AttestationCheck[] {
  const { values, interfaces, mounts, paths } = report;
  const { comparison, gvisor } = expectations;
  const { network, readOnlyRoot, maskedPaths } = comparison.inside;
  const root = mounts.find(({ target }) => target === '/');
  const writable = root === undefined ? undefined : describeAccess(root.writable);
  const wantedInterfaces = network === 'none' ? ['lo'] : ['eth0', 'lo'];
  const foundInterfaces = interfaces.filter((name) => !isIdleTunnel(name)).toSorted();
  const readable = gvisor ? [] : maskedPaths.filter((path) => isReadable(paths.get(path)));
  const sockets = ENGINE_SOCKETS.filter((path) => isReadable(paths.get(path)));
  const namespaces = gvisor ? [] : Object.entries(FIRST_NAMESPACES);
  return [
    judge('inside', 'interfaces', {
      expected: wantedInterfaces.join(', '),
      found: values.get('interfaces') ?? foundInterfaces.join(', '),
      ok: !values.has('interfaces') && foundInterfaces.join() === wantedInterfaces.join(),
      fix: DESTROY,
    }),
    judgeValue('root file system', describeAccess(!readOnlyRoot), writable),
    judgeNames('unexpected mounts', mounts.filter((mount) => !isExpected(mount, expectations)).map(describeMount)),
    judgeNames('readable masked paths', readable),
    judgeNames('sockets of an engine', sockets),
    ...namespaces.map(([kind, first]) => {
      const found = values.get(`namespace ${kind}`);
      const fields = { expected: 'its own', found: found === first ? "the machine's first" : 'its own', fix: DESTROY };
      return found === undefined
        ? unknown(`namespace ${kind}`, 'its own')
        : judge('inside', `namespace ${kind}`, { ...fields, ok: found !== first });
    }),
  ];
}

/** Modules of the kernel put one into each network namespace; nothing goes through it. */
function isIdleTunnel(name: string): boolean {
  return /^(tunl|gre|gretap|erspan|ip_vti|ip6_vti|sit|ip6tnl|ip6gre)0$/.test(name);
}

function isReadable(answer: string | undefined): boolean {
  return answer === undefined || answer === 'readable' || answer === 'socket';
}

function isExpected({ target, root, type, writable }: ProbeMount, { comparison, gvisor }: Expectations): boolean {
  const known = comparison.mounts.find((mount) => mount.target === target);
  if (known !== undefined) return known.writable || !writable;
  if (root.endsWith('.sock')) return false;
  if (gvisor && target === '/tmp' && type === 'tmpfs') return true; // it makes that itself
  if (!USUAL_MOUNTS.test(target)) return false;
  return !/^\/(proc|sys)\//.test(target) || USUAL_TYPES.has(type);
}

function describeMount({ target, root, type, writable }: ProbeMount): string {
  return `${type}${root === '/' ? '' : ` ${root}`} on ${target}, ${describeAccess(writable)}`;
}

function describeAccess(writable: boolean): string {
  return writable ? 'writable' : 'read-only';
}

function judgeAttempt(
  { name, what, gvisorsOwn, byOwnProfile }: Attempt,
  answer: string | undefined,
  { comparison, gvisor }: Expectations,
): AttestationCheck {
  const check = `attempt to ${what}`;
  if (answer === undefined || answer === 'untried') return unknown(check, 'refused');
  const found = isRefused(answer) ? `refused (${answer})` : answer === 'ok' ? 'done' : `reached (${answer})`;
  if (gvisor && gvisorsOwn === true) {
    return judge('inside', check, { expected: "any: its kernel is gVisor's", found, ok: true, fix: DESTROY });
  }
  if (byOwnProfile === true && !gvisor && !comparison.inside.ownSeccompProfile) {
    return judge('inside', check, {
      expected: "as the engine's own seccomp profile has it",
      found,
      ok: true,
      fix: DESTROY,
    });
  }
  const fix = `The kernel let ${name} through, which the sandbox's seccomp profile or its rights should refuse. ${DESTROY}`;
  return judge('inside', check, { expected: 'refused', found, ok: isRefused(answer), fix });
}

function judgeValue(check: string, expected: string, found: string | undefined): AttestationCheck {
  if (found === undefined) return unknown(check, expected);
  return judge('inside', check, { expected, found, ok: found === expected, fix: DESTROY });
}

function judgePids(expected: string, found: string | undefined): AttestationCheck {
  if (found === undefined) return unknown('pids', expected);
  return judge('inside', 'pids', { expected, found, ok: found === expected, fix: RESET });
}

function judgeBytes(check: string, expected: number, found: string | undefined): AttestationCheck {
  if (found === undefined) return unknown(check, String(expected));
  const ok = /^\d+$/.test(found) && Math.abs(Number(found) - expected) < PAGES_BYTES;
  return judge('inside', check, { expected: String(expected), found, ok, fix: RESET });
}

function judgeCpus(expected: number, share: string | undefined): AttestationCheck {
  if (share === undefined) return unknown('cpus', String(expected));
  const [quota, period] = share.split(' ').map(Number);
  const found = (quota ?? Number.NaN) / (period ?? Number.NaN);
  const ok = found > 0 && Math.abs(found - expected) <= expected / 100;
  return judge('inside', 'cpus', { expected: String(expected), found: ok ? String(expected) : share, ok, fix: RESET });
}

function judgeNames(check: string, found: readonly string[]): AttestationCheck {
  const shown = found.slice(0, 20).join('; ');
  return judge('inside', check, { expected: 'none', found: shown || 'none', ok: found.length === 0, fix: DESTROY });
}

function unknown(check: string, expected: string): AttestationCheck {
  const fix = 'Ask again; where it stays so, do not rely on it: destroy the sandbox.';
  return { check, source: 'inside', expected, found: 'not to be found out', status: 'unknown', fix };
}

function judge(
  source: AttestationCheck['source'],
  check: string,
  { expected, found, ok, fix }: { expected: string; found: string; ok: boolean; fix: string },
): AttestationCheck {
  return { check, source, expected, found, status: ok ? 'ok' : 'drift', fix: ok ? null : fix };
}
