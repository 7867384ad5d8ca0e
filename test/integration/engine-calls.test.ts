import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { DockerEngine } from '../../src/engine/docker-engine.js';
import type { ContainerEvent, ContainerSpec } from '../../src/engine/engine.js';
import { dockerClient, eventually, IMAGE, RUN_LABELS, RUN_SUFFIX } from '../fixtures/run.js';

/* The engine's part of what a manager does, on a real one: what it answers is taken for granted everywhere else. */

const MB = 1024 * 1024;
const docker = dockerClient();
const engine = new DockerEngine({ docker });
const LABEL = 'sandyard.test-engine-calls';
const LABELS = { ...RUN_LABELS, [LABEL]: RUN_SUFFIX };
const FILTER = [`${LABEL}=${RUN_SUFFIX}`];

let made = 0;

function specOf(given: Partial<ContainerSpec> = {}): ContainerSpec {
  made += 1;
  return {
    name: `engine-calls-${RUN_SUFFIX}-${made}`,
    image: IMAGE,
    labels: LABELS,
    env: [],
    entrypoint: ['/bin/sleep', 'infinity'],
    workdir: '/',
    hostname: 'box',
    memoryBytes: 128 * MB,
    cpus: 1,
    pids: 64,
    nofile: 1024,
    network: 'none',
    ...given,
  };
}

async function make(given: Partial<ContainerSpec> & { started?: boolean } = {}): Promise<{ id: string; name: string }> {
  const { started = true, ...rest } = given;
  const spec = specOf(rest);
  const id = await engine.createContainer(spec);
  if (started) await engine.startContainer(id);
  return { id, name: spec.name };
}

async function removeAllMade(): Promise<void> {
  for (const { id } of await engine.listContainers(FILTER)) await engine.removeContainer(id);
  for (const { name } of await engine.listVolumes(FILTER)) await engine.removeVolume(name);
  for (const { name } of await engine.listNetworks(FILTER)) await engine.removeNetwork(name);
}

beforeAll(removeAllMade);
afterAll(async () => {
  await removeAllMade();
  engine.close();
});

it('tells times by the clock of the engine', async () => {
  const { systemTime } = await engine.info();
  const { id } = await make();
  const details = await engine.inspectContainer(id);
  const summary = (await engine.listContainers(FILTER)).find((found) => found.id === id);
  expect(details.createdAt.getTime()).toBeGreaterThanOrEqual(systemTime.getTime());
  expect(details.createdAt.getTime()).toBeLessThan(systemTime.getTime() + 60_000);
  expect(summary?.createdAt.getTime()).toBe(Math.floor(details.createdAt.getTime() / 1000) * 1000);
  await engine.removeContainer(id);
});

describe('attaching', () => {
  it('joins the streams of PID 1, which reads the end of its input when that is given up', async () => {
    const entrypoint = ['/bin/sh', '-c', 'head -c 6; cat >/tmp/rest; echo ended >/tmp/ended; sleep 60'];
    const { id } = await make({ started: false, entrypoint });
    const tunnel = await engine.attachTunnel(id);
    tunnel.write('hello\n'); // before there is anybody to read it
    await engine.startContainer(id);
    const [said] = (await once(tunnel, 'data')) as [Buffer];
    expect(String(said)).toBe('hello\n');
    tunnel.destroy();
    const read = () => engine.readContainerFile(id, '/tmp/ended', { maxBytes: 100 });
    expect(String(await eventually(read))).toBe('ended\n');
    await engine.removeContainer(id);
  });

  it('is told of the end of the container', async () => {
    const { id } = await make({ started: false, entrypoint: ['/bin/sh', '-c', 'echo all'] });
    const tunnel = await engine.attachTunnel(id);
    await engine.startContainer(id);
    expect(await text(tunnel)).toBe('all\n');
    await engine.removeContainer(id);
    await expect(engine.attachTunnel(id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });
});

describe('pausing', () => {
  it('holds a container, as often as it is asked to, and lets it go', async () => {
    const { id } = await make();
    await engine.pauseContainer(id);
    await engine.pauseContainer(id);
    expect(await engine.inspectContainer(id)).toMatchObject({ state: 'paused', finishedAt: undefined });
    await expect(engine.startContainer(id)).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(engine.openTunnel(id, ['/bin/true'])).rejects.toMatchObject({ code: 'wrong_state' });
    await engine.unpauseContainer(id);
    await engine.unpauseContainer(id);
    expect(await engine.inspectContainer(id)).toMatchObject({ state: 'running' });
    await engine.pauseContainer(id);
    await engine.stopContainer(id, { graceSeconds: 0 });
    expect(await engine.inspectContainer(id)).toMatchObject({ state: 'exited' });
    await expect(engine.pauseContainer(id)).rejects.toMatchObject({ code: 'wrong_state' });
    await expect(engine.unpauseContainer(id)).rejects.toMatchObject({ code: 'wrong_state' });
    await engine.removeContainer(id);
    await expect(engine.pauseContainer(id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
    await expect(engine.unpauseContainer(id)).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });

  it('takes two at once', async () => {
    const { id } = await make();
    await Promise.all([engine.pauseContainer(id), engine.pauseContainer(id)]);
    await Promise.all([engine.unpauseContainer(id), engine.unpauseContainer(id)]);
    await engine.pauseContainer(id);
    await engine.removeContainer(id); // a paused one, too
  });
});

describe('renaming', () => {
  it('gives a name to one of those that want it at once', async () => {
    const name = `engine-calls-${RUN_SUFFIX}-wanted`;
    const all = await Promise.all([1, 2, 3, 4].map(() => make({ started: false })));
    const results = await Promise.allSettled(all.map(({ id }) => engine.renameContainer(id, name)));
    const winners = all.filter((_, index) => results[index]?.status === 'fulfilled');
    expect(winners).toHaveLength(1);
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'name_conflict' });
    }
    expect((await engine.inspectContainer(name)).id).toBe(winners[0]?.id);
    for (const { id } of all) await engine.removeContainer(id);
  });

  it('is done however many complete it, and by its old name it is done once', async () => {
    const { id, name } = await make();
    await Promise.all([1, 2, 3].map(() => engine.renameContainer(id, `${name}-claimed`)));
    await engine.renameContainer(id, `${name}-claimed`);
    await expect(engine.renameContainer(name, `${name}-other`)).rejects.toMatchObject({ code: 'sandbox_not_found' });
    expect((await engine.inspectContainer(id)).name).toBe(`${name}-claimed`);
    await engine.removeContainer(id);
  });
});

describe('changing the limits', () => {
  const LIMITS = { memoryBytes: 256 * MB, cpus: 0.5, pids: 99 };

  it.each(['running', 'paused', 'exited', 'created'] as const)('of one that is %s', async (state) => {
    const { id } = await make({ started: state !== 'created' });
    if (state === 'paused') await engine.pauseContainer(id);
    if (state === 'exited') await engine.stopContainer(id, { graceSeconds: 0 });
    await engine.updateContainer(id, LIMITS);
    const { HostConfig } = await docker.getContainer(id).inspect();
    expect(HostConfig).toMatchObject({
      Memory: 256 * MB,
      MemorySwap: 256 * MB,
      NanoCpus: 500_000_000,
      PidsLimit: 99,
    });
    expect(await engine.inspectContainer(id)).toMatchObject({ state });
    await engine.removeContainer(id);
  });

  it('refuses less memory than is used, and leaves all as it was', async () => {
    const hold = 'x = b"a" * (80 << 20); import time; time.sleep(1000)';
    const { id } = await make({ entrypoint: ['/usr/bin/python3', '-c', hold] });
    await eventually(async () => {
      const { memory_stats } = await docker.getContainer(id).stats({ stream: false, 'one-shot': true });
      return memory_stats.usage > 80 * MB ? true : undefined;
    });
    await expect(engine.updateContainer(id, { ...LIMITS, memoryBytes: 32 * MB })).rejects.toMatchObject({
      code: 'wrong_state',
      message: expect.stringContaining('memory'),
    });
    const { HostConfig, State } = await docker.getContainer(id).inspect();
    expect(HostConfig).toMatchObject({ Memory: 128 * MB, NanoCpus: 1_000_000_000, PidsLimit: 64 });
    expect(State.Running).toBe(true);
    await engine.updateContainer(id, { ...LIMITS, memoryBytes: 120 * MB });
    await engine.removeContainer(id);
  });

  it('refuses what there is not, and what is not there', async () => {
    const { id } = await make({ started: false });
    await expect(engine.updateContainer(id, { ...LIMITS, cpus: 5000 })).rejects.toMatchObject({
      code: 'limit_exceeded',
    });
    await engine.removeContainer(id);
    await expect(engine.updateContainer(id, LIMITS)).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });
});

describe('reading a file', () => {
  const SCRIPT = 'printf "a record\\n" > /run/record && ln -s record /run/link && mkdir /run/folder && sleep infinity';
  const options = { maxBytes: 100 };

  it('needs nothing that runs', async () => {
    const { id } = await make({ entrypoint: ['/bin/sh', '-c', SCRIPT] });
    const read = () => engine.readContainerFile(id, '/run/record', options);
    const content = await eventually(async () => {
      const found = await engine.readContainerFile(id, '/run/folder/../record', options);
      return found?.length === 9 ? found : undefined;
    });
    expect(content.toString()).toBe('a record\n');
    await engine.pauseContainer(id);
    expect((await read())?.toString()).toBe('a record\n');
    await engine.unpauseContainer(id);
    await engine.stopContainer(id, { graceSeconds: 0 });
    expect((await read())?.toString()).toBe('a record\n');
    for (const path of ['/run/none', '/none/at/all', '/run/record/none']) {
      expect(await engine.readContainerFile(id, path, options)).toBeUndefined();
    }
    for (const path of ['/run/link', '/run/folder']) {
      await expect(engine.readContainerFile(id, path, options)).rejects.toMatchObject({
        code: 'engine_error',
        message: expect.stringContaining('no regular file'),
      });
    }
    await expect(engine.readContainerFile(id, '/run/record', { maxBytes: 8 })).rejects.toMatchObject({
      code: 'engine_error',
      message: expect.stringContaining('9 bytes'),
    });
    await engine.removeContainer(id);
    await expect(read()).rejects.toMatchObject({ code: 'sandbox_not_found' });
  });

  it('finds where a link leads, and needs nothing that runs for that', async () => {
    const long = Array.from({ length: 13 }, (_, index) => String(index % 10).repeat(220)).join('/');
    const huge = `require('fs').symlinkSync(Array(16).fill('\\1'.repeat(220)).join('/'), '/run/huge')`;
    const script = `ln -s ${long} /run/long && ln -s ../../tmp/./x /run/short && node -e "${huge}" && ln -s /none /run/ready && sleep infinity`;
    const { id } = await make({ entrypoint: ['/bin/sh', '-c', script] });
    const read = async () => {
      const paths = ['/run/long', '/run/short', '/run/huge', '/run', '/run/none'];
      return Promise.all(paths.map((path) => engine.readContainerLink(id, path)));
    };
    await eventually(() => engine.readContainerLink(id, '/run/ready'));
    const found = [`/run/${long}`, '/tmp/x', undefined, undefined, undefined];
    expect(await read()).toEqual(found);
    await engine.pauseContainer(id);
    expect(await read()).toEqual(found);
    await engine.unpauseContainer(id);
    await engine.stopContainer(id, { graceSeconds: 0 });
    expect(await read()).toEqual(found);
    await engine.removeContainer(id);
    expect(await engine.readContainerLink(id, '/run/long')).toBeUndefined();
  });

  it('reads of one that never ran, and no more of a large file than it may', async () => {
    const { id } = await make({ started: false });
    const shell = await engine.readContainerFile(id, '/usr/bin/env', { maxBytes: 1024 * 1024 });
    expect(shell?.subarray(0, 4).toString('latin1')).toBe('\u007FELF');
    await expect(engine.readContainerFile(id, '/usr/bin/env', { maxBytes: 1000 })).rejects.toMatchObject({
      code: 'engine_error',
    });
    await engine.removeContainer(id);
  });
});

describe('the events', () => {
  function watch(): { events: ContainerEvent[]; ready: Promise<void>; stop: () => Promise<unknown> } {
    const caller = new AbortController();
    const events: ContainerEvent[] = [];
    let tell = () => {};
    const ready = new Promise<void>((resolve) => {
      tell = resolve;
    });
    const ended = (async () => {
      for await (const event of engine.watchContainers(FILTER, { signal: caller.signal, ready: tell })) {
        events.push(event);
      }
    })().catch((error: unknown) => error);
    const stop = () => {
      caller.abort();
      return ended;
    };
    return { events, ready, stop };
  }

  it('tell in order all that happens to the containers with the labels, and to no others', async () => {
    const { events, ready, stop } = watch();
    await ready;
    const other = await make({ labels: RUN_LABELS });
    const { id, name } = await make();
    await engine.pauseContainer(id);
    await engine.unpauseContainer(id);
    await engine.renameContainer(id, `${name}-renamed`);
    await engine.updateContainer(id, { memoryBytes: 200 * MB, cpus: 1, pids: 64 });
    (await engine.openTunnel(id, ['/bin/true'])).destroy();
    await engine.stopContainer(id, { graceSeconds: 0 });
    await engine.startContainer(id);
    await engine.removeContainer(id);
    await engine.removeContainer(other.id);
    await eventually(async () => events.find(({ action }) => action === 'destroy'));
    expect(await stop()).toMatchObject({ code: 'aborted' });

    const seen = events.map(({ action, name: called }) => `${action} ${called}`);
    const before = ['create', 'start', 'pause', 'unpause'].map((action) => `${action} ${name}`);
    const after = ['rename', 'die', 'start', 'die', 'destroy'].map((action) => `${action} ${name}-renamed`);
    expect(seen).toEqual([...before, ...after]);
    for (const event of events) {
      expect(event).toMatchObject({ id, image: IMAGE, labels: LABELS });
      expect(event.exitCode).toBe(event.action === 'die' ? 137 : undefined);
    }
    expect(Object.keys(events[0]?.labels ?? {})).not.toContain('name');
    const times = events.map(({ at }) => at.getTime());
    expect(times).toEqual(times.toSorted((a, b) => a - b));
  });

  it('miss nothing from when they are ready, while many are made', async () => {
    const { events, ready, stop } = watch();
    await ready;
    const all = await Promise.all(Array.from({ length: 12 }, () => make({ started: false })));
    await Promise.all(all.map(({ id }) => engine.removeContainer(id)));
    const gone = () => events.filter(({ action }) => action === 'destroy').map(({ id }) => id);
    await eventually(async () => (gone().length === all.length ? true : undefined));
    await stop();
    const created = events.filter(({ action }) => action === 'create').map(({ id }) => id);
    expect(created.toSorted()).toEqual(all.map(({ id }) => id).toSorted());
    expect(gone().toSorted()).toEqual(created.toSorted());
  });
});

describe('volumes and networks', () => {
  it('are found by their labels, and removed once nothing uses them', async () => {
    const [volume, network] = [`engine-calls-${RUN_SUFFIX}-v`, `engine-calls-${RUN_SUFFIX}-n`];
    await docker.createVolume({ Name: volume, Labels: LABELS });
    await docker.createNetwork({ Name: network, Labels: LABELS });
    const { systemTime } = await engine.info();
    for (const found of [await engine.listVolumes(FILTER), await engine.listNetworks(FILTER)]) {
      expect(found).toMatchObject([{ labels: LABELS }]);
      expect(Math.abs(Number(found[0]?.createdAt) - systemTime.getTime())).toBeLessThan(60_000);
    }
    const user = await make({ volume: { name: volume, target: '/mnt' } });
    expect(await engine.removeVolume(volume)).toBe(false);
    await engine.removeContainer(user.id);
    expect([await engine.removeVolume(volume), await engine.removeNetwork(network)]).toEqual([true, true]);
    expect([await engine.removeVolume(volume), await engine.removeNetwork(network)]).toEqual([true, true]);
    expect([await engine.listVolumes(FILTER), await engine.listNetworks(FILTER)]).toEqual([[], []]);
  });

  it('keeps a network that a container is connected to', async () => {
    const network = `engine-calls-${RUN_SUFFIX}-used`;
    await docker.createNetwork({ Name: network, Labels: LABELS });
    const { id } = await make({ network: 'bridge' });
    await docker.getNetwork(network).connect({ Container: id });
    expect(await engine.removeNetwork(network)).toBe(false);
    await engine.removeContainer(id);
    expect(await engine.removeNetwork(network)).toBe(true);
  });
});
