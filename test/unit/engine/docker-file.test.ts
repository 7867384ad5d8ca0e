import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { pack } from 'tar-stream';

import { DockerEngine } from '../../../src/engine/docker-engine.js';
import { answers, FakeDaemon, type Answer } from '../../fixtures/fake-daemon.js';

const PATH = '/var/lib/sandyard/record';

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

type Entry = Parameters<ReturnType<typeof pack>['entry']>[0] & { content?: Buffer | string };

async function archiveOf(entries: readonly Entry[]): Promise<Buffer> {
  const archive = pack();
  for (const { content, ...header } of entries) archive.entry(header, content ?? '');
  archive.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of archive) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

function read(answer: Answer, { maxBytes = 1000, signal }: { maxBytes?: number; signal?: AbortSignal } = {}) {
  daemon.handler = answers({ 'GET /containers/box/archive': answer });
  return engine.readContainerFile('box', PATH, { maxBytes, signal });
}

const sends =
  (bytes: Buffer): Answer =>
  ({ response }) =>
    response.writeHead(200, { 'content-type': 'application/x-tar' }).end(bytes);

it.each([
  ['some bytes', Buffer.from([0, 1, 255, 10])],
  ['nothing', Buffer.alloc(0)],
  ['as much as it may have', Buffer.alloc(1000, 7)],
])('reads a file with %s', async (_, content) => {
  expect(await read(sends(await archiveOf([{ name: 'record', content }])))).toEqual(content);
  expect(daemon.requests.at(-1)?.path).toBe(`/containers/box/archive?path=${encodeURIComponent(PATH)}`);
});

it('reads one that comes in small pieces, and with headers of its own', async () => {
  const archive = await archiveOf([{ name: 'record', content: 'abc', pax: { comment: 'x'.repeat(3000) } }]);
  const content = await read(async ({ response }) => {
    for (let at = 0; at < archive.length; at += 100) {
      response.write(archive.subarray(at, at + 100));
      await new Promise((resolve) => setImmediate(resolve));
    }
    response.end();
  });
  expect(content?.toString()).toBe('abc');
});

it.each([
  [404, `Could not find the file ${PATH} in container box`],
  [400, `lstat /somewhere/of/the/host${PATH}: not a directory`],
])('has nothing to give where there is no such file (%d %s)', async (status, message) => {
  expect(await read([status, { message }])).toBeUndefined();
});

it.each([
  [404, 'No such container: box', 'sandbox_not_found'],
  [500, 'broken', 'engine_error'],
])('translates %d %s', async (status, message, code) => {
  await expect(read([status, { message }])).rejects.toMatchObject({ code });
});

describe('refuses', () => {
  it.each<[what: string, entries: Entry[], why: RegExp]>([
    ['a link', [{ name: 'record', type: 'symlink', linkname: '/etc/shadow' }], /no regular file but a symlink/],
    ['a hard link', [{ name: 'record', type: 'link', linkname: 'x' }], /no regular file but a link/],
    ['a directory', [{ name: 'record/', type: 'directory' }], /no regular file but a directory/],
    ['a pipe', [{ name: 'record', type: 'fifo' }], /no regular file/],
    ['another file', [{ name: 'else', content: Buffer.from('x') }], /another file/],
    ['a file of another directory', [{ name: '../record', content: Buffer.from('x') }], /another file/],
    ['what is too large', [{ name: 'record', content: Buffer.alloc(1001) }], /1001 bytes, and 1000/],
    ['what is far too large', [{ name: 'record', content: Buffer.alloc(1e6) }], /1000000 bytes, and 1000/],
    ['an empty archive', [], /empty archive/],
  ])('%s', async (_, entries, why) => {
    await expect(read(sends(await archiveOf(entries)))).rejects.toMatchObject({
      code: 'engine_error',
      message: expect.stringMatching(why),
    });
  });

  it('what is no archive, and one that is cut', async () => {
    const whole = await archiveOf([{ name: 'record', content: Buffer.alloc(900, 1) }]);
    for (const bytes of [Buffer.alloc(2000, 'x'), whole.subarray(0, 300), whole.subarray(0, 700), Buffer.alloc(0)]) {
      await expect(read(sends(bytes))).rejects.toMatchObject({ code: 'engine_error' });
    }
  });

  it('a stream without end, having read no more than it needs', async () => {
    const header = (await archiveOf([{ name: 'record', content: Buffer.alloc(900) }])).subarray(0, 512);
    let closed = false;
    const sending = read(({ response }) => {
      const more = () => void response.write(Buffer.alloc(16_384));
      const timer = setInterval(more, 1);
      response.once('close', () => {
        clearInterval(timer);
        closed = true;
      });
      response.write(header);
    });
    expect(await sending).toHaveLength(900); // the file is whole: what follows it is not read
    await expect.poll(() => closed).toBe(true);
  });
});

describe('ends', () => {
  it('when the engine is killed meanwhile', async () => {
    let asked = 0;
    const reading = read(({ response }) => {
      asked += 1;
      response.writeHead(200, { 'content-length': 5000 }).write(Buffer.alloc(600));
      setTimeout(() => void daemon.stop(), 20);
    });
    await expect(reading).rejects.toMatchObject({ code: 'engine_unavailable' });
    expect(asked).toBe(1);
  });

  it('when the caller gives up while it is read, with the connection', async () => {
    const caller = new AbortController();
    let closed = false;
    const reading = read(
      ({ response }) => {
        response.once('close', () => (closed = true));
        response.writeHead(200).write(Buffer.alloc(600));
        setTimeout(() => caller.abort(), 20);
      },
      { signal: caller.signal },
    );
    await expect(reading).rejects.toMatchObject({ code: 'aborted' });
    await expect.poll(() => closed).toBe(true);
  });
});

describe('where a link leads', () => {
  const look = (answer: Answer) => {
    daemon.handler = answers({ 'HEAD /containers/box/archive': answer });
    return engine.readContainerLink('box', PATH);
  };
  const tells =
    (stat: string | undefined): Answer =>
    ({ response }) => {
      if (stat !== undefined) response.setHeader('X-Docker-Container-Path-Stat', Buffer.from(stat).toString('base64'));
      response.writeHead(200).end();
    };

  it('is in the headers of an answer without a body', async () => {
    const linkTarget = `/${'a'.repeat(200)}/${'b'.repeat(2800)}`;
    expect(await look(tells(JSON.stringify({ name: 'record', size: 3000, mode: 134_218_239, linkTarget })))).toBe(
      linkTarget,
    );
    expect(daemon.requests.at(-1)?.path).toBe(`/containers/box/archive?path=${encodeURIComponent(PATH)}`);
  });

  it.each([
    ['a file', tells(JSON.stringify({ name: 'record', size: 1, mode: 384, linkTarget: '' }))],
    ['of which no more is told', tells(undefined)],
    ['of which nonsense is told', tells('nonsense')],
    ['of which something else is told', tells('{"linkTarget":5}')],
    ['that is not there', [404, { message: 'No such container: box' }] satisfies Answer],
  ])('is nowhere of %s', async (_, answer) => {
    expect(await look(answer)).toBeUndefined();
  });

  it('is nowhere where an answer has no room for it, and the engine is not taken to be lost for that', async () => {
    expect(await look(tells(JSON.stringify({ linkTarget: '\u0001'.repeat(4000) })))).toBeUndefined();
  });

  it('is not known where the engine fails', async () => {
    await expect(look([500, { message: 'broken' }])).rejects.toMatchObject({ code: 'engine_error' });
  });
});
