import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { SandboxManager } from '../../src/index.js';
import { freePort } from '../fixtures/free-port.js';
import { ensureProgram } from '../fixtures/images.js';
import { eventually, newOwner, removeAll } from '../fixtures/run.js';
import { call, ROOT, startServiceProcess, type ServiceProcess } from '../fixtures/service.js';

const TOKEN = 'a-token-of-the-test';
const headers = { authorization: `Bearer ${TOKEN}` };
const owner = newOwner();

let service: ServiceProcess;
let sandbox: string;

beforeAll(async () => {
  await ensureProgram('promtool', 'prometheus');
  service = await startServiceProcess({ SANDBOX_OWNER: owner, SANDBOX_TOKEN: TOKEN });
  const created = await call(service, 'POST', { path: '/api/sandboxes', json: {}, headers });
  sandbox = `/api/sandboxes/${created.body.id}`;
  await call(service, 'POST', { path: `${sandbox}/execute`, json: { command: ['true'] }, headers });
  await call(service, 'GET', { path: '/api/sandboxes/gone', headers });
});

afterAll(async () => {
  await service?.[Symbol.asyncDispose]();
  await removeAll(new SandboxManager({ owner, reaper: false }));
});

describe('/metrics of a service that has worked', () => {
  it('has what is documented, and promtool finds no fault in it', async () => {
    const { status, body } = await call(service, 'GET', { path: '/metrics', headers });
    expect(status).toBe(200);
    for (const name of [
      'sandbox_executions_total',
      'sandbox_execution_duration_seconds',
      'sandbox_memory_usage_bytes',
      'sandbox_cpu_usage_percent',
      'sandbox_active_sessions',
      'sandbox_errors_total',
    ]) {
      expect(body).toContain(`# TYPE ${name} `);
    }
    expect(body).toMatch(/^sandbox_active_sessions 1$/m);
    expect(body).toMatch(/^sandbox_errors_total\{code="sandbox_not_found"\} 1$/m);
    expect(body).toMatch(
      /^sandbox_http_requests_total\{route="\/api\/sandboxes\/\{id\}\/execute",.*status="2xx"\} 1$/m,
    );
    expect(await checkMetrics(body as string)).toEqual({ code: 0, output: '' });
  });

  it('has no id of anything', async () => {
    const { body } = await call(service, 'GET', { path: '/metrics', headers });
    expect(body).not.toContain(sandbox.split('/').at(-1));
    expect(body).not.toContain(owner);
  });

  it('is for nobody without the token', async () => {
    const { status, body } = await call(service, 'GET', { path: '/metrics' });
    expect([status, body.code]).toEqual([401, 'unauthorized']);
  });
});

describe('Prometheus with deploy/prometheus.yml', () => {
  let folder: string;
  let prometheus: ChildProcess;
  let api: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sandyard-prometheus-'));
    const [config, tokenFile, port] = [join(folder, 'prometheus.yml'), join(folder, 'token'), await freePort()];
    await writeFile(tokenFile, `${TOKEN}\n`);
    // What differs outside of compose: names, and that a test doesn't wait.
    const text = (await readFile(join(ROOT, 'deploy/prometheus.yml'), 'utf8'))
      .replace('/run/secrets/token', tokenFile)
      .replace('sandyard:8888', new URL(service.url).host)
      .replace(/scrape_interval: .*/, 'scrape_interval: 1s')
      .replace(/scrape_timeout: .*/, 'scrape_timeout: 1s');
    await writeFile(config, text);
    api = `http://127.0.0.1:${port}/api/v1`;
    prometheus = spawn(
      'prometheus',
      [`--config.file=${config}`, `--storage.tsdb.path=${folder}/data`, `--web.listen-address=127.0.0.1:${port}`],
      { cwd: folder, stdio: 'ignore' },
    );
  });

  afterAll(async () => {
    if (prometheus?.exitCode === null && prometheus.kill('SIGTERM')) await once(prometheus, 'close');
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  });

  it('reaches the service by its token, and can be asked for what it found', async () => {
    const targets = await eventually(() => query('/targets', ({ activeTargets }) => activeTargets), {
      what: 'a target that was scraped',
    });
    expect(targets).toMatchObject([{ health: 'up', labels: { job: 'sandyard' }, lastError: '' }]);
    const found = await eventually(() => query('/query?query=sandbox_active_sessions', ({ result }) => result));
    expect(found).toMatchObject([{ value: [expect.any(Number), '1'] }]);
  });

  /** What is picked of the answer; nothing while there is none, or the health of a target isn't known yet. */
  async function query(path: string, pick: (data: Record<string, object[]>) => object[] | undefined) {
    try {
      const { data } = (await (await fetch(`${api}${path}`)).json()) as { data: Record<string, object[]> };
      const found = pick(data) ?? [];
      return found.length > 0 && !JSON.stringify(found).includes('"health":"unknown"') ? found : undefined;
    } catch {
      return undefined; // it doesn't listen yet
    }
  }
});

async function checkMetrics(text: string): Promise<{ code: number | null; output: string }> {
  const child = spawn('promtool', ['check', 'metrics'], { stdio: ['pipe', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stdin.end(text);
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, output };
}
