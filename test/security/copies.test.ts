import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { createGzip } from 'node:zlib';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect } from 'vitest';

import { isSandyardError, type Sandbox, type SandboxManager } from '../../src/index.js';
import { END_OF_ARCHIVE, rawArchive, rawEntry, type RawEntry } from '../fixtures/hostile-archives.js';
import { removeAll, RUNTIMES, testDirectory, testManager } from '../fixtures/run.js';
import { python, sandboxOf } from '../fixtures/security-sandbox.js';
import { attemptsOn } from './attempts.js';

const MIB = 1024 ** 2;
const BOMB_BYTES = 1024 * MIB;
const TARGET = '/workspace/target';

const file: RawEntry = { name: 'good', body: 'good' };
const UPLOADS: readonly (readonly RawEntry[])[] = [
  [{ name: '../outside', body: 'x' }, file],
  [{ name: '/workspace/outside', body: 'x' }, file],
  [
    { name: 'up', type: '2', linkname: '/workspace' },
    { name: 'up/outside', body: 'x' },
  ],
  [{ name: 'hard', type: '1', linkname: '/etc/passwd' }, file],
  [{ name: 'hard', type: '1', linkname: '../../etc/passwd' }, file],
  [{ name: 'disk', type: '4' }, file],
  [{ name: 'null', type: '3' }, file],
  [{ name: 'pipe', type: '6' }, file],
  [{ name: 'suid', mode: 0o6755, body: 'x' }, file],
];

/** Says of each file below a directory what it is, its permission bits and its owner. */
const LOOK = `
import os, stat, sys
for top, dirs, files in os.walk(sys.argv[1]):
    for name in dirs + files:
        found = os.lstat(os.path.join(top, name))
        print(stat.filemode(found.st_mode), found.st_uid, found.st_nlink, name)`;

/** What its user could make as well, a named pipe among it. */
const USERS_OWN = /^(-([r-][w-][x-]){3} 1000 1|[dlp]([r-][w-][x-]){3} 1000 \d+) /;

/** A tar of one file of nothing but zeros. */
function* zeros(bytes: number): Generator<Buffer> {
  yield rawEntry({ name: 'bomb', size: bytes }).subarray(0, 512);
  const block = Buffer.alloc(MIB);
  for (let sent = 0; sent < bytes; sent += MIB) yield block;
  yield END_OF_ARCHIVE;
}

/** The code of the error that a call ends with, which must be one of ours, if any. */
async function settled(call: Promise<unknown>): Promise<string | undefined> {
  try {
    await call;
    return undefined;
  } catch (error) {
    if (isSandyardError(error)) return error.code;
    throw error;
  }
}

const codeOf = async (call: Promise<unknown>) => (await settled(call)) ?? 'none';

const inCode = (codes: readonly string[]) => [...new Set(codes)].map((code) => `\`${code}\``).join(', ');

describe.each(RUNTIMES)('copies into and out of a sandbox of %s', (runtime) => {
  const attempt = attemptsOn(runtime);
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ runtime, memoryLimit: '256m' });
  });
  afterAll(() => removeAll(manager));

  attempt(26, async () => {
    const refused: string[] = [];
    for (const entries of UPLOADS) {
      await sandbox.exec(`rm -rf ${TARGET}`);
      const code = await settled(sandbox.files.writeArchive(TARGET, Readable.from([rawArchive(...entries)])));
      if (code !== undefined) refused.push(code);
      const names = (await sandbox.files.list('/workspace')).map(({ name }) => name);
      expect(names.filter((name) => name !== 'target')).toEqual([]);
      const found = names.length === 0 ? '' : await python(sandbox, LOOK, TARGET);
      for (const line of found.split('\n').filter((one) => one !== '')) {
        expect(line, JSON.stringify(entries)).toMatch(USERS_OWN);
      }
    }
    expect(await sandbox.exec(['find', '/etc/passwd', '-links', '1', '-user', '0'])).toMatchObject({
      stdout: '/etc/passwd\n',
    });
    await sandbox.exec(`rm -rf ${TARGET}`);
    const inside = UPLOADS.length - refused.length;
    return `${refused.length} of ${UPLOADS.length} refused (${inCode(refused)}), ${inside} inside as what its user could make, too`;
  });

  attempt(27, async () => {
    const strict = await sandboxOf(manager, runtime, { profile: 'strict' });
    const bomb = await buffer(Readable.from(zeros(BOMB_BYTES)).pipe(createGzip()));
    expect(bomb.length).toBeLessThan(2 * MIB);
    const compressed = await codeOf(strict.files.writeArchive(TARGET, Readable.from([bomb])));
    expect((await strict.files.list('/workspace')).filter(({ sizeBytes }) => sizeBytes > MIB)).toEqual([]);
    const plain = await codeOf(strict.files.writeArchive(TARGET, Readable.from(zeros(BOMB_BYTES))));
    expect(plain).toBe('out_of_disk');
    expect(await strict.exec(['echo', 'usable'])).toMatchObject({ stdout: 'usable\n' });
    return `${inCode([compressed])}: nothing is decompressed; unpacked by hand it is \`${plain}\` in \`strict\``;
  });

  attempt(28, async () => {
    const host = await testDirectory();
    await writeFile(join(host, 'canary'), 'of the host');
    await sandbox.exec(
      `mkdir out; ln -s /etc/shadow out/link; echo fine > out/fine; ln -s ${host}/canary canary; ln -s /etc/shadow shadow; ln -s /proc/1/root/etc/hostname hostname`,
    );
    const read = [
      await codeOf(sandbox.files.read('/workspace/shadow')),
      await codeOf(sandbox.files.read('/workspace/canary')),
      await codeOf(sandbox.files.read('/workspace/hostname')),
    ];
    expect(read).toEqual(['permission_denied', 'file_not_found', 'permission_denied']);
    const copied = await codeOf(sandbox.copyFrom('/workspace/out', join(host, 'out')));
    expect(copied).toBe('unsafe_archive');
    expect(await readdir(host)).toEqual(['canary']);
    return `read: ${inCode(read)}; copied out: ${inCode([copied])}`;
  });

  attempt(29, async () => {
    const host = await testDirectory();
    // In one of its own: gVisor says of a hole that it takes what it could hold, which fills the disk.
    const own = await sandboxOf(manager, runtime, { memoryLimit: '256m' });
    await own.exec('truncate -s 1T sparse; mkfifo fifo; ln -s /dev/zero zero');
    const sparse = [
      await codeOf(own.files.read('/workspace/sparse')),
      await codeOf(own.copyFrom('/workspace/sparse', join(host, 'sparse'), { maxBytes: 10 * MIB })),
    ];
    expect(sparse).toEqual(['limit_exceeded', 'archive_too_large']);
    const special = [await codeOf(own.files.read('/workspace/fifo')), await codeOf(own.files.read('/workspace/zero'))];
    expect(special).toEqual(['not_a_file', 'not_a_file']);
    expect(await readdir(host)).toEqual([]);
    return `sparse: ${inCode(sparse)}; pipe and \`/dev/zero\`: ${inCode(special)}`;
  });

  attempt(30, async () => {
    const host = await testDirectory();
    const changing = `mkdir -p changing; cd changing; while :; do
      head -c 3000000 /dev/zero > a; mv a b; truncate -s 1 b; mv b c; rm -f c; done`;
    const process = await sandbox.spawn(changing);
    for (let round = 0; round < 100; round += 1) {
      const target = join(host, String(round));
      await mkdir(target);
      const copied = await settled(sandbox.copyFrom('/workspace/changing', target));
      const names = await readdir(target);
      // All of it or nothing of it.
      if (copied === undefined) continue;
      // Of what is renamed meanwhile gVisor says at times that it is no path (EINVAL).
      expect(copied).toMatch(
        runtime === 'runsc' ? /^(unsafe_archive|file_\w+|validation_failed)$/ : /^(unsafe_archive|file_\w+)$/,
      );
      expect(names).toEqual([]);
    }
    await process.kill('SIGKILL');
    expect(await sandbox.exec(['echo', 'usable'])).toMatchObject({ stdout: 'usable\n' });
    return 'each time all of it or an error, and then nothing on the host; the manager works on';
  });
});
