import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';

import type { ContainerEvent } from '../../../src/engine/engine.js';
import { FakeEngine } from '../../fixtures/fake-engine.js';

/* What tests of the manager take for granted of the engine in memory, as engine-calls.test.ts has it of a real one. */

const LABELS = { 'sandyard.owner': 'me' };
const FILTER = ['sandyard.owner=me'];

async function watch(engine: FakeEngine, signal?: AbortSignal) {
  const events: ContainerEvent[] = [];
  let tell = () => {};
  const ready = new Promise<void>((resolve) => {
    tell = resolve;
  });
  const ended = (async () => {
    for await (const event of engine.watchContainers(FILTER, { signal, ready: tell })) events.push(event);
  })().catch((error: unknown) => error);
  await ready;
  return { events, ended };
}

describe('the engine in memory', () => {
  it('tells in order all that happens, until its streams are broken', async () => {
    const engine = new FakeEngine();
    const { events, ended } = await watch(engine);
    engine.plant({ name: 'other', labels: {} });
    const { id } = engine.plant({ name: 'box', labels: LABELS });
    await engine.pauseContainer(id);
    await engine.pauseContainer(id);
    await engine.unpauseContainer(id);
    await engine.renameContainer(id, 'bax');
    await engine.pauseContainer(id);
    await engine.stopContainer(id);
    await engine.startContainer(id);
    engine.die(id, { oomKilled: true });
    await engine.removeContainer(id);
    engine.loseEvents();
    engine.plant({ name: 'unseen', labels: LABELS });
    expect(await ended).toMatchObject({ code: 'engine_unavailable' });
    const before = ['create', 'start', 'pause', 'unpause'].map((action) => `${action} box`);
    const after = ['rename', 'pause', 'unpause', 'die', 'start', 'oom', 'die', 'destroy'].map((name) => `${name} bax`);
    expect(events.map(({ action, name }) => `${action} ${name}`)).toEqual([...before, ...after]);
    expect(events.find(({ action }) => action === 'die')).toMatchObject({ id, labels: LABELS, exitCode: 137 });
    expect(engine.watchers).toBe(0);
  });

  it('ends a stream with its caller', async () => {
    const engine = new FakeEngine();
    const caller = new AbortController();
    const { ended } = await watch(engine, caller.signal);
    expect(engine.watchers).toBe(1);
    caller.abort();
    expect(await ended).toMatchObject({ code: 'aborted' });
    expect(engine.watchers).toBe(0);
  });

  it('has a clock of its own', async () => {
    const engine = new FakeEngine();
    engine.clockOffsetMs = 3_600_000;
    const { systemTime } = await engine.info();
    const { id } = engine.plant({ name: 'box', labels: LABELS });
    engine.die(id);
    const { createdAt, finishedAt } = await engine.inspectContainer(id);
    for (const date of [systemTime, createdAt, finishedAt]) {
      expect(Math.abs(Number(date) - Date.now() - 3_600_000)).toBeLessThan(1000);
    }
    const [listed] = await engine.listContainers(FILTER);
    expect(listed?.createdAt.getMilliseconds()).toBe(0);
  });

  it('refuses what a real one refuses', async () => {
    const engine = new FakeEngine();
    engine.plant({ name: 'taken', labels: {} });
    const { id } = engine.plant({ name: 'box', labels: {} });
    await engine.renameContainer(id, 'box');
    await expect(engine.renameContainer(id, 'taken')).rejects.toMatchObject({ code: 'name_conflict' });
    await engine.pauseContainer(id);
    await expect(engine.startContainer(id)).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(engine.openTunnel(id, ['/x'])).rejects.toMatchObject({ code: 'wrong_state' });
    await engine.stopContainer(id);
    await expect(engine.pauseContainer(id)).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(engine.unpauseContainer(id)).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(engine.unpauseContainer('none')).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });

  it('has the files that it was given, and the record of the warden', async () => {
    const engine = new FakeEngine();
    const { id, files, warden } = engine.plant({ name: 'box', labels: {}, state: 'exited' });
    const path = '/var/lib/sandyard/record';
    warden.record.blob = Buffer.from('the blob');
    const target = await engine.readContainerLink(id, path);
    expect(Buffer.from(basename(target ?? ''), 'base64url').toString()).toContain('the blob');
    await expect(engine.readContainerFile(id, path, { maxBytes: 1000 })).rejects.toMatchObject({
      code: 'engine_error',
    });
    warden.record.blob = Buffer.alloc(3000, 'x');
    expect(await engine.readContainerLink(id, path)).toBeUndefined();
    const record = await engine.readContainerFile(id, path, { maxBytes: 4000 });
    expect(record?.toString()).toContain('x'.repeat(3000));
    expect(await engine.readContainerFile(id, '/none', { maxBytes: 1 })).toBeUndefined();
    files.set('/some', 'text').set(path, undefined);
    expect((await engine.readContainerFile(id, '/some', { maxBytes: 4 }))?.toString()).toBe('text');
    await expect(engine.readContainerFile(id, '/some', { maxBytes: 3 })).rejects.toMatchObject({
      code: 'engine_error',
    });
    expect(await engine.readContainerFile(id, path, { maxBytes: 1 })).toBeUndefined();
    expect(await engine.readContainerLink(id, path)).toBeUndefined();
  });

  it('keeps volumes that are used', async () => {
    const engine = new FakeEngine();
    const volume = { name: 'v', image: 'sandyard-sandbox:latest', path: '/x', labels: LABELS };
    await engine.fillVolume(volume);
    expect(await engine.listVolumes(FILTER)).toEqual([{ name: 'v', labels: LABELS, createdAt: expect.any(Date) }]);
    expect(await engine.listVolumes(['other'])).toEqual([]);
    expect(await engine.removeVolume('v')).toBe(true);
    expect(await engine.removeVolume('v')).toBe(true);
    engine.networks.set('n', { name: 'n', labels: LABELS, createdAt: engine.now() });
    expect(await engine.listNetworks(FILTER)).toMatchObject([{ name: 'n' }]);
    expect(await engine.removeNetwork('n')).toBe(true);
    expect(await engine.listNetworks(FILTER)).toEqual([]);
  });
});
