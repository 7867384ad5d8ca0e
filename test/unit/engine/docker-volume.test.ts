import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';

import { DockerEngine } from '../../../src/engine/docker-engine.js';
import { FakeDaemon, json, type DaemonRequest } from '../../fixtures/fake-daemon.js';

const VOLUME = {
  name: 'sandyard-warden-1',
  image: 'with-warden',
  path: '/usr/lib/sandyard',
  labels: { 'sandyard.warden': '1' },
};
const LOCK = 'sandyard-fill-sandyard-warden-1';

let daemon: FakeDaemon;
let engine: DockerEngine;
/** What the engine has. While it copies, the name is taken by a container that isn't there yet. */
let state: { labels: object | null; locked: boolean; copying: boolean; created: Record<string, unknown>[] };

beforeEach(async () => {
  daemon = await FakeDaemon.make();
  state = { labels: VOLUME.labels, locked: false, copying: false, created: [] };
  daemon.handler = answer;
  await daemon.listen();
  engine = new DockerEngine({ env: daemon.env });
});
afterEach(() => daemon[Symbol.asyncDispose]());

function answer({ method, path, body, response }: DaemonRequest): boolean {
  const asked = `${method} ${path.split('?')[0]}`;
  if (asked === 'POST /volumes/create' || asked === `GET /volumes/${VOLUME.name}`) {
    return json(response, 200, { Name: VOLUME.name, Labels: state.labels });
  }
  if (asked === 'POST /containers/create') {
    if (state.locked) return json(response, 409, { message: 'Conflict. The container name is already in use' });
    state.locked = true;
    state.created.push(JSON.parse(body) as Record<string, unknown>);
    return json(response, 201, { Id: 'f1' });
  }
  if (method === 'DELETE' && path.startsWith('/containers/')) {
    if (!state.locked || state.copying) return json(response, 404, { message: 'No such container' });
    state.locked = false;
    response.writeHead(204).end();
    return true;
  }
  return false;
}

describe('fillVolume', () => {
  it('makes the volume, and a container that is never started, and removes that', async () => {
    await engine.fillVolume(VOLUME);
    const asked = daemon.requests.map(({ method, path }) => `${method} ${path.split('?')[0]}`);
    expect(asked.slice(asked.indexOf('POST /volumes/create'))).toEqual([
      'POST /volumes/create',
      `GET /volumes/${VOLUME.name}`,
      'POST /containers/create',
      'DELETE /containers/f1',
    ]);
    expect(daemon.requests.at(-2)?.path).toContain(`name=${LOCK}`);
    expect(state.created).toMatchObject([
      {
        Image: 'with-warden',
        Labels: { ...VOLUME.labels, 'sandyard.temporary': '1' },
        HostConfig: {
          NetworkMode: 'none',
          Mounts: [{ Type: 'volume', Source: VOLUME.name, Target: VOLUME.path, ReadOnly: false }],
        },
      },
    ]);
    expect(JSON.stringify(state.created)).not.toContain('NoCopy');
  });

  it('lets one at a time fill it', async () => {
    await Promise.all([1, 2, 3, 4].map(() => engine.fillVolume(VOLUME)));
    expect(state.created).toHaveLength(4);
    expect(state.locked).toBe(false);
  });

  it('waits for another manager, for which the engine copies', async () => {
    Object.assign(state, { locked: true, copying: true });
    setTimeout(() => Object.assign(state, { locked: false, copying: false }), 150);
    await engine.fillVolume(VOLUME);
    expect(state.created).toHaveLength(1);
    expect(daemon.count('POST /containers/create')).toBeGreaterThan(2);
  });

  it('removes what a dead manager left, and waits for nothing', async () => {
    state.locked = true;
    await engine.fillVolume(VOLUME);
    expect(daemon.count(`DELETE /containers/${LOCK}`)).toBe(1);
    expect(daemon.count('POST /containers/create')).toBe(2);
    expect(state).toMatchObject({ locked: false, created: [{ Image: 'with-warden' }] });
  });

  it('removes it, too, when that was still copying for the dead manager', async () => {
    Object.assign(state, { locked: true, copying: true });
    setTimeout(() => (state.copying = false), 150);
    await engine.fillVolume(VOLUME);
    expect(daemon.count(`DELETE /containers/${LOCK}`)).toBe(2);
    expect(state).toMatchObject({ locked: false, created: [{ Image: 'with-warden' }] });
  });

  it('waits for longer than a copy may take, and not for ever', async () => {
    vi.useFakeTimers({ toFake: ['Date'] });
    onTestFinished(() => void vi.useRealTimers());
    Object.assign(state, { locked: true, copying: true });
    const tries = () => daemon.count('POST /containers/create');
    const filled = engine.fillVolume(VOLUME);
    filled.catch(() => {});
    await vi.waitUntil(() => tries() > 0);
    vi.setSystemTime(Date.now() + 61_000);
    const before = tries();
    await vi.waitUntil(() => tries() > before + 2);
    vi.setSystemTime(Date.now() + 30_000);
    await expect(filled).rejects.toMatchObject({ code: 'engine_timeout', hint: expect.stringContaining(LOCK) });
  });

  it('gives up with the caller', async () => {
    Object.assign(state, { locked: true, copying: true });
    await expect(engine.fillVolume(VOLUME, { signal: AbortSignal.timeout(200) })).rejects.toMatchObject({
      code: 'aborted',
    });
  });

  it.each([{ labels: null }, { labels: {} }, { labels: { 'sandyard.warden': '2' } }])(
    'refuses a volume that others have made (%j)',
    async ({ labels }) => {
      state.labels = labels;
      await expect(engine.fillVolume(VOLUME)).rejects.toMatchObject({
        code: 'engine_error',
        hint: expect.stringContaining(`docker volume rm ${VOLUME.name}`),
      });
      expect(state.created).toEqual([]);
    },
  );

  it.each([
    [404, 'No such image: with-warden', 'image_not_found'],
    [500, 'no space left on device', 'out_of_disk'],
  ])('translates %d "%s"', async (status, message, code) => {
    daemon.handler = (request) =>
      request.path.startsWith('/containers/create') ? json(request.response, status, { message }) : answer(request);
    await expect(engine.fillVolume(VOLUME)).rejects.toMatchObject({ code });
  });
});
