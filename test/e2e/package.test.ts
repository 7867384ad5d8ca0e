import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';

import { SandboxManager } from '../../src/index.js';
import { IMAGE, newOwner, removeAll, run } from '../fixtures/run.js';
import { call, ROOT, startServiceProcess } from '../fixtures/service.js';

/* What somebody gets who installs the package, and not what lies in this directory. */
describe('the packed package', () => {
  const owner = newOwner();
  let directory: string;
  let tarball: string;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'sandyard-package-'));
    await run('npm', ['pack', '--pack-destination', directory], { cwd: ROOT });
    const name = (await readdir(directory)).find((file) => file.endsWith('.tgz'));
    tarball = join(directory, name ?? '');
    await writeFile(join(directory, 'package.json'), '{"private":true,"type":"module"}');
    await run('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', tarball], {
      cwd: directory,
    });
  });
  afterAll(async () => {
    await removeAll(new SandboxManager({ owner, reaper: false }));
    await rm(directory, { recursive: true, force: true });
  });

  it('holds what it needs, and nothing else', async () => {
    const { stdout } = await run('tar', ['-tzf', tarball]);
    const files = stdout
      .trim()
      .split('\n')
      .map((file) => file.replace(/^package\//, ''));
    for (const needed of [
      'dist/index.js',
      'dist/index.d.ts',
      'dist/http/main.js',
      'dist/http/docs/swagger-ui.css',
      'dist/cli/main.js',
      'Dockerfile.sandbox',
      'warden/Makefile',
      'warden/src/main.c',
      'SANDBOX.md',
    ]) {
      expect(files).toContain(needed);
    }
    const allowed =
      /^(dist\/|package\.json$|README\.md$|SANDBOX\.md$|CHANGELOG\.md$|LICENSE$|Dockerfile\.sandbox$|warden\/(Makefile$|src\/))/;
    expect(files.filter((file) => !allowed.test(file))).toEqual([]);
  });

  it('passes what checks packages', async () => {
    const bin = (name: string) => join(ROOT, 'node_modules/.bin', name);
    await run(bin('publint'), ['--strict', tarball], { cwd: ROOT });
    await run(bin('attw'), [tarball, '--profile', 'esm-only'], { cwd: ROOT });
  });

  it('works as a library', async () => {
    const script = `
      import { SandboxManager } from 'sandyard';
      await using manager = new SandboxManager({ image: ${JSON.stringify(IMAGE)}, owner: ${JSON.stringify(owner)}, reaper: false });
      await using sandbox = await manager.create({ projectName: 'packed', memoryLimit: '256m' });
      const { stdout } = await sandbox.exec(['node', '--version']);
      console.log(stdout.trim());
    `;
    await writeFile(join(directory, 'library.mts'), script);
    const tsx = join(ROOT, 'node_modules/.bin/tsx');
    expect((await run(tsx, ['library.mts'], { cwd: directory })).stdout).toMatch(/^v\d+\./);
  });

  it('has types that a strict project accepts', async () => {
    const script = `
      import { SandboxManager, type ExecResult } from 'sandyard';
      const result: ExecResult = await new SandboxManager().exec('id', ['true'], { timeoutMs: 1000 });
      export const code: number | null = result.exitCode;
      // @ts-expect-error: a limit is a size, not an object
      await new SandboxManager().create({ memoryLimit: {} });
    `;
    await writeFile(join(directory, 'types.mts'), script);
    const flags = [
      '--noEmit',
      '--strict',
      '--module',
      'nodenext',
      '--target',
      'es2023',
      '--lib',
      'es2023,esnext.disposable',
    ];
    await run(join(ROOT, 'node_modules/.bin/tsc'), [...flags, 'types.mts'], { cwd: directory });
  });

  it('works as a program', async () => {
    const bin = join(directory, 'node_modules/.bin/sandyard');
    const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    expect((await run(bin, ['--version'])).stdout).toBe(`${version}\n`);
    const env = { ...process.env, SANDBOX_OWNER: owner, SANDBOX_IMAGE: IMAGE };
    const { stdout } = await run(bin, ['run', '--rm', '--', 'node', '-p', '6 * 7'], { env });
    expect(stdout).toBe('42\n');
  });

  it('has programs that need no other package, and the licenses of what is in them', async () => {
    const alone = await mkdtemp(join(tmpdir(), 'sandyard-programs-'));
    onTestFinished(() => rm(alone, { recursive: true }));
    await run('tar', ['-xzf', tarball, '-C', alone]);
    const dist = join(alone, 'package/dist');
    const env = { ...process.env, SANDBOX_OWNER: owner, SANDBOX_IMAGE: IMAGE };
    const { stdout } = await run('node', [join(dist, 'cli/main.js'), 'run', '--rm', '--', 'echo', 'here'], { env });
    expect(stdout).toBe('here\n');
    await using service = await startServiceProcess(
      { SANDBOX_OWNER: owner },
      { command: [join(dist, 'http/main.js')] },
    );
    expect((await call(service, 'GET', { path: '/readyz' })).status).toBe(200);
    expect((await call(service, 'GET', { path: '/docs/swagger-ui.css' })).status).toBe(200);
    const licenses = await readFile(join(dist, 'programs/LICENSES.txt'), 'utf8');
    for (const name of ['dockerode', 'express', 'pino', 'zod'])
      expect(licenses).toMatch(new RegExp(`^${name} \\d`, 'm'));
    expect(licenses).not.toMatch(/^(@grpc\/grpc-js|ssh2) /m);
  });

  it('works as a service', async () => {
    const main = join(directory, 'node_modules/sandyard/dist/http/main.js');
    await using service = await startServiceProcess({ SANDBOX_OWNER: owner }, { command: [main] });
    expect((await call(service, 'GET', { path: '/readyz' })).status).toBe(200);
    const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    expect((await call(service, 'GET', { path: '/openapi.json' })).body.info.version).toBe(version);
    expect((await call(service, 'GET', { path: '/docs/' })).body).toContain('swagger-ui');
  });
});
