import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { buildImage } from '../../scripts/images.mjs';
import type { Sandbox, SandboxManager } from '../../src/index.js';
import { ROOT } from '../fixtures/service.js';
import { dockerClient, IMAGE, newOwner, removeAll, RUN_SUFFIX, sleep, testManager } from '../fixtures/run.js';

const HOSTILE_IMAGE = `sandyard-hostile:${RUN_SUFFIX}`;
const MOST_BYTES = 128 * 1024 ** 2;

/** What a caller does, and is told for it. */
const calls = {
  exec: (sandbox: Sandbox) => sandbox.exec(['true'], { timeoutMs: 1000 }),
  list: (sandbox: Sandbox) => sandbox.processes.list(),
  /** Nobody reads it. */
  spawn: async (sandbox: Sandbox) => {
    const process = await sandbox.spawn(['true']);
    const output = process.output();
    await output.next();
    await sleep(2000);
    for await (const _ of output);
  },
  abortedExec: (sandbox: Sandbox) => sandbox.exec(['true'], { signal: AbortSignal.timeout(500) }),
  abortedSpawn: (sandbox: Sandbox) => sandbox.spawn(['true'], { signal: AbortSignal.timeout(500) }),
  read: (sandbox: Sandbox) => sandbox.files.readText('/etc/passwd'),
} satisfies Record<string, (sandbox: Sandbox) => Promise<unknown>>;

/* What comes out of a sandbox is as hostile as what runs in it: here its root is, too. */
describe('a sandbox whose warden is hostile', () => {
  let manager: SandboxManager;
  /** One that knows the hostile sandboxes only by their ids, and has no way to them yet. */
  let victim: SandboxManager;
  let neighbour: Sandbox;

  beforeAll(async () => {
    await buildImage(dockerClient(), {
      context: `${ROOT}/test/fixtures/hostile-warden`,
      dockerfile: 'Dockerfile',
      include: ['warden.py'],
      tag: HOSTILE_IMAGE,
      buildArgs: { SANDBOX_IMAGE: IMAGE },
    });
    const options = { owner: newOwner(), socketDirectory: 'none' }; // what it says, it says to the engine's way in
    manager = await testManager(options);
    victim = await testManager(options);
    neighbour = await victim.create({ memoryLimit: '128m' });
  });
  afterAll(async () => {
    await victim?.close();
    if (manager !== undefined) await removeAll(manager);
    await dockerClient().getImage(HOSTILE_IMAGE).remove({ force: true });
  });

  /** Makes a sandbox that says that from now on, calls it, and gives what came of it. */
  async function meet(mode: string, call: keyof typeof calls): Promise<unknown> {
    const made = await manager.create({ image: HOSTILE_IMAGE, memoryLimit: '128m' });
    await made.files.write('/workspace/mode', mode);
    const hostile = await victim.get(made.id);
    const watched = watchMemory();
    const outcome = calls[call](hostile).then(
      (value) => ({ value }),
      (error: unknown) => ({ error }),
    );
    let told: Awaited<typeof outcome> | undefined;
    while (told === undefined) {
      expect(await neighbour.exec(['echo', mode])).toMatchObject({ outcome: 'exited', stdout: `${mode}\n` });
      told = await Promise.race([outcome, sleep(200).then(() => undefined)]);
    }
    expect(await neighbour.exec(['echo', 'still'])).toMatchObject({ stdout: 'still\n' });
    expect(watched.mostBytes()).toBeLessThan(MOST_BYTES);
    await hostile.destroy();
    await expect(victim.get(made.id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
    if (!('error' in told)) throw new Error(`${call} gave ${JSON.stringify(told.value)}`);
    expect((told.error as Error).message).toMatch(/^[ -~]{10,600}$/);
    return told.error;
  }

  it.each([
    ['random bytes', 'list'],
    ['a frame of 4 GiB', 'list'],
    ['a frame that is too short', 'exec'],
    ['a frame that is too long', 'list'],
    ['a text that is longer than its frame', 'exec'],
    ['a frame of no known type', 'list'],
    ['the answer to another question', 'list'],
    ['output of an unknown stream', 'list'],
    ['a gap in the output', 'exec'],
    ['a piece of output twice', 'read'],
    ['an end before the output', 'exec'],
    ['output beyond the window', 'spawn'],
    ['tiny pieces beyond the window', 'spawn'],
    ['no end of processes', 'list'],
    ['answers to questions that were not asked', 'list'],
    ['a fault in bad words', 'list'],
    ['another magic number', 'exec'],
    ['another version', 'read'],
  ] as const)('that says %s ends the call (%s) with channel_failed, and nothing else', async (mode, call) => {
    expect(await meet(mode, call)).toMatchObject({ code: 'channel_failed' });
  });

  it('that gives a bad error has it told without its control characters', async () => {
    expect(await meet('an error in bad words', 'exec')).toBeDefined();
  });

  // What has to be waited for is waited for at once.
  it.concurrent.each([
    ['half a frame', 'list', 'engine_timeout'],
    ['only answers to PING', 'list', 'engine_timeout'],
    ['only answers to PING', 'exec', 'engine_timeout'],
    ['only answers to PING', 'read', 'engine_timeout'],
    ['only answers to PING', 'abortedExec', 'aborted'],
    ['only answers to PING', 'abortedSpawn', 'aborted'],
    ['no end of a process', 'exec', 'channel_failed'],
    ['no end of a process', 'abortedExec', 'aborted'],
    ['no end of acknowledgements', 'abortedExec', 'aborted'],
    ['a greeting and the end', 'exec', 'channel_failed'],
    ['nothing but the end', 'list', 'channel_failed'],
    ['endless errors', 'list', 'engine_timeout'],
  ] as const)('that says %s ends the call (%s) with %s, in time', async (mode, call, code) => {
    expect(await meet(mode, call)).toMatchObject({ code });
  });
});

/** How much more memory this process, the manager's, has had meanwhile. */
function watchMemory(): { mostBytes: () => number } {
  const before = process.memoryUsage.rss();
  let most = before;
  const timer = setInterval(() => (most = Math.max(most, process.memoryUsage.rss())), 20);
  return {
    mostBytes: () => {
      clearInterval(timer);
      return Math.max(most, process.memoryUsage.rss()) - before;
    },
  };
}
