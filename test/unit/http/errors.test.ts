import { describe, expect, test } from 'vitest';

import { ERROR_CODES, type ErrorCode } from '../../../src/errors.js';
import { JSON_TYPE, runApp, send, TOKEN, type AppSettings, type RequestOptions, type RunningApp } from './harness.js';

interface Row {
  readonly what: string;
  readonly path: string;
  readonly request?: RequestOptions;
  readonly settings?: AppSettings;
  readonly before?: (app: RunningApp) => Promise<unknown> | void;
  readonly status: number;
  readonly code: ErrorCode;
  readonly hint: RegExp;
  readonly headers?: Record<string, string | RegExp>;
  /** The path of the first of `errors`. */
  readonly at?: readonly string[];
  readonly detail?: RegExp;
}

const SB = '/api/sandboxes/sb1';
const EXECUTE = `${SB}/execute`;
const json = (body: unknown, method = 'POST'): RequestOptions => ({
  method,
  headers: JSON_TYPE,
  body: JSON.stringify(body),
});
const raw = (body: string): RequestOptions => ({ method: 'POST', headers: JSON_TYPE, body });
const stopped = (app: RunningApp) => send(app, `${SB}/stop`, { method: 'POST' });
const command = ['node', '--version'];
const SECURED: AppSettings = { env: { SANDBOX_TOKEN: TOKEN } };

const INVALID = { status: 422, code: 'validation_failed', hint: /"errors"/ } as const;
const MALFORMED = { status: 400, code: 'invalid_request' } as const;
const UNKNOWN = { status: 404, code: 'sandbox_not_found', hint: /list/i } as const;
const NO_PROCESS = { status: 404, code: 'process_not_found', hint: /list/i } as const;
const STOPPED = { status: 409, code: 'wrong_state', hint: /start/i, before: stopped } as const;

const ROWS: readonly Row[] = [
  // Ids and states
  { what: 'unknown id', path: '/api/sandboxes/nope', ...UNKNOWN },
  { what: 'an id that can not be one', path: '/api/sandboxes/..%2Fetc', ...UNKNOWN },
  { what: 'unknown id: execute', path: '/api/sandboxes/nope/execute', request: json({ command }), ...UNKNOWN },
  { what: 'unknown id: stop', path: '/api/sandboxes/nope/stop', request: { method: 'POST' }, ...UNKNOWN },
  { what: 'unknown id: delete', path: '/api/sandboxes/nope', request: { method: 'DELETE' }, ...UNKNOWN },
  { what: 'unknown id: read a file', path: '/api/sandboxes/nope/files?path=/a', ...UNKNOWN },
  { what: 'stopped sandbox: execute', path: EXECUTE, request: json({ command }), ...STOPPED },
  { what: 'stopped sandbox: read a file', path: `${SB}/files?path=/a`, ...STOPPED },

  // Bodies
  { what: 'bad JSON', path: EXECUTE, request: raw('{"command":'), ...MALFORMED, hint: /one JSON object/ },
  { what: 'JSON that is no object', path: EXECUTE, request: raw('"ls"'), ...MALFORMED, hint: /one JSON object/ },
  { what: 'bad percent-encoding', path: '/api/sandboxes/%zz', ...MALFORMED, hint: /Percent-encode/ },
  {
    what: '10 MB body',
    path: EXECUTE,
    request: json({ command: ['x'.repeat(10_000_000)] }),
    status: 413,
    code: 'payload_too_large',
    hint: /PUT/,
  },
  {
    what: '10 MB body of unknown length',
    path: EXECUTE,
    request: {
      method: 'POST',
      headers: { ...JSON_TYPE, 'Transfer-Encoding': 'chunked' },
      body: JSON.stringify({ command: ['x'.repeat(10_000_000)] }),
    },
    status: 413,
    code: 'payload_too_large',
    hint: /PUT/,
  },
  {
    what: 'not JSON',
    path: EXECUTE,
    request: { method: 'POST', headers: { 'Content-Type': 'text/plain' }, body: '{"command":["ls"]}' },
    status: 415,
    code: 'unsupported_media_type',
    hint: /Content-Type: application\/json/,
  },
  {
    what: 'a body of no type',
    path: EXECUTE,
    request: { method: 'POST', body: '{"command":["ls"]}' },
    status: 415,
    code: 'unsupported_media_type',
    hint: /Content-Type: application\/json/,
  },
  {
    what: 'an encoding that is not known',
    path: EXECUTE,
    request: { ...json({ command }), headers: { ...JSON_TYPE, 'Content-Encoding': 'zstd' } },
    status: 415,
    code: 'unsupported_media_type',
    hint: /gzip/,
  },

  // Fields
  { what: 'no command', path: EXECUTE, request: json({}), ...INVALID, at: ['command'] },
  { what: 'no body', path: EXECUTE, request: { method: 'POST' }, ...INVALID, at: ['command'] },
  { what: 'an empty command', path: EXECUTE, request: json({ command: [] }), ...INVALID, at: ['command'] },
  { what: 'wrong type', path: EXECUTE, request: json({ command: 5 }), ...INVALID, at: ['command'] },
  { what: 'unknown field', path: EXECUTE, request: json({ command, cwd: '/' }), ...INVALID, detail: /"cwd"/ },
  { what: 'timeout of 0', path: EXECUTE, request: json({ command, timeout: 0 }), ...INVALID, at: ['timeout'] },
  {
    what: 'bad variable',
    path: EXECUTE,
    request: json({ command, env: { 'a b': '' } }),
    ...INVALID,
    at: ['env', 'a b'],
  },
  {
    what: 'memory in words',
    path: '/api/sandboxes',
    request: json({ memory_limit: 'lots' }),
    ...INVALID,
    at: ['memory_limit'],
  },
  { what: 'cpu in words', path: '/api/sandboxes', request: json({ cpu_limit: 'two' }), ...INVALID, at: ['cpu_limit'] },
  {
    what: 'camelCase',
    path: '/api/sandboxes',
    request: json({ memoryLimit: '1g' }),
    ...INVALID,
    detail: /"memoryLimit"/,
  },
  { what: 'root with a group', path: EXECUTE, request: json({ command, user: '0:1000' }), ...INVALID, at: ['user'] },
  { what: 'unknown state', path: '/api/sandboxes?state=dead', ...INVALID, at: ['state'] },
  { what: 'unknown query', path: '/api/sandboxes?sate=running', ...INVALID, detail: /"sate"/ },
  { what: 'limit of 0', path: '/api/sandboxes?limit=0', ...INVALID, at: ['limit'] },
  {
    what: 'a bound on a stream',
    path: EXECUTE,
    request: { ...json({ command, max_output_bytes: 1 }), headers: { ...JSON_TYPE, Accept: 'application/x-ndjson' } },
    status: 422,
    code: 'validation_failed',
    hint: /application\/json/,
    at: ['max_output_bytes'],
  },

  // What the core says
  {
    what: 'limit above the ceiling',
    path: '/api/sandboxes',
    request: json({ memory_limit: '16g' }),
    status: 422,
    code: 'limit_exceeded',
    hint: /8g/,
    at: ['memory_limit'],
  },
  {
    what: 'image missing',
    path: '/api/sandboxes',
    request: json({ image: 'missing:latest' }),
    status: 404,
    code: 'image_not_found',
    hint: /build/i,
  },
  {
    what: 'command not found',
    path: EXECUTE,
    request: json({ command: ['no-such-program'] }),
    status: 422,
    code: 'command_not_found',
    hint: /PATH/,
  },
  {
    what: 'command not found, streamed',
    path: EXECUTE,
    request: { ...json({ command: ['no-such-program'] }), headers: { ...JSON_TYPE, Accept: 'text/event-stream' } },
    status: 422,
    code: 'command_not_found',
    hint: /PATH/,
  },

  // Files
  { what: 'no path', path: `${SB}/files`, ...INVALID, at: ['path'] },
  { what: 'path outside', path: `${SB}/files?path=/workspace/../../etc/passwd`, ...INVALID, at: ['path'] },
  { what: 'relative path', path: `${SB}/files?path=etc/passwd`, ...INVALID, at: ['path'] },
  { what: 'NUL in the path', path: `${SB}/files?path=/a%00b`, ...INVALID, at: ['path'] },
  { what: 'a path twice', path: `${SB}/files?path=/a&path=/b`, ...INVALID, at: ['path'] },
  { what: 'depth of 0', path: `${SB}/files/list?path=/&depth=0`, ...INVALID, at: ['depth'] },
  {
    what: 'mode in decimal',
    path: `${SB}/files?path=/a&mode=999`,
    request: { method: 'PUT', body: 'x' },
    ...INVALID,
    at: ['mode'],
  },
  {
    what: 'mode in decimal in a body',
    path: `${SB}/files/chmod`,
    request: json({ path: '/a', mode: '9' }),
    ...INVALID,
    at: ['mode'],
  },
  { what: 'rename to nowhere', path: `${SB}/files/rename`, request: json({ from: '/a' }), ...INVALID, at: ['to'] },
  { what: 'no such file', path: `${SB}/files?path=/nope`, status: 404, code: 'file_not_found', hint: /list/i },
  {
    what: 'directory as file',
    path: `${SB}/files?path=/workspace`,
    status: 409,
    code: 'is_a_directory',
    hint: /archive/,
  },
  {
    what: 'upload above the limit',
    path: `${SB}/files?path=/a`,
    request: { method: 'PUT', body: 'x'.repeat(200) },
    settings: { config: { maxUploadBytes: 100 } },
    status: 413,
    code: 'payload_too_large',
    hint: /SANDBOX_MAX_UPLOAD/,
  },
  {
    what: 'upload above the limit, of unknown length',
    path: `${SB}/files?path=/a`,
    request: { method: 'PUT', headers: { 'Transfer-Encoding': 'chunked' }, body: 'x'.repeat(5_000_000) },
    settings: { config: { maxUploadBytes: 100 } },
    status: 413,
    code: 'payload_too_large',
    hint: /SANDBOX_MAX_UPLOAD/,
  },
  {
    what: 'a compressed upload',
    path: `${SB}/files?path=/a`,
    request: { method: 'PUT', headers: { 'Content-Encoding': 'gzip' }, body: 'x' },
    status: 415,
    code: 'unsupported_media_type',
    hint: /Content-Encoding/,
  },
  {
    what: 'an archive that is a zip',
    path: `${SB}/archive?path=/a`,
    request: { method: 'PUT', headers: { 'Content-Type': 'application/zip' }, body: 'x' },
    status: 415,
    code: 'unsupported_media_type',
    hint: /application\/x-tar/,
  },
  {
    what: 'a hostile archive',
    path: `${SB}/archive?path=/a`,
    request: { method: 'PUT', headers: { 'Content-Type': 'application/x-tar' }, body: '../x' },
    status: 422,
    code: 'unsafe_archive',
    hint: /leave/i,
  },

  // Processes
  { what: 'unknown process', path: `${SB}/processes/nope`, ...NO_PROCESS },
  { what: 'an id that can not be one', path: `${SB}/processes/a%2Fb`, ...NO_PROCESS },
  { what: 'unknown process: output', path: `${SB}/processes/nope/output`, ...NO_PROCESS },
  { what: 'unknown process: wait', path: `${SB}/processes/nope/wait`, ...NO_PROCESS },
  {
    what: 'unknown process: stdin',
    path: `${SB}/processes/nope/stdin`,
    request: { method: 'POST', body: 'x' },
    ...NO_PROCESS,
  },
  { what: 'unknown process: kill', path: `${SB}/processes/nope/kill`, request: { method: 'POST' }, ...NO_PROCESS },
  { what: 'unknown process: delete', path: `${SB}/processes/nope`, request: { method: 'DELETE' }, ...NO_PROCESS },
  {
    what: 'unknown process: resize',
    path: `${SB}/processes/nope/resize`,
    request: json({ rows: 1, columns: 1 }),
    ...NO_PROCESS,
  },
  {
    what: 'resize without a terminal',
    path: `${SB}/processes/p1/resize`,
    request: json({ rows: 1, columns: 1 }),
    before: (app) => send(app, `${SB}/processes`, json({ command })),
    status: 409,
    code: 'wrong_state',
    hint: /"pty"/,
  },
  {
    what: 'unknown signal',
    path: `${SB}/processes/p1/signal`,
    request: json({ signal: 'KILL' }),
    ...INVALID,
    at: ['signal'],
  },
  { what: 'endless grace', path: `${SB}/processes/p1/kill`, request: json({ grace: 601 }), ...INVALID, at: ['grace'] },
  { what: 'bad process id', path: `${SB}/processes`, request: json({ command, id: 'a b' }), ...INVALID, at: ['id'] },
  { what: 'bad exec id', path: EXECUTE, request: json({ command, exec_id: '' }), ...INVALID, at: ['exec_id'] },
  {
    what: 'much first input',
    path: `${SB}/processes`,
    request: json({ command, stdin: 'é'.repeat(65_537) }),
    ...INVALID,
    at: ['stdin'],
  },
  {
    what: 'no terminal of that size',
    path: `${SB}/processes`,
    request: json({ command, pty: { rows: 0 } }),
    ...INVALID,
    at: ['pty'],
  },
  { what: 'output before the beginning', path: `${SB}/processes/p1/output?after=-1`, ...INVALID, at: ['after'] },
  {
    what: 'process of a stopped sandbox',
    path: `${SB}/processes`,
    request: json({ command }),
    ...STOPPED,
  },

  // Routes
  { what: 'unknown route', path: '/api/nope', status: 404, code: 'route_not_found', hint: /openapi/ },
  { what: 'the root', path: '/', status: 404, code: 'route_not_found', hint: /docs/ },
  {
    what: 'wrong method',
    path: SB,
    request: { method: 'PATCH' },
    status: 405,
    code: 'method_not_allowed',
    hint: /DELETE/,
    headers: { allow: 'GET, HEAD, DELETE' },
  },
  {
    what: 'wrong method on execute',
    path: EXECUTE,
    status: 405,
    code: 'method_not_allowed',
    hint: /POST/,
    headers: { allow: 'POST' },
  },
  {
    what: 'wrong method on health',
    path: '/healthz',
    request: { method: 'POST' },
    status: 405,
    code: 'method_not_allowed',
    hint: /GET/,
    headers: { allow: 'GET, HEAD' },
  },

  // Who asks
  {
    what: 'no token',
    path: '/api/sandboxes',
    settings: SECURED,
    status: 401,
    code: 'unauthorized',
    hint: /Bearer/,
    headers: { 'www-authenticate': /^Bearer/ },
  },
  {
    what: 'incorrect token',
    path: '/api/sandboxes',
    settings: SECURED,
    request: { headers: { Authorization: `Bearer ${TOKEN}x` } },
    status: 401,
    code: 'unauthorized',
    hint: /Bearer/,
    headers: { 'www-authenticate': /invalid_token/ },
  },
  {
    what: 'no token on an unknown route',
    path: '/nope',
    settings: SECURED,
    status: 401,
    code: 'unauthorized',
    hint: /Bearer/,
  },
  {
    what: 'a re-bound name',
    path: '/api/sandboxes',
    request: { headers: { Host: 'evil.example:8888' } },
    status: 403,
    code: 'forbidden',
    hint: /SANDBOX_ALLOWED_HOSTS/,
  },
  {
    what: 'a page of another site',
    path: `${SB}/stop`,
    request: { method: 'POST', headers: { Origin: 'https://evil.example' } },
    status: 403,
    code: 'forbidden',
    hint: /SANDBOX_TOKEN/,
  },
  {
    what: 'a page of no site',
    path: `${SB}/stop`,
    request: { method: 'POST', headers: { Origin: 'null' } },
    status: 403,
    code: 'forbidden',
    hint: /SANDBOX_TOKEN/,
  },
  {
    what: 'a name that is not allowed although there is a token',
    path: '/api/sandboxes',
    settings: { env: { SANDBOX_TOKEN: TOKEN, SANDBOX_ALLOWED_HOSTS: 'box.example' } },
    request: { headers: { Host: 'evil.example', Authorization: `Bearer ${TOKEN}` } },
    status: 403,
    code: 'forbidden',
    hint: /SANDBOX_ALLOWED_HOSTS/,
  },
];

describe('wrong input', () => {
  test.each(ROWS)('$what: $status $code', async (row) => {
    await using app = await runApp(row.settings);
    await row.before?.(app);
    const answer = await send(app, row.path, row.request);

    expect(answer.json).toMatchObject({ status: row.status, code: row.code, instance: row.path.split('?')[0] });
    expect(answer.status).toBe(row.status);
    expect(answer.headers['content-type']).toMatch(/^application\/problem\+json/);
    expect(answer.json['hint']).toMatch(row.hint);
    expect(answer.json['type']).toBe(`urn:sandyard:error:${row.code}`);
    expect(answer.json['request_id']).toBe(answer.headers['x-request-id']);
    expect(answer.json['retryable']).toBe(false);
    expect(answer.json['title']).toBeTruthy();
    if (row.detail) expect(answer.json['detail']).toMatch(row.detail);
    if (row.at) expect((answer.json['errors'] as { path: string[] }[])[0]?.path).toEqual(row.at);
    for (const [name, value] of Object.entries(row.headers ?? {})) {
      expect(answer.headers[name]).toEqual(value instanceof RegExp ? expect.stringMatching(value) : value);
    }
    expect(answer.text).not.toMatch(/\bat .*:\d+:\d+|node_modules|\/src\//);
  });
});

describe('faults that are ours', () => {
  test('what nobody foresaw is "internal" and says nothing of itself', async () => {
    await using app = await runApp();
    app.stub.fault = new Error('connect ECONNREFUSED secret-host');
    const answer = await send(app, SB);
    expect(answer.status).toBe(500);
    expect(answer.json).toMatchObject({ code: 'internal', detail: 'The service failed unexpectedly.' });
    expect(answer.text).not.toContain('secret-host');
  });

  test('no engine: 503 with Retry-After', async () => {
    const { SandyardError } = await import('../../../src/errors.js');
    await using app = await runApp();
    app.stub.fault = new SandyardError('engine_unavailable', 'No engine.', { hint: 'Start dockerd.' });
    const answer = await send(app, SB);
    expect(answer.status).toBe(503);
    expect(answer.headers['retry-after']).toBe('5');
    expect(answer.json).toMatchObject({ code: 'engine_unavailable', retryable: true, hint: 'Start dockerd.' });
  });

  test.each(ERROR_CODES)('%s keeps its status', async (code) => {
    const { SandyardError, describeError } = await import('../../../src/errors.js');
    await using app = await runApp();
    app.stub.fault = new SandyardError(code, 'It failed.');
    const answer = await send(app, SB);
    expect(answer.status).toBe(describeError(code).status);
    expect(answer.json['code']).toBe(code);
  });
});
