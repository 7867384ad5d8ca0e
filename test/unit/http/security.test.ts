import { describe, expect, test } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { runApp, send, TOKEN } from './harness.js';

describe('with a token', () => {
  const env = { SANDBOX_TOKEN: TOKEN };

  test.each([`Bearer ${TOKEN}`, `bearer ${TOKEN}`, `Bearer  ${TOKEN} `])('"%s" is accepted', async (authorization) => {
    await using app = await runApp({ env });
    expect((await send(app, '/api/sandboxes', { headers: { Authorization: authorization } })).status).toBe(200);
  });

  test.each([TOKEN, `Basic ${TOKEN}`, 'Bearer', 'Bearer ', `Bearer ${TOKEN} x`, `Bearer ${TOKEN.toUpperCase()}`])(
    '"%s" is refused',
    async (authorization) => {
      await using app = await runApp({ env });
      expect((await send(app, '/api/sandboxes', { headers: { Authorization: authorization } })).status).toBe(401);
    },
  );

  test.each(['/healthz', '/health', '/readyz', '/docs', '/openapi.json', '/healthz/'])('%s is open', async (path) => {
    await using app = await runApp({ env });
    expect((await send(app, path)).status).toBe(200);
  });

  test.each(['/api/sandboxes', '/API/sandboxes', '//healthz', '/healthz/..%2Fapi', '/docs/../api/sandboxes'])(
    '%s is not',
    async (path) => {
      await using app = await runApp({ env });
      expect((await send(app, path)).status).toBe(401);
    },
  );

  test('any name and any origin may be used', async () => {
    await using app = await runApp({ env });
    const headers = { Authorization: `Bearer ${TOKEN}`, Host: 'box.example', Origin: 'https://other.example' };
    const answer = await send(app, '/api/sandboxes', { headers });
    expect(answer.status).toBe(200);
    expect(answer.headers['access-control-allow-origin']).toBeUndefined();
  });
});

describe('without a token', () => {
  test.each(['localhost', 'LOCALHOST:8888', '127.0.0.1', '127.0.0.5:1', '[::1]:8888', 'box.example', 'Box.example:80'])(
    'a request to "%s" is served',
    async (host) => {
      await using app = await runApp({ env: { SANDBOX_ALLOWED_HOSTS: 'box.example' } });
      expect((await send(app, '/api/sandboxes', { headers: { Host: host } })).status).toBe(200);
    },
  );

  test.each([
    'evil.example',
    'localhost.evil.example',
    '127.0.0.1.evil.example',
    'localhost@evil.example',
    '10.0.0.1',
    'evil.example:8888',
  ])('one to "%s" is not, not even for health or documentation', async (host) => {
    await using app = await runApp();
    for (const path of ['/api/sandboxes', '/healthz', '/docs', '/openapi.json']) {
      expect((await send(app, path, { headers: { Host: host } })).status).toBe(403);
    }
  });

  test('a page of its own may use it, one from another port may not', async () => {
    await using app = await runApp();
    const Host = 'localhost:8888';
    const own = await send(app, '/api/sandboxes', { headers: { Host, Origin: 'http://localhost:8888' } });
    expect(own.status).toBe(200);
    const other = await send(app, '/api/sandboxes', { headers: { Host, Origin: 'http://localhost:3000' } });
    expect(other.status).toBe(403);
  });
});

describe('/readyz', () => {
  test('says what the engine is', async () => {
    await using app = await runApp();
    const answer = await send(app, '/readyz');
    expect(answer.status).toBe(200);
    expect(answer.json).toMatchObject({
      status: 'ready',
      engine: { version: '20.10.24', api_version: '1.41', runtimes: ['runc', 'runsc'] },
      image: { name: 'sandyard-sandbox:latest', present: true },
      problems: [],
    });
  });

  test('says what is in the way: the image', async () => {
    await using app = await runApp();
    app.stub.imagePresent = false;
    const answer = await send(app, '/readyz');
    expect(answer.status).toBe(503);
    expect(answer.json).toMatchObject({
      status: 'not_ready',
      engine: { version: '20.10.24' },
      image: { present: false },
      problems: [{ code: 'image_not_found' }],
    });
  });

  test('says what is in the way: the engine; the service is alive all the same', async () => {
    await using app = await runApp();
    app.stub.engineFault = new SandyardError('engine_unavailable', 'No engine.', { hint: 'Start dockerd.' });
    const answer = await send(app, '/readyz');
    expect(answer.status).toBe(503);
    expect(answer.headers['retry-after']).toBe('5');
    expect(answer.json).toEqual({
      status: 'not_ready',
      engine: null,
      image: { name: 'sandyard-sandbox:latest', present: null },
      disk: null,
      problems: [{ code: 'engine_unavailable', message: 'No engine.', hint: 'Start dockerd.' }],
    });
    for (const path of ['/healthz', '/health']) {
      expect((await send(app, path)).json).toEqual({ status: 'ok' });
    }
  });
});
