import { describe, expect, test } from 'vitest';

import { runApp, send, type RunningApp } from './harness.js';

const FILES = '/api/sandboxes/sb1/files';
const PATH = `${FILES}?path=/a`;
const ETAG = '"1-6955b900-0-a"';
const TIME = 'Thu, 01 Jan 2026 00:00:00 GMT';

async function appWithFile(content: string | Uint8Array = '0123456789'): Promise<RunningApp> {
  const app = await runApp();
  app.stub.sandboxes.get('sb1')?.files.set('/a', Buffer.from(content as string));
  return app;
}

const get = (app: RunningApp, headers: Record<string, string> = {}, method = 'GET') =>
  send(app, PATH, { headers, method });

describe('a range of a file', () => {
  test.each([
    { range: 'bytes=0-0', text: '0', content: 'bytes 0-0/10' },
    { range: 'bytes=2-4', text: '234', content: 'bytes 2-4/10' },
    { range: 'bytes=7-', text: '789', content: 'bytes 7-9/10' },
    { range: 'bytes=7-999', text: '789', content: 'bytes 7-9/10' },
    { range: 'bytes=-3', text: '789', content: 'bytes 7-9/10' },
    { range: 'bytes=-99', text: '0123456789', content: 'bytes 0-9/10' },
    { range: 'BYTES=0-1', text: '01', content: 'bytes 0-1/10' },
  ])('$range is $content', async ({ range, text, content }) => {
    await using app = await appWithFile();
    const answer = await get(app, { Range: range });
    expect([answer.status, answer.text]).toEqual([206, text]);
    expect(answer.headers).toMatchObject({
      'content-range': content,
      'content-length': String(text.length),
      'accept-ranges': 'bytes',
      etag: ETAG,
      'last-modified': TIME,
    });
    expect(app.stub.calls.filter(({ call }) => call !== 'create')).toHaveLength(1);
  });

  test.each(['bytes=10-', 'bytes=10-12', 'bytes=999-', 'bytes=-0'])('%s is outside', async (range) => {
    await using app = await appWithFile();
    const answer = await get(app, { Range: range });
    expect([answer.status, answer.json['code']]).toEqual([416, 'range_not_satisfiable']);
    expect(answer.headers).toMatchObject({
      'content-range': 'bytes */10',
      'content-type': 'application/problem+json; charset=utf-8',
    });
  });

  test.each(['bytes=0-', 'bytes=-1'])('%s of an empty file is outside', async (range) => {
    await using app = await appWithFile('');
    const answer = await get(app, { Range: range });
    expect([answer.status, answer.headers['content-range']]).toEqual([416, 'bytes */0']);
  });

  test.each([
    'bytes=0-1,3-4',
    'bytes=4-2',
    'bytes=',
    'bytes=a-b',
    'bytes=-',
    'lines=0-1',
    'bytes 0-1',
    `bytes=${'9'.repeat(20)}-`,
  ])('%s is passed over', async (range) => {
    await using app = await appWithFile();
    const answer = await get(app, { Range: range });
    expect([answer.status, answer.text, answer.headers['content-range']]).toEqual([200, '0123456789', undefined]);
  });

  test('is of no concern to HEAD', async () => {
    await using app = await appWithFile();
    const answer = await get(app, { Range: 'bytes=2-4' }, 'HEAD');
    expect([answer.status, answer.headers['content-length'], answer.headers.etag]).toEqual([200, '10', ETAG]);
  });

  test('is all of the file when that is another now', async () => {
    await using app = await appWithFile();
    const range = { Range: 'bytes=2-4' };
    expect((await get(app, { ...range, 'If-Range': ETAG })).text).toBe('234');
    for (const other of ['"1-1-1-1"', `W/${ETAG}`, TIME]) {
      const answer = await get(app, { ...range, 'If-Range': other });
      expect([answer.status, answer.text]).toEqual([200, '0123456789']);
    }
  });

  test('of a large file streams', async () => {
    await using app = await appWithFile(Buffer.alloc(5_000_000, 'abc'));
    const answer = await get(app, { Range: 'bytes=1000000-3999999' });
    expect(answer.text.length).toBe(3_000_000);
    expect(answer.text.slice(0, 3)).toBe('bca');
  });
});

describe('a file that the client may have', () => {
  test.each([
    { 'If-None-Match': ETAG },
    { 'If-None-Match': `"x", W/${ETAG}` },
    { 'If-None-Match': '*' },
    { 'If-Modified-Since': TIME },
    { 'If-Modified-Since': 'Fri, 02 Jan 2026 00:00:00 GMT' },
  ])('is not sent again: %o', async (headers) => {
    await using app = await appWithFile();
    for (const method of ['GET', 'HEAD']) {
      const answer = await get(app, headers, method);
      expect([answer.status, answer.text, answer.headers.etag]).toEqual([304, '', ETAG]);
    }
  });

  test.each([
    { 'If-None-Match': '"1-1-1-1"' },
    { 'If-None-Match': '"1-1-1-1"', 'If-Modified-Since': TIME },
    { 'If-Modified-Since': 'Wed, 31 Dec 2025 23:59:59 GMT' },
    { 'If-Modified-Since': 'yesterday' },
  ])('is sent when it is another: %o', async (headers) => {
    await using app = await appWithFile();
    const answer = await get(app, headers);
    expect([answer.status, answer.text]).toEqual([200, '0123456789']);
  });

  test('is only sent as the version that is wanted', async () => {
    await using app = await appWithFile();
    expect((await get(app, { 'If-Match': ETAG })).status).toBe(200);
    expect((await get(app, { 'If-Match': '*' })).status).toBe(200);
    for (const extra of [{}, { Range: 'bytes=0-1' }]) {
      const answer = await get(app, { 'If-Match': `W/${ETAG}`, ...extra });
      expect([answer.status, answer.json['code']]).toEqual([412, 'precondition_failed']);
      expect(answer.headers['content-range']).toBeUndefined();
    }
  });
});

describe('a write', () => {
  const put = (app: RunningApp, headers: Record<string, string>) =>
    send(app, PATH, { method: 'PUT', headers, body: 'new' });

  test('answers the tag of what is there now', async () => {
    await using app = await appWithFile();
    const answer = await put(app, { 'If-Match': ETAG });
    expect([answer.status, answer.headers.etag]).toEqual([204, '"1-6955b900-0-3"']);
    expect(app.stub.calls.at(-1)?.args[1]).toEqual({ ifMatch: ETAG.slice(1, -1) });
    expect((await put(app, { 'If-Match': '*' })).status).toBe(204);
  });

  test.each([
    { 'If-Match': '"1-1-1-1"' },
    { 'If-Match': `W/${ETAG}` },
    { 'If-Match': '"x"' },
    { 'If-None-Match': '*' },
  ])('is refused over another version: %o', async (headers) => {
    await using app = await appWithFile();
    const answer = await put(app, headers);
    expect([answer.status, answer.json['code']]).toEqual([412, 'precondition_failed']);
    expect((await get(app)).text).toBe('0123456789');
  });

  test('may be for what is not there yet', async () => {
    await using app = await runApp();
    expect((await put(app, { 'If-Match': '*' })).status).toBe(412);
    expect((await put(app, { 'If-None-Match': '*' })).status).toBe(204);
    expect((await put(app, { 'If-None-Match': '*' })).status).toBe(412);
  });

  test.each([{ 'If-None-Match': ETAG }, { 'If-Match': `${ETAG}, "x"` }, { 'If-Match': ETAG, 'If-None-Match': '*' }])(
    'takes one condition that can be kept: %o',
    async (headers) => {
      await using app = await appWithFile();
      expect((await put(app, headers)).json['code']).toBe('invalid_request');
    },
  );
});
