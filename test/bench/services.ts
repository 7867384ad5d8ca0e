import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Agent, request, type IncomingMessage } from 'node:http';
import { fileURLToPath } from 'node:url';

/** A service in a process of its own, and a client that keeps its connections to it. */
export class ServiceProcess implements AsyncDisposable {
  readonly #child;
  readonly #agent = new Agent({ keepAlive: true });
  readonly #url: string;

  private constructor(child: ReturnType<typeof spawn>, url: string) {
    this.#child = child;
    this.#url = url;
  }

  /** Runs a file with Node.js until it has printed its address. */
  static async start(
    file: URL,
    { args = [], env = {} }: { args?: string[]; env?: Record<string, string> },
  ): Promise<ServiceProcess> {
    const loader = file.pathname.endsWith('.ts') ? ['--import', 'tsx'] : [];
    const child = spawn(process.execPath, [...loader, fileURLToPath(file), ...args], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    let url: string | undefined;
    const output = child.stdout.setEncoding('utf8');
    for await (const chunk of output.iterator({ destroyOnReturn: false })) {
      said += String(chunk);
      url = /http:\/\/127\.0\.0\.1:\d+/.exec(said)?.[0];
      if (url !== undefined) break;
    }
    // Only now that the loop has let go of it: a log that nobody reads stops the service in the end
    output.resume();
    if (url !== undefined) return new ServiceProcess(child, url);
    throw new Error(`The service ended before it listened: ${said}`);
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Sends a request and reads the answer to its end. Throws unless the status is of the kind 2xx. */
  async send(method: string, path: string, body?: object): Promise<unknown> {
    const outgoing = request(`${this.#url}${path}`, {
      method,
      agent: this.#agent,
      headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
    });
    outgoing.end(body === undefined ? undefined : JSON.stringify(body));
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    let text = '';
    for await (const chunk of response.setEncoding('utf8')) text += String(chunk);
    if (response.statusCode === undefined || response.statusCode >= 300) {
      throw new Error(`${method} ${path}: ${response.statusCode} ${text}`);
    }
    return text === '' ? undefined : JSON.parse(text);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#agent.destroy();
    if (this.#child.exitCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    await exited;
  }
}
