import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { build } from '../../scripts/build.mjs';
import { ROOT } from '../../scripts/setup/common.mjs';
import type { Cli } from '../../src/cli/cli.js';
import { EXIT_CODES } from '../../src/cli/exit-codes.js';
import { createProgram } from '../../src/cli/program.js';
import { exampleEnvironment } from '../../src/config.js';
import { describeError, ERROR_CODES } from '../../src/errors.js';
import type { SandboxManager } from '../../src/index.js';
import { createOptionsSchema, execOptionsSchema, spawnOptionsSchema } from '../../src/schemas.js';
import {
  blocksToRun,
  findMismatch,
  programsOf,
  readDocument,
  readTable,
  sourceOf,
  splitOutput,
  type Block,
} from '../fixtures/documents.js';
import { ensureProgram } from '../fixtures/images.js';
import { IMAGE, newOwner, removeAll, run, testManager } from '../fixtures/run.js';
import { startServiceProcess, type ServiceProcess } from '../fixtures/service.js';

const documents = ['README.md', 'SANDBOX.md'].map(readDocument);
const [readme, contract] = documents as [(typeof documents)[0], (typeof documents)[0]];
const programs = documents.flatMap((document) =>
  programsOf(document).map((program, index) => ({ program, file: `${document.name}-${index + 1}.ts` })),
);

const owner = newOwner();
/** What the examples are run with: they are written for a service without a token, and for the defaults. */
const environment = {
  ...process.env,
  ...Object.fromEntries([...readVariables().keys()].map((name) => [name, undefined])),
  SANDBOX_OWNER: owner,
  SANDBOX_IMAGE: IMAGE,
};

let directory: string;
let manager: SandboxManager;
let service: ServiceProcess;

beforeAll(async () => {
  build({ log: () => {} });
  await ensureProgram('curl', 'curl');
  await ensureProgram('jq', 'jq');
  await mkdir(join(ROOT, '.cache'), { recursive: true });
  // Below the package, so that its name resolves to what is in dist, by its own exports.
  directory = await mkdtemp(join(ROOT, '.cache/documents-'));
  const config = { extends: join(ROOT, 'tsconfig.json'), include: ['*.ts'], compilerOptions: { noEmit: true } };
  await writeFile(join(directory, 'tsconfig.json'), JSON.stringify(config));
  await mkdir(join(directory, 'bin'));
  await symlink(join(ROOT, 'dist/cli/main.js'), join(directory, 'bin/sandyard'));
  manager = await testManager({ owner });
  service = await startServiceProcess({ ...environment, HOST: '127.0.0.1', PORT: '0' });
  await Promise.all(
    programs.map(({ file, program }) => writeFile(join(directory, file), toService(sourceOf(program)))),
  );
});

afterAll(async () => {
  await service?.stop('SIGTERM');
  if (manager !== undefined) await removeAll(manager);
  if (directory !== undefined) await rm(directory, { recursive: true, force: true });
});

test('every block that is not run says why', () => {
  const languages = ['ts', 'sh', 'json', 'text'];
  for (const { name, blocks } of documents) {
    for (const { language, noRun, line } of blocks) {
      expect(languages, `${name}:${line} is of a language that is not run`).toContain(language);
      if (language === 'json' || language === 'text') expect(noRun, `${name}:${line}`).toBeUndefined();
    }
  }
});

test('both documents have examples, and an answer that differs is noticed', () => {
  for (const document of documents) {
    for (const language of ['ts', 'sh']) expect(blocksToRun(document, language)).not.toEqual([]);
  }
  const json = { language: 'json', code: '{ "any": "…", "some": "a…", "exact": 1, "list": [1] }' } as const;
  const text = { language: 'text', code: 'a … c\n…\nend\n' } as const;
  expect(findMismatch(json, '{"any":null,"some":"abc","exact":1,"list":[1],"more":true}')).toBeUndefined();
  expect(findMismatch(json, '{"any":null,"some":"abc","exact":2,"list":[1]}')).toContain('"exact":2');
  expect(findMismatch(json, '{"any":null,"some":"abc","exact":1,"list":[1,2]}')).toBeDefined();
  expect(findMismatch(json, '{"some":"abc","exact":1,"list":[1]}')).toBeDefined();
  expect(findMismatch(text, 'a b c\nx\ny\nend\n')).toBeUndefined();
  expect(findMismatch(text, 'a b d\nend\n')).toBeDefined();
  expect(findMismatch(text, 'a b c\nend\nmore\n')).toBeDefined();
});

test('the examples in TypeScript have no type errors', async () => {
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  const compiled = run(process.execPath, [tsc, '-p', directory, '--pretty', 'false'], { cwd: directory });
  expect(await compiled.catch((error: { stdout: string }) => ({ stdout: error.stdout }))).toMatchObject({ stdout: '' });
});

test.each(programs)('$file', async ({ program, file }) => {
  const folder = await mkdtemp(join(directory, 'program-'));
  const { stdout } = await run(process.execPath, ['--import', 'tsx', join(directory, file)], {
    cwd: folder,
    env: environment,
    timeout: 120_000,
  });
  const printed = splitOutput(stdout);
  for (const block of program) checkOutput(block, printed.get(block.line) ?? '');
  expect(await leftSandboxes()).toEqual([]);
});

describe.each(documents)('$name, sh', (document) => {
  let folder: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(directory, 'shell-'));
  });

  test.each(blocksToRun(document, 'sh'))('line $line', async (block) => {
    checkOutput(block, await runShell(block, folder));
  });

  test('nothing is left of it', async () => expect(await leftSandboxes()).toEqual([]));
});

test('README.md has every variable with its default and its meaning', () => {
  const variables = [...readVariables()].map(([name, { fallback, text }]) => [name, fallback, text]);
  expect(readTable(readme, 'Variable')).toEqual(variables);
});

test('SANDBOX.md tells defaults as they are', () => {
  const variables = readVariables();
  const told = [...contract.text.matchAll(/`([^`]+)` \(`(SANDBOX_\w+)`\)/g)];
  expect(told.length).toBeGreaterThan(10);
  for (const [, value, name = ''] of told) expect([name, value]).toEqual([name, variables.get(name)?.fallback]);
});

test('SANDBOX.md has every error code with its status and whether to retry', () => {
  const codes = ERROR_CODES.map((code) => {
    const { status, retryable, title } = describeError(code);
    return [code, String(status), retryable ? 'yes' : 'no', title];
  });
  expect(readTable(contract, 'Code')).toEqual(codes);
});

test('SANDBOX.md has every route with its fields', async () => {
  const told = readTable(contract, 'Route').flatMap(([routes = '', fields = '']) =>
    routes.split(' · ').map((route) => [route, fieldsOf(fields)] as const),
  );
  const others = ['GET /openapi.json', 'GET /docs'].map((route) => [route, []] as const);
  const routes = [...(await readRoutes()), ...others];
  expect(Object.fromEntries(told)).toEqual(Object.fromEntries(routes));
});

test('SANDBOX.md has every option of create, exec and spawn', () => {
  const schemas = [createOptionsSchema, execOptionsSchema, spawnOptionsSchema];
  for (const option of schemas.flatMap(({ shape }) => Object.keys(shape))) {
    expect(contract.text).toContain(`\`${option}\``);
  }
});

test('SANDBOX.md has every command of the program and every exit code of its own', () => {
  const { text } = contract;
  const section = { ...contract, text: text.slice(text.indexOf('\n## Command line\n')) };
  const program = createProgram({ context: { version: '' }, args: [] } as unknown as Cli);
  const names = readTable(section, 'Command').map(([usage = '']) => usage.split(' ')[1]);
  expect(new Set(names)).toEqual(new Set(program.commands.map((command) => command.name())));
  const { killed: _, ...own } = EXIT_CODES; // that one is a command's own
  expect(readTable(section, 'Exit code').map(([code]) => Number(code))).toEqual(Object.values(own));
});

test.each(documents)('$name names scripts, files and headings that exist', ({ text }) => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { scripts: object };
  const named = [...text.matchAll(/\bnpm (?:run ([\w:]+)|(start|test))\b/g)].map((match) => match[1] ?? match[2] ?? '');
  expect(Object.keys(scripts)).toEqual(expect.arrayContaining(named));
  const links = [...text.matchAll(/\]\((?!https?:)([^)#]*)#?([^)]*)\)/g)];
  for (const [, file = '', anchor = ''] of links) {
    expect(existsSync(join(ROOT, file)), `${file} exists`).toBe(true);
    if (anchor === '') continue;
    const target = file === '' ? text : readFileSync(join(ROOT, file), 'utf8');
    expect(anchorsOf(target)).toContain(anchor);
  }
});

/** The names in a cell of the table of routes: of query parameters, or of fields of the body. */
function fieldsOf(cell: string): string[] {
  const query = [...cell.matchAll(/[?&](\w+)=/g)].map(([, name = '']) => name);
  return (query.length > 0 ? query : cell.split(' ').filter((name) => name !== '')).toSorted();
}

interface OpenApiOperation {
  readonly parameters?: readonly { readonly in: string; readonly name: string }[];
  readonly requestBody?: { readonly content: Record<string, { readonly schema: { readonly $ref?: string } }> };
}

/** Each route that the service has, with the names of its query parameters, or of the fields of its body. */
async function readRoutes(): Promise<(readonly [route: string, fields: string[]])[]> {
  const { paths, components } = (await (await fetch(`${service.url}/openapi.json`)).json()) as {
    paths: Record<string, Record<string, OpenApiOperation>>;
    components: { schemas: Record<string, { properties?: object }> };
  };
  return Object.entries(paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, { parameters = [], requestBody }]) => {
      const query = parameters.filter((parameter) => parameter.in === 'query').map(({ name }) => name);
      const schema = requestBody?.content['application/json']?.schema.$ref?.split('/').at(-1) ?? '';
      const body = Object.keys(components.schemas[schema]?.properties ?? {});
      return [`${method.toUpperCase()} ${path}`, [...query, ...body].toSorted()] as const;
    }),
  );
}

/** As GitHub makes them of headings. */
function anchorsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  );
}

function checkOutput({ expected, line }: Block, output: string): void {
  if (expected === undefined) return;
  const mismatch = findMismatch(expected, output);
  if (mismatch !== undefined) throw new Error(`What the block at line ${line} printed differs:\n${mismatch}`);
}

/** Runs a block with the variables that the blocks before it have set. */
async function runShell({ code }: Block, folder: string): Promise<string> {
  const script = `
    if [ -e .variables ]; then . ./.variables; fi
    set -euo pipefail -o allexport
    ${toService(code)}
    set +o allexport
    declare -px >.variables`;
  const PATH = [join(directory, 'bin'), process.env['PATH']].join(delimiter);
  const env = { ...environment, PATH };
  const { stdout } = await run('bash', ['-c', script], { cwd: folder, env, timeout: 120_000 });
  return stdout;
}

/** What the example is written for is at another port here. */
function toService(code: string): string {
  return code.replaceAll('127.0.0.1:8888', new URL(service.url).host);
}

async function leftSandboxes(): Promise<string[]> {
  return (await manager.list()).sandboxes.map(({ id }) => id);
}

function readVariables(): Map<string, { fallback: string; text: string }> {
  const entries = [...exampleEnvironment().matchAll(/^# (.+)\n#(\w+)=(.*)$/gm)];
  return new Map(entries.map(([, text = '', name = '', fallback = '']) => [name, { fallback, text }]));
}
