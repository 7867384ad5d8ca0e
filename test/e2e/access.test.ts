import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { SandboxManager } from '../../src/index.js';
import { CliRunner } from '../fixtures/cli.js';
import { dockerClient, eventually, newOwner, removeAll } from '../fixtures/run.js';
import { call, startServiceProcess, type ServiceProcess } from '../fixtures/service.js';

const owner = newOwner();
const API = '/api/sandboxes';

/* Owners of one service on a real engine, over restarts of the service; the single cases are unit tests. */

describe('owners of one service', () => {
  let state: string;
  let env: Record<string, string>;
  let service: ServiceProcess;

  beforeAll(async () => {
    state = await mkdtemp(join(tmpdir(), 'sandyard-access-'));
    env = {
      SANDBOX_OWNER: owner,
      SANDBOX_TOKEN_SECRET: 'a-secret-of-more-than-32-bytes-as-it-must-be',
      SANDBOX_STATE_DIR: state,
      SANDBOX_MEMORY: '128m',
      SANDBOX_POOL_SIZE: '1',
    };
    service = await startServiceProcess(env);
  });

  afterAll(async () => {
    await service?.[Symbol.asyncDispose]();
    await removeAll(new SandboxManager({ owner, reaper: false }));
    // Warm ones of a service that was killed end by themselves, but in ten minutes.
    const docker = dockerClient();
    const left = await docker.listContainers({ all: true, filters: { label: [`sandyard.owner=${owner}`] } });
    await Promise.all(left.map(({ Id }) => docker.getContainer(Id).remove({ force: true, v: true })));
    await rm(state, { recursive: true, force: true });
  });

  async function issue(...args: string[]): Promise<string> {
    const child = new CliRunner(owner).start(['token', ...args], env);
    let printed = '';
    for await (const chunk of child.stdout ?? []) printed += String(chunk);
    return printed.trim();
  }

  const as = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });
  const idsOf = async (token: string) =>
    ((await call(service, 'GET', { path: API, ...as(token) })).body.sandboxes as { id: string }[]).map(({ id }) => id);

  it('have each their own sandboxes, new ones and warm ones, also after the service was killed', async () => {
    const scopes = ['read', 'exec', 'lifecycle'].flatMap((scope) => ['--scope', scope]);
    const [alice, bob] = [await issue('--owner', 'alice', ...scopes), await issue('--owner', 'bob', ...scopes)];
    const admin = await issue('--owner', 'operator', '--scope', 'admin');
    await eventually(async () => {
      const { body } = await call(service, 'GET', { path: '/metrics', ...as(admin) });
      return String(body).includes('sandbox_pool_sandboxes{state="ready"} 1') ? true : undefined;
    });
    const made: string[] = [];
    for (const json of [{}, { labels: { cold: 'one' } }]) {
      const { status, body } = await call(service, 'POST', { path: API, json, ...as(alice) });
      expect([status, body.tenant]).toEqual([201, 'alice']);
      made.push(String(body.id));
    }
    const labels = await Promise.all(made.map(async (id) => labelsOf(id)));
    expect(labels.map((found) => found['sandyard.tenant'])).toEqual([undefined, 'alice']);

    await service.stop('SIGKILL');
    service = await startServiceProcess({ ...env, SANDBOX_POOL_SIZE: '0' });
    expect((await idsOf(alice)).toSorted()).toEqual(made.toSorted());
    expect(await idsOf(bob)).toEqual([]);
    for (const id of made) {
      const run = { path: `${API}/${id}/execute`, json: { command: ['echo', 'hers'] } };
      expect((await call(service, 'POST', { ...run, ...as(bob) })).status).toBe(404);
      expect((await call(service, 'DELETE', { path: `${API}/${id}`, ...as(bob) })).status).toBe(404);
      expect((await call(service, 'POST', { ...run, ...as(alice) })).body.stdout).toBe('hers\n');
    }
    expect(await idsOf(admin)).toEqual(expect.arrayContaining(made));
  });

  it('use a token for a single use once, also after the service was killed', async () => {
    const alice = await issue('--owner', 'alice', '--scope', 'read', '--scope', 'lifecycle');
    const { body } = await call(service, 'POST', { path: API, json: {}, ...as(alice) });
    const once = await issue('--owner', 'alice', '--scope', 'exec', '--sandbox', String(body.id), '--single-use');
    const run = { path: `${API}/${body.id}/execute`, json: { command: 'echo $((6 * 7))' }, ...as(once) };
    expect((await call(service, 'POST', run)).body.stdout).toBe('42\n');
    await service.stop('SIGKILL');
    service = await startServiceProcess(env);
    const replayed = await call(service, 'POST', run);
    expect([replayed.status, replayed.headers.get('www-authenticate')]).toEqual([
      401,
      expect.stringContaining('invalid_token'),
    ]);
    const line = await eventually(async () =>
      service
        .output()
        .split('\n')
        .find((text) => text.includes('replay_refused')),
    );
    expect(JSON.parse(line)).toMatchObject({ audit: true, event: 'security', sandbox: body.id });
    expect(service.output()).not.toContain(once);
  });

  async function labelsOf(id: string): Promise<Record<string, string>> {
    const containers = await dockerClient().listContainers({
      all: true,
      filters: { label: [`sandyard.owner=${owner}`, `sandyard.id=${id}`] },
    });
    return containers[0]?.Labels ?? {};
  }
});
