import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { WebSocket, type ClientOptions } from 'ws';

import { until, type RunningApp } from './harness.js';

type Message = Readonly<Record<string, unknown>>;

/** A client of a terminal that remembers all that it is told. */
export class TerminalClient implements AsyncDisposable {
  readonly webSocket: WebSocket;
  readonly messages: Message[] = [];
  output = '';
  code: number | undefined;
  reason = '';

  private constructor(webSocket: WebSocket) {
    this.webSocket = webSocket;
    webSocket.on('message', (data: Buffer, isBinary) => {
      if (isBinary) this.output += data.toString();
      else this.messages.push(JSON.parse(data.toString()) as Message);
    });
    webSocket.on('close', (code, reason) => {
      this.code = code;
      this.reason = reason.toString();
    });
    webSocket.on('error', () => {});
  }

  static async open(app: RunningApp, query = '', options: ClientOptions = {}): Promise<TerminalClient> {
    const client = new TerminalClient(new WebSocket(terminalUrl(app, query), options));
    await once(client.webSocket, 'open');
    await client.told('ready');
    return client;
  }

  /** The message of that type, the last one that came. */
  async told(type: string): Promise<Message> {
    await until(() => this.messages.some((message) => message['type'] === type));
    return this.messages.findLast((message) => message['type'] === type) ?? {};
  }

  send(data: string | Uint8Array | object): void {
    if (typeof data === 'string') this.webSocket.send(Buffer.from(data));
    else this.webSocket.send(data instanceof Uint8Array ? data : JSON.stringify(data));
  }

  async closed(): Promise<number | undefined> {
    await until(() => this.code !== undefined);
    return this.code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.webSocket.terminate();
    await until(() => this.webSocket.readyState === WebSocket.CLOSED);
  }
}

/** What a handshake that is refused is answered. */
export async function refusal(
  app: RunningApp,
  query = '',
  { sandbox = 'sb1', ...options }: ClientOptions & { sandbox?: string } = {},
): Promise<{ status: number; json: Message }> {
  const webSocket = new WebSocket(terminalUrl(app, query, sandbox), options);
  webSocket.on('error', () => {});
  const [, response] = (await once(webSocket, 'unexpected-response')) as [unknown, IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return { status: response.statusCode ?? 0, json: JSON.parse(Buffer.concat(chunks).toString()) as Message };
}

function terminalUrl(app: RunningApp, query = '', sandbox = 'sb1'): string {
  return `ws://127.0.0.1:${app.port}/api/sandboxes/${sandbox}/terminal${query}`;
}
