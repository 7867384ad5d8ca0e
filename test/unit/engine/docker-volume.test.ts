import { afterEach, beforeEach, describe, expect, it } from 'vitest';

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
/** What the engine has, and how old the container is that holds the lock. */
let state: { labels: object | null; locked: boolean; ageMs: number; created: Record<string, unknown>[] };

beforeEach(async () => {
  daemon = await FakeDaemon.make();
  state = { labels: VOLUME.labels, locked: false, ageMs: 0, created: [] };
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
    state.locked = false;
    response.writeHead(204).end();
    return true;
  }
  const now = Date.parse('2026-01-01T00:00:00Z');
  if (asked === `GET /containers/${LOCK}/json`) {
    return json(response, 200, { Id: 'f0', Created: new Date(now - state.ageMs).toISOString() });
  }
  if (asked === 'GET /info') return json(response, 200, { SystemTime: new Date(now).toISOString() });
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
        Labels: VOLUME.labels,
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

  it('waits for another manager', async () => {
    state.locked = true;
    setTimeout(() => (state.locked = false), 150);
    await engine.fillVolume(VOLUME);
    expect(daemon.count('DELETE')).toBe(1);
  });

  it('removes what a dead manager left, by the clock of the engine', async () => {
    Object.assign(state, { locked: true, ageMs: 61_000 });
    await engine.fillVolume(VOLUME);
    expect(daemon.count('DELETE /containers/f0')).toBe(1);
    expect(state.created).toHaveLength(1);
  });

  it('gives up with the caller', async () => {
    state.locked = true;
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
