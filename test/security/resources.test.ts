import { cpus } from 'node:os';
import { afterAll, beforeAll, describe, expect } from 'vitest';

import type { CreateOptions, Sandbox, SandboxManager } from '../../src/index.js';
import { BOMBS, FORK_BOMB, setOff } from '../fixtures/bombs.js';
import { ATTACKER_CPUS, slowdown } from '../fixtures/neighbour.js';
import { countProcesses, dockerClient, eventually, removeAll, RUNTIMES, sleep, testManager } from '../fixtures/run.js';
import { python, sandboxOf } from '../fixtures/security-sandbox.js';
import { attemptsOn } from './attempts.js';

/** By how much a sandbox's commands may take longer while another does its worst. */
const MOST_SLOWDOWN = 3;
const MIB = 1024 ** 2;
/**
 * The kernel counts memory before it gives or refuses it, up to 64 pages for each CPU (MEMCG_CHARGE_BATCH): who looks just
 * then sees it counted, over the limit, though nobody gets it.
 */
const UNDECIDED_BYTES = cpus().length * 64 * 4096;
const OPEN_ALL = `
import os
n = 0
try:
    while True: os.open('/dev/null', os.O_RDONLY); n += 1
except OSError as error: print(n, error.strerror)`;

const ORPHANS = `
import os, time
for _ in range(50):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.2)
        os._exit(0)
    os.wait()`;

const ZOMBIES = `
import os
count = 0
for pid in os.listdir('/proc'):
    try: count += pid.isdigit() and open('/proc/' + pid + '/stat').read().rsplit(')', 1)[1].split()[0] == 'Z'
    except OSError: pass
print(count)`;

/** What the engine says of a container, with the size of its writable layer. */
interface Inspected {
  readonly State: { readonly Running: boolean };
  readonly HostConfig: { readonly Memory: number; readonly PidsLimit: number };
  readonly SizeRw?: number;
}

/** The number of files that are open on the whole host; under runc a container can read it. */
const OPEN_FILES = "print(open('/proc/sys/fs/file-nr').read().split()[0])";
/** Far fewer than the bomb opens, and more than come and go on a machine that does other things. */
const FEW_FILES = 20_000;

describe.each(RUNTIMES)('what a sandbox of %s may take', (runtime) => {
  const attempt = attemptsOn(runtime);
  let manager: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
  });
  afterAll(() => removeAll(manager));

  const create = (options: CreateOptions = {}) => sandboxOf(manager, runtime, options);
  const container = ({ id }: Sandbox) => dockerClient().getContainer(`sandyard-${id}`);

  /** Compares what the engine says that one takes of its host with what it may. */
  const expectBounded = async (sandbox: Sandbox) => {
    const { State, HostConfig, SizeRw = 0 } = (await container(sandbox).inspect({ size: true } as object)) as Inspected;
    expect(SizeRw).toBeLessThan(MIB);
    if (!State.Running) return;
    const { memory_stats, pids_stats } = await container(sandbox).stats({ stream: false, 'one-shot': true });
    expect(memory_stats.usage ?? 0).toBeLessThanOrEqual(HostConfig.Memory + UNDECIDED_BYTES);
    expect((pids_stats as { current?: number }).current ?? 0).toBeLessThanOrEqual(HostConfig.PidsLimit);
  };

  attempt(8, async () => {
    const attacker = await create({ pidsLimit: 64, cpuLimit: ATTACKER_CPUS });
    const end = await setOff(attacker, FORK_BOMB);
    await sleep(2000);
    await expectBounded(attacker);
    await end();
    if ((await attacker.inspect()).state === 'exited') await attacker.start(); // what a fork bomb does on gVisor
    expect(await countProcesses(attacker, 'bomb')).toBe(0);
    await setOff(attacker, FORK_BOMB);
    await attacker.destroy();
    await expect(manager.get(attacker.id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
    return 'never more than its limits; nothing of it left when it was ended; destroyed under it';
  });

  attempt(9, async () => {
    const sandbox = await create({ memoryLimit: '64m' });
    const hog = await sandbox.exec(['python3', '-c', 'block = bytearray(256 * 1024 * 1024); print(len(block))']);
    expect(hog).toMatchObject({ outcome: 'oom_killed', diedOf: null, exitCode: 137, stdout: '' });
    expect(await sandbox.exec(['echo', 'alive'])).toMatchObject({ outcome: 'exited', stdout: 'alive\n' });
    expect(await python(sandbox, 'block = bytearray(16 * 1024 * 1024); print(len(block))')).toBe(String(16 * MIB));
    return `\`${hog.outcome}\`, exit code ${hog.exitCode}; the sandbox runs on`;
  });

  attempt(13, async () => {
    const sandbox = await create({ cpuLimit: 0.5 });
    const seconds = async () =>
      (await container(sandbox).stats({ stream: false, 'one-shot': true })).cpu_stats.cpu_usage.total_usage / 1e9;
    const spinning = await sandbox.spawn([...(BOMBS['CPU'] ?? [])]);
    const [before, began] = [await seconds(), performance.now()];
    await eventually(async () => (performance.now() - began > 4000 ? true : undefined));
    const [after, ended] = [await seconds(), performance.now()];
    await spinning.kill('SIGKILL');
    // What was left of one period of the kernel's may be in either reading.
    const allowed = 0.5 * 1.05 * ((ended - began) / 1000) + 0.1;
    expect(after - before).toBeGreaterThan(0.2);
    expect(after - before).toBeLessThan(allowed);
    return 'no more than its half CPU';
  });

  attempt(14, async () => {
    const sandbox = await create({ nofileLimit: 100 });
    const [, count = '', why = ''] = /^(\d+) (.+)$/.exec(await python(sandbox, OPEN_ALL)) ?? [];
    expect(why).toBe('Too many open files');
    expect(Number(count)).toBeLessThan(100);
    expect(Number(count)).toBeGreaterThan(80);
    const raised = await sandbox.exec('ulimit -Hn; ulimit -Hc; ulimit -n 200');
    expect(raised.stdout).toBe('100\n0\n');
    expect(raised.exitCode).not.toBe(0);
    return 'EMFILE below the limit, which can not be raised';
  });

  attempt(15, async () => {
    const sandbox = await create();
    await python(sandbox, ORPHANS);
    const zombies = await eventually(async () => ((await python(sandbox, ZOMBIES)) === '0' ? 0 : undefined), {
      timeoutMs: 5000,
      what: 'the end of the zombies',
    });
    return `${zombies} left`;
  });

  attempt(44, async () => {
    const died: string[] = [];
    const signal = new AbortController();
    const reading = (async () => {
      for await (const event of manager.events({ types: ['stopped'], signal: signal.signal })) {
        died.push(`${event.sandboxId} ${event.reason} ${event.exitCode}`);
      }
    })();
    const sandbox = await create({ memoryLimit: '96m' });
    const hog = await sandbox.exec(['python3', '-c', 'block = bytearray(512 * 1024 * 1024)']);
    expect(hog).toMatchObject({ outcome: 'sandbox_died', diedOf: 'out_of_memory', exitCode: null, stdout: '' });
    const told = `${sandbox.id} out_of_memory 137`;
    await eventually(async () => (died.includes(told) ? true : undefined), { what: 'the event' });
    await sandbox.start();
    expect(await sandbox.exec(['echo', 'usable'])).toMatchObject({ stdout: 'usable\n' });
    signal.abort();
    await reading;
    return `\`${hog.outcome}\`, \`${hog.diedOf}\`, and an event that says so; it can be started again`;
  });

  attempt(
    46,
    async () => {
      const [neighbour, witness] = [await create(), await sandboxOf(manager, 'runc')];
      const kept = await neighbour.spawn(['sleep', '1000']);
      const openFiles = async () => Number(await python(witness, OPEN_FILES));
      const before = await openFiles();
      for (const [name, bomb] of Object.entries(BOMBS)) {
        let attacker: Sandbox | undefined;
        const load = async () => {
          // Strict, so that its disk is bounded.
          attacker ??= await manager.create({
            runtime,
            profile: 'strict',
            memoryLimit: '256m',
            cpuLimit: ATTACKER_CPUS,
          });
          const [attacked, end] = [attacker, await setOff(attacker, bomb)];
          return async () => {
            await expectBounded(attacked);
            await end();
            if ((await attacked.inspect()).state === 'running') return;
            await attacked.destroy(); // on gVisor it has ended of some
            attacker = undefined;
          };
        };
        expect(await slowdown(neighbour, load, MOST_SLOWDOWN), name).toBeLessThan(MOST_SLOWDOWN);
        await attacker?.destroy();
      }
      await eventually(async () => ((await openFiles()) < before + FEW_FILES ? true : undefined));
      expect((await manager.list()).sandboxes.map(({ id }) => id).toSorted()).toEqual(
        [neighbour.id, witness.id].toSorted(),
      );
      expect(await neighbour.processes.list()).toMatchObject([{ id: kept.id, state: 'running' }]);
      const count = Object.keys(BOMBS).length;
      return `p95 under ${MOST_SLOWDOWN} × its base in all ${count}; none took more than its limits, and nothing of them is left`;
    },
    300_000,
  );
});
