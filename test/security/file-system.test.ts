import { afterAll, beforeAll, describe, expect } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { eventually, removeAll, RUNTIMES, testManager } from '../fixtures/run.js';
import { python, sandboxOf } from '../fixtures/security-sandbox.js';
import { attemptsOn } from './attempts.js';

/** On the disk, where a sandbox watches what it writes; in memory it ends at the last byte, with ENOSPC. */
const DISK = { profile: 'standard', diskLimit: 64 * 1024 ** 2, inodesLimit: 2000 } as const;

/** Prints what it managed to write to, of all the places there are. */
const WRITES = `
import os
for path in ['/', '/etc', '/usr', '/usr/lib/sandyard', '/var', '/var/tmp', '/var/lib', '/var/lib/sandyard', '/run', '/opt',
             '/root', '/srv', '/proc', '/proc/sys/kernel', '/sys', '/sys/fs/cgroup', '/dev',
             '/tmp', '/workspace', '/home/sandbox', '/dev/shm']:
    try:
        with open(path + '/probe', 'w') as file: file.write('x')
        print(path)
    except OSError: pass`;

/** Fills the places that it is given, to the last byte, and leaves them so. Prints why it ended. */
const FILL_BYTES = `
import os, sys
for path in sys.argv[1:]:
    try:
        with open(path + '/full', 'wb', buffering=0) as file:
            while True: file.write(b'x' * 65536)
    except OSError as error: print(path, error.strerror)`;

/** The same to the last file, and prints how many there were. */
const FILL_FILES = `
import os, sys
for path in sys.argv[1:]:
    count = 0
    os.mkdir(path + '/many')
    try:
        while count < 200000:
            os.close(os.open(path + '/many/%d' % count, os.O_CREAT | os.O_WRONLY)); count += 1
    except OSError as error: print(path, count, error.strerror)`;

const PLACES = ['/workspace', '/tmp', '/home/sandbox', '/dev/shm'];
const ENOSPC = 'No space left on device';
const USABLE = 'the next command runs, and what was deleted can be written again';

describe.each(RUNTIMES)('the file system of a sandbox of %s', (runtime) => {
  const attempt = attemptsOn(runtime);
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  const isAlive = async (sandbox: Sandbox) => {
    expect(await sandbox.exec('echo alive')).toMatchObject({ outcome: 'exited', stdout: 'alive\n' });
  };

  attempt(3, async () => {
    const written: string[] = [];
    for (const profile of ['standard', 'strict'] as const) {
      const sandbox = await sandboxOf(manager, runtime, { profile });
      const places = (await python(sandbox, WRITES)).split('\n');
      expect(places).toEqual([
        ...(profile === 'standard' ? ['/var/tmp'] : []),
        '/tmp',
        '/workspace',
        '/home/sandbox',
        '/dev/shm',
      ]);
      written.push(`${profile}: ${places.map((place) => `\`${place}\``).join(' ')}`);
    }
    return written.join('; ');
  });

  /** Runs what fills it, on the disk until all that runs there is ended; and then makes room, and writes again. */
  const fillDisk = async (program: string, { left, remove }: { left: string; remove: string }) => {
    const sandbox = await sandboxOf(manager, runtime, DISK);
    const command = ['python3', '-c', program, '/workspace'];
    const { outcome, stdout } = await sandbox.exec(command, { timeoutMs: 60_000 });
    expect({ outcome, stdout }).toEqual({ outcome: 'disk_full', stdout: '' });
    await isAlive(sandbox);
    const { exitCode } = await sandbox.exec(`test -e ${left} && ${remove}`, { timeoutMs: 60_000 });
    expect(exitCode).toBe(0);
    const isBelow = async () => {
      const { diskBytes, inodes } = await sandbox.stats();
      return (
        (diskBytes !== null && diskBytes < DISK.diskLimit && inodes !== null && inodes < DISK.inodesLimit) || undefined
      );
    };
    await eventually(isBelow, { timeoutMs: 30_000, what: 'room on the disk' });
    await writesAgain(sandbox);
  };

  const writesAgain = async (sandbox: Sandbox) => {
    expect(await sandbox.exec('echo again > /workspace/a && cat /workspace/a')).toMatchObject({
      outcome: 'exited',
      stdout: 'again\n',
    });
  };

  attempt(10, async () => {
    const sandbox = await sandboxOf(manager, runtime, { profile: 'strict' });
    expect(await python(sandbox, FILL_BYTES, '/workspace')).toBe(`/workspace ${ENOSPC}`);
    await isAlive(sandbox);
    await sandbox.exec('rm /workspace/full');
    await writesAgain(sandbox);
    await fillDisk(FILL_BYTES, { left: '/workspace/full', remove: 'rm /workspace/full' });
    return `strict: ENOSPC; standard: \`disk_full\`; in both ${USABLE}`;
  });

  attempt(11, async () => {
    const sandbox = await sandboxOf(manager, runtime, { profile: 'strict' });
    const ended = (await python(sandbox, FILL_BYTES, ...PLACES)).split('\n');
    expect(ended).toEqual(PLACES.map((place) => `${place} ${ENOSPC}`));
    // gVisor doesn't bound how many files there are: they take its memory until that ends the sandbox.
    const files = runtime === 'runsc' ? '' : await python(sandbox, FILL_FILES, ...PLACES);
    expect(files.match(new RegExp(ENOSPC, 'g')) ?? []).toHaveLength(runtime === 'runsc' ? 0 : PLACES.length);
    await isAlive(sandbox);
    await python(sandbox, 'block = bytearray(32 * 1024 * 1024)');
    const what = files === '' ? 'bytes' : 'bytes and files';
    return `ENOSPC for ${what} in ${ended.length} of ${PLACES.length} places; commands run on, with memory to work in`;
  });

  attempt(12, async () => {
    const remove = 'find /workspace/many -delete';
    await fillDisk(FILL_FILES, { left: '/workspace/many', remove });
    // gVisor doesn't bound how many files there are in memory, but what they take: see 44.
    if (runtime === 'runsc') return `standard: \`disk_full\`; ${USABLE}`;
    const sandbox = await sandboxOf(manager, runtime, { profile: 'strict' });
    const filled = (await python(sandbox, FILL_FILES, ...PLACES)).split('\n');
    const counts = filled.map((line) => Number(line.split(' ')[1]));
    expect(filled).toEqual(PLACES.map((place, index) => `${place} ${counts[index]} ${ENOSPC}`));
    for (const count of counts) expect(count).toBeLessThan((64 * 1024 ** 2) / 4096);
    await isAlive(sandbox);
    await sandbox.exec('rm -rf /workspace/many');
    await writesAgain(sandbox);
    return `strict: ENOSPC in ${counts.length} of ${PLACES.length} places; standard: \`disk_full\`; in both ${USABLE}`;
  });
});
