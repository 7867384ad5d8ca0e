import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { dockerClient, eventually, removeAll, RUNTIMES, testManager, testSandbox } from '../fixtures/run.js';

/* What callers are told when a sandbox ends under what they wait for. */
describe.each(RUNTIMES)('the end of a sandbox of %s under its commands', (runtime) => {
  let manager: SandboxManager;
  let other: SandboxManager;
  beforeAll(async () => {
    manager = await testManager();
    other = await testManager({ owner: manager.owner });
  });
  afterAll(async () => {
    await other.close();
    await removeAll(manager);
  });

  const create = () => testSandbox(manager, { runtime });
  const container = ({ id }: Sandbox) => dockerClient().getContainer(`sandyard-${id}`);
  const ENDS: [what: string, diedOf: RegExp, end: (sandbox: Sandbox) => Promise<unknown>][] = [
    ['it is stopped', /^(stopped|killed)$/, (sandbox) => sandbox.stop({ graceMs: 0 })],
    [
      'it is stopped, with time for all to end by itself',
      /^(stopped|killed)$/,
      (sandbox) => sandbox.stop({ graceMs: 2000 }),
    ],
    ['its lease ends', /^lease_expired$/, (sandbox) => sandbox.renew({ ttlMs: 1000 }).then(() => sandbox.wait())],
    ['it is destroyed', /^(removed|killed)$/, (sandbox) => sandbox.destroy()],
    ["it is killed behind its manager's back", /^killed$/, (sandbox) => container(sandbox).kill()],
    [
      "it is removed behind its manager's back",
      /^(removed|killed)$/,
      (sandbox) => container(sandbox).remove({ force: true }),
    ],
    [
      "it is restarted behind its manager's back",
      /^(restarted|stopped|killed)$/,
      (sandbox) => container(sandbox).restart({ t: 0 }),
    ],
  ];

  // Who makes a sandbox has another way into it than whoever comes later.
  const CASES = ENDS.flatMap(([what, diedOf, end]) => [
    { what, diedOf, whom: 'its maker', get: create, end },
    { what, diedOf, whom: 'another manager', get: async () => other.get((await create()).id), end },
  ]);

  it.each(CASES)('is the outcome for $whom of all that ran when $what', async ({ get, diedOf, end }) => {
    const sandbox = await get();
    const started = '/workspace/started';
    const execs = [1, 2].map((n) =>
      sandbox.exec(`echo ${n}; touch ${started}${n}; trap '' TERM; sleep 60 & wait; wait`),
    );
    const read = await sandbox.spawn(`echo read; touch ${started}3; sleep 60`);
    const unread = await sandbox.spawn(['sleep', '60']);
    await eventually(async () => ((await sandbox.files.list('/workspace')).length >= 3 ? true : undefined));
    await end(sandbox);

    const printed: string[] = [];
    for await (const { data } of read.output()) printed.push(Buffer.from(data).toString());
    expect(printed).toEqual(['read\n']);
    const told = { diedOf: expect.stringMatching(diedOf) };
    const ended = { outcome: 'sandbox_died', ...told, exitCode: null, signal: null, usage: null };
    expect(await Promise.all(execs)).toMatchObject([
      { ...ended, stdout: '1\n' },
      { ...ended, stdout: '2\n' },
    ]);
    // Also where there was time to tell of a signal: that isn't what has ended them.
    for (const process of [read, unread]) expect(await process.wait()).toMatchObject(ended);
  });

  it('leaves its files for the next start, and nothing of what ran', async () => {
    const sandbox = await create();
    await sandbox.files.write('/workspace/kept', 'kept');
    const before = await sandbox.spawn('sleep 60', { id: 'before' });
    await sandbox.stop({ graceMs: 0 });
    // What is sent before it shows tells of the end, the rest of the state.
    const refused = { code: expect.stringMatching(/^(sandbox_died|wrong_state)$/) };
    await expect(sandbox.exec(['true'])).rejects.toMatchObject(refused);
    await expect(sandbox.processes.list()).rejects.toMatchObject({ code: 'wrong_state' });
    await sandbox.start();
    expect(await before.wait()).toMatchObject({ outcome: 'sandbox_died' });
    expect(await sandbox.processes.list()).toEqual([]);
    expect(await sandbox.files.readText('/workspace/kept')).toBe('kept');
    const again = await sandbox.spawn('echo again', { id: 'before' });
    expect(again.existing).toBe(false);
    expect(await again.wait()).toMatchObject({ outcome: 'exited', exitCode: 0 });
  });

  it('is that of the container, when it is gone', async () => {
    const sandbox = await create();
    await container(sandbox).remove({ force: true });
    // What was sent before it was known tells of the end, the rest that there is none.
    await expect(sandbox.exec(['true'])).rejects.toMatchObject({
      code: expect.stringMatching(/^sandbox_(died|not_found)$/),
    });
    await expect(sandbox.spawn(['true'])).rejects.toMatchObject({ code: 'sandbox_not_found' });
    await expect(sandbox.processes.list()).rejects.toMatchObject({ code: 'sandbox_not_found' });
    await expect(manager.get(sandbox.id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });
});
