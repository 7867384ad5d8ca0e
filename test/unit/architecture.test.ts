import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

/*
 * The layers, lowest first. Each entry is a file, or a folder with all that is in it. A file imports only from lower
 * layers, from its own folder, and from entries of its own layer that are listed above its own.
 */
const LAYERS = [
  [
    'proxy/',
    'errors.ts',
    'egress-schemas.ts',
    'secret-schemas.ts',
    'signals.ts',
    'quote.ts',
    'any-signal.ts',
    'many-listeners.ts',
    'settleable.ts',
    'isolation.ts',
    'schemas.ts',
    'origins.ts',
    'variable-schemas.ts',
    'variables.ts',
    'access-settings.ts',
    'egress-settings.ts',
    'isolation-settings.ts',
    'webhook-settings.ts',
    'config.ts',
    'context.ts',
    'telemetry.ts',
    'log.ts',
    'version.ts',
  ],
  ['engine/', 'channel/'],
  ['process/', 'archive/', 'files/'],
  [
    'record/',
    'warden.ts',
    'sandbox-sockets.ts',
    'connections.ts',
    'egress/',
    'fleet/',
    'create/',
    'attest/',
    'doctor/',
    'copy.ts',
    'sandbox-info.ts',
    'sandbox.ts',
  ],
  ['manager-options.ts', 'manager-parts.ts', 'manager.ts', 'index.ts'],
  ['wire/', 'access/', 'http/', 'cli/'],
] as const;

/** Delivery reaches the core by its front door, and by what is below all. What its parts share is the wire's shapes. */
const OPEN_TO_DELIVERY = ['wire/', 'access/', 'index.ts', ...LAYERS[0]];
const DELIVERY = LAYERS.length - 1;

/** The programs; the first can start the second. */
const BEGINNINGS = ['cli/main.ts', 'http/main.ts', 'proxy/main.ts'];
const SERVICE = 'http/main.ts';

const SRC = fileURLToPath(new URL('../../src', import.meta.url));

interface Import {
  readonly from: string;
  /** A file below src, or a package. */
  readonly to: string;
  readonly typeOnly: boolean;
}

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
const sources = new Map(files.map((file) => [file, withoutComments(readFileSync(join(SRC, file), 'utf8'))]));
const imports = [...sources].flatMap(([file, source]) => importsOf(file, source));

/** Comments are blanked out, strings stay: no string of the sources has a comment's opening in front of an import. */
function withoutComments(source: string): string {
  return source.replaceAll(/^\s*(\/\*[\s\S]*?\*\/|\/\/.*)$/gm, '');
}

function importsOf(from: string, source: string): Import[] {
  const statements = source.matchAll(/^(?:import|export)\s+(type\s)?(?:[^'";]*?\sfrom\s+)?'([^']+)'/gm);
  const calls = source.matchAll(/\bimport\(\s*()'([^']+)'/g);
  return [...statements, ...calls].map(([, type, specifier = '']) => {
    const local = specifier.startsWith('.');
    const to = local ? join(dirname(from), specifier).replace(/\.js$/, '.ts') : specifier;
    return { from, to, typeOnly: type?.trim() === 'type' };
  });
}

/** Whether the entry is that file, or a folder that has it. */
function isIn(entry: string, file: string): boolean {
  return entry.endsWith('/') ? file.startsWith(entry) : file === entry;
}

/** The layer, and the place in it, of a file. */
function placeOf(file: string): { layer: number; entry: number } | undefined {
  for (const [layer, entries] of LAYERS.entries()) {
    const entry = entries.findIndex((name) => isIn(name, file));
    if (entry !== -1) return { layer, entry };
  }
  return undefined;
}

function folderOf(file: string): string | undefined {
  return file.includes('/') ? file.split('/')[0] : undefined;
}

function isAllowed({ from, to }: Import): boolean {
  const [own, other] = [placeOf(from), placeOf(to)];
  if (own === undefined || other === undefined) return false;
  if (folderOf(from) !== undefined && folderOf(from) === folderOf(to)) return true;
  if (own.layer === DELIVERY) {
    return OPEN_TO_DELIVERY.some((entry) => isIn(entry, to)) || (from === 'cli/main.ts' && to === SERVICE);
  }
  return other.layer < own.layer || (other.layer === own.layer && other.entry < own.entry);
}

const show = ({ from, to }: Import) => `${from} imports ${to}`;
const local = imports.filter(({ to }) => sources.has(to));

describe('the layers', () => {
  it('have every file, and nothing that is not there', () => {
    expect(files.filter((file) => placeOf(file) === undefined)).toEqual([]);
    const gone = LAYERS.flat().filter((name) => !files.some((file) => isIn(name, file)));
    expect(gone).toEqual([]);
  });

  it('are read whole: each file is imported by another or is a beginning', () => {
    const imported = new Set(local.map(({ to }) => to));
    expect(files.filter((file) => !imported.has(file) || file === SERVICE).toSorted()).toEqual(BEGINNINGS);
  });

  it('are imported one way', () => {
    expect(local.filter((found) => !isAllowed(found)).map(show)).toEqual([]);
  });

  it('have every local import lead to a file', () => {
    const missing = imports.filter(({ from, to }) => !sources.has(to) && to.endsWith('.ts') && placeOf(from));
    expect(missing.map(show)).toEqual([]);
  });

  it('have no cycle of imports, not even within a folder', () => {
    expect(findCycle()).toBeUndefined();
  });
});

describe('boundaries', () => {
  it("keeps the engine's client in src/engine, and its type in manager.ts", () => {
    const found = imports.filter(({ to }) => /^(dockerode|docker-modem)(\/|$)/.test(to));
    const outside = found.filter(({ from }) => !from.startsWith('engine/'));
    expect(found.length).toBeGreaterThan(0);
    expect(outside.filter(({ from, typeOnly }) => from !== 'manager-options.ts' || !typeOnly).map(show)).toEqual([]);
  });

  it('keeps the engine and the channel apart: each knows nothing but what is below both', () => {
    const apart = (file: string) => ['engine', 'channel'].includes(folderOf(file) ?? '');
    const wayward = local.filter(({ from, to }) => apart(from) && apart(to) && folderOf(from) !== folderOf(to));
    expect(wayward.map(show)).toEqual([]);
  });

  it('reads process.env in config.ts only', () => {
    expect(filesWith(/\bprocess\s*(\.\s*env\b|\[\s*['"]env)|\benv\b[^'"]*\bfrom 'node:process'/)).toEqual([
      'config.ts',
    ]);
  });

  it('leaves signals and the end of the program to the programs', () => {
    const owners = filesWith(/\bprocess\.(on|once|exit)\(/).filter((file) => !/^(http|cli)\//.test(file));
    expect(owners).toEqual([]);
  });

  it('has no default export and no export of everything', () => {
    expect(filesWith(/^export\s+default\b|^export\s+\*|\bas\s+default\b/m)).toEqual([]);
  });

  it('has nothing but named re-exports in index.ts', () => {
    const rest = (sources.get('index.ts') ?? '').replaceAll(/export\s+(type\s+)?\{[^}]*\}\s+from\s+'[^']+';/g, '');
    expect(rest.trim()).toBe('');
  });

  it('has no folders or files by a name that says nothing', () => {
    expect(files.filter((file) => /(^|\/)(utils?|helpers?|common|types|misc)(\/|\.ts$)/.test(file))).toEqual([]);
  });
});

describe('the reading of imports', () => {
  it.each([
    ["import { a } from '../x.js';", '../x.js', false],
    ["import type { A } from '../x.js';", '../x.js', true],
    ["import { type A } from '../x.js';", '../x.js', false],
    ["import {\n  a,\n  type B,\n} from '../x.js';", '../x.js', false],
    ["import '../x.js';", '../x.js', false],
    ["export { a } from '../x.js';", '../x.js', false],
    ["export type { A } from '../x.js';", '../x.js', true],
    ["const { a } = await import('../x.js');", '../x.js', false],
  ])('sees %j', (source, specifier, typeOnly) => {
    const to = join('engine', specifier).replace(/\.js$/, '.ts');
    expect(importsOf('engine/y.ts', source)).toEqual([{ from: 'engine/y.ts', to, typeOnly }]);
  });

  it.each([
    ['process/process.ts', 'manager.ts', false],
    ['files/files.ts', 'process/remote-run.ts', true],
    ['process/remote-run.ts', 'files/files.ts', false],
    ['channel/tunnel.ts', 'errors.ts', true],
    ['channel/tunnel.ts', 'process/process.ts', false],
    ['cli/main.ts', 'http/app.ts', false],
    ['cli/main.ts', 'http/main.ts', true],
    ['cli/commands/run.ts', 'cli/output.ts', true],
    ['cli/output.ts', 'http/main.ts', false],
    ['cli/main.ts', 'index.ts', true],
    ['engine/connection.ts', 'engine/discovery.ts', true],
    ['engine/connection.ts', 'process/process.ts', false],
    ['http/app.ts', 'manager.ts', false],
    ['http/app.ts', 'index.ts', true],
    ['http/app.ts', 'engine/engine.ts', false],
    ['http/app.ts', 'config.ts', true],
    ['config.ts', 'log.ts', false],
    ['cli/commands/ls.ts', 'wire/presenters.ts', true],
    ['http/app.ts', 'wire/answers.ts', true],
    ['wire/presenters.ts', 'wire/answers.ts', true],
    ['wire/presenters.ts', 'index.ts', true],
    ['wire/presenters.ts', 'manager.ts', false],
    ['wire/presenters.ts', 'http/app.ts', false],
  ])('%s may import %s: %s', (from, to, allowed) => {
    expect(isAllowed({ from, to, typeOnly: false })).toBe(allowed);
  });
});

function filesWith(pattern: RegExp): string[] {
  return [...sources].filter(([, source]) => pattern.test(source)).map(([file]) => file);
}

function findCycle(): string[] | undefined {
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]): string[] | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return undefined;
    for (const { to } of local.filter(({ from }) => from === file)) {
      const cycle = visit(to, [...path, file]);
      if (cycle !== undefined) return cycle;
    }
    done.add(file);
    return undefined;
  };
  return files.map((file) => visit(file, [])).find((cycle) => cycle !== undefined);
}
