import { describe, expect, it } from 'vitest';

import { newOwner } from '../fixtures/run.js';
import { call, startServiceProcess } from '../fixtures/service.js';

describe('npm start on a machine that is set up', () => {
  it('serves, and says what with', async () => {
    await using service = await startServiceProcess(
      { SANDBOX_OWNER: newOwner(), SANDBOX_NO_SUCH_SETTING: '1' },
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
