import assert from 'node:assert/strict';
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';

import { anySignal } from '../../src/any-signal.js';
import { isSandyardError, type Sandbox } from '../../src/index.js';
import type { Ground } from './ground.js';

type Use = (ground: Ground, sandbox: Sandbox) => Promise<void>;

const LENGTH = 200_000;
let copies = 0;

/** What is done with a sandbox, in the library's words and in those of REST. Each looks at what came of it. */
export const USES: Readonly<Record<string, Use>> = {
  async command({ signal }, sandbox) {
    const { outcome, stdout } = await sandbox.exec('echo hello', { signal });
    assert.deepEqual({ outcome, stdout }, { outcome: 'exited', stdout: 'hello\n' });
  },

  async 'command with input'({ signal }, sandbox) {
    const { stdout } = await sandbox.exec(['wc', '-c'], { stdin: 'x'.repeat(LENGTH), signal });
    assert.equal(stdout, `${LENGTH}\n`);
  },

  async 'command given up'({ random, signal }, sandbox) {
    const giveUp = anySignal([signal, AbortSignal.timeout(random.between(1, 50))]);
    await assert.rejects(sandbox.exec(['sleep', '30'], { signal: giveUp }), (error) =>
      isSandyardError(error, 'aborted'),
    );
  },

  async 'command over its time'({ signal }, sandbox) {
    const { outcome } = await sandbox.exec(['sleep', '30'], { timeoutMs: 30, signal });
    assert.equal(outcome, 'timed_out');
  },

  async process({ signal }, sandbox) {
    const command = `head -c ${LENGTH} /dev/zero | tr '\\0' x`;
    await using running = await sandbox.spawn(command, { signal });
    let bytes = 0;
    for await (const { data } of running.output()) bytes += data.length;
    assert.equal(bytes, LENGTH);
    assert.equal((await running.wait({ signal })).outcome, 'exited');
  },

  async 'process joined again'({ signal }, sandbox) {
    const { id, detach } = await spawnDetached(sandbox, signal);
    detach();
    await using joined = await sandbox.processes.get(id);
    let printed = '';
    for await (const { data } of joined.output({ after: 0 })) printed += Buffer.from(data).toString();
    assert.equal(printed, 'begun\ndone\n');
    assert.equal((await joined.wait({ signal })).exitCode, 0);
  },

  async terminal({ signal }, sandbox) {
    await using shell = await sandbox.spawn(['sh'], { pty: true, signal });
    shell.resize({ rows: 50, columns: 132 });
    await shell.write('exit 3\n');
    assert.equal((await shell.wait({ signal })).exitCode, 3);
  },

  async files({ signal }, { files }) {
    const path = `/workspace/${crypto.randomUUID()}`;
    const content = Buffer.alloc(10_000, path);
    await files.write(path, content, { signal });
    assert.deepEqual(Buffer.from(await files.read(path, { signal })), content);
    assert.equal((await files.stat(path, { signal })).sizeBytes, content.length);
    await files.remove(path, { signal });
    assert.ok((await files.list('/workspace', { signal })).every((file) => file.path !== path));
  },

  async watch({ signal }, { files }) {
    const path = `/workspace/${crypto.randomUUID()}`;
    await files.makeDir(path, { signal });
    const events = await files.watch(path, { signal });
    await files.write(`${path}/new`, 'new', { signal });
    assert.equal((await events.next()).done, false);
    await events.return();
    await files.remove(path, { recursive: true, signal });
  },

  async copies({ directory, signal }, sandbox) {
    const out = join(directory, `out${copies++}`);
    const path = `/workspace/${crypto.randomUUID()}`;
    await sandbox.copyTo(join(directory, 'in'), path, { signal });
    const { entries } = await sandbox.copyFrom(path, out, { signal });
    assert.ok(entries > 0);
    await rm(out, { recursive: true });
    await sandbox.files.remove(path, { recursive: true, signal });
  },

  async facts({ manager, signal }, sandbox) {
    await sandbox.stats({ signal });
    await sandbox.renew({ ttlMs: 60_000, signal });
    assert.equal((await sandbox.inspect({ signal })).state, 'running');
    await manager.list({ limit: 10 }, { signal });
  },

  async 'events, for a moment'({ manager, random, signal }) {
    const leave = anySignal([signal, AbortSignal.timeout(random.between(1, 50))]);
    for await (const event of manager.events({ signal: leave })) assert.ok(event.sandboxId.length > 0);
  },

  async 'REST: command'({ url }, { id }) {
    const { outcome, stdout } = (await rest(url, 'POST', `/api/sandboxes/${id}/execute`, {
      body: JSON.stringify({ command: 'echo hello' }),
    })) as { outcome: string; stdout: string };
    assert.deepEqual({ outcome, stdout }, { outcome: 'exited', stdout: 'hello\n' });
  },

  async 'REST: command hung up on'({ url, random }, { id }) {
    const signal = AbortSignal.timeout(random.between(5, 50));
    const body = JSON.stringify({ command: 'sleep 30' });
    await assert.rejects(rest(url, 'POST', `/api/sandboxes/${id}/execute`, { body, signal }), { name: 'TimeoutError' });
  },

  async 'REST: files'({ url }, { id }) {
    const path = `/api/sandboxes/${id}/files?path=/workspace/${crypto.randomUUID()}`;
    const headers = { 'content-type': 'application/octet-stream' };
    await rest(url, 'PUT', path, { body: 'x'.repeat(LENGTH), headers });
    assert.equal(String(await rest(url, 'GET', path)).length, LENGTH);
    await rest(url, 'DELETE', path);
  },

  async 'REST: events, hung up on'({ url, random }) {
    const signal = AbortSignal.timeout(random.between(5, 50));
    await assert.rejects(rest(url, 'GET', '/api/events', { signal }), { name: 'TimeoutError' });
  },

  async 'REST: terminal'({ url }, { id }) {
    const socket = new WebSocket(`${url.replace('http', 'ws')}/api/sandboxes/${id}/terminal`);
    const closed = once(socket, 'close') as Promise<[code: number]>;
    await once(socket, 'open');
    socket.send(Buffer.from('exit 3\n'));
    assert.equal((await closed)[0], 1000);
  },

  async 'REST: nothing there'({ url }) {
    const response = await fetch(`${url}/api/sandboxes/nothere`);
    assert.equal(response.status, 404);
    await response.body?.cancel();
  },
};

async function spawnDetached(sandbox: Sandbox, signal: AbortSignal) {
  const running = await sandbox.spawn('echo begun; sleep 0.05; echo done', { signal });
  await sleep(10);
  return { id: running.id, detach: () => running.detach() };
}

/** The answer, parsed where it is JSON. */
export async function rest(url: string, method: string, path: string, init: RequestInit = {}): Promise<unknown> {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${url}${path}`, { method, headers, ...init });
  const text = await response.text();
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
  return response.headers.get('content-type')?.startsWith('application/json') === true ? JSON.parse(text) : text;
}
