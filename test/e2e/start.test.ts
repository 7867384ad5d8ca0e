import { describe, expect, it } from 'vitest';

import { newOwner, run } from '../fixtures/run.js';
import { call, ROOT, startServiceProcess } from '../fixtures/service.js';

describe('npm start on a machine that is set up', () => {
  it('serves, and says what with', async () => {
    await using service = await startServiceProcess(
      { SANDBOX_OWNER: newOwner(), SANDBOX_TOKEN: '', SANDBOX_TOKEN_FILE: '', SANDBOX_NO_SUCH_SETTING: '1' },
      { command: ['scripts/start.mjs'] },
    );
    expect((await call(service, 'GET', { path: '/readyz' })).status).toBe(200);
    const printed = service.output();
    for (const row of [/^ {2}token +none/m, /^ {2}image +\S+/m, /^ {2}engine +Docker \d+.*runtimes: .*runc/m]) {
      expect(printed).toMatch(row);
    }
    expect(printed).toContain('SANDBOX_NO_SUCH_SETTING is not a variable');
    expect(await service.stop('SIGTERM')).toBe(0);
  });
});

describe('npm start where it can not go on', () => {
  it.each([
    [{ DOCKER_HOST: 'unix:///tmp/sandyard-no-such.sock' }, 'there is no such socket', 'Start the engine that it names'],
    [{ DOCKER_HOST: 'tcp://127.0.0.1:1' }, 'nothing listens there', 'Start the engine that it names'],
    [{ DOCKER_HOST: 'ssh://user@host' }, 'ssh is not supported', 'ssh -nNT -L'],
    [{ SANDBOX_IMAGE: 'sandyard-no-such:1' }, 'does not have SANDBOX_IMAGE=sandyard-no-such:1', 'Build or load'],
    [{ SANDBOX_IMAGE: '', BASE_IMAGE: 'sandyard-no-such:1' }, 'sandyard-no-such:1 can', 'Correct BASE_IMAGE'],
    [{ SANDBOX_MEMORY: 'much' }, 'SANDBOX_MEMORY is "much"', 'See .env.example'],
  ])('%j: says why, and what to do', async (env, why, hint) => {
    const started = run(process.execPath, ['scripts/start.mjs'], {
      cwd: ROOT,
      env: { ...process.env, PORT: '0', ...env },
    });
    const failure = await started.then(
      () => undefined,
      (error: unknown) => error as { code: number; stderr: string },
    );
    expect(failure?.code).toBe(1);
    expect(failure?.stderr).toContain(why);
    expect(failure?.stderr).toContain(hint);
    expect(failure?.stderr).not.toMatch(/^ +at /m);
  });
});
