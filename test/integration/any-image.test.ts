import { spawn } from 'node:child_process';
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';

import { buildImage } from '../../scripts/images.mjs';
import type { Sandbox, SandboxManager } from '../../src/index.js';
import { firstLine, killHard } from '../fixtures/manager-process.js';
import { ROOT } from '../fixtures/service.js';
import { compileStaticProgram } from '../fixtures/static-program.js';
import {
  dockerClient,
  IMAGE,
  newOwner,
  removeAll,
  RUN_SUFFIX,
  RUNTIMES,
  testManager,
  testSandbox,
} from '../fixtures/run.js';

const FIXTURES = `${ROOT}/test/fixtures/static-program`;
const DYING_MANAGER = fileURLToPath(new URL('../fixtures/dying-manager.ts', import.meta.url));
const BARE_IMAGE = `sandyard-bare:${RUN_SUFFIX}`;
const SMALL = { image: BARE_IMAGE, memoryLimit: '64m' };

/** An image that has the warden, and the volume that this is put in. */
interface Source {
  readonly image: string;
  readonly volume: string;
}

describe('an image with one static program and no shell', () => {
  const docker = dockerClient();
  const directories: string[] = [];
  let source: Source;
  let managers: readonly [SandboxManager, SandboxManager];

  async function temporary(): Promise<string> {
    const path = await mkdtemp(join(tmpdir(), 'sandyard-test-'));
    directories.push(path);
    return path;
  }

  /** The sandbox image under another id, so that its warden is in no volume yet. */
  async function makeSource(name: string): Promise<Source> {
    const context = await temporary();
    const image = `sandyard-source-${name}:${RUN_SUFFIX}`;
    await writeFile(join(context, 'Dockerfile'), `FROM ${IMAGE}\nLABEL sandyard.test-source=${image}\n`);
    await buildImage(docker, { context, dockerfile: 'Dockerfile', tag: image });
    const { Id } = await docker.getImage(image).inspect();
    return { image, volume: `sandyard-warden-${Id.replace('sha256:', '').slice(0, 12)}` };
  }

  async function removeSource({ image, volume }: Source): Promise<void> {
    await docker.getVolume(volume).remove();
    await docker.getImage(image).remove({ force: true });
  }

  function openTwo({ image }: Source): Promise<[SandboxManager, SandboxManager]> {
    const options = { owner: newOwner(), image };
    return Promise.all([testManager(options), testManager(options)]);
  }
  const volumesOf = async ({ volume }: Source) =>
    ((await docker.listVolumes({ filters: { name: [volume] } })).Volumes ?? []).map(({ Name }) => Name);
  const fillersOf = async ({ volume }: Source) =>
    (await docker.listContainers({ all: true, filters: { name: [`sandyard-fill-${volume}`] } })).map(({ Id }) => Id);

  beforeAll(async () => {
    const context = await temporary();
    await copyFile(join(FIXTURES, 'Dockerfile'), join(context, 'Dockerfile'));
    await compileStaticProgram(join(context, 'program'));
    await buildImage(docker, { context, dockerfile: 'Dockerfile', include: ['program'], tag: BARE_IMAGE });
    source = await makeSource('shared');
    managers = await openTwo(source);
  });
  afterAll(async () => {
    for (const manager of managers ?? []) await removeAll(manager);
    if (source !== undefined) await removeSource(source);
    await docker.getImage(BARE_IMAGE).remove({ force: true });
    await Promise.all(directories.map((path) => rm(path, { recursive: true, force: true })));
  });

  it('gets the warden from one volume, which two managers fill at once and the next sandbox finds', async () => {
    const { volume } = source;
    expect(await volumesOf(source)).toEqual([]);
    const made = await Promise.all(managers.flatMap((manager) => [1, 2].map(() => manager.create(SMALL))));
    const said = await Promise.all(made.map((sandbox) => sandbox.exec(['/program', 'say', 'it', 'runs'])));
    expect(said.map(({ stdout }) => stdout)).toEqual(made.map(() => 'it runs\n'));
    expect(await volumesOf(source)).toEqual([volume]);
    const filled = await docker.getVolume(volume).inspect();

    const next = await managers[0].create(SMALL);
    const { Mounts } = await docker.getContainer(`sandyard-${next.id}`).inspect();
    const volumes = Mounts.filter(({ Type }) => Type === 'volume');
    expect(volumes).toMatchObject([{ Name: volume, RW: false }]);
    expect(await docker.getVolume(volume).inspect()).toEqual(filled);
    expect(await fillersOf(source)).toEqual([]);
    await Promise.all([...made, next].map((sandbox) => sandbox.destroy()));
  });

  it.each([
    ['before', 0],
    ['after', 1],
  ])('gets it, too, where a manager was killed %s the engine had filled the volume', async (when, left) => {
    const own = await makeSource(when);
    onTestFinished(async () => {
      for (const id of await fillersOf(own)) await docker.getContainer(id).remove();
      await removeSource(own);
    });
    await killManager(own, `${when} filling`);
    expect(await volumesOf(own)).toEqual([own.volume]);
    expect(await fillersOf(own)).toHaveLength(left);

    const next = await openTwo(own);
    onTestFinished(async () => {
      await Promise.all(next.map(removeAll));
    });
    const made = await Promise.all(next.map((manager) => manager.create(SMALL)));
    const said = await Promise.all(made.map((sandbox) => sandbox.exec(['/program', 'say', 'it', 'runs'])));
    expect(said.map(({ stdout }) => stdout)).toEqual(made.map(() => 'it runs\n'));
    expect(await fillersOf(own)).toEqual([]);
  });

  describe.each(RUNTIMES)('on %s', (runtime) => {
    let sandbox: Sandbox;
    beforeAll(async () => {
      sandbox = await managers[0].create({ image: BARE_IMAGE, runtime, memoryLimit: '256m', pidsLimit: 2048 });
    });

    it('runs it, with its output and exit code, and tells that there is no shell', async () => {
      expect(await sandbox.exec(['/program', 'say', 'hello'])).toMatchObject({ stdout: 'hello\n', exitCode: 7 });
      expect(await sandbox.exec(['/program', 'copy'], { stdin: 'in and out' })).toMatchObject({
        stdout: 'in and out',
        exitCode: 0,
      });
      await expect(sandbox.exec('echo hello')).rejects.toMatchObject({ code: 'command_not_found' });
    });

    it('gives it a terminal', async () => {
      const process = await sandbox.spawn(['/program', 'tty'], { pty: { rows: 11, columns: 22 } });
      const output = process.output();
      let shown = '';
      const until = async (text: string) => {
        while (!shown.includes(text)) {
          const { value, done } = await output.next();
          if (done === true) throw new Error(`it ended after ${JSON.stringify(shown)}`);
          shown += Buffer.from(value.data).toString();
        }
      };
      await until('11 rows of 22\r\n');
      await process.write('typed\n');
      await until('typed\r\ntyped\r\n'); // once by the terminal, once by the program
      // gVisor's terminals know no character that ends a file.
      if (runtime === 'runsc') await process.kill();
      else await process.closeStdin();
      expect(await process.wait()).toMatchObject({ outcome: runtime === 'runsc' ? 'killed' : 'exited' });
    });

    it('reads, writes and lists files', async () => {
      await sandbox.files.write('/workspace/deep/file.txt', 'content');
      expect(await sandbox.files.readText('/workspace/deep/file.txt')).toBe('content');
      const listed = await sandbox.files.list('/workspace', { depth: 2 });
      expect(listed.map(({ path }) => path)).toEqual(['/workspace/deep', '/workspace/deep/file.txt']);
      expect(listed[1]).toMatchObject({ type: 'file', sizeBytes: 7, uid: 1000 });
      await expect(sandbox.files.write('/file', 'x')).rejects.toMatchObject({ code: 'permission_denied' });
      await sandbox.files.remove('/workspace/deep', { recursive: true });
      expect(await sandbox.files.list('/workspace')).toEqual([]);
    });

    it('copies directories in and out', async () => {
      const host = await temporary();
      await writeFile(join(host, 'one.txt'), 'one');
      await sandbox.copyTo(host, '/workspace/copied');
      await sandbox.copyFrom('/workspace/copied', join(host, 'out'));
      expect(await readFile(join(host, 'out/one.txt'), 'utf8')).toBe('one');
    });

    it('runs it with a root that cannot be written to', async () => {
      const strict = await testSandbox(managers[0], { image: BARE_IMAGE, runtime, profile: 'strict' });
      await strict.files.write('/workspace/file.txt', 'content');
      expect(await strict.files.readText('/workspace/file.txt')).toBe('content');
      expect(await strict.exec(['/program', 'say', 'hello'])).toMatchObject({ stdout: 'hello\n', exitCode: 7 });
    });

    it('knows localhost, though the image has never heard of it', async () => {
      expect(await sandbox.files.readText('/etc/hosts')).toMatch(/^127\.0\.0\.1\tlocalhost\n/);
    });

    it('can be attested', async () => {
      const { ok, checks } = await sandbox.attest();
      expect(checks.filter(({ status }) => status !== 'ok')).toEqual([]);
      expect(ok).toBe(true);
    });

    it(`tells what it uses${runtime === 'runsc' ? ', but for its time on the CPU, which gVisor keeps to itself' : ''}`, async () => {
      const { memoryBytes, cpuSeconds, pids } = await sandbox.stats();
      expect(memoryBytes).toBeGreaterThan(0);
      expect(pids).toBeGreaterThan(0);
      if (runtime !== 'runsc') expect(cpuSeconds).toBeGreaterThan(0);
    });
  });
});

/** Kills a manager whose create stands still at that step. */
async function killManager({ image }: Source, step: string): Promise<void> {
  const options = JSON.stringify({ steps: [step], create: SMALL });
  const child = spawn(process.execPath, ['--import', 'tsx', DYING_MANAGER, newOwner(), 'halt', options], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, SANDBOX_IMAGE: image },
  });
  onTestFinished(() => killHard(child));
  expect(JSON.parse(await firstLine(child))).toEqual([null]);
  await killHard(child);
}
