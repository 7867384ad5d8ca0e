import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket, type ClientOptions } from 'ws';

import { SandboxManager } from '../../src/index.js';
import { eventually, newOwner, removeAll, sleep } from '../fixtures/run.js';
import { call, startServiceProcess, type ServiceProcess } from '../fixtures/service.js';

const TOKEN = 'a-token-of-the-test';
const AUTHORIZATION = { authorization: `Bearer ${TOKEN}` };
const MIB = 1024 * 1024;

describe('terminals of the real service', () => {
  const owner = newOwner();
  let service: ServiceProcess;
  let path: string;
  beforeAll(async () => {
    service = await startServiceProcess({ SANDBOX_OWNER: owner, SANDBOX_TOKEN: TOKEN });
    const { body } = await call(service, 'POST', { path: '/api/sandboxes', json: {}, headers: AUTHORIZATION });
    path = `/api/sandboxes/${body.id}`;
  });
  afterAll(async () => {
    await service[Symbol.asyncDispose]();
    await removeAll(new SandboxManager({ owner, reaper: false }));
  });

  const open = (query = '', options: ClientOptions = { headers: AUTHORIZATION }) =>
    TerminalClient.open(`${service.url.replace('http', 'ws')}${path}/terminal${query}`, options);
  const processes = async () =>
    (await call(service, 'GET', { path: `${path}/processes`, headers: AUTHORIZATION })).body.processes as {
      id: string;
      state: string;
    }[];
  const stateOf = async (id: unknown) => (await processes()).find((process) => process.id === id)?.state;

  it('is a shell with a size, that Ctrl-C interrupts', async () => {
    await using client = await open('?rows=30&columns=100');
    client.type('stty size; echo $TERM; tty\n');
    await client.shows(/30 100\s+xterm-256color\s+\/dev\/pts\/\d/);
    client.tell({ type: 'resize', rows: 50, columns: 132 });
    client.type('stty size\n');
    await client.shows(/50 132/);
    client.type('sleep 1000; echo interrupted: $?\n');
    await sleep(300);
    client.type('\u0003');
    client.type('echo code: $?\n');
    await client.shows(/code: 130/);
    client.type('exit 7\n');
    await client.closed();
    expect(client.messages.at(-1)).toMatchObject({ type: 'exit', exit_code: 7 });
    expect(client.code).toBe(1000);
  });

  it('can be joined again where it was left, and replays what is kept', async () => {
    const first = await open();
    const id = first.processId;
    first.type('echo marker-$((40 + 2)); sleep 1; echo later-$((1 + 1))\n');
    await first.shows(/marker-42/);
    await eventually(async () => first.last('seq'), { what: 'the number of the last piece' });
    first.webSocket.terminate();
    const seq = Number(first.last('seq')?.['seq']);
    await sleep(1200);
    await using on = await open(`?process=${id}&after=${seq}`);
    await on.shows(/later-2/);
    expect(on.output).not.toContain('marker-42');
    await using replayed = await open(`?process=${id}`);
    await replayed.shows(/marker-42[^]*later-2/);
  });

  it('shows several viewers the same', async () => {
    await using first = await open();
    const id = first.processId;
    await using second = await open(`?process=${id}`);
    await using third = await open(`?process=${id}`);
    first.type('echo from-$((1))-first\n');
    await first.shows(/from-1-first/);
    second.type('echo from-$((2))-second; exit\n');
    await Promise.all([first, second, third].map((client) => client.closed()));
    expect(second.output).toBe(first.output);
    expect(third.output).toBe(first.output);
    expect(first.output).toMatch(/from-1-first[^]*from-2-second/);
  });

  it('opens to a ticket once, and to nobody else', async () => {
    const issued = await call(service, 'POST', { path: `${path}/terminal/ticket`, headers: AUTHORIZATION });
    expect(issued.status).toBe(201);
    const query = `?ticket=${issued.body.ticket}`;
    {
      await using client = await open(query, { origin: 'https://ui.example' });
      client.type('echo in-$((6 * 7))\n');
      await client.shows(/in-42/);
    }
    expect(await refusal(service, `${path}/terminal${query}`)).toBe(401);
    expect(await refusal(service, `${path}/terminal`)).toBe(401);
    expect(service.output()).not.toContain(issued.body.ticket);
  });

  it('says by its close code why it ends', async () => {
    await using malformed = await open();
    malformed.tell({ type: 'no such message' });
    await malformed.closed();
    expect(malformed.code).toBe(4400);
    await using large = await open();
    large.webSocket.send(Buffer.alloc(70_000));
    await large.closed();
    expect(large.code).toBe(1009);
    expect(await refusal(service, `${path}/terminal?process=nosuch`, AUTHORIZATION)).toBe(404);
    expect(await refusal(service, '/api/sandboxes/nosuch/terminal', AUTHORIZATION)).toBe(404);
    const { body } = await call(service, 'POST', { path: '/api/sandboxes', json: {}, headers: AUTHORIZATION });
    const url = `${service.url.replace('http', 'ws')}/api/sandboxes/${body.id}/terminal`;
    await using destroyed = await TerminalClient.open(url, { headers: AUTHORIZATION });
    await call(service, 'DELETE', { path: `/api/sandboxes/${body.id}`, headers: AUTHORIZATION });
    await destroyed.closed();
    expect([1000, 4404, 4409]).toContain(destroyed.code);
  });

  it('lets a page of another site not in, where there is no token', async () => {
    await using open = await startServiceProcess({ SANDBOX_OWNER: owner });
    expect(await refusal(open, `${path}/terminal`, {}, { origin: 'https://evil.example' })).toBe(403);
    expect(await refusal(open, `${path}/terminal`, { host: 'evil.example' })).toBe(403);
    const url = `${open.url.replace('http', 'ws')}${path}/terminal`;
    await using client = await TerminalClient.open(url, { origin: open.url });
    client.type('exit\n');
    await client.closed();
    expect(client.code).toBe(1000);
  });

  it('stays small under a flood that nobody reads', async () => {
    const before = await residentBytes(service);
    await using client = await open('?command=yes');
    client.webSocket.pause();
    let most = before;
    for (let index = 0; index < 15; index += 1) {
      await sleep(100);
      most = Math.max(most, await residentBytes(service));
    }
    expect(most - before).toBeLessThan(100 * MIB);
    expect(await stateOf(client.processId)).toBe('running');
    client.webSocket.resume();
    client.tell({ type: 'signal', signal: 'SIGKILL' });
    await client.closed();
    expect(client.code).toBe(1000);
    expect(client.last('exit')).toMatchObject({ outcome: 'killed' });
    expect(client.output.length).toBeGreaterThan(MIB);
  });

  it('ends the process with the connection only where that is wanted', async () => {
    const staying = await open('?command=sleep&command=1000');
    const going = await open('?command=sleep&command=1000&kill_on_close=true');
    const [stays, goes] = [staying.processId, going.processId];
    staying.webSocket.close();
    going.webSocket.close();
    await eventually(async () => ((await stateOf(goes)) === 'exited' ? true : undefined), { what: 'its end' });
    expect(await stateOf(stays)).toBe('running');
  });
});

class TerminalClient implements AsyncDisposable {
  readonly webSocket: WebSocket;
  readonly messages: Readonly<Record<string, unknown>>[] = [];
  output = '';
  code: number | undefined;

  private constructor(webSocket: WebSocket) {
    this.webSocket = webSocket;
    webSocket.on('message', (data: Buffer, isBinary) => {
      if (isBinary) this.output += data.toString('latin1');
      else this.messages.push(JSON.parse(data.toString()) as Record<string, unknown>);
    });
    webSocket.on('close', (code) => (this.code = code));
  }

  static async open(url: string, options: ClientOptions): Promise<TerminalClient> {
    const client = new TerminalClient(new WebSocket(url, options));
    await once(client.webSocket, 'open');
    await eventually(async () => client.last('ready'), { everyMs: 10, what: 'the first message of a terminal' });
    return client;
  }

  get processId(): string {
    return String(this.last('ready')?.['process_id']);
  }

  last(type: string) {
    return this.messages.findLast((message) => message['type'] === type);
  }

  type(keys: string): void {
    this.webSocket.send(Buffer.from(keys));
  }

  tell(message: object): void {
    this.webSocket.send(JSON.stringify(message));
  }

  async shows(pattern: RegExp): Promise<void> {
    const shown = async () => (pattern.test(this.output) ? true : undefined);
    await eventually(shown, { everyMs: 20, timeoutMs: 15_000, what: `${pattern} in a terminal` }).catch((error) => {
      throw new Error(`${(error as Error).message}:\n${this.output.slice(-1000)}`);
    });
  }

  async closed(): Promise<void> {
    await eventually(async () => this.code, { everyMs: 20, timeoutMs: 15_000, what: 'the end of a terminal' });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.webSocket.terminate();
  }
}

/** The status with which a handshake is refused. */
async function refusal(
  { url }: { url: string },
  path: string,
  headers: Record<string, string> = {},
  options: ClientOptions = {},
): Promise<number | undefined> {
  const webSocket = new WebSocket(`${url.replace('http', 'ws')}${path}`, { ...options, headers });
  webSocket.on('error', () => {});
  const [, response] = (await once(webSocket, 'unexpected-response')) as [unknown, { statusCode?: number }];
  webSocket.terminate();
  return response.statusCode;
}

async function residentBytes({ pid }: ServiceProcess): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}
