import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { eventually, removeAll, RUNTIMES, testDirectory, testManager, testSandbox } from '../fixtures/run.js';

const MIB = 1024 ** 2;
const DISK = 48 * MIB;
/** What may be written between two looks, on a disk as fast as memory, by a machine that has much else to do. */
const PASSED_BY = 1024 * MIB;

/** By the warden: the engine under test has no quota. With one, see disk-quota.test.ts. */
describe.each(RUNTIMES)('the disk of a sandbox of %s', (runtime) => {
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  const bounded = (options = {}) =>
    testSandbox(manager, {
      runtime,
      memoryLimit: '1g',
      pidsLimit: 512,
      diskLimit: DISK,
      inodesLimit: 1500,
      ...options,
    });
  const used = async (sandbox: Sandbox) => (await sandbox.stats()).diskBytes ?? 0;
  const fill = (path: string) => ['sh', '-c', `head -c 400000000 /dev/zero > ${path}; sleep 60`];
  const full = (sandbox: Sandbox) => sandbox.exec(fill('/workspace/big'), { timeoutMs: 60_000 });

  it('ends what writes more than it may, and what it has left behind, as disk_full', async () => {
    const sandbox = await bounded();
    const neighbour = await bounded();
    const other = await neighbour.spawn(['sleep', '600']);
    const waiting = sandbox.exec(['sleep', '600']);
    const { signal, abort } = stopper();
    const happening = manager.events({ types: ['disk_full'], signal });
    expect(await full(sandbox)).toMatchObject({ outcome: 'disk_full', exitCode: 137, signal: 'SIGKILL' });
    expect(await waiting).toMatchObject({ outcome: 'disk_full' });
    const { diskBytes, diskLimitBytes, inodesLimit } = await sandbox.stats();
    expect({ diskLimitBytes, inodesLimit }).toEqual({ diskLimitBytes: DISK, inodesLimit: 1500 });
    expect(diskBytes).toBeGreaterThan(DISK);
    expect(diskBytes).toBeLessThan(DISK + PASSED_BY);
    expect(await neighbour.exec(['sh', '-c', 'echo mine > /workspace/mine; cat /workspace/mine'])).toMatchObject({
      outcome: 'exited',
      stdout: 'mine\n',
    });
    expect((await happening.next()).value).toMatchObject({ sandboxId: sandbox.id, type: 'disk_full' });
    abort();
    expect(await happening.next()).toMatchObject({ done: true }); // once, and of no other
    await other.kill();
    expect(await other.wait()).toMatchObject({ outcome: 'killed' });
  });

  it('is usable again once something was removed', async () => {
    const sandbox = await bounded();
    await full(sandbox);
    await expect(sandbox.files.write('/workspace/small', 'x')).rejects.toMatchObject({
      code: 'out_of_disk',
      message: expect.stringContaining('48m') as string,
    });
    expect(await sandbox.exec(fill('/workspace/more'), { timeoutMs: 60_000 })).toMatchObject({ outcome: 'disk_full' });
    expect(await sandbox.files.read('/etc/hostname')).toBeDefined();
    await sandbox.files.remove('/workspace/big');
    expect(await sandbox.exec(['rm', '/workspace/more'])).toMatchObject({ exitCode: 0 });
    await eventually(async () => ((await used(sandbox)) < DISK ? true : undefined), {
      timeoutMs: 30_000,
      what: 'room',
    });
    await sandbox.files.write('/workspace/small', 'x');
    expect(await sandbox.exec(['sh', '-c', 'cat /workspace/small'])).toMatchObject({ outcome: 'exited', stdout: 'x' });
  });

  it.each([
    ['in a directory that nobody may enter', 'mkdir d; dd if=/dev/zero of=d/x bs=1M count=400; chmod 0 d'],
    ['in a file that was deleted', 'exec 3> x; rm x; dd if=/dev/zero bs=1M count=400 >&3'],
    ['by what left its command', '(setsid dd if=/dev/zero of=x bs=1M count=400 < /dev/null > /dev/null 2>&1 &) ; :'],
    ['with other names', 'dd if=/dev/zero of=x bs=1M count=400; ln x y; ln x z'],
  ])('sees what is written %s', async (_, script) => {
    const sandbox = await bounded();
    const { outcome } = await sandbox.exec(['sh', '-c', `cd /workspace; ${script}; sleep 60`], { timeoutMs: 60_000 });
    expect(outcome).toBe('disk_full');
  });

  it('counts empty files, too', async () => {
    const sandbox = await bounded();
    const script = 'cd /workspace; i=0; while [ $i -lt 200000 ]; do : > f$i; i=$((i+1)); done';
    const { outcome } = await sandbox.exec(['sh', '-c', script], { timeoutMs: 120_000 });
    expect(outcome).toBe('disk_full');
    expect((await sandbox.stats()).inodes).toBeGreaterThan(1500);
    const removed = await sandbox.exec(['sh', '-c', 'cd /workspace; find . -name "f*" -delete']);
    expect(removed).toMatchObject({ outcome: 'exited' });
    const room = async () => (((await sandbox.stats()).inodes ?? Infinity) < 100 ? true : undefined);
    await eventually(room, { timeoutMs: 30_000, what: 'room' });
  });

  it('does not count what is in the image, nor holes in files, nor what is in memory', async () => {
    const sandbox = await bounded();
    // gVisor says of a hole that it takes what it could hold.
    const hole = runtime === 'runsc' ? '' : 'truncate -s 10G /workspace/sparse; ';
    const script = `${hole}head -c 40000000 /dev/zero > /dev/shm/x; cat /usr/bin/* > /dev/null; echo x > /workspace/x; sync`;
    expect(await sandbox.exec(['sh', '-c', script])).toMatchObject({ outcome: 'exited', exitCode: 0 });
    const counted = async () => (await sandbox.stats()).diskBytes ?? undefined;
    expect(await eventually(counted, { timeoutMs: 30_000, what: 'a count' })).toBeLessThan(MIB);
  });

  it('takes nothing in one call: there is no fallocate but for making holes', async () => {
    const sandbox = await bounded();
    const script = `
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open('/workspace/x', os.O_RDWR | os.O_CREAT)
os.write(fd, b'x' * 65536)
for mode in (0, 1, 3):
    ok = libc.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(32768 if mode == 3 else 1 << 34))
    print(mode, 'ok' if ok == 0 else os.strerror(ctypes.get_errno()))
`;
    const { stdout } = await sandbox.exec(['python3', '-c', script]);
    const refused = '0 Operation not supported\n1 Operation not supported\n';
    expect(stdout).toMatch(runtime === 'runsc' ? refused : `${refused}3 ok\n`);
    expect(await used(sandbox)).toBeLessThan(DISK);
  });

  it('refuses a write and a copy that come to more than there may be', async () => {
    const sandbox = await bounded();
    const directory = await testDirectory();
    await writeFile(join(directory, 'a'), Buffer.alloc(100 * MIB, 'a'));
    await writeFile(join(directory, 'b'), Buffer.alloc(100 * MIB, 'b'));
    async function* endless() {
      for (;;) yield await Promise.resolve(Buffer.alloc(MIB, 'c'));
    }
    await expect(sandbox.files.write('/workspace/c', endless())).rejects.toMatchObject({ code: 'out_of_disk' });
    const room = async () => ((await used(sandbox)) < DISK ? true : undefined);
    await eventually(room, { timeoutMs: 30_000, what: 'the end of what was half written' });
    await expect(copyRepeatedly(sandbox, directory)).rejects.toMatchObject({ code: 'out_of_disk' });
  });

  it('keeps what was written over a stop, and counts it', async () => {
    const sandbox = await bounded();
    await sandbox.exec(['sh', '-c', 'head -c 20000000 /dev/zero > /workspace/kept']);
    await sandbox.restart();
    await sandbox.exec(['sh', '-c', 'echo more > /workspace/more; sync /workspace/more']);
    const known = async () => ((await used(sandbox)) > 20_000_000 ? true : undefined);
    await eventually(known, { timeoutMs: 30_000, what: 'what was written before' });
  });

  it('sees what is written in a hurry by more than the CPU can follow', async () => {
    const sandbox = await bounded({ cpuLimit: 0.5, inodesLimit: 100_000 });
    const script = `cd /workspace; for i in $(seq 12); do (while :; do :; done) & done
for i in $(seq 4); do head -c 100000000 /dev/zero > f$i & done; wait`;
    const { outcome } = await sandbox.exec(['sh', '-c', script], { timeoutMs: 120_000 });
    expect(outcome).toBe('disk_full');
  });

  /** Whoever waits for a child is told by the kernel that it was stopped and went on, however short that was. */
  it('halts nothing for a count that takes long, while little is written', async () => {
    const sandbox = await bounded({ cpuLimit: 0.25, inodesLimit: 100_000 });
    await sandbox.exec(['sh', '-c', 'cd /workspace; for i in $(seq 2500); do : > f$i; done']);
    const before = await used(sandbox);
    const script = `
import os, subprocess, time
child = subprocess.Popen(['sleep', '600'])
for _ in range(${runtime === 'runsc' ? 0 : 24}): subprocess.Popen(['sh', '-c', 'while :; do :; done'])
with open('/workspace/little', 'wb') as file: file.write(bytes(${MIB}))
time.sleep(13) # it is counted 10 s after it was the last time
seen = os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
print('halted' if seen else 'left alone')
`;
    const { stdout, outcome } = await sandbox.exec(['python3', '-c', script]);
    expect([stdout, outcome]).toEqual(['left alone\n', 'exited']);
    expect(await used(sandbox)).toBeGreaterThanOrEqual(before + MIB);
  });
});

function stopper() {
  const controller = new AbortController();
  return { signal: controller.signal, abort: () => controller.abort() };
}

/** What goes fast enough may be there before anybody has looked; what comes after it is not taken. */
async function copyRepeatedly(sandbox: Sandbox, directory: string): Promise<void> {
  for (let times = 0; times < 3; times++) await sandbox.copyTo(directory, `/workspace/copy${times}`);
}
