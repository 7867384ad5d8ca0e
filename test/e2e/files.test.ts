import { createHash, randomBytes } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { SandboxManager } from '../../src/index.js';
import { EventReader } from '../fixtures/event-reader.js';
import { eventually, newOwner, removeAll } from '../fixtures/run.js';
import { call, startServiceProcess, type ServiceProcess } from '../fixtures/service.js';

describe('files of the real service', () => {
  const owner = newOwner();
  let service: ServiceProcess;
  let path: string;
  beforeAll(async () => {
    service = await startServiceProcess({ SANDBOX_OWNER: owner });
    const { body } = await call(service, 'POST', { path: '/api/sandboxes', json: {} });
    path = `/api/sandboxes/${body.id}`;
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await removeAll(new SandboxManager({ owner, reaper: false }));
  });

  const filePath = (name: string) => `${path}/files?path=${encodeURIComponent(name)}`;
  const run = async (command: string) =>
    (await call(service, 'POST', { path: `${path}/execute`, json: { command } })).body;

  it('sends a part of a file, as RFC 9110 has it', async () => {
    const content = randomBytes(200_000);
    await call(service, 'PUT', { path: filePath('/workspace/parts'), body: content });
    const get = async (headers: Record<string, string>, method = 'GET') => {
      const response = await fetch(`${service.url}${filePath('/workspace/parts')}`, { method, headers });
      return { response, bytes: Buffer.from(await response.arrayBuffer()) };
    };
    const whole = await get({});
    expect(whole.bytes.equals(content)).toBe(true);
    const etag = whole.response.headers.get('etag') ?? '';
    for (const [range, from, to] of [
      ['bytes=0-0', 0, 1],
      ['bytes=100000-149999', 100_000, 150_000],
      ['bytes=199999-', 199_999, 200_000],
      ['bytes=-7', 199_993, 200_000],
      ['bytes=150000-999999999', 150_000, 200_000],
    ] as const) {
      const { response, bytes } = await get({ range });
      expect(response.status).toBe(206);
      expect(response.headers.get('content-range')).toBe(`bytes ${from}-${to - 1}/200000`);
      expect(bytes.equals(content.subarray(from, to))).toBe(true);
    }
    const beyond = await get({ range: 'bytes=200000-' });
    expect(beyond.response.status).toBe(416);
    expect(beyond.response.headers.get('content-range')).toBe('bytes */200000');
    expect((await get({ range: 'bytes=0-9', 'if-range': etag })).response.status).toBe(206);
    expect((await get({ range: 'bytes=0-9', 'if-range': '"another"' })).bytes.length).toBe(200_000);
    const head = await get({}, 'HEAD');
    expect(head.response.headers.get('content-length')).toBe('200000');
    expect(head.response.headers.get('etag')).toBe(etag);
  });

  it('replaces only the version that the client has, and does not send what it has', async () => {
    const file = { path: filePath('/workspace/versions') };
    const made = await call(service, 'PUT', { ...file, body: 'one', headers: { 'if-none-match': '*' } });
    expect(made.status).toBe(204);
    const first = made.headers.get('etag') ?? '';
    const again = await call(service, 'PUT', { ...file, body: 'x', headers: { 'if-none-match': '*' } });
    expect(again).toMatchObject({ status: 412, body: { code: 'precondition_failed' } });
    const replaced = await call(service, 'PUT', { ...file, body: 'two', headers: { 'if-match': first } });
    expect(replaced.status).toBe(204);
    expect((await call(service, 'PUT', { ...file, body: 'x', headers: { 'if-match': first } })).status).toBe(412);
    const second = replaced.headers.get('etag') ?? '';
    expect((await call(service, 'GET', { ...file, headers: { 'if-none-match': second } })).status).toBe(304);
    expect((await call(service, 'GET', { ...file, headers: { 'if-none-match': first } })).body).toBe('two');
    await run('echo three > versions');
    expect((await call(service, 'GET', { ...file, headers: { 'if-match': second } })).status).toBe(412);
    expect((await call(service, 'GET', { ...file, headers: { 'if-none-match': second } })).body).toBe('three\n');
  });

  it('appends, makes directories, moves, changes modes and removes', async () => {
    const files = `${path}/files`;
    const appended = { path: `${files}/append?path=/workspace/log`, headers: { 'content-type': 'text/plain' } };
    for (const line of ['one\n', 'two\n'])
      expect((await call(service, 'POST', { ...appended, body: line })).status).toBe(204);
    const steps: [string, object, number][] = [
      ['mkdir', { path: '/workspace/made/deep' }, 204],
      ['mkdir', { path: '/workspace/made', parents: false }, 409],
      ['rename', { from: '/workspace/log', to: '/workspace/made/deep/log' }, 204],
      ['rename', { from: '/workspace/made/deep/log', to: '/workspace/versions', replace: false }, 409],
      ['chmod', { path: '/workspace/made/deep/log', mode: '0600' }, 204],
    ];
    for (const [verb, json, status] of steps) {
      expect((await call(service, 'POST', { path: `${files}/${verb}`, json })).status, verb).toBe(status);
    }
    const stat = await call(service, 'GET', { path: `${files}/stat?path=/workspace/made/deep/log` });
    expect(stat.body).toMatchObject({ type: 'file', mode: '0600', size_bytes: 8 });
    expect((await call(service, 'DELETE', { path: filePath('/workspace/made') })).status).toBe(409);
    expect((await call(service, 'DELETE', { path: `${filePath('/workspace/made')}&recursive=true` })).status).toBe(204);
  });

  it('tells of changes while they happen', async () => {
    const url = `${service.url}${path}/files/watch?path=/workspace&recursive=true`;
    await using reader = await EventReader.open(url, { headers: { accept: 'text/event-stream' } });
    expect(reader.response.headers.get('content-type')).toContain('text/event-stream');
    expect(await reader.next()).toMatchObject({ type: 'ready' });
    await run('mkdir -p new/deep && echo x > new/deep/file');
    const file = '/workspace/new/deep/file';
    const made = await reader.until((event) => event['path'] === file);
    expect(made.at(-1)).toMatchObject({ type: 'create', is_directory: false });
    await run('mv new/deep/file new/moved');
    const moved = await reader.until(({ type }) => type === 'rename');
    expect(moved.at(-1)).toMatchObject({ path: file, to: '/workspace/new/moved' });
    expect(Number(reader.lastId)).toBe(1 + made.length + moved.length);
  });

  it('leaves nothing of an upload that breaks off', async () => {
    const file = '/workspace/upload/file';
    await call(service, 'PUT', { path: filePath(file), body: 'old' });
    const upload = httpRequest(`${service.url}${filePath(file)}`, {
      method: 'PUT',
      headers: { 'content-length': 50_000_000 },
    });
    upload.on('error', () => {});
    upload.write(Buffer.alloc(5_000_000, 'new'));
    const begun = async () => ((await run('ls -A upload')).stdout.split('\n').length > 2 ? true : undefined);
    await eventually(begun, { what: 'the beginning of the upload' });
    upload.destroy();
    const gone = async () => ((await run('ls -A upload')).stdout === 'file\n' ? true : undefined);
    await eventually(gone, { timeoutMs: 10_000, what: 'the end of the upload' });
    expect((await call(service, 'GET', { path: filePath(file) })).body).toBe('old');
  });

  it('moves sixteen files in and out at once, each its own', async () => {
    await Promise.all(
      Array.from({ length: 16 }, async (_, index) => {
        const content = randomBytes(2_000_000 + index);
        const name = `/workspace/at once/${index}\n😀`;
        expect((await call(service, 'PUT', { path: filePath(name), body: content })).status).toBe(204);
        const back = await (await fetch(`${service.url}${filePath(name)}`)).arrayBuffer();
        expect(digest(Buffer.from(back))).toBe(digest(content));
      }),
    );
  });

  it('refuses an archive that leads out, and what is none', async () => {
    await run('mkdir tar && echo x > tar/file && tar -cf evil.tar -P --transform "s,^,../../tmp/," tar/file');
    const archive = await fetch(`${service.url}${filePath('/workspace/evil.tar')}`);
    const headers = { 'content-type': 'application/x-tar' };
    const target = `${path}/archive?path=/workspace/unpacked/deep`;
    const evil = new Uint8Array(await archive.arrayBuffer());
    const refused = await call(service, 'PUT', { path: target, body: evil, headers });
    expect(refused).toMatchObject({ status: 422, body: { code: 'unsafe_archive' } });
    expect((await run('ls -d /tmp/tar /workspace/tmp 2>/dev/null')).stdout).toBe('');
    const none = await call(service, 'PUT', { path: target, body: new Uint8Array(randomBytes(2048)), headers });
    expect(none).toMatchObject({ status: 400, body: { code: 'invalid_request' } });
  });
});

function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
