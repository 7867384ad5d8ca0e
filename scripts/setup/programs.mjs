import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { ROOT, SetupFailure } from './common.mjs';

const SRC = join(ROOT, 'src');
const DIST = join(ROOT, 'dist');
const PARTS = 'programs';
const LICENSES = join(DIST, PARTS, 'LICENSES.txt');
/** What each program begins with. */
const MAINS = ['cli/main.ts', 'http/main.ts'];
/** In the path of a file: the folder and the name of the package that it is of. */
const PACKAGE = /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//;

/** What packages look for outside of themselves when they are asked to, and can do without. */
const OPTIONAL = ['bufferutil', 'utf-8-validate'];
/** Parts of the engine's client by which builds with BuildKit go, and engines are reached by ssh: a third of it all. */
const LEFT_OUT = { dockerode: './session', 'docker-modem': './ssh' };

/**
 * Writes each program and all that it needs to a few files of dist, in place of what the compiler has made of its beginning:
 * from a thousand small files it takes more than twice as long to start. The library stays as it is compiled. Gives what it wrote,
 * and what of the compiler's is of no use any more.
 */
export async function bundlePrograms() {
  const { build } = await import('esbuild');
  const { metafile, warnings } = await build({
    entryPoints: MAINS.map((path) => join(SRC, path)),
    outbase: SRC,
    outdir: DIST,
    chunkNames: `${PARTS}/[hash]`,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20.19',
    legalComments: 'none', // whole licenses are told instead
    banner: {
      js: "import { createRequire as requireOf } from 'node:module'; const require = requireOf(import.meta.url);",
    },
    external: OPTIONAL,
    plugins: [leaveOut, keepPlaces],
    absWorkingDir: ROOT,
    metafile: true,
    logLevel: 'silent',
  });
  if (warnings.length > 0) throw new SetupFailure(`The programs are not whole.\n${warnings.map(tell).join('\n')}`);
  writeFileSync(LICENSES, readLicenses(Object.keys(metafile.inputs)));
  const written = [...Object.keys(metafile.outputs).map((path) => join(ROOT, path)), LICENSES];
  return { written, replaced: MAINS.map((path) => join(DIST, path.replace(/\.ts$/, '.js.map'))) };
}

function tell({ text, location }) {
  return location === null ? text : `${location.file}:${location.line}: ${text}`;
}

const leaveOut = {
  name: 'leave-out',
  setup(build) {
    build.onResolve({ filter: /^\.\/(session|ssh)$/ }, ({ path, importer }) =>
      LEFT_OUT[PACKAGE.exec(importer)?.[1]] === path ? { path, namespace: 'left-out' } : undefined,
    );
    build.onLoad({ filter: /.*/, namespace: 'left-out' }, ({ path }) => ({
      contents: `module.exports = () => { throw new Error('${path} is left out of the programs of Sandyard'); };`,
    }));
  },
};

/** What a module finds beside itself it finds beside what the compiler has made of it: each output is one folder below dist. */
const keepPlaces = {
  name: 'keep-places',
  setup(build) {
    build.onLoad({ filter: /\.ts$/ }, ({ path }) => {
      const source = readFileSync(path, 'utf8');
      if (!source.includes('import.meta.url')) return undefined;
      const compiled = `../${relative(SRC, path).replace(/\.ts$/, '.js')}`;
      const place = `new URL(${JSON.stringify(compiled)}, import.meta.url).href`;
      return { contents: source.replaceAll('import.meta.url', place), loader: 'ts' };
    });
  },
};

/** Of all packages that a part of is in the programs. */
function readLicenses(inputs) {
  const folders = new Set(inputs.map((path) => PACKAGE.exec(path)?.[0]).filter(Boolean));
  const texts = [...folders]
    .toSorted((one, other) => one.localeCompare(other))
    .map((folder) => {
      const { name, version, license } = JSON.parse(readFileSync(join(ROOT, folder, 'package.json'), 'utf8'));
      const files = readdirSync(join(ROOT, folder)).filter((found) => /^(licen[cs]e|notice)/i.test(found));
      const whole = files.map((file) => readFileSync(join(ROOT, folder, file), 'utf8').trim());
      return [`${name} ${version} (${license})`, ...whole].join('\n\n') + '\n';
    });
  return `The programs of Sandyard have parts of these packages in them.\n\n${texts.join(`\n${'-'.repeat(72)}\n\n`)}`;
}
