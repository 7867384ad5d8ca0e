import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { hostileArchives, hostileBox, rawArchive } from '../fixtures/hostile-archives.js';
import { describeTree, makeProjectTree, temporaryDirectory } from '../fixtures/project-tree.js';
import { dockerClient, IMAGE, removeAll, RUN_LABELS, RUN_SUFFIX, testManager } from '../fixtures/run.js';

describe('copying', () => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create();
  });
  afterAll(() => removeAll(manager));

  it('brings a project of 2,000 files in and out again, identical', async () => {
    await using host = await temporaryDirectory();
    const source = join(host.path, 'source');
    await makeProjectTree(source, 2000);
    const { '.': _root, ...expected } = await describeTree(source);
    expect(Object.keys(expected).length).toBeGreaterThan(2000);

    const into = await sandbox.copyTo(source, '/workspace/project');
    const out = await sandbox.copyFrom('/workspace/project', join(host.path, 'out'));
    const { '.': _target, ...found } = await describeTree(join(host.path, 'out'));
    expect(found).toEqual(expected);
    expect(into).toEqual(out);
    const owners = await sandbox.exec('find /workspace/project ! -user sandbox -o ! -group sandbox | wc -l');
    expect(owners.stdout.trim()).toBe('0');
  });

  it('leaves out what is excluded, both ways', async () => {
    await using host = await temporaryDirectory();
    const source = join(host.path, 'source');
    await mkdir(join(source, 'node_modules/package'), { recursive: true });
    await mkdir(join(source, 'src'));
    for (const name of ['node_modules/package/index.js', 'src/a.ts', 'src/a.log'])
      await writeFile(join(source, name), name);
    await sandbox.copyTo(source, '/workspace/excluded', { exclude: ['node_modules'] });
    await sandbox.copyFrom('/workspace/excluded', join(host.path, 'out'), { exclude: ['*.log'] });
    const { '.': _root, ...found } = await describeTree(join(host.path, 'out'));
    expect(Object.keys(found).toSorted()).toEqual(['src', 'src/a.ts']);
  });

  it('keeps the old file when what was to replace it fails half-way', async () => {
    await sandbox.files.write('/workspace/kept', 'old');
    const broken = Readable.from(
      (function* () {
        yield Buffer.alloc(100_000, 'new');
        throw new Error('the source broke');
      })(),
    );
    await expect(sandbox.files.write('/workspace/kept', broken)).rejects.toThrow('the source broke');
    expect(await sandbox.files.readText('/workspace/kept')).toBe('old');
    expect((await sandbox.exec('ls -A /workspace | grep sandyard-')).stdout).toBe('');
  });

  describe('out of a hostile sandbox', () => {
    let image: string | undefined;
    let hostile: Sandbox;
    const canary = '/tmp/sandyard-canary';
    const archives = hostileArchives(canary);

    // User code can't replace the warden, but an image can bring any: this one's hands out the archive that is in the
    // directory that it is to pack.
    beforeAll(async () => {
      const docker = dockerClient();
      const container = await docker.createContainer({ Image: IMAGE, Labels: { ...RUN_LABELS } });
      const tar = pack();
      const warden = await readFile(new URL('../fixtures/hostile-warden.py', import.meta.url));
      tar.entry({ name: 'usr/lib/sandyard/warden', mode: 0o755 }, warden);
      for (const [index, { entries }] of archives.entries()) {
        tar.entry({ name: `hostile/${index}`, type: 'directory', mode: 0o755 });
        tar.entry({ name: `hostile/${index}/archive`, mode: 0o644 }, rawArchive(...entries));
      }
      tar.finalize();
      await container.putArchive(Readable.from(tar), { path: '/' });
      image = ((await container.commit({ repo: 'sandyard-test-hostile', tag: RUN_SUFFIX })) as { Id: string }).Id;
      await container.remove();
      hostile = await manager.create({ image: `sandyard-test-hostile:${RUN_SUFFIX}` });
    });
    afterAll(async () => {
      await hostile?.destroy();
      if (image !== undefined) await dockerClient().getImage(image).remove({ force: true });
    });

    it.each(archives.map((archive, index) => ({ ...archive, index })))(
      'refuses $what',
      async ({ index, names, why }) => {
        await using box = await hostileBox();
        const { target: before, ...others } = await describeTree(box.root);
        const copied = expect(hostile.copyFrom(`/hostile/${index}`, box.target)).rejects;
        await copied.toMatchObject({ code: 'unsafe_archive' });
        await copied.toThrow(names);
        await copied.toThrow(why);
        // The target's own time changes when the staging directory in it comes and goes.
        const { target: after, ...found } = await describeTree(box.root);
        expect(found).toEqual(others);
        expect(after?.split(' ')[0]).toBe(before?.split(' ')[0]);
        await expect(readFile(canary)).rejects.toThrow('ENOENT');
      },
    );
  });
});
