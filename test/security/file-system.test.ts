import { afterAll, beforeAll, describe, expect } from 'vitest';

import type { Profile, SandboxManager } from '../../src/index.js';
import { removeAll, RUNTIMES, testManager } from '../fixtures/run.js';
import { python, sandboxOf } from '../fixtures/security-sandbox.js';
import { attemptsOn } from './attempts.js';

/** Profiles whose disk is bounded: what fills it is tried with each. */
const BOUNDED: readonly Profile[] = ['strict'];

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

describe.each(RUNTIMES)('the file system of a sandbox of %s', (runtime) => {
  const attempt = attemptsOn(runtime);
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  const isAlive = async (sandbox: Awaited<ReturnType<typeof sandboxOf>>) => {
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

  attempt(10, async () => {
    const found: string[] = [];
    for (const profile of BOUNDED) {
      const sandbox = await sandboxOf(manager, runtime, { profile });
      const ended = await python(sandbox, FILL_BYTES, '/workspace');
      expect(ended).toBe(`/workspace ${ENOSPC}`);
      await isAlive(sandbox);
      await sandbox.exec('rm /workspace/full');
      expect(await sandbox.exec('echo again > /workspace/a && cat /workspace/a')).toMatchObject({ stdout: 'again\n' });
      found.push(`${profile}: ENOSPC, the next command runs, and what was deleted can be written again`);
    }
    return found.join('; ');
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
    const found: string[] = [];
    for (const profile of BOUNDED) {
      const sandbox = await sandboxOf(manager, runtime, { profile });
      const filled = (await python(sandbox, FILL_FILES, ...PLACES)).split('\n');
      const counts = filled.map((line) => Number(line.split(' ')[1]));
      expect(filled).toEqual(PLACES.map((place, index) => `${place} ${counts[index]} ${ENOSPC}`));
      for (const count of counts) expect(count).toBeLessThan((64 * 1024 ** 2) / 4096);
      await isAlive(sandbox);
      await sandbox.exec('rm -rf /workspace/many');
      expect(await sandbox.exec('echo again > /workspace/a && cat /workspace/a')).toMatchObject({ stdout: 'again\n' });
      found.push(`${profile}: ENOSPC in ${counts.length} of ${PLACES.length}, commands run on`);
    }
    return found.join('; ');
  });
});
