import { createHash, type Hash } from 'node:crypto';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { temporaryDirectory } from '../fixtures/project-tree.js';
import { removeAll, testManager } from '../fixtures/run.js';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
/** What a process may grow by while a gigabyte goes through it. */
const FLAT_BYTES = 120 * MIB;

describe('files of a gigabyte, and ten thousand files', () => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ memoryLimit: '256m' });
  });
  afterAll(() => removeAll(manager));

  it('brings a gigabyte in and out, to the byte, with little memory on either side', async () => {
    const path = '/workspace/gigabyte';
    const memory = watchMemory();
    const sent = createHash('sha256');
    const { sizeBytes } = await sandbox.files.write(path, numberedBlocks(GIB / MIB, sent));
    expect(sizeBytes).toBe(GIB);
    const got = createHash('sha256');
    for await (const chunk of await sandbox.files.readStream(path)) got.update(chunk as Buffer);
    expect(memory.growth()).toBeLessThan(FLAT_BYTES);
    expect(got.digest('hex')).toBe(sent.digest('hex'));
    expect((await sandbox.stats()).oomKills).toBe(0);
    await sandbox.files.remove(path);
  });

  it('copies a file of 256 MiB out to the host without holding it', async () => {
    await using host = await temporaryDirectory();
    await sandbox.exec('head -c 268435456 /dev/urandom > /workspace/random');
    const memory = watchMemory();
    await sandbox.copyFrom('/workspace/random', join(host.path, 'random'));
    await sandbox.copyTo(join(host.path, 'random'), '/workspace/back');
    expect(memory.growth()).toBeLessThan(FLAT_BYTES);
    expect(await sandbox.exec('cmp random back && rm random back')).toMatchObject({ exitCode: 0, stdout: '' });
  });

  it('copies and lists ten thousand files', async () => {
    await using host = await temporaryDirectory();
    const source = join(host.path, 'source');
    const names = Array.from({ length: 10_000 }, (_, index) => `${index % 100}/file ${index}`);
    for (let index = 0; index < 100; index += 1) await mkdir(join(source, String(index)), { recursive: true });
    for (const name of names) await writeFile(join(source, name), name);

    expect(await sandbox.copyTo(source, '/workspace/many')).toMatchObject({ entries: 10_100 });
    const listed = await sandbox.files.list('/workspace/many', { depth: 2 });
    const files = listed
      .filter(({ type }) => type === 'file')
      .map((file) => file.path.slice('/workspace/many/'.length));
    expect(files.toSorted()).toEqual(names.toSorted());
    expect(await sandbox.copyFrom('/workspace/many', join(host.path, 'out'))).toMatchObject({ entries: 10_100 });
    for (const directory of ['0', '99']) {
      const [was, is] = [join(source, directory), join(host.path, 'out', directory)];
      expect((await readdir(is)).toSorted()).toEqual((await readdir(was)).toSorted());
    }
    await sandbox.files.remove('/workspace/many', { recursive: true });
    await expect(sandbox.files.stat('/workspace/many')).rejects.toMatchObject({ code: 'file_not_found' });
  });
});

/** Blocks of which no two are the same. */
async function* numberedBlocks(count: number, hash: Hash): AsyncGenerator<Buffer> {
  for (let index = 0; index < count; index += 1) {
    const block = Buffer.alloc(MIB, `block ${index}\0\xff`, 'latin1');
    hash.update(block);
    yield block;
  }
}

/** How much more memory this process has had since, at the most. */
function watchMemory() {
  const before = process.memoryUsage().rss;
  let most = before;
  const timer = setInterval(() => (most = Math.max(most, process.memoryUsage().rss)), 20);
  return {
    growth: () => {
      clearInterval(timer);
      return Math.max(most, process.memoryUsage().rss) - before;
    },
  };
}
