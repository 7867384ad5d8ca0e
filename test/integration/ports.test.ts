import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { Sandbox, SandboxManager } from '../../src/index.js';
import { eventually, removeAll, RUNTIMES, testManager } from '../fixtures/run.js';

const MIB = 1024 * 1024;

/** 4001: echo. 4002: says what it got when the client has ended. 4003: 50 MiB, then the end. 4004: a greeting, and closes. */
const SERVERS = `
const net = require('node:net');
net.createServer({ allowHalfOpen: true }, (s) => { s.pipe(s); s.on('error', () => {}); }).listen(4001, '127.0.0.1', () => console.log('ready'));
net.createServer({ allowHalfOpen: true }, (s) => {
  let bytes = 0;
  s.on('data', (d) => { bytes += d.length; }).on('end', () => s.end('got ' + bytes)).on('error', () => {});
}).listen(4002);
net.createServer((s) => {
  s.on('error', () => {});
  const block = Buffer.alloc(1024 * 1024, 'sandyard');
  let left = 50;
  const more = () => { while (left > 0) { left -= 1; if (!s.write(block)) return void s.once('drain', more); } s.end(); };
  more();
}).listen(4003);
net.createServer((s) => { s.on('error', () => {}); s.end('hello'); }).listen(4004);
`;

describe.each(RUNTIMES)('ports of a sandbox of %s', (runtime) => {
  let manager: SandboxManager;
  let sandbox: Sandbox;
  beforeAll(async () => {
    manager = await testManager();
    sandbox = await manager.create({ runtime, memoryLimit: '512m', pidsLimit: 2048 });
    const servers = await sandbox.spawn(['node', '-e', SERVERS], { whenUnread: 'run' });
    for await (const _ of servers.output()) break;
  });
  afterAll(() => removeAll(manager));

  it('carries bytes both ways, though the sandbox has no network', async () => {
    const connection = await sandbox.connect(4001);
    const sent = randomBytes(3 * MIB);
    const got = createHash('sha256');
    const reading = (async () => {
      for await (const chunk of connection) got.update(chunk as Buffer);
    })();
    connection.end(sent);
    await reading;
    expect(got.digest('hex')).toBe(createHash('sha256').update(sent).digest('hex'));
  });

  it('passes the end of one direction on, and lets the other go on', async () => {
    const connection = await sandbox.connect(4002);
    connection.write('12345');
    connection.end('678');
    expect(await text(connection)).toBe('got 8');
  });

  it('tells that the server has ended, before the client does', { timeout: 10_000 }, async () => {
    const connection = await sandbox.connect(4004);
    expect(await text(connection)).toBe('hello');
    connection.destroy();
  });

  it('brings 50 MiB out, exactly', { timeout: 20_000 }, async () => {
    const connection = await sandbox.connect(4003);
    let bytes = 0;
    const got = createHash('sha256');
    for await (const chunk of connection) {
      bytes += (chunk as Buffer).length;
      got.update(chunk as Buffer);
    }
    const block = Buffer.alloc(MIB, 'sandyard');
    const expected = createHash('sha256');
    for (let index = 0; index < 50; index += 1) expected.update(block);
    expect(bytes).toBe(50 * MIB);
    expect(got.digest('hex')).toBe(expected.digest('hex'));
  });

  it('brings 50 MiB in, no faster than it is read', async () => {
    const connection = await sandbox.connect(4002);
    const block = Buffer.alloc(MIB, 'x');
    for (let index = 0; index < 50; index += 1) if (!connection.write(block)) await once(connection, 'drain');
    connection.end();
    expect(await text(connection)).toBe(`got ${50 * MIB}`);
  });

  it('serves many at once', async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const connection = await sandbox.connect(4001);
        connection.end(`number ${index}`);
        return text(connection);
      }),
    );
    expect(answers).toEqual(answers.map((_, index) => `number ${index}`));
  });

  it('says that nothing listens', async () => {
    await expect(sandbox.connect(4999)).rejects.toMatchObject({ code: 'port_not_open' });
    await expect(sandbox.connect(0)).rejects.toMatchObject({ code: 'validation_failed' });
  });

  it('ends when it is aborted or destroyed, and leaves nothing in the sandbox', async () => {
    const wardens = async () => {
      const { stdout } = await sandbox.exec('for p in /proc/[0-9]*; do cat $p/comm 2>/dev/null; done | grep -c warden');
      return Number(stdout);
    };
    const before = await wardens();
    const controller = new AbortController();
    const aborted = await sandbox.connect(4001, { signal: controller.signal });
    const failed = once(aborted, 'error');
    aborted.resume();
    controller.abort();
    expect((await failed)[0]).toMatchObject({ code: 'aborted' });
    const destroyed = await sandbox.connect(4003);
    await once(destroyed, 'readable');
    destroyed.destroy();
    await eventually(async () => ((await wardens()) === before ? true : undefined), {
      timeoutMs: 10_000,
      what: 'the end of the connections',
    });
  });
});
