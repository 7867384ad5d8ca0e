import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { SetupFailure, diskHint, findProgram, run } from './common.mjs';

/** What this machine is: the fields of /etc/os-release, and whether set-up may install the distribution's packages. */
export function describeHost() {
  const release = readOsRelease();
  const family = new Set([release.ID, ...(release.ID_LIKE ?? '').split(' ')]);
  const debian = release.ID === 'debian' || release.ID === 'ubuntu';
  return {
    name: release.PRETTY_NAME ?? process.platform,
    id: release.ID,
    suite: release.VERSION_CODENAME,
    isRoot: process.getuid?.() === 0,
    isDebianLike: family.has('debian') || family.has('ubuntu'),
    hasApt: debian && findProgram('apt-get') !== undefined,
    hasSystemd: existsSync('/run/systemd/system'),
  };
}

function readOsRelease() {
  const lines = read('/etc/os-release').matchAll(/^(\w+)="?([^"\n]*)"?$/gm);
  return Object.fromEntries([...lines].map(([, key, value]) => [key, value]));
}

/** Installs packages of the distribution; the caller has made sure that there is apt, and root. */
export async function aptInstall(packages, { log }) {
  log(`Installing ${packages.join(', ')} (apt-get) …`);
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  try {
    await run('apt-get', ['update'], { log, env });
    await run('apt-get', ['install', '-y', '--no-install-recommends', ...packages], { log, env });
  } catch (error) {
    throw new SetupFailure(
      `${packages.join(', ')} could not be installed.\n${error.message}`,
      diskHint(error.message) ??
        'Check that the package mirror can be reached (`apt-get update`), then run this again.',
      { cause: error },
    );
  }
}

/**
 * The host's own package mirrors as apt source lines for `suite`, its updates and its security fixes. Sources that are
 * not the distribution's own (they bring a key of their own, or other suites) are left out.
 */
export function hostMirrors(suite, host = describeHost()) {
  const wanted = new Set(['', '-updates', '-security'].map((kind) => `${host.suite}${kind}`));
  const usable = host.id === 'ubuntu' ? ['main', 'universe'] : ['main'];
  const lines = readAptSources()
    .filter(({ uri, signedBy }) => /^https?:/.test(uri) && (!signedBy || /(debian|ubuntu)-archive-/.test(signedBy)))
    .filter((source) => wanted.has(source.suite))
    .map((source) => ({ ...source, components: usable.filter((name) => source.components.includes(name)) }))
    .filter(({ components }) => components.length > 0)
    .map((source) => `deb ${source.uri} ${source.suite.replace(host.suite, suite)} ${source.components.join(' ')}`);
  return [...new Set(lines)];
}

function read(path) {
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

/** One `{ uri, suite, components, signedBy }` for each pair of mirror and suite that apt knows. */
function readAptSources(folder = '/etc/apt') {
  const parts = join(folder, 'sources.list.d');
  const names = existsSync(parts) ? readdirSync(parts).sort() : [];
  return [
    ...parseOneLine(read(join(folder, 'sources.list'))),
    ...names.filter((name) => name.endsWith('.list')).flatMap((name) => parseOneLine(read(join(parts, name)))),
    ...names.filter((name) => name.endsWith('.sources')).flatMap((name) => parseDeb822(read(join(parts, name)))),
  ];
}

function parseOneLine(text) {
  return [...text.matchAll(/^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#\n]+)/gm)].map((match) => ({
    uri: match[2],
    suite: match[3],
    components: match[4].trim().split(/\s+/),
    signedBy: /signed-by=(\S+)/i.exec(match[1] ?? '')?.[1],
  }));
}

function parseDeb822(text) {
  const paragraphs = text.replaceAll(/^#.*\n?/gm, '').split(/\n\s*\n/);
  return paragraphs.flatMap((paragraph) => {
    const fields = Object.fromEntries(
      [...paragraph.matchAll(/^([\w-]+):[ \t]*((?:.|\n[ \t])*)/gm)].map(([, key, value]) => [key.toLowerCase(), value]),
    );
    const words = (key) => (fields[key] ?? '').trim().split(/\s+/).filter(Boolean);
    if (!words('types').includes('deb') || /^no$/i.test(fields.enabled ?? '')) return [];
    return words('uris').flatMap((uri) =>
      words('suites').map((suite) => ({ uri, suite, components: words('components'), signedBy: fields['signed-by'] })),
    );
  });
}
