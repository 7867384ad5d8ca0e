/*
 * Holes in an engine that matter to what runs in its containers, by the versions that have them. A distribution patches
 * its packages without changing the version that they are called by: so a version tells of a hole, and only its changelog
 * whether it is still there.
 */

interface Range {
  /** The first version that has it; from the beginning when absent. */
  readonly from?: string;
  /** The first version that has it no more. */
  readonly fixed: string;
}

interface KnownHole {
  readonly id: string;
  readonly component: 'Engine' | 'containerd' | 'runc';
  /** What it lets whom do. */
  readonly what: string;
  /** Whether code in a container gets out by it. */
  readonly escape: boolean;
  readonly affected: readonly Range[];
}

const RUNC_NOVEMBER_2025: readonly Range[] = [
  { fixed: '1.2.8' },
  { from: '1.3.0-rc.1', fixed: '1.3.3' },
  { from: '1.4.0-rc.1', fixed: '1.4.0-rc.3' },
];

const HOLES: readonly KnownHole[] = [
  {
    id: 'CVE-2024-21626',
    component: 'runc',
    what: 'a leaked descriptor leads to the file system of the host',
    escape: true,
    affected: [{ from: '1.0.0-rc93', fixed: '1.1.12' }],
  },
  {
    id: 'CVE-2024-45310',
    component: 'runc',
    what: 'empty files can be made on the host through a shared volume',
    escape: false,
    affected: [{ fixed: '1.1.14' }, { from: '1.2.0-rc.1', fixed: '1.2.0-rc.3' }],
  },
  {
    id: 'CVE-2025-31133',
    component: 'runc',
    what: 'masking paths can be turned into a write to the host',
    escape: true,
    affected: RUNC_NOVEMBER_2025,
  },
  {
    id: 'CVE-2025-52565',
    component: 'runc',
    what: 'the mount of /dev/console can be led elsewhere',
    escape: true,
    affected: RUNC_NOVEMBER_2025,
  },
  {
    id: 'CVE-2025-52881',
    component: 'runc',
    what: 'writes to /proc by runc can be led elsewhere',
    escape: true,
    affected: RUNC_NOVEMBER_2025,
  },
  {
    id: 'CVE-2024-40635',
    component: 'containerd',
    what: 'a user id above 2^31 becomes root',
    escape: false,
    affected: [
      { fixed: '1.6.38' },
      { from: '1.7.0-beta.0', fixed: '1.7.27' },
      { from: '2.0.0-beta.0', fixed: '2.0.4' },
    ],
  },
  {
    id: 'CVE-2024-41110',
    component: 'Engine',
    what: 'authorization plugins can be passed by',
    escape: false,
    affected: [
      { from: '19.03.0', fixed: '23.0.15' },
      { from: '24.0.0', fixed: '25.0.6' },
      { from: '26.0.0', fixed: '26.1.5' },
      { from: '27.0.0', fixed: '27.1.1' },
    ],
  },
  {
    id: 'CVE-2024-29018',
    component: 'Engine',
    what: 'an internal network answers names of the outside',
    escape: false,
    affected: [{ fixed: '23.0.11' }, { from: '24.0.0', fixed: '25.0.5' }, { from: '26.0.0-rc1', fixed: '26.0.0-rc3' }],
  },
];

/** The holes that a version has by its number. */
export function holesOf(component: string, version: string): KnownHole[] {
  return HOLES.filter(
    (hole) =>
      hole.component === component &&
      hole.affected.some(
        ({ from, fixed }) =>
          compareReleases(version, fixed) < 0 && (from === undefined || compareReleases(version, from) >= 0),
      ),
  );
}

/** Whether a distribution has built it, by the marks that they put behind the number. */
export function isDistributions(version: string): boolean {
  return /[~+]|-\d*(ubuntu|deb)|-\d+(\.\d+)*\.(el|fc|amzn)/.test(version);
}

/**
 * As of Semantic Versioning, by numbers and by what comes before a release: `1.4.0-rc.3` is before `1.4.0`, and `rc3` is
 * `rc.3`. What a distribution puts behind it doesn't count.
 */
export function compareReleases(a: string, b: string): number {
  const [ours, theirs] = [toParts(a), toParts(b)];
  for (let index = 0; index < 3; index++) {
    const difference = (ours.numbers[index] ?? 0) - (theirs.numbers[index] ?? 0);
    if (difference !== 0) return difference;
  }
  if (ours.stage === theirs.stage) return ours.round - theirs.round;
  return ours.stage < theirs.stage ? -1 : 1;
}

/** Behind all stages that come before a release, in the order of the alphabet. */
const RELEASED = 'released';
const STAGES: ReadonlySet<string> = new Set(['alpha', 'beta', 'rc']);

function toParts(version: string): { numbers: number[]; stage: string; round: number } {
  const [, numbers = '', stage = RELEASED, round = '0'] =
    /^v?(\d+(?:\.\d+)*)(?:-(alpha|beta|rc)\.?(\d*))?/.exec(version) ?? [];
  const known = STAGES.has(stage) ? stage : RELEASED;
  return { numbers: numbers.split('.').map(Number), stage: known, round: Number(round) };
}
