import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';

import { World } from './harness.js';

const VALUE = 'ghp_RealValue';
const directory = mkdtempSync(join(tmpdir(), 'sandyard-secrets-'));
const file = join(directory, 'token');
writeFileSync(file, `${VALUE}-of-a-file\n`);
afterAll(() => rmSync(directory, { recursive: true }));

function world() {
  const made = new World();
  made.variables = { TOKEN: VALUE, EMPTY: '' };
  const secrets = { list: vi.fn(), set: vi.fn(), remove: vi.fn() };
  secrets.list.mockResolvedValue({ TOKEN: { hosts: ['api.test', 'b.test'], interceptTls: true } });
  vi.spyOn(made.stub, 'get').mockResolvedValue({ secrets } as never);
  return Object.assign(made, { secrets });
}

test('a sandbox is made with secrets from variables and files', async () => {
  const made = world();
  const flags = ['--egress', 'api.test', '--secret', 'TOKEN=api.test,b.test', '--secret', 'OTHER=b.test'];
  expect(await made.run('create', ...flags, '--secret-file', `OTHER=${file}`, '--intercept-tls')).toBe(0);
  expect(made.stub.calls.at(-1)).toMatchObject({
    args: [
      {
        secrets: {
          TOKEN: { value: VALUE, hosts: ['api.test', 'b.test'], interceptTls: true },
          OTHER: { value: `${VALUE}-of-a-file`, hosts: ['b.test'], interceptTls: true },
        },
      },
    ],
  });
  expect(made.out + made.err).not.toContain(VALUE);
});

test.each([
  [['--secret', 'UNSET=api.test'], 'UNSET'],
  [['--secret', 'EMPTY=api.test'], 'EMPTY'],
  [['--secret', 'api.test'], 'NAME=VALUE'],
  [['--secret-file', `TOKEN=${file}`], '--secret TOKEN='],
  [['--secret', 'TOKEN=api.test', '--secret-file', 'TOKEN=/none/such'], '/none/such'],
])('not with %j', async (flags, said) => {
  const made = world();
  expect(await made.run('create', '--egress', 'api.test', ...flags)).toBe(125);
  expect(made.err).toContain(said);
  expect(made.stub.calls).toEqual([]);
});

test('they are printed by where they go', async () => {
  const made = world();
  expect(await made.run('secrets', 'one')).toBe(0);
  expect(made.out).toMatch(/^NAME +HOSTS +OVER\nTOKEN +api\.test, b\.test +TLS, which is opened\n$/);
  expect(made.secrets.set).not.toHaveBeenCalled();
  expect(made.secrets.remove).not.toHaveBeenCalled();
});

test('one is given another value, and one is removed', async () => {
  const made = world();
  expect(await made.run('secrets', 'one', '--set', 'TOKEN')).toBe(0);
  expect(made.secrets.set).toHaveBeenLastCalledWith('TOKEN', expect.objectContaining({ value: VALUE }));
  expect(await made.run('secrets', 'one', '--set', 'TOKEN', '--file', file)).toBe(0);
  expect(made.secrets.set).toHaveBeenLastCalledWith('TOKEN', expect.objectContaining({ value: `${VALUE}-of-a-file` }));
  expect(await made.run('secrets', 'one', '--remove', 'TOKEN', '--json')).toBe(0);
  expect(made.secrets.remove).toHaveBeenCalledWith('TOKEN', expect.anything());
  expect(made.out).not.toContain(VALUE);
  expect(await made.run('secrets', 'one', '--set', 'UNSET')).toBe(125);
});
