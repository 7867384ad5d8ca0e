import { SandyardError } from '../errors.js';

/*
 * What the warden's probe prints, decoded: see `warden/PROTOCOL.md`. It comes out of a sandbox, so each line is one that
 * the protocol has, once where it may be there once, and there are no more than a probe can have to say.
 */

const MAX_LINES = 2000;
const MAX_LINE = 4096;

export interface ProbeMount {
  /** Of what is mounted, the part: `/` for the whole. */
  readonly root: string;
  readonly target: string;
  readonly writable: boolean;
  readonly type: string;
}

export interface ProbeReport {
  /** Values by the name of the line, and where a line has one by what it is about: `limit nofile`. */
  readonly values: ReadonlyMap<string, string>;
  readonly interfaces: readonly string[];
  readonly mounts: readonly ProbeMount[];
  /** How each path could be read. */
  readonly paths: ReadonlyMap<string, string>;
  /** How each attempt went. */
  readonly attempts: ReadonlyMap<string, string>;
}

const NAME = '[a-z_]{1,40}';
const ERRNO = '[A-Z][A-Z0-9]{1,30}';
const NUMBER = String.raw`\d{1,20}`;

/** Lines of one value, each by a name that comes once. */
const SINGLE = new RegExp(
  '^(?:' +
    [
      `(uid|gid) (${NUMBER} ${NUMBER} ${NUMBER})`,
      `(capabilities (?:effective|permitted|inheritable|bounding|ambient)) ([0-9a-f]{16})`,
      `(no_new_privs|seccomp) (${NUMBER}|${ERRNO})`,
      `(limit (?:nofile|core|memlock)) ((?:${NUMBER}|unlimited) (?:${NUMBER}|unlimited))`,
      `(cgroup [a-z_./]{1,60}) (-?[0-9a-z ]{1,60})`,
      String.raw`(kernel) ([\x21-\x7e]{1,64})`,
      `(memory_total|init_uid) (${NUMBER})`,
      `(namespace [a-z]{1,10}) ([a-z]{1,10}:\\[${NUMBER}\\])`,
      `(init_name) (.{0,64})`,
      `(interfaces) (${ERRNO})`,
    ].join('|') +
    ')$',
);
const INTERFACE = /^interface (\S{1,15})$/;
const PATH = new RegExp(`^path (readable|empty|socket|${ERRNO}) (/.*)$`);
const ATTEMPT = new RegExp(`^attempt (${NAME}) (ok|untried|${ERRNO})$`);
/** Throws `channel_failed` for what no probe prints. */
export function parseProbe(output: Uint8Array): ProbeReport {
  const lines = Buffer.from(output).toString('utf8').split('\n');
  if (lines.length > MAX_LINES || lines.pop() !== '' || lines.pop() !== 'end') throw noReport('it has no end');
  const report = {
    values: new Map<string, string>(),
    interfaces: [] as string[],
    mounts: [] as ProbeMount[],
    paths: new Map<string, string>(),
    attempts: new Map<string, string>(),
  };
  for (const line of lines) {
    if (line.length > MAX_LINE || !enter(report, line)) throw noReport(JSON.stringify(line.slice(0, 80)));
  }
  return report;
}

interface GrowingReport {
  readonly values: Map<string, string>;
  readonly interfaces: string[];
  readonly mounts: ProbeMount[];
  readonly paths: Map<string, string>;
  readonly attempts: Map<string, string>;
}

function enter({ values, interfaces, mounts, paths, attempts }: GrowingReport, line: string): boolean {
  const single = SINGLE.exec(line)?.filter((part) => part !== undefined);
  if (single !== undefined) return once(values, single[1], single[2]);
  const path = PATH.exec(line);
  if (path !== null) return once(paths, path[2], path[1]);
  const attempt = ATTEMPT.exec(line);
  if (attempt !== null) return once(attempts, attempt[1], attempt[2]);
  const name = INTERFACE.exec(line)?.[1];
  if (name !== undefined) return interfaces.push(name) > 0;
  const mount = parseMount(line);
  return mount !== undefined && mounts.push(mount) > 0;
}

function once(map: Map<string, string>, name: string | undefined, value: string | undefined): boolean {
  if (name === undefined || value === undefined || map.has(name)) return false;
  map.set(name, value);
  return true;
}

/** As proc_pid_mountinfo(5) has it: id, parent, device, root, target, options, more that is of no interest, type. */
function parseMount(line: string): ProbeMount | undefined {
  const [word, id = '', parent = '', device = '', root = '', target = '', options = '', ...rest] = line.split(' ');
  const [separator, type] = rest.slice(-2);
  const isMount = word === 'mount' && /^\d+ \d+ \d+:\d+$/.test(`${id} ${parent} ${device}`) && separator === '-';
  if (!isMount || type === undefined || type === '' || !target.startsWith('/')) return undefined;
  return { root: unescape(root), target: unescape(target), writable: options.split(',').includes('rw'), type };
}

/** The kernel writes a space, a tab, a newline and a backslash in octal. */
function unescape(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

function noReport(what: string): SandyardError {
  return new SandyardError(
    'channel_failed',
    `What the sandbox told of itself is not as the protocol has it: ${what}.`,
    {
      hint: 'Do not trust this sandbox: destroy it.',
    },
  );
}
