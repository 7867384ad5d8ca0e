import { request as httpRequest } from 'node:http';
import { describe, expect, test } from 'vitest';

import { contentDisposition } from '../../../src/http/download.js';
import { post, runApp, send, until, type RunningApp } from './harness.js';

const FILES = '/api/sandboxes/sb1/files';
const ARCHIVE = '/api/sandboxes/sb1/archive';

const put = (app: RunningApp, path: string, body: string) =>
  send(app, `${FILES}?path=${path}`, { method: 'PUT', body });

describe('files', () => {
  test('write, read, stat, list, remove', async () => {
    await using app = await runApp();
    const written = await send(app, `${FILES}?path=/workspace/a.txt&mode=0750`, { method: 'PUT', body: 'hello' });
    expect([written.status, written.text]).toEqual([204, '']);
    expect(app.stub.calls.at(-1)?.args).toEqual(['/workspace/a.txt', { mode: 0o750 }]);

    const read = await send(app, `${FILES}?path=/workspace/a.txt`);
    expect([read.status, read.text]).toEqual([200, 'hello']);
    expect(read.headers).toMatchObject({
      'content-type': 'application/octet-stream',
      'content-length': '5',
      'x-content-type-options': 'nosniff',
      'content-disposition': `attachment; filename="a.txt"; filename*=UTF-8''a.txt`,
    });

    const stat = await send(app, `${FILES}/stat?path=/workspace/a.txt`);
    expect(stat.json).toEqual({
      path: '/workspace/a.txt',
      name: 'a.txt',
      type: 'file',
      size_bytes: 5,
      mode: '0644',
      modified_at: '2026-01-01T00:00:00.000Z',
      uid: 1000,
      gid: 1000,
      link_target: null,
      etag: '1-6955b900-0-5',
    });
    const list = await send(app, `${FILES}/list?path=/workspace&depth=2`);
    expect(list.json).toMatchObject({ entries: [{ type: 'directory' }, { name: 'a.txt' }] });

    const removed = await send(app, `${FILES}?path=/workspace/a.txt&recursive=true`, { method: 'DELETE' });
    expect(removed.status).toBe(204);
    expect(app.stub.calls.at(-1)?.args).toEqual(['/workspace/a.txt', { recursive: true }]);
    expect((await send(app, `${FILES}?path=/workspace/a.txt`)).status).toBe(404);
  });

  test('HEAD says what GET would, without the bytes', async () => {
    await using app = await runApp();
    await put(app, '/a', 'hello');
    const head = await send(app, `${FILES}?path=/a`, { method: 'HEAD' });
    expect([head.status, head.text, head.headers['content-length']]).toEqual([200, '', '5']);
    expect((await send(app, `${FILES}?path=/nope`, { method: 'HEAD' })).status).toBe(404);
    expect((await send(app, `${ARCHIVE}?path=/workspace`, { method: 'HEAD' })).status).toBe(200);
  });

  test('an empty file', async () => {
    await using app = await runApp();
    expect((await put(app, '/empty', '')).status).toBe(204);
    const read = await send(app, `${FILES}?path=/empty`);
    expect([read.status, read.text, read.headers['content-length']]).toEqual([200, '', '0']);
  });

  test('names of any kind', async () => {
    await using app = await runApp();
    const name = 'ü "quo;te" 100% €\n😀.txt';
    expect((await put(app, encodeURIComponent(`/w/${name}`), 'x')).status).toBe(204);
    const read = await send(app, `${FILES}?path=${encodeURIComponent(`/w/${name}`)}`);
    expect([read.status, read.text]).toEqual([200, 'x']);
    const disposition = String(read.headers['content-disposition']);
    expect(disposition).toBe(contentDisposition(name));
    expect(decodeURIComponent(disposition.split("UTF-8''")[1] ?? '')).toBe(name);
    expect(disposition).toMatch(/^attachment; filename="[^"\\%\u007F-\uFFFF]*"; filename\*=UTF-8''[A-Za-z0-9.%_!~-]+$/);
  });

  test('archives go both ways', async () => {
    await using app = await runApp();
    const headers = { 'Content-Type': 'application/x-tar' };
    const up = await send(app, `${ARCHIVE}?path=/w`, { method: 'PUT', headers, body: 'tar bytes' });
    expect(up.status).toBe(204);
    const down = await send(app, `${ARCHIVE}?path=/w`);
    expect([down.status, down.headers['content-type'], down.text]).toEqual([200, 'application/x-tar', 'tar of /w 9']);
    expect(down.headers['content-disposition']).toContain('filename="w.tar"');
    expect((await send(app, `${ARCHIVE}?path=/workspace`)).headers['content-length']).toBeUndefined();
  });

  test('a large file streams', async () => {
    await using app = await runApp();
    const bytes = Buffer.alloc(30 * 1024 * 1024, 'abc');
    const up = await fetch(`${app.url}${FILES}?path=/big`, { method: 'PUT', body: bytes });
    expect(up.status).toBe(204);
    const down = Buffer.from(await (await fetch(`${app.url}${FILES}?path=/big`)).arrayBuffer());
    expect(down.equals(bytes)).toBe(true);
  });

  test('a download that breaks never ends as if it were whole', async () => {
    await using app = await runApp();
    app.stub.sandboxes.get('sb1')?.files.set('/big', Buffer.alloc(1_000_000));
    app.stub.failAfterBytes = 100_000;
    await expect(send(app, `${FILES}?path=/big`)).rejects.toThrow(/aborted|ECONNRESET|socket hang up/);
    app.stub.failAfterBytes = 0;
    expect((await send(app, `${FILES}?path=/big`)).json).toMatchObject({ code: 'file_operation_failed' });
  });

  test.each([
    { what: 'grows', announced: 100_000, status: 200 },
    { what: 'shrinks', announced: 300_000, status: undefined },
  ])('a file that $what while it is read', async ({ announced, status }) => {
    await using app = await runApp();
    // What stat says is older than what is read.
    class Changing extends Uint8Array {
      override get length() {
        return announced;
      }
    }
    const bytes = new Changing(200_000);
    app.stub.sandboxes.get('sb1')?.files.set('/log', bytes);
    bytes.subarray = (start, end) => Buffer.alloc(Math.max(0, Math.min(end ?? 0, 200_000) - (start ?? 0)));
    const pending = send(app, `${FILES}?path=/log`);
    if (status === undefined) await expect(pending).rejects.toThrow();
    else expect(await pending).toMatchObject({ status, headers: { 'content-length': String(announced) } });
  });

  test('an upload that breaks off changes nothing', async () => {
    await using app = await runApp();
    const path = `${FILES}?path=/half`;
    const request = httpRequest({ port: app.port, path, method: 'PUT', headers: { 'Content-Length': '1000' } });
    request.on('error', () => {});
    request.write('half of it');
    await until(() => app.stub.calls.at(-1)?.call === 'write');
    request.destroy();
    await until(() => app.stub.aborted.includes('upload'));
    expect(app.stub.sandboxes.get('sb1')?.files.has('/half')).toBe(false);
  });

  test('append, make, rename, set the mode', async () => {
    await using app = await runApp();
    await put(app, '/a', 'one ');
    const appended = await send(app, `${FILES}/append?path=/a&mode=600`, { method: 'POST', body: 'two' });
    expect([appended.status, appended.headers.etag]).toEqual([204, '"1-6955b900-0-7"']);
    expect(app.stub.calls.at(-1)).toEqual({ call: 'append', args: ['/a', { mode: 0o600 }] });
    expect((await send(app, `${FILES}?path=/a`)).text).toBe('one two');

    const cases = [
      { route: 'mkdir', body: { path: '/d' }, call: 'makeDir', args: ['/d', {}] },
      {
        route: 'mkdir',
        body: { path: '/d/e', mode: '700', parents: false },
        call: 'makeDir',
        args: ['/d/e', { mode: 0o700, parents: false }],
      },
      { route: 'rename', body: { from: '/a', to: '/b' }, call: 'rename', args: ['/a', '/b', {}] },
      {
        route: 'rename',
        body: { from: '/b', to: '/c', replace: false },
        call: 'rename',
        args: ['/b', '/c', { replace: false }],
      },
      { route: 'chmod', body: { path: '/c', mode: '0755' }, call: 'chmod', args: ['/c', 0o755, {}] },
    ];
    for (const { route, body, call, args } of cases) {
      const answer = await post(app, `${FILES}/${route}`, body);
      expect([answer.status, answer.text]).toEqual([204, '']);
      expect(app.stub.calls.at(-1)).toEqual({ call, args });
    }
    expect((await send(app, `${FILES}/stat?path=/c&follow=true`)).status).toBe(200);
    expect(app.stub.calls.at(-1)).toEqual({ call: 'stat', args: ['/c', { followLinks: true }] });
  });
});

describe('a watch', () => {
  test('tells when it begins, then what changes', async () => {
    await using app = await runApp();
    const client = new AbortController();
    const path = `${app.url}${FILES}/watch?path=/workspace&recursive=true`;
    const answer = await fetch(path, { signal: client.signal });
    expect(answer.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    const reader = answer.body?.getReader();
    const read = async () => Buffer.from((await reader?.read())?.value ?? []).toString();
    expect(await read()).toBe('id: 1\nevent: ready\ndata: {"type":"ready","seq":1}\n\n');
    expect(app.stub.calls.at(-1)).toEqual({ call: 'watch', args: ['/workspace', { recursive: true }] });
    await until(() => app.stub.changes.listenerCount('change') === 1);
    app.stub.changes.emit('change', { type: 'rename', path: '/workspace/a', to: '/workspace/b', isDirectory: false });
    const renamed = '"type":"rename","path":"/workspace/a","is_directory":false,"to":"/workspace/b","seq":2';
    expect(await read()).toBe(`id: 2\nevent: rename\ndata: {${renamed}}\n\n`);
    client.abort();
    await until(() => app.stub.aborted.includes('watch'));
  });

  test('comes as NDJSON where that is asked for, and ends with the service', async () => {
    await using app = await runApp();
    const pending = send(app, `${FILES}/watch?path=/workspace`, { headers: { Accept: 'application/x-ndjson' } });
    await until(() => app.stub.changes.listenerCount('change') === 1);
    app.stub.changes.emit('change', { type: 'create', path: '/workspace/d', isDirectory: true });
    await new Promise((resolve) => setTimeout(resolve, 50));
    app.calls.drain();
    expect((await pending).text.split('\n').slice(0, 2)).toEqual([
      '{"type":"ready","seq":1}',
      '{"type":"create","path":"/workspace/d","is_directory":true,"seq":2}',
    ]);
    expect((await pending).text).toMatch(/"type":"error".*"manager_closed".*\n$/);
  });

  test('of what is not there is a plain 404', async () => {
    await using app = await runApp();
    expect((await send(app, `${FILES}/watch?path=/nope`)).json['code']).toBe('file_not_found');
  });
});
