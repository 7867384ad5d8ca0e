import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { buildImage } from '../../scripts/images.mjs';
import type { Sandbox, SandboxManager } from '../../src/index.js';
import { ROOT } from '../fixtures/service.js';
import { compileStaticProgram } from '../fixtures/static-program.js';
import { dockerClient, IMAGE, newOwner, removeAll, RUN_SUFFIX, RUNTIMES, testManager } from '../fixtures/run.js';

const FIXTURES = `${ROOT}/test/fixtures/static-program`;
const BARE_IMAGE = `sandyard-bare:${RUN_SUFFIX}`;
/** The sandbox image under an id of this run's, so that its warden is in no volume yet. */
const SOURCE_IMAGE = `sandyard-source:${RUN_SUFFIX}`;

describe('an image with one static program and no shell', () => {
  const docker = dockerClient();
  const directories: string[] = [];
  let volume: string;
  let managers: readonly [SandboxManager, SandboxManager];

  async function temporary(): Promise<string> {
    const path = await mkdtemp(join(tmpdir(), 'sandyard-test-'));
    directories.push(path);
    return path;
  }

  beforeAll(async () => {
    const context = await temporary();
    await copyFile(join(FIXTURES, 'Dockerfile'), join(context, 'Dockerfile'));
    await compileStaticProgram(join(context, 'program'));
    await buildImage(docker, { context, dockerfile: 'Dockerfile', include: ['program'], tag: BARE_IMAGE });
    const source = await temporary();
    await writeFile(join(source, 'Dockerfile'), `FROM ${IMAGE}\nLABEL sandyard.test-source=${RUN_SUFFIX}\n`);
    await buildImage(docker, { context: source, dockerfile: 'Dockerfile', tag: SOURCE_IMAGE });
    const { Id } = await docker.getImage(SOURCE_IMAGE).inspect();
    volume = `sandyard-warden-${Id.replace('sha256:', '').slice(0, 12)}`;
    const owner = newOwner();
    const options = { owner, image: SOURCE_IMAGE };
    managers = await Promise.all([testManager(options), testManager(options)]);
  });
  afterAll(async () => {
    for (const manager of managers ?? []) await removeAll(manager);
    if (volume !== undefined) await docker.getVolume(volume).remove();
    for (const image of [BARE_IMAGE, SOURCE_IMAGE]) await docker.getImage(image).remove({ force: true });
    await Promise.all(directories.map((path) => rm(path, { recursive: true, force: true })));
  });

  it('gets the warden from one volume, which two managers fill at once and the next sandbox finds', async () => {
    const wardens = async () =>
      ((await docker.listVolumes({ filters: { name: [volume] } })).Volumes ?? []).map(({ Name }) => Name);
    expect(await wardens()).toEqual([]);
    const made = await Promise.all(
      managers.flatMap((manager) => [1, 2].map(() => manager.create({ image: BARE_IMAGE, memoryLimit: '64m' }))),
    );
    const said = await Promise.all(made.map((sandbox) => sandbox.exec(['/program', 'say', 'it', 'runs'])));
    expect(said.map(({ stdout }) => stdout)).toEqual(made.map(() => 'it runs\n'));
    expect(await wardens()).toEqual([volume]);
    const filled = await docker.getVolume(volume).inspect();

    const next = await managers[0].create({ image: BARE_IMAGE, memoryLimit: '64m' });
    const found = await docker.getContainer(`sandyard-${next.id}`).inspect();
    expect(found.Mounts).toMatchObject([{ Type: 'volume', Name: volume, RW: false }]);
    expect(await docker.getVolume(volume).inspect()).toEqual(filled);
    const fillers = await docker.listContainers({ all: true, filters: { name: [`sandyard-fill-${volume}`] } });
    expect(fillers).toEqual([]);
    await Promise.all([...made, next].map((sandbox) => sandbox.destroy()));
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

    it(`tells what it uses${runtime === 'runsc' ? ', but for its time on the CPU, which gVisor keeps to itself' : ''}`, async () => {
      const { memoryBytes, cpuSeconds, pids } = await sandbox.stats();
      expect(memoryBytes).toBeGreaterThan(0);
      expect(pids).toBeGreaterThan(0);
      if (runtime !== 'runsc') expect(cpuSeconds).toBeGreaterThan(0);
    });
  });
});
