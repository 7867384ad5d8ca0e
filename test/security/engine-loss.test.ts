import { readdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';

import { isSandyardError, SandboxManager, type LifecycleEvent, type Sandbox } from '../../src/index.js';
import { OwnEngine } from '../fixtures/own-engine.js';
import { eventually, newOwner } from '../fixtures/run.js';
import { attemptsOn } from './attempts.js';

const SMALL = { memoryLimit: '64m', pidsLimit: 64 };

/** What a call came to: its value, or the code of its error, which must be one of ours. */
async function settled<T>(call: Promise<T>): Promise<T | string> {
  try {
    return await call;
  } catch (error) {
    if (isSandyardError(error) && !/EPIPE|ECONNRESET|socket hang up/.test(error.message)) return error.code;
    throw error;
  }
}

/** 64 KiB each tenth of a second. */
async function* slowly(pieces: number): AsyncGenerator<Uint8Array> {
  for (let piece = 0; piece < pieces; piece += 1) {
    yield Buffer.alloc(64 * 1024, piece);
    await sleep(100);
  }
}

/** Reads what `count` prints, which is to be every number once. */
function follow(process: { output(): AsyncIterable<{ data: Uint8Array; seq: number }> }) {
  const read = { text: '', seqs: [] as number[], end: undefined as string | undefined };
  const done = (async () => {
    for await (const { data, seq } of process.output()) {
      read.text += Buffer.from(data).toString();
      read.seqs.push(seq);
    }
    return 'ended';
  })();
  void settled(done).then((end) => (read.end = end));
  return read;
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

/** Everything that can be under way when the engine goes. */
async function setUnderWay(manager: SandboxManager, sandbox: Sandbox) {
  const counted = await sandbox.spawn(['/program', 'count'], { id: 'counter' });
  const terminal = await sandbox.spawn(['/program', 'tty'], { pty: true });
  const output = follow(counted);
  const typed = follow(terminal);
  await eventually(async () => (output.text.includes('5\n') && typed.text.includes('rows') ? true : undefined));
  return {
    output,
    typed,
    terminal,
    exec: settled(sandbox.exec(['/program', 'count'], { timeoutMs: 6000 })),
    sleepy: settled(sandbox.exec(['/program', 'copy'], { stdin: slowly(60) })),
    upload: settled(sandbox.files.write('/workspace/upload', slowly(60))),
    wait: settled(counted.wait()),
    creates: [1, 2, 3].map(() => settled(manager.create(SMALL))),
  };
}

describe.each([true, false])('an engine that is killed and started again, live-restore: %s', (liveRestore) => {
  const attempt = attemptsOn('runc');
  let engine: OwnEngine;
  let manager: SandboxManager;
  let other: SandboxManager;
  let sandboxes: Record<'used' | 'kept' | 'stopped', Sandbox>;
  let under: Awaited<ReturnType<typeof setUnderWay>>;
  const events: LifecycleEvent[] = [];
  const told = (id: string) => events.filter(({ sandboxId }) => sandboxId === id);

  beforeAll(async () => {
    engine = await OwnEngine.start({ liveRestore });
    vi.stubEnv('DOCKER_HOST', engine.dockerHost);
    const options = { owner: newOwner(), image: OwnEngine.IMAGE_NAME, pool: [] };
    manager = new SandboxManager({ ...options, reaper: { schedule: '* * * * * *', halfCreatedAfterMs: 5000 } });
    other = new SandboxManager({ ...options, reaper: false });
    await Promise.all([manager.open(), other.open()]);
    sandboxes = {
      used: await manager.create(SMALL),
      kept: await manager.create({ ...SMALL, onExpiry: 'stop' }),
      stopped: await manager.create(SMALL),
    };
    await sandboxes.kept.files.write('/workspace/file', 'is kept');
    await sandboxes.stopped.stop({ graceMs: 0 });
  });
  afterAll(async () => {
    await Promise.all([manager?.close(), other?.close()]);
    vi.unstubAllEnvs();
    await engine?.[Symbol.asyncDispose]();
  });

  it('ends nothing with an invented outcome while it is away, and nothing hangs', async () => {
    void (async () => {
      for await (const event of manager.events()) events.push(event);
    })();
    under = await setUnderWay(manager, sandboxes.used);
    await sleep(200);
    await engine.kill();
    const creates = await Promise.all(under.creates);
    for (const made of creates)
      if (typeof made === 'string') expect(['engine_unavailable', 'channel_failed']).toContain(made);
    const { kept } = sandboxes;
    const isAway = async () => ((await settled(manager.list())) === 'engine_unavailable' ? true : undefined);
    await eventually(isAway, { timeoutMs: 1000 });
    const asked: Promise<unknown>[] = [
      manager.list(),
      manager.create(SMALL),
      manager.prune(),
      manager.engineInfo(),
      manager.gauges(),
      kept.exec(['/program', 'say']),
      kept.inspect(),
      kept.renew(),
      kept.stop(),
      kept.pause(),
      kept.destroy(),
      kept.files.readText('/workspace/file'),
      kept.spawn(['/program', 'count']),
      kept.stats(),
      other.get('nobody'),
    ];
    const began = performance.now();
    expect(await Promise.all(asked.map(settled))).toEqual(asked.map(() => 'engine_unavailable'));
    await other.close();
    expect(performance.now() - began).toBeLessThan(5000);
  });

  const isFoundAgain = async () => {
    await engine.restart();
    const began = performance.now();
    const { id } = await eventually(async () => {
      const made = await settled(manager.create(SMALL));
      return typeof made === 'string' ? undefined : made;
    });
    await eventually(async () => (told(id).some(({ type }) => type === 'created') ? true : undefined));
    await eventually(async () =>
      (await manager.list()).sandboxes.some((found) => found.id === id) ? true : undefined,
    );
    expect(performance.now() - began).toBeLessThan(10_000);
    await manager.destroy(id);
    await eventually(async () => (told(id).some(({ type }) => type === 'destroyed') ? true : undefined));
    return 'works, and events go on';
  };
  if (liveRestore) attempt(40, isFoundAgain);
  else it('is found again, and events go on', isFoundAgain);

  const goesOn = async () => {
    const { used, kept } = sandboxes;
    const { output, typed, terminal, exec, sleepy, upload } = under;
    const before = output.seqs.length;
    await eventually(async () => (output.seqs.length > before + 50 ? true : undefined));
    expect(output.seqs).toEqual(upTo(output.seqs.length));
    const lines = output.text.split('\n').slice(0, -1).map(Number);
    expect(lines).toEqual(upTo(lines.length));
    await terminal.write('typed\n');
    await eventually(async () => (typed.text.includes('typed\r\n') ? true : undefined));
    expect(typed.seqs).toEqual(upTo(typed.seqs.length));

    expect(await exec).toMatchObject({ outcome: 'timed_out', truncated: false });
    expect(await sleepy).toSatisfy(isHonest);
    expect(await upload).toSatisfy(isHonest);
    expect(await used.exec(['/program', 'say', 'yes'])).toMatchObject({ stdout: 'yes\n', exitCode: 7 });
    expect(await kept.files.readText('/workspace/file')).toBe('is kept');
    for (const sandbox of [used, kept]) {
      expect(await sandbox.inspect()).toMatchObject({ state: 'running' });
      expect(told(sandbox.id)).toEqual([]);
    }
    await used.destroy();
    expect(await under.wait).toMatchObject({ outcome: 'sandbox_died', exitCode: null });
    return 'calls fail as `engine_unavailable`; then output goes on after its last number, and nothing is lost';
  };

  const isLost = async () => {
    const { used, kept, stopped } = sandboxes;
    const died = { outcome: 'sandbox_died', exitCode: null };
    expect(await under.exec).toMatchObject(died);
    expect(await under.sleepy).toMatchObject(died);
    expect(await under.wait).toMatchObject(died);
    expect(typeof (await under.upload)).toBe('string');
    await eventually(async () => (under.output.end !== undefined && under.typed.end !== undefined ? true : undefined));
    const gone = async () => ((await manager.list()).sandboxes.some(({ id }) => id === used.id) ? undefined : true);
    await eventually(gone);
    const ends = (id: string) => told(id).map(({ type, reason }) => `${type} ${reason}`);
    expect(ends(used.id)).toEqual(['stopped lost', 'destroyed lost']);
    expect(ends(kept.id)).toEqual(['stopped lost']);
    // That it was stopped on request, before the engine was killed, may have been told only then.
    expect(ends(stopped.id).filter((end) => end !== 'stopped requested')).toEqual([]);
    const states = (await manager.list()).sandboxes.map(({ id, state }) => [id, state]);
    expect(states).toEqual(expect.arrayContaining([kept, stopped].map(({ id }) => [id, 'exited'])));
    expect(await kept.start()).toMatchObject({ state: 'running' });
    expect(await kept.files.readText('/workspace/file')).toBe('is kept');
    return '`sandbox_died`; events say `lost`; removed, but for what is to be kept, which is started again with its files';
  };

  if (liveRestore) attempt(37, goesOn);
  else attempt(38, isLost);

  it('leaves nothing for long that a create had begun', async () => {
    const made = (await Promise.all(under.creates)).filter((create) => typeof create !== 'string');
    const known = new Set([...made, ...Object.values(sandboxes)].map(({ id }) => id));
    // What was started ends itself, in two minutes.
    const isLeft = ({ id, state }: { id: string; state: string }) => !known.has(id) && state !== 'running';
    let left: unknown[] | undefined;
    const gone = async () => {
      left = (await manager.list()).sandboxes.filter(isLeft);
      return left.length === 0 ? true : undefined;
    };
    await eventually(gone, { timeoutMs: 15_000 }).catch(() => {}); // what there is then tells more
    expect(left).toEqual([]);
  });

  it('keeps no manager from being closed when it is away for good', async () => {
    await engine.kill();
    const began = performance.now();
    await manager.close();
    expect(performance.now() - began).toBeLessThan(3000);
  });
});

describe.each([true, false])('an engine that is in nobody’s way, and is killed, live-restore: %s', (liveRestore) => {
  let engine: OwnEngine;
  let manager: SandboxManager;
  let used: Sandbox;
  let output: ReturnType<typeof follow>;
  let ended: Promise<unknown>;

  beforeAll(async () => {
    engine = await OwnEngine.start({ liveRestore });
    vi.stubEnv('DOCKER_HOST', engine.dockerHost);
    const options = { owner: newOwner(), image: OwnEngine.IMAGE_NAME, pool: [], socketDirectory: engine.shared };
    manager = new SandboxManager({ ...options, reaper: { schedule: '* * * * * *' } });
    await manager.open();
    used = await manager.create(SMALL);
    const counted = await used.spawn(['/program', 'count']);
    output = follow(counted);
    ended = settled(counted.wait());
  });
  afterAll(async () => {
    await manager?.close();
    vi.unstubAllEnvs();
    await engine?.[Symbol.asyncDispose]();
  });
  const moreOutput = async () => {
    const before = output.seqs.length;
    await eventually(async () => (output.seqs.length > before + 50 ? true : undefined));
    expect(output.seqs).toEqual(upTo(output.seqs.length));
  };

  it('keeps nobody from what they use, and is missed only where it is needed', async () => {
    await engine.kill();
    await moreOutput();
    expect(await used.exec(['/program', 'say', 'yes'])).toMatchObject({ stdout: 'yes\n', exitCode: 7 });
    await used.files.write('/workspace/file', 'written');
    expect(await used.files.readText('/workspace/file')).toBe('written');
    const asked: Promise<unknown>[] = [manager.create(SMALL), manager.list(), used.stop(), used.destroy()];
    expect(await Promise.all(asked.map(settled))).toEqual(asked.map(() => 'engine_unavailable'));
    await moreOutput();
  });

  it(`${liveRestore ? 'goes on with' : 'has lost'} all that ran when it is there again, and nothing stays behind`, async () => {
    await engine.restart();
    if (liveRestore) {
      await eventually(async () => (typeof (await settled(manager.list())) === 'string' ? undefined : true));
      await moreOutput();
      expect(await used.exec(['/program', 'say', 'yes'])).toMatchObject({ stdout: 'yes\n' });
      await used.destroy();
    }
    expect(await ended).toMatchObject({ outcome: 'sandbox_died', exitCode: null });
    const nothing = async () => ((await readdir(engine.shared)).length === 0 ? true : undefined);
    await eventually(nothing, { what: 'the removal of what the sandbox had' });
  });
});

/** Done as asked for, or said not to be. */
function isHonest(result: unknown): boolean {
  if (typeof result === 'string') return true;
  const { exitCode, sizeBytes } = result as { exitCode?: number; sizeBytes?: number };
  return sizeBytes === undefined ? exitCode === 0 : sizeBytes === 60 * 64 * 1024;
}
