import { describe, expect, it, vi } from 'vitest';

import { SandyardError, type ErrorDetails } from '../../../src/errors.js';
import { toProblem } from '../../../src/http/problem.js';
import { JSON_TYPE, runApp, send } from './harness.js';

describe('a sandbox that there is no place for', () => {
  it.each<[code: 'over_capacity' | 'host_exhausted', status: number, details: ErrorDetails]>([
    ['over_capacity', 429, { ceiling: 'queue', limit: 64, used: 64, wanted: 1, queue_length: 64, retry_after_s: 17 }],
    ['host_exhausted', 503, { resource: 'disk', free: 1, needed: 2, retry_after_s: 10 }],
  ])('is refused with %s, what there is, and when to come again', async (code, status, details) => {
    await using app = await runApp();
    vi.spyOn(app.stub.manager, 'create').mockRejectedValue(new SandyardError(code, 'No.', { details }));
    const answer = await send(app, '/api/sandboxes', { method: 'POST', headers: JSON_TYPE, body: '{}' });
    expect(answer).toMatchObject({ status, json: { code, retryable: true, ...details } });
    expect(answer.headers['retry-after']).toBe(String(details['retry_after_s']));
  });
});

it('tells no details but those that are described', () => {
  const error = new SandyardError('over_capacity', 'No.', { details: { limit: 1, sizeBytes: 2, queue: 3 } });
  const problem = toProblem(error, { instance: '/', requestId: 'r' });
  expect(problem).toMatchObject({ limit: 1 });
  expect(problem).not.toHaveProperty('sizeBytes');
  expect(problem).not.toHaveProperty('queue');
});
