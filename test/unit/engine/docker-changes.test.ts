import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { DockerEngine } from '../../../src/engine/docker-engine.js';
import { answers, FakeDaemon, json, type Answer, type DaemonRequest } from '../../fixtures/fake-daemon.js';

let daemon: FakeDaemon;
let engine: DockerEngine;
beforeEach(async () => {
  daemon = await FakeDaemon.make();
  await daemon.listen();
  engine = new DockerEngine({ env: daemon.env });
});
afterEach(async () => {
  engine.close();
  await daemon[Symbol.asyncDispose]();
});

const LONG_ID = 'c'.repeat(64);
const inspected = (state: object, host: object = {}) => ({ Id: LONG_ID, State: state, HostConfig: host });

describe('pausing and unpausing', () => {
  it.each<[what: string, status: number, message: string]>([
    ['pause', 409, `Container ${LONG_ID} is already paused`],
    ['pause', 500, `Container ${LONG_ID} is already paused`],
    ['unpause', 500, `Container ${LONG_ID} is not paused`],
    ['unpause', 409, `Container ${LONG_ID} is not paused`],
  ])('%s is done when it was done before (%d %s)', async (what, status, message) => {
    daemon.handler = answers({
      [`POST /containers/box/${what}`]: [status, { message }],
      'GET /containers/box/json': [200, inspected({ Running: true })],
    });
    await (what === 'pause' ? engine.pauseContainer('box') : engine.unpauseContainer('box'));
  });

  it.each([204, 200])('takes %d for done, and asks no more', async (status) => {
    daemon.handler = answers({ 'POST /containers/box/pause': [status], 'POST /containers/box/unpause': [status] });
    await engine.pauseContainer('box');
    await engine.unpauseContainer('box');
    expect(daemon.count('GET /containers')).toBe(0);
  });

  it.each<[what: 'pause' | 'unpause', status: number, message: string, code: string]>([
    ['pause', 409, `Container ${LONG_ID} is not running`, 'wrong_state'],
    ['unpause', 500, `Container ${LONG_ID} is not paused`, 'wrong_state'],
    ['pause', 404, 'No such container: box', 'sandbox_not_found'],
    ['unpause', 404, 'No such container: box', 'sandbox_not_found'],
    ['pause', 500, 'Cannot pause container: freezer', 'engine_error'],
  ])('%s of one that does not run: %d %s', async (what, status, message, code) => {
    daemon.handler = answers({
      [`POST /containers/box/${what}`]: [status, { message }],
      'GET /containers/box/json': [200, inspected({ Running: false })],
    });
    const call = what === 'pause' ? engine.pauseContainer('box') : engine.unpauseContainer('box');
    await expect(call).rejects.toMatchObject({ code });
  });
});

describe('ending one that is paused', () => {
  const ends = {
    stop: () => engine.stopContainer('box', { graceSeconds: 0 }),
    remove: () => engine.removeContainer('box'),
    'remove unless it runs': () => engine.removeContainer('box', { unlessRunning: true }),
  } as const;

  it.each<[end: keyof typeof ends, runtime: string, paused: boolean, unpauses: boolean]>([
    ['stop', 'runsc', true, true],
    ['remove', 'runsc', true, true],
    ['remove unless it runs', 'runsc', true, false],
    ['remove', 'runsc', false, false],
    ['stop', 'runc', true, false],
    ['remove', 'runc', true, false],
  ])('%s, on %s, paused: %s, unpauses it first: %s', async (end, runtime, paused, unpauses) => {
    daemon.handler = answers({
      'GET /containers/box/json': [200, inspected({ Running: true, Paused: paused }, { Runtime: runtime })],
      'POST /containers/box/unpause': [204],
      'POST /containers/box/stop': [204],
      'DELETE /containers/box': [204],
    });
    await ends[end]();
    expect(daemon.count('POST /containers/box/unpause')).toBe(unpauses ? 1 : 0);
    expect(daemon.requests.at(-1)?.path).toMatch(end === 'stop' ? /box\/stop/ : /box\?/);
  });

  it.each([
    [404, 'No such container: box'],
    [500, `Container ${LONG_ID} is not paused`],
  ])('goes on where somebody else was quicker (%d %s)', async (status, message) => {
    let looks = 0;
    daemon.handler = answers({
      'GET /containers/box/json': ({ response }) => {
        looks += 1;
        const isPaused = looks === 1;
        return json(response, 200, inspected({ Running: isPaused, Paused: isPaused }, { Runtime: 'runsc' }));
      },
      'POST /containers/box/unpause': [status, { message }],
      'DELETE /containers/box': [204],
    });
    await engine.removeContainer('box');
    expect(daemon.requests.at(-1)?.path).toMatch(/box\?/);
  });
});

describe('renaming', () => {
  it('asks for the name', async () => {
    daemon.handler = answers({ 'POST /containers/box/rename': [204] });
    await engine.renameContainer('box', 'bax');
    expect(daemon.requests.at(-1)?.path).toBe('/containers/box/rename?name=bax');
  });

  it('is done when the container is called so', async () => {
    const message = 'Renaming a container with the same name as its current name';
    daemon.handler = answers({ 'POST /containers/box/rename': [400, { message }] });
    await engine.renameContainer('box', 'box');
  });

  it.each([
    [
      409,
      'Error when allocating new name: Conflict. The container name "/bax" is already in use',
      'name_conflict',
      /bax/,
    ],
    [404, 'No such container: box', 'sandbox_not_found', /box/],
    [400, 'Error when allocating new name: Invalid container name (/a b)', 'engine_error', /Invalid/],
  ])('translates %d %s', async (status, message, code, told) => {
    daemon.handler = answers({ 'POST /containers/box/rename': [status, { message }] });
    await expect(engine.renameContainer('box', 'bax')).rejects.toMatchObject({
      code,
      message: expect.stringMatching(told),
    });
  });
});

describe('changing the limits', () => {
  const LIMITS = { memoryBytes: 2 ** 28, cpus: 1.5, pids: 100 };
  const APPLIED = { Memory: 2 ** 28, MemorySwap: 2 ** 28, NanoCpus: 1_500_000_000, PidsLimit: 100 };

  function start(before: object, after: object, update: Answer = [200, {}], more: Record<string, Answer> = {}): void {
    let updated = false;
    daemon.handler = answers({
      'POST /containers/box/update': (request: DaemonRequest) => {
        updated = true;
        if (typeof update === 'function') return update(request);
        return json(request.response, update[0], update[1]);
      },
      'GET /containers/box/json': ({ response }) =>
        json(response, 200, inspected({ Running: true }, updated ? after : before)),
      ...more,
    });
  }

  it('sends them all, with no swap', async () => {
    let body = '';
    start({ Memory: 2 ** 27 }, APPLIED, (request) => {
      ({ body } = request);
      return json(request.response, 200, { Warnings: null });
    });
    await engine.updateContainer('box', LIMITS);
    expect(JSON.parse(body)).toEqual(APPLIED);
  });

  it('does nothing where they are so', async () => {
    start(APPLIED, APPLIED);
    await engine.updateContainer('box', LIMITS);
    expect(daemon.count('POST')).toBe(0);
  });

  it('names what is not in force afterwards', async () => {
    start({ Memory: 2 ** 27 }, { ...APPLIED, MemorySwap: -1, PidsLimit: null });
    await expect(engine.updateContainer('box', LIMITS)).rejects.toMatchObject({
      code: 'engine_error',
      message: expect.stringMatching(/MemorySwap is -1, not 268435456; PidsLimit is null, not 100\.$/),
    });
  });

  it.each([
    ['cgroup v1', { usage: 2 ** 29 + 5, stats: { total_inactive_file: 5 } }, 'wrong_state'],
    ['cgroup v2', { usage: 2 ** 29 + 5, stats: { inactive_file: 5 } }, 'wrong_state'],
    ['what can be dropped', { usage: 2 ** 29, stats: { inactive_file: 2 ** 28 } }, undefined],
    ['an engine that does not measure', undefined, undefined],
  ])('gives no container less memory than it uses, by %s', async (_, memory_stats, code) => {
    start({ Memory: 2 ** 30 }, APPLIED, [200, {}], { 'GET /containers/box/stats': [200, { memory_stats }] });
    const updated = engine.updateContainer('box', LIMITS);
    if (code === undefined) await updated;
    else await expect(updated).rejects.toMatchObject({ code, message: expect.stringContaining(String(2 ** 29)) });
    expect(daemon.count('POST')).toBe(code === undefined ? 1 : 0);
    const query = new URLSearchParams(daemon.requests.find(({ path }) => path.includes('/stats'))?.path.split('?')[1]);
    expect(Object.fromEntries(query)).toEqual({ stream: 'false', 'one-shot': 'true' });
  });

  it.each([
    ['unable to set memory limit to 64 (current usage: 123, peak usage: 124)\n: unknown', 'wrong_state', /more memory/],
    ['/runtimes/runsc did not terminate: exit status 128: Usage: runsc <flags>', 'engine_error', /runtime of the/],
    ['not implemented: unknown', 'engine_error', /runtime of the/],
    ['Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available', 'limit_exceeded', /Range of CPUs/],
    ['Minimum memory limit allowed is 6MB', 'limit_exceeded', /Minimum/],
    ['something else', 'engine_error', /something else/],
  ])('translates %s', async (text, code, told) => {
    start({ Memory: 2 ** 27 }, {}, [500, { message: `Cannot update container ${LONG_ID}: ${text}` }]);
    await expect(engine.updateContainer('box', LIMITS)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(told),
    });
  });
});

describe('volumes and networks', () => {
  it('are listed by their labels', async () => {
    const Volumes = [
      { Name: 'v1', CreatedAt: '2026-01-01T00:00:00Z', Labels: { a: 'b' } },
      { Name: 'v2', CreatedAt: '2026-01-01T01:00:00+01:00', Labels: null },
    ];
    const networks = [{ Name: 'n1', Created: '2026-01-01T00:00:00.123456789Z', Labels: {} }];
    daemon.handler = answers({ 'GET /volumes': [200, { Volumes }], 'GET /networks': [200, networks] });
    const createdAt = new Date('2026-01-01T00:00:00Z');
    expect(await engine.listVolumes(['a', 'b=c'])).toEqual([
      { name: 'v1', createdAt, labels: { a: 'b' } },
      { name: 'v2', createdAt, labels: {} },
    ]);
    expect(await engine.listNetworks(['a', 'b=c'])).toEqual([
      { name: 'n1', createdAt: new Date('2026-01-01T00:00:00.123Z'), labels: {} },
    ]);
    for (const { path } of daemon.requests.slice(-2)) {
      expect(JSON.parse(new URLSearchParams(path.split('?')[1]).get('filters') ?? '')).toEqual({ label: ['a', 'b=c'] });
    }
  });

  it('are none where the engine says null, and new where they have no date', async () => {
    daemon.handler = answers({
      'GET /volumes': [200, { Volumes: null }],
      'GET /networks': [200, [{ Name: 'n1', Created: '0001-01-01T00:00:00Z' }]],
    });
    expect(await engine.listVolumes([])).toEqual([]);
    const [network] = await engine.listNetworks([]);
    expect(Math.abs(Number(network?.createdAt) - Date.now())).toBeLessThan(5000);
  });

  it.each([
    [204, true],
    [404, true],
    [409, false],
    [403, false],
  ])('are gone, or used: %d is %s', async (status, gone) => {
    const answer: Answer = status === 204 ? [status] : [status, { message: 'no' }];
    daemon.handler = answers({ 'DELETE /volumes/v1': answer, 'DELETE /networks/n1': answer });
    expect([await engine.removeVolume('v1'), await engine.removeNetwork('n1')]).toEqual([gone, gone]);
  });

  it('may fail', async () => {
    daemon.handler = answers({ 'DELETE /volumes/v1': [500, { message: 'broken' }] });
    await expect(engine.removeVolume('v1')).rejects.toMatchObject({ code: 'engine_error' });
  });
});
