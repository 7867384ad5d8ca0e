import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type * as files from 'node:fs/promises';
import { chmod, chown, lchown, mkdir, mkdtemp, readdir, rm, stat, symlink, utimes } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';

import { SandboxConnections } from '../../src/connections.js';
import { SandyardError } from '../../src/errors.js';
import { SandboxSockets } from '../../src/sandbox-sockets.js';
import type { FakeEngine } from '../fixtures/fake-engine.js';
import { makeFleet, plant, recordOf, settle } from '../fixtures/fake-fleet.js';

const hooks = vi.hoisted(() => ({ beforeRename: () => Promise.resolve() }));
vi.mock('node:fs/promises', async (importOriginal) => {
  const real = await importOriginal<typeof files>();
  const rename = async (...args: Parameters<typeof real.rename>) => {
    await hooks.beforeRename();
    return real.rename(...args);
  };
  return { ...real, rename };
});

let directory: string;
const log = { debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() };
const dataRoot = () => Promise.resolve('/var/lib/docker');
const open = (owner = 'me') => new SandboxSockets({ directory, dataRoot, owner, log });

beforeEach(async () => {
  directory = await mkdtemp('/tmp/sandyard-sockets-'); // a longer path could be too long
});
afterEach(async () => {
  hooks.beforeRename = () => Promise.resolve();
  await rm(directory, { recursive: true });
});

/** Looks what comes into a directory, as the warden does, and connects to it. */
async function awaitSocket(source: string, { withinMs = 2000 } = {}): Promise<string> {
  for (const until = Date.now() + withinMs; Date.now() < until; await sleep(2)) {
    const name = (await readdir(source)).find((found) => !found.startsWith('.'));
    if (name !== undefined) return join(source, name);
  }
  throw new Error('nobody listens there');
}

async function answer(source: string): Promise<Socket> {
  const socket = connect(await awaitSocket(source));
  await once(socket, 'connect');
  return socket;
}

async function exchange(from: Socket, to: Socket): Promise<string> {
  from.write('hello');
  const [data] = (await once(to, 'data')) as [Buffer];
  return data.toString();
}

describe('a connection', () => {
  it('comes from whoever connects, and what it came by is removed', async () => {
    const sockets = open();
    const { source = '', target } = (await sockets.prepare('a')) ?? {};
    expect(target).toBe('/run/sandyard');
    const [ours, theirs] = await Promise.all([sockets.connect('a'), answer(source)]);
    if (ours === undefined) throw new Error('There is none.');
    expect([await exchange(ours, theirs), await exchange(theirs, ours)]).toEqual(['hello', 'hello']);
    expect(await readdir(source)).toEqual([]);
    ours.destroy();
    theirs.destroy();
  });

  it('is one, however often they connect', async () => {
    const sockets = open();
    const { source = '' } = (await sockets.prepare('a')) ?? {};
    const connecting = sockets.connect('a');
    const path = await awaitSocket(source);
    const theirs = [connect(path), connect(path)];
    const closed = (socket: Socket) => new Promise((resolve) => socket.on('error', () => {}).on('close', resolve));
    const ends = theirs.map((socket) => closed(socket.resume()));
    const ours = await connecting;
    await Promise.race(ends); // one of them is told that nobody is there
    ours?.destroy();
    await Promise.all(ends);
  });

  it('is had by each who asks at once', async () => {
    const [sockets, others] = [open(), open()];
    const { source = '' } = (await sockets.prepare('a')) ?? {};
    const both = Promise.all([sockets.connect('a'), others.connect('a')]);
    const first = await answer(source);
    const found = await both;
    expect(found.filter((socket) => socket !== undefined).length).toBeGreaterThan(0);
    for (const socket of [first, ...found]) socket?.destroy();
  });

  it.each([
    ['without a directory for it', 'none'],
    ['where nobody connects', 'a'],
  ])('is none %s', async (_, id) => {
    const sockets = open();
    const { source = '' } = (await sockets.prepare('a')) ?? {};
    expect(await sockets.connect(id)).toBeUndefined();
    expect(await readdir(source)).toEqual([]);
  });

  it('can be given up', async () => {
    const sockets = open();
    const { source = '' } = (await sockets.prepare('a')) ?? {};
    const caller = new AbortController();
    const began = performance.now();
    const connecting = sockets.connect('a', { signal: caller.signal });
    caller.abort();
    expect(await connecting).toBeUndefined();
    expect(performance.now() - began).toBeLessThan(150);
    expect(await sockets.connect('a', { signal: caller.signal })).toBeUndefined();
    expect(await readdir(source)).toEqual([]);
  });

  it('is ended when nobody waits for it any more, also if it comes before it can', async () => {
    const sockets = open();
    const { source = '' } = (await sockets.prepare('a')) ?? {};
    const caller = new AbortController();
    let ended: Promise<unknown> | undefined;
    hooks.beforeRename = async () => {
      caller.abort();
      const [name = ''] = await readdir(source);
      const theirs = connect(join(source, name)).resume();
      ended = new Promise((resolve) => theirs.once('close', resolve));
      await once(theirs, 'connect');
      await sleep(20); // it is taken meanwhile
    };
    expect(await sockets.connect('a', { signal: caller.signal })).toBeUndefined();
    expect(await Promise.race([ended?.then(() => 'ended'), sleep(1000)])).toBe('ended');
  });

  it('is none without the setting, which makes nothing', async () => {
    const sockets = new SandboxSockets({ directory: 'none', dataRoot, owner: 'me', log });
    expect([await sockets.prepare('a'), await sockets.connect('a')]).toEqual([undefined, undefined]);
    await sockets.remove('a');
    await sockets.removeOrphans(() => Promise.reject(new Error('asked')));
  });
});

describe('the directories', () => {
  it('are for root alone', async () => {
    const { source = '' } = (await open().prepare('a')) ?? {};
    for (const path of [source, join(source, '..')]) {
      const { mode, uid } = await stat(path);
      expect([mode & 0o777, uid]).toEqual([0o700, 0]);
    }
  });

  it('go with their sandboxes, and what is left of old ones is removed', async () => {
    const sockets = open();
    const others = (await open('you').prepare('a'))?.source ?? '';
    const long = new Date(Date.now() - 3_600_000);
    const sources = new Map<string, string>();
    for (const id of ['removed', 'kept', 'lost', 'young']) sources.set(id, (await sockets.prepare(id))?.source ?? '');
    const left = createServer().listen(join(sources.get('lost') ?? '', 'left'));
    await once(left, 'listening');
    for (const path of [others, sources.get('kept') ?? '', sources.get('lost') ?? '']) await utimes(path, long, long);
    await Promise.all([sockets.remove('removed'), sockets.remove('removed'), sockets.remove('neverthere')]);
    await sockets.removeOrphans(() => Promise.resolve(new Set(['kept'])));
    await sockets.removeOrphans(() => Promise.resolve(new Set(['kept'])));
    left.close();
    expect((await readdir(join(sources.get('kept') ?? '', '..'))).toSorted()).toEqual(['kept', 'young']);
    expect((await stat(others)).isDirectory()).toBe(true);
  });

  it('are an engine’s own: that of another on this machine are not missed by it', async () => {
    const long = new Date(Date.now() - 3_600_000);
    const of = (root: string) =>
      new SandboxSockets({ directory, dataRoot: () => Promise.resolve(root), owner: 'me', log });
    const { source = '' } = (await of('/var/lib/docker').prepare('a')) ?? {};
    await utimes(source, long, long);
    await of('/srv/docker').removeOrphans(() => Promise.resolve(new Set()));
    expect((await stat(source)).isDirectory()).toBe(true);
    await of('/var/lib/docker').removeOrphans(() => Promise.resolve(new Set()));
    await expect(stat(source)).rejects.toThrow('ENOENT');
  });

  it('are not known while the engine is away, and then they are', async () => {
    const away = vi.fn(dataRoot).mockRejectedValueOnce(new Error('away')).mockRejectedValueOnce(new Error('away'));
    const sockets = new SandboxSockets({ directory, dataRoot: away, owner: 'me', log });
    await expect(sockets.prepare('a')).rejects.toThrow('away');
    expect(await sockets.connect('a')).toBeUndefined();
    expect((await sockets.prepare('a'))?.source).toContain(directory);
    await sockets.prepare('b');
    expect(away).toHaveBeenCalledTimes(3);
  });

  it('are made again for what can not be started without them', async () => {
    const sockets = open();
    const start = vi.fn().mockRejectedValue(new SandyardError('engine_error', 'No.'));
    start.mockRejectedValueOnce(new SandyardError('engine_error', 'bind source path does not exist'));
    start.mockResolvedValueOnce(undefined);
    await sockets.start('a', start);
    expect(start).toHaveBeenCalledTimes(2);
    await expect(sockets.start('a', start)).rejects.toThrow('No.'); // it is there
    expect(start).toHaveBeenCalledTimes(3);
    await expect(SandboxSockets.none.start('b', start)).rejects.toThrow('No.');
    expect(start).toHaveBeenCalledTimes(4);
    start.mockRejectedValue(new SandyardError('wrong_state', 'Gone.'));
    await expect(sockets.start('b', start)).rejects.toThrow('Gone.');
    expect(start).toHaveBeenCalledTimes(5);
  });

  it('are gone when all is closed, and nothing is but them', async () => {
    const sockets = open();
    const { source = '' } = (await sockets.prepare('a')) ?? {};
    void sockets.remove('a');
    await sockets.close();
    await expect(stat(source)).rejects.toThrow('ENOENT');
    for (const id of ['..', '.', '', '../..']) {
      await sockets.remove(id);
      expect([await sockets.prepare(id), await sockets.connect(id)]).toEqual([undefined, undefined]);
    }
    expect(await readdir(directory)).toEqual([]);
  });

  it.each([
    ['relative', 'not an absolute path'],
    [`/${'x'.repeat(60)}`, 'more than 50 bytes'],
  ])('can not be in %s', (given, reason) => {
    expect(() => new SandboxSockets({ directory: given, dataRoot, owner: 'me', log })).toThrow(
      expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(reason) as string }) as Error,
    );
  });

  it('are refused to who is not root', () => {
    const geteuid = vi.spyOn(process, 'geteuid').mockReturnValue(1000);
    expect(() => open()).toThrow('the manager is not root');
    geteuid.mockRestore();
  });

  it('are not taken from anybody else, nor where others can change them or what is above', async () => {
    const above = join(directory, 'above');
    await mkdir(join(above, 'sockets'), { recursive: true });
    const sockets = () => new SandboxSockets({ directory: join(above, 'sockets'), dataRoot, owner: 'me', log });
    const { source = '' } = (await sockets().prepare('a')) ?? {};
    const refused = async () =>
      expect(
        await sockets()
          .prepare('a')
          .catch((error: unknown) => error),
      ).toMatchObject({
        code: 'config_invalid',
        message: expect.stringContaining("is not a directory of root's alone") as string,
      });
    for (const path of [above, join(above, 'sockets'), join(source, '..'), source]) {
      await chown(path, 1000, 1000);
      await refused();
      await chown(path, 0, 0);
      for (const mode of [0o770, 0o702]) {
        await chmod(path, mode);
        await refused();
      }
      await chmod(path, 0o1777);
      expect(await sockets().prepare('a')).toBeDefined();
    }
    await rm(source, { recursive: true });
    await symlink('/tmp', source);
    await refused();
  });

  it('may be behind a link of root’s', async () => {
    const link = join(directory, 'link');
    await mkdir(join(directory, 's'));
    await symlink(join(directory, 's'), link);
    const sockets = new SandboxSockets({ directory: join(link, 'in'), dataRoot, owner: 'me', log });
    expect(await sockets.prepare('a')).toBeDefined();
    await lchown(link, 1000, 1000);
    await expect(sockets.prepare('a')).rejects.toMatchObject({ code: 'config_invalid' });
  });

  it('that can not be made are told of', async () => {
    const sockets = new SandboxSockets({ directory: '/dev/null', dataRoot, owner: 'me', log });
    await expect(sockets.prepare('a')).rejects.toMatchObject({
      code: 'config_invalid',
      message: expect.stringContaining('SANDBOX_SOCKET_DIR is /dev/null') as string,
    });
  });
});

describe('where nobody has asked for it', () => {
  const owner = `test-${randomUUID()}`;
  const tried = () => new SandboxSockets({ directory: 'auto', dataRoot, owner, log });
  const miss = async (sockets: SandboxSockets, id: string) => {
    await sockets.prepare(id);
    expect(await sockets.connect(id)).toBeUndefined();
  };

  it('it is done below /var/lib/sandyard, of which nothing is left with the last of an owner', async () => {
    const sockets = tried();
    const { source = '' } = (await sockets.prepare('a')) ?? {};
    expect(source).toMatch(/^\/var\/lib\/sandyard\/sockets\/[0-9a-f]{12}\/a$/);
    await sockets.prepare('b');
    await sockets.remove('a');
    expect(await readdir(join(source, '..'))).toEqual(['b']);
    await sockets.remove('b');
    await expect(stat(join(source, '..'))).rejects.toThrow('ENOENT');
  });

  it('it is not done by who is not root', async () => {
    const geteuid = vi.spyOn(process, 'geteuid').mockReturnValue(1000);
    const sockets = tried();
    geteuid.mockRestore();
    expect(await sockets.prepare('a')).toBeUndefined();
  });

  it('it is given up, and that told once, when three wardens have not connected', async () => {
    log.info.mockClear();
    const sockets = tried();
    const caller = new AbortController();
    await sockets.prepare('a');
    const givenUp = sockets.connect('a', { signal: caller.signal });
    caller.abort();
    await givenUp; // doesn't count: nobody has waited for it
    await sockets.connect('none'); // nor does one that has no directory
    for (const id of ['a', 'b']) await miss(sockets, id);
    expect(sockets.isTried).toBe(true);
    await miss(sockets, 'c');
    expect(await sockets.prepare('d')).toBeUndefined();
    const began = performance.now();
    expect(await sockets.connect('c')).toBeUndefined();
    expect(performance.now() - began).toBeLessThan(100);
    sockets.giveUp(new Error('once more'));
    expect(log.info).toHaveBeenCalledTimes(1);
    for (const id of ['a', 'b', 'c']) await sockets.remove(id);
  });

  it('it is done on for good once a warden has connected', async () => {
    const sockets = tried();
    const { source = '' } = (await sockets.prepare('a')) ?? {};
    const [ours, theirs] = await Promise.all([sockets.connect('a'), answer(source)]);
    for (const socket of [ours, theirs]) socket?.destroy();
    for (const id of ['a', 'a', 'a', 'a']) await miss(sockets, id);
    sockets.giveUp(new Error('No.'));
    expect(await sockets.prepare('a')).toEqual({ source, target: '/run/sandyard' });
    await sockets.remove('a');
  });

  it('it is given up where no directory can be made', async () => {
    const sockets = tried();
    const { source = '' } = (await sockets.prepare('a')) ?? {};
    await chown(join(source, '..'), 1000, 1000);
    expect(await sockets.prepare('b')).toBeUndefined();
    expect(sockets.isTried).toBe(false);
    for (const id of ['a', 'b']) await sockets.remove(id);
  });
});

describe('a way into a sandbox', () => {
  const use = async (connect: SandboxSockets['connect']) => {
    const { engine } = makeFleet();
    const record = recordOf(plant(engine, 'a'));
    const sockets = open();
    const connecting = vi.spyOn(sockets, 'connect').mockImplementation(connect);
    const connections = new SandboxConnections(engine, undefined, sockets);
    const held = connections.hold(record);
    await held.channel.ping();
    held.release();
    await connections.close();
    return { opened: engine.count('openTunnel'), connecting };
  };

  it('is by a socket where the warden connects, and else by the engine', async () => {
    const { engine } = makeFleet();
    const container = plant(engine, 'a');
    const { connecting, opened } = await use(() => engine.openTunnel(container.name, []) as Promise<never>);
    expect([connecting.mock.calls.length, connecting.mock.calls[0]?.[0], opened]).toEqual([1, 'a', 0]);
    expect((await use(() => Promise.resolve(undefined))).opened).toBe(1);
  });

  describe('that takes nothing of the engine', () => {
    const setUp = (connect: (engine: FakeEngine) => ReturnType<SandboxSockets['connect']>) => {
      const { engine } = makeFleet();
      const record = recordOf(plant(engine, 'a'));
      const sockets = open();
      const connecting = vi.spyOn(sockets, 'connect').mockImplementation(() => connect(engine));
      const connections = new SandboxConnections(engine, undefined, sockets);
      onTestFinished(() => connections.close());
      return { engine, record, connecting, connections };
    };
    const byWarden = (engine: FakeEngine) => engine.openTunnel('sandyard-a', []) as Promise<never>;

    it('is made once for all who want it, and is what the next call uses', async () => {
      const { engine, record, connecting, connections } = setUp(byWarden);
      expect(await Promise.all([connections.openDirectly(record), connections.openDirectly(record)])).toEqual([
        true,
        true,
      ]);
      expect(await connections.openDirectly(record)).toBe(true);
      const held = connections.hold(record);
      await held.channel.ping();
      held.release();
      expect(await connections.openDirectly(record)).toBe(true);
      expect([connecting.mock.calls.length, engine.count('openTunnel')]).toEqual([1, 1]);
    });

    it('is tried once where there is none, and the engine is not asked for another', async () => {
      const { engine, record, connecting, connections } = setUp(() => Promise.resolve(undefined));
      expect([await connections.openDirectly(record), await connections.openDirectly(record)]).toEqual([false, false]);
      expect([connecting.mock.calls.length, engine.count('openTunnel')]).toEqual([1, 0]);
    });

    it('is not made while there are hundreds', async () => {
      const { record, connecting, connections } = setUp(byWarden);
      for (let one = 0; one < 500; one += 1) connections.hold({ ...record, id: `other${one}` }).release();
      expect([await connections.openDirectly(record), connecting.mock.calls.length]).toEqual([false, 0]);
    });

    it.each([
      ['before', [0, 1]],
      ['after', [1, 0]],
    ])('is ended where another is made, and it comes %s that', async (_when, order) => {
      const made: Duplex[] = [];
      const proceed: (() => void)[] = [];
      const { record, connections } = setUp(async (engine) => {
        await new Promise<void>((resolve) => proceed.push(resolve));
        return made[made.push(await byWarden(engine)) - 1] as Socket;
      });
      const opening = connections.openDirectly(record);
      const held = connections.hold(record);
      const asked = held.channel.ping();
      await vi.waitFor(() => expect(proceed).toHaveLength(2));
      for (const index of order) {
        proceed[index]?.();
        await settle();
      }
      expect(await opening).toBe(true);
      await asked;
      expect(made.map(({ destroyed }) => destroyed)).toEqual(order.map((index) => index === 0));
      held.release();
    });

    it('is ended when the sandbox stops before it is used', async () => {
      const made: Duplex[] = [];
      const { record, connections } = setUp(async (engine) => {
        made.push(await byWarden(engine));
        return made[0] as Socket;
      });
      expect(await connections.openDirectly(record)).toBe(true);
      connections.cut('a');
      expect(made.map(({ destroyed }) => destroyed)).toEqual([true]);
    });
  });
});
