import { readdir, readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';

import type { CreateOptions, LifecycleEvent, Sandbox, SandboxManager } from '../../src/index.js';
import { eventually, removeAll, RUNTIMES, sleep, testManager, untilPrinted } from '../fixtures/run.js';

/** Uses a sandbox in each of the ways that wake one; gives what its file has. */
const USES = {
  exec: async (sandbox: Sandbox) => (await sandbox.exec(['cat', 'file'])).stdout,
  'file read': async (sandbox: Sandbox) => sandbox.files.readText('/workspace/file'),
  terminal: async (sandbox: Sandbox) => {
    const terminal = await sandbox.spawn('cat file; sleep 60', { pty: true });
    const printed = await untilPrinted(terminal, 'content');
    await terminal.kill('SIGKILL');
    return printed;
  },
} as const;

/** Longer than anything is done here in one step, on a machine that is busy with the others. */
const IDLE_MS: Readonly<Record<string, number>> = { runc: 4000, runsc: 9000 };
/** Longer than the whole of a case: only what is renewed with less ends by it. */
const LEASE_MS = 120_000;
/** What is refused must not take as long as a call that nothing answers. */
const AT_ONCE_MS = 10_000;

/** The processes of the host with this in their command line, such as those by which an engine runs a container. */
async function hostProcesses(text: string): Promise<string[]> {
  const lines = (await readdir('/proc'))
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')); // it has ended meanwhile
  return (await Promise.all(lines)).filter((line) => line.includes(text));
}

describe.each(RUNTIMES)('what has expired, on %s', (runtime) => {
  let manager: SandboxManager;
  const events: LifecycleEvent[] = [];
  const told = (id: string) =>
    events
      .filter(({ sandboxId, type }) => sandboxId === id && type !== 'renewed')
      .map(({ type, reason }) => `${type} ${reason}`);

  beforeAll(async () => {
    manager = await testManager({ reaper: { schedule: '* * * * * *' } });
    void (async () => {
      for await (const event of manager.events()) events.push(event);
    })();
  });
  afterAll(() => removeAll(manager));

  const make = async (options: CreateOptions) => {
    const sandbox = await manager.create({ memoryLimit: '128m', runtime, ttlMs: LEASE_MS, ...options });
    await sandbox.files.write('/workspace/file', 'content');
    return sandbox;
  };
  const reaches = (sandbox: Sandbox, wanted: 'exited' | 'paused' | 'running') =>
    eventually(async () => ((await sandbox.inspect()).state === wanted ? true : undefined), { what: wanted });
  /** The engine's events may come after what they tell of is seen. */
  const isTold = (sandbox: Sandbox, last: readonly string[]) =>
    vi.waitFor(() => expect(told(sandbox.id).slice(-last.length)).toEqual(last), { timeout: AT_ONCE_MS });

  const ends = { lease: {}, idle: { idleTimeoutMs: IDLE_MS[runtime] ?? 9000 } };
  const kinds = Object.entries(ends).flatMap(([end, lease]) =>
    (['stop', 'pause'] as const).flatMap((onExpiry) =>
      [true, false].map((wakeOnUse) => ({ end, lease, onExpiry, wakeOnUse })),
    ),
  );

  it.concurrent.each(kinds)(
    'by $end, $onExpiry, wakeOnUse: $wakeOnUse',
    async ({ end, lease, onExpiry, wakeOnUse }) => {
      const uses = wakeOnUse ? Object.entries(USES) : Object.entries(USES).slice(0, 1);
      const state = onExpiry === 'stop' ? 'exited' : 'paused';
      const reason = end === 'idle' && onExpiry === 'stop' ? 'idle' : 'lease_expired';
      const done = uses.map(async ([, use]) => {
        const sandbox = await make({ onExpiry, wakeOnUse, ...lease });
        if (end === 'lease') await sandbox.renew({ ttlMs: 1000 });
        await reaches(sandbox, state);
        const ended = `${onExpiry === 'stop' ? 'stopped' : 'paused'} ${reason}`;
        if (!wakeOnUse) {
          const details = onExpiry === 'pause' ? { details: { state: 'paused' } } : {};
          const began = performance.now();
          // The engine may have told that it has ended before its connection broke.
          const code = onExpiry === 'pause' ? 'wrong_state' : expect.stringMatching(/^(wrong_state|sandbox_died)$/);
          await expect(use(sandbox)).rejects.toMatchObject({ code, ...details });
          expect(performance.now() - began).toBeLessThan(AT_ONCE_MS);
          expect((await sandbox.inspect()).state).toBe(state);
          await isTold(sandbox, [ended]);
          await (onExpiry === 'stop' ? sandbox.start() : sandbox.unpause());
          expect(await use(sandbox)).toContain('content');
          return;
        }
        expect(await use(sandbox)).toContain('content');
        const info = await sandbox.inspect();
        expect(info.state).toBe('running');
        expect(info.expiresAt.getTime()).toBeGreaterThan(Date.now() + LEASE_MS / 2);
        await isTold(sandbox, [ended, `${onExpiry === 'stop' ? 'started' : 'unpaused'} woken`]);
        if (end === 'lease') await sandbox.renew({ ttlMs: 1000 });
        await reaches(sandbox, state); // it ends as it did before
      });
      await Promise.all(done);
    },
  );

  it.concurrent('leaves alone what somebody has stopped or paused', async () => {
    const [stopped, paused] = await Promise.all([
      make({ onExpiry: 'stop', wakeOnUse: true }),
      make({ onExpiry: 'pause', wakeOnUse: true }),
    ]);
    await stopped.stop({ graceMs: 0 });
    await paused.pause();
    await expect(stopped.exec(['true'])).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(paused.start()).rejects.toMatchObject({ code: 'wrong_state', details: { state: 'paused' } });
    await expect(paused.exec(['true'])).rejects.toMatchObject({ code: 'wrong_state', details: { state: 'paused' } });
    expect((await stopped.inspect()).state).toBe('exited');
    expect((await paused.inspect()).state).toBe('paused');
    await paused.unpause();
  });

  it.concurrent('ends while it is paused, with nothing of it left on the host', async () => {
    const [stopped, destroyed] = await Promise.all([make({}), make({})]);
    await Promise.all([stopped.pause(), destroyed.pause()]);
    const containers = await Promise.all([stopped, destroyed].map(async (each) => (await each.inspect()).containerId));
    expect((await stopped.stop()).state).toBe('exited');
    await destroyed.destroy();
    await stopped.destroy();
    for (const each of [stopped, destroyed]) {
      await isTold(each, ['stopped requested', 'destroyed requested']);
      expect(told(each.id).filter((line) => !line.endsWith(' requested'))).toEqual([]);
    }
    for (const id of containers) {
      await eventually(async () => ((await hostProcesses(id)).length === 0 ? true : undefined), { what: `no ${id}` });
    }
  });

  it.concurrent('pauses, goes on, starts again and is waited for, on request', async () => {
    const sandbox = await make({});
    const running = sandbox.exec('for i in $(seq 40); do echo $i; sleep 0.1; done');
    await sleep(1000);
    expect((await sandbox.pause()).state).toBe('paused');
    expect((await sandbox.pause()).state).toBe('paused');
    const began = performance.now();
    for (const use of Object.values(USES)) {
      await expect(use(sandbox)).rejects.toMatchObject({ code: 'wrong_state', details: { state: 'paused' } });
    }
    expect(performance.now() - began).toBeLessThan(AT_ONCE_MS);
    await sleep(1500);
    expect((await sandbox.unpause()).state).toBe('running');
    const whole = Array.from({ length: 40 }, (_, index) => `${index + 1}\n`).join('');
    expect(await running).toMatchObject({ outcome: 'exited', exitCode: 0, stdout: whole });

    const waited = sandbox.wait();
    expect(await sandbox.restart({ graceMs: 100 })).toMatchObject({ state: 'running' });
    expect(await USES.exec(sandbox)).toBe('content');
    const ended = sandbox.wait();
    expect((await sandbox.stop({ graceMs: 100 })).state).toBe('exited');
    expect(await ended).toMatchObject({ state: 'exited', exitCode: expect.any(Number) as number });
    await expect(sandbox.pause()).rejects.toMatchObject({ code: 'wrong_state' });
    await sandbox.destroy();
    expect([null, 'exited']).toContain((await waited)?.state ?? null);
    expect(await sandbox.wait()).toBe(null);
  });
});
