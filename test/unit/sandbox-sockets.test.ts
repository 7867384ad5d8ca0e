import { once } from 'node:events';
import { chown, mkdtemp, readdir, rm, stat, symlink, utimes } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { SandboxConnections } from '../../src/connections.js';
import { SandboxSockets } from '../../src/sandbox-sockets.js';
import { makeFleet, plant, recordOf } from '../fixtures/fake-fleet.js';

let directory: string;
const log = { debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() };
const open = (owner = 'me') => new SandboxSockets({ directory, owner, log });

beforeEach(async () => {
  directory = await mkdtemp('/tmp/sandyard-sockets-'); // a longer path could be too long
});
afterEach(() => rm(directory, { recursive: true }));

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

  it('is none without the setting, which makes nothing', async () => {
    const sockets = new SandboxSockets({ directory: undefined, owner: 'me', log });
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
    expect(await readdir(join(source, '..'))).toEqual([]);
  });

  it.each([
    ['relative', 'not an absolute path'],
    [`/${'x'.repeat(60)}`, 'more than 50 bytes'],
  ])('can not be in %s', (given, reason) => {
    expect(() => new SandboxSockets({ directory: given, owner: 'me', log })).toThrow(
      expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(reason) as string }) as Error,
    );
  });

  it('are refused to who is not root', () => {
    const geteuid = vi.spyOn(process, 'geteuid').mockReturnValue(1000);
    expect(() => open()).toThrow('the manager is not root');
    geteuid.mockRestore();
  });

  it('are not taken from anybody else', async () => {
    const { source = '' } = (await open().prepare('a')) ?? {};
    for (const path of [directory, join(source, '..'), source]) {
      await chown(path, 1000, 1000);
      await expect(open().prepare('a')).rejects.toMatchObject({
        code: 'config_invalid',
        message: expect.stringContaining("is not a directory of root's") as string,
      });
      await chown(path, 0, 0);
    }
    await rm(source, { recursive: true });
    await symlink('/tmp', source);
    await expect(open().prepare('a')).rejects.toMatchObject({ code: 'config_invalid' });
  });

  it('that can not be made are told of', async () => {
    const sockets = new SandboxSockets({ directory: '/dev/null', owner: 'me', log });
    await expect(sockets.prepare('a')).rejects.toMatchObject({
      code: 'config_invalid',
      message: expect.stringContaining('SANDBOX_SOCKET_DIR is /dev/null') as string,
    });
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
});
