import { expect, test, vi } from 'vitest';

import { toRepeat } from '../../../src/http/idempotency.js';
import { createLog } from '../../../src/log.js';
import { post, runApp, send, type RunningApp } from './harness.js';

const VALUE = 'ghp_RealValue';
const network = { egress: { allow: ['api.test'] } };
const PATH = '/api/sandboxes/sb1/secrets';

/** Gives every sandbox these secrets. */
function withSecrets(app: RunningApp) {
  const secrets = { list: vi.fn(), set: vi.fn(), remove: vi.fn() };
  secrets.list.mockResolvedValue({ KEY: { hosts: ['api.test'], interceptTls: true } });
  vi.spyOn(app.stub, 'get').mockResolvedValue({ secrets } as never);
  return secrets;
}

test('a sandbox can be made with secrets, and its description has where they go', async () => {
  await using app = await runApp();
  const secrets = {
    KEY: { value: VALUE, hosts: ['API.test'], intercept_tls: true },
    PLAIN: { value: VALUE, hosts: ['api.test:80'] },
  };
  const answer = await post(app, '/api/sandboxes', { network, secrets });
  expect(answer.status).toBe(201);
  expect(app.stub.calls.at(-1)).toMatchObject({
    call: 'create',
    args: [
      {
        secrets: {
          KEY: { value: VALUE, hosts: ['api.test'], interceptTls: true },
          PLAIN: { value: VALUE, hosts: ['api.test:80'] },
        },
      },
    ],
  });
  expect(answer.json['secrets']).toEqual({
    KEY: { hosts: ['api.test'], intercept_tls: true },
    PLAIN: { hosts: ['api.test:80'], intercept_tls: false },
  });
  expect(answer.text).not.toContain(VALUE);
});

test.each([
  [{ KEY: { value: `${VALUE}\n`, hosts: ['api.test'] } }],
  [{ KEY: { value: VALUE, hosts: ['*'] } }],
  [{ KEY: { value: VALUE, hosts: ['api.test'], other: 1 } }],
  [{ KEY: VALUE }],
  [VALUE],
])('not with %j, and what is answered has no value', async (secrets) => {
  let logged = '';
  const log = createLog({ level: 'trace' }, { write: (line) => void (logged += line) });
  await using app = await runApp({ log });
  const answer = await post(app, '/api/sandboxes', { network, secrets });
  expect(answer.status).toBe(422);
  expect(answer.text).not.toContain(VALUE);
  expect(logged).toContain('/api/sandboxes');
  expect(logged).not.toContain(VALUE);
});

test('they are listed, set and removed', async () => {
  await using app = await runApp();
  const secrets = withSecrets(app);
  expect(await send(app, PATH)).toMatchObject({
    status: 200,
    json: { secrets: { KEY: { hosts: ['api.test'], intercept_tls: true } } },
  });
  const headers = { 'content-type': 'application/json' };
  const body = JSON.stringify({ name: 'KEY', value: VALUE });
  expect(await send(app, PATH, { method: 'PUT', headers, body })).toMatchObject({ status: 204 });
  expect(secrets.set).toHaveBeenCalledWith('KEY', expect.objectContaining({ value: VALUE }));
  expect(await send(app, `${PATH}?name=KEY`, { method: 'DELETE' })).toMatchObject({ status: 204 });
  expect(secrets.remove).toHaveBeenCalledWith('KEY', expect.anything());
  expect(await send(app, PATH, { method: 'DELETE' })).toMatchObject({ status: 422 });
  const nameless = JSON.stringify({ value: VALUE });
  expect(await send(app, PATH, { method: 'PUT', headers, body: nameless })).toMatchObject({ status: 422 });
});

test('what is kept of a request that may be repeated tells nobody what is in it who has not its key', () => {
  const content = { secrets: { KEY: { value: VALUE } } };
  const [one, same, other] = ['a', 'a', 'b'].map((key) => toRepeat(key, { place: ['/api/sandboxes'], content }));
  expect(same).toEqual(one);
  expect(other?.content).not.toBe(one?.content);
});
