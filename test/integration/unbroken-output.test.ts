import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager, SandboxProcess } from '../../src/index.js';
import { cuttableEngine, killTunnels } from '../fixtures/cutting.js';
import { firstLine, killHard, startOtherManager } from '../fixtures/manager-process.js';
import { bytesOf, NumberedReader, numbers } from '../fixtures/numbered.js';
import { dockerClient, eventually, removeAll, RUNTIMES, sleep, testManager } from '../fixtures/run.js';

/** 200 MB of lines with fifty cuts; less where the way is the same, and slower. */
const STREAMS: Readonly<Record<string, { last: number; cuts: number }>> = { runc: { last: 23_456_789, cuts: 50 } };
const SHORTER = { last: 5_000_000, cuts: 10 };

describe.each(RUNTIMES)('output of a process, in a sandbox of %s,', (runtime) => {
  const { last, cuts: wanted } = STREAMS[runtime] ?? SHORTER;
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ runtime, memoryLimit: '512m', pidsLimit: 2048 });
  });
  afterAll(() => removeAll(manager));

  it(`is read once and in order though its way is cut ${wanted} times`, { timeout: 300_000 }, async () => {
    await using way = await cuttableEngine();
    const cuttable = await testManager({ owner: manager.owner, docker: way.docker });
    const theirs = await cuttable.get(sandbox.id);
    const reader = new NumberedReader();
    const process = await theirs.spawn(numbers(last));
    const total = bytesOf(last);
    let cuts = 0;
    const over = new AbortController();
    const cutting = (async () => {
      for (let turn = 0; cuts < wanted && !over.signal.aborted; turn++) {
        await sleep(Math.random() * 500);
        const cut = turn % 5 === 0 ? await killTunnels(dockerClient(), sandbox.id) : way.cut();
        if (cut > 0) cuts += 1;
      }
    })();
    try {
      for await (const piece of process.output()) {
        reader.take(piece);
        // As much as there is for each cut: the last one comes before the end.
        while (reader.bytes > ((cuts + 1) / (wanted + 1)) * total) await sleep(2);
      }
    } finally {
      over.abort();
    }
    await cutting;
    expect(cuts).toBe(wanted);
    expect(reader.bytes).toBe(total);
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 0 });
    await cuttable.close();
  });

  it('is read on by another manager where the first was killed', async () => {
    const all = 3_000_000;
    const killed = startOtherManager(manager.owner, sandbox.id, 'read', 'numbers', numbers(all));
    const reader = new NumberedReader();
    let buffered = Buffer.alloc(0);
    for await (const chunk of killed.stdout ?? []) {
      buffered = Buffer.concat([buffered, chunk as Buffer]);
      while (buffered.length >= 8 && buffered.length >= 8 + buffered.readUInt32LE(4)) {
        const end = 8 + buffered.readUInt32LE(4);
        reader.take({ seq: buffered.readUInt32LE(0), data: buffered.subarray(8, end) });
        buffered = buffered.subarray(end);
      }
      if (reader.bytes > bytesOf(all) / 3) killed.kill('SIGKILL'); // what it has passed on is still read
    }
    expect(reader.bytes).toBeLessThan(bytesOf(all));

    const process = await sandbox.processes.get('numbers');
    expect(process).toMatchObject({ existing: true, pid: expect.any(Number) });
    for await (const piece of process.output({ after: reader.seq })) reader.take(piece);
    expect(reader.bytes).toBe(bytesOf(all));
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 0 });
  });

  it('is kept for another manager while nobody reads it, and waits where it is told to', async () => {
    const all = 1_000_000;
    const command = `${numbers(1000)}; while [ ! -e /tmp/go ]; do sleep 0.1; done; seq 1001 ${all}`;
    const killed = startOtherManager(manager.owner, sandbox.id, 'start', 'waiting', command);
    expect(await firstLine(killed)).toBe('started');
    await killHard(killed);
    await sandbox.files.write('/tmp/go', '');
    await eventually(async () => {
      const found = (await sandbox.processes.list()).find(({ id }) => id === 'waiting');
      return (found?.lastSeq ?? 0) > 1 ? true : undefined;
    });
    await sleep(500);
    expect((await sandbox.processes.list()).find(({ id }) => id === 'waiting')).toMatchObject({
      state: 'running',
      firstSeq: 1,
      readers: 0,
    });
    const reader = new NumberedReader();
    const process = await sandbox.processes.get('waiting');
    for await (const piece of process.output()) reader.take(piece);
    expect(reader.bytes).toBe(bytesOf(all));
  });

  it('is kept as far as it fits where the process runs on, and the rest is told to be lost', async () => {
    const command = `${numbers(20_000)}; while [ ! -e /tmp/more ]; do sleep 0.1; done; seq 20001 1000000`;
    const killed = startOtherManager(manager.owner, sandbox.id, 'start', 'running', command, 'run');
    expect(await firstLine(killed)).toBe('started');
    await killHard(killed);
    const process = await sandbox.processes.get('running');
    const reader = new NumberedReader();
    for await (const piece of process.output()) {
      reader.take(piece);
      if (reader.bytes === bytesOf(20_000)) break;
    }
    process.detach();
    await sandbox.files.write('/tmp/more', '');
    expect(await process.wait()).toMatchObject({ outcome: 'exited', exitCode: 0 });

    const lost = await readAll(process, reader.seq).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(lost).toMatchObject({ code: 'output_lost', details: { firstSeq: expect.any(Number) } });
    const { firstSeq } = (lost as { details: { firstSeq: number } }).details;
    expect(firstSeq).toBeGreaterThan(reader.seq + 1);
    const rest = await readAll(process, firstSeq - 1);
    expect(rest.length).toBeGreaterThan(512 * 1024);
    expect(rest.endsWith('999999\n1000000\n')).toBe(true);
  });
});

async function readAll(process: SandboxProcess, after: number): Promise<string> {
  let text = '';
  for await (const { data } of process.output({ after })) text += Buffer.from(data).toString('latin1');
  return text;
}
