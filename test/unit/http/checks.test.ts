import { describe, expect, test } from 'vitest';

import { SandyardError } from '../../../src/errors.js';
import { post, runApp, send } from './harness.js';

describe('/api/doctor', () => {
  test('tells of the engine and of the settings of the service', async () => {
    await using app = await runApp();
    const { status, json } = await send(app, '/api/doctor');
    expect(status).toBe(200);
    expect(json).toMatchObject({
      at: '2026-01-01T00:00:00.000Z',
      ok: true,
      checks: [
        { check: 'live restore', expected: 'on', found: 'off', severity: 'warn', fix: 'Set it.' },
        { check: 'service address', severity: 'ok', fix: null },
      ],
    });
  });

  test('fails only where it could not be found out', async () => {
    await using app = await runApp();
    app.stub.engineFault = new SandyardError('manager_closed', 'It is closed.');
    expect((await send(app, '/api/doctor')).status).toBe(503);
  });
});

describe('/api/sandboxes/{id}/attestation', () => {
  test('is 200 also where something has drifted', async () => {
    await using app = await runApp();
    const { status, json } = await send(app, '/api/sandboxes/sb1/attestation');
    expect(status).toBe(200);
    expect(json).toEqual({
      sandbox_id: 'sb1',
      at: '2026-01-01T00:00:00.000Z',
      runtime: 'runc',
      ok: false,
      drift: true,
      checks: [
        { check: 'Memory', expected: '1', found: '2', source: 'engine', status: 'drift', fix: 'Set it back.' },
        { check: 'seccomp', expected: '2', found: '2', source: 'inside', status: 'ok', fix: null },
      ],
    });
  });

  test('is 409 for one that does not run, and 404 for none', async () => {
    await using app = await runApp();
    await post(app, '/api/sandboxes/sb1/stop', {});
    expect((await send(app, '/api/sandboxes/sb1/attestation')).status).toBe(409);
    expect((await send(app, '/api/sandboxes/nope/attestation')).status).toBe(404);
  });
});
