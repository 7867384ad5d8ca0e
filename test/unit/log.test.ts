import { PassThrough, Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';

import { withContext } from '../../src/context.js';
import { SandyardError } from '../../src/errors.js';
import { createLog, openLogOutput, silentLog, type LogOptions } from '../../src/log.js';

function logToList(level: LogOptions['level'] = 'info') {
  const lines: string[] = [];
  const log = createLog({ level }, { write: (line) => lines.push(line) });
  return { log, lines, entries: () => lines.map((line) => JSON.parse(line) as Record<string, unknown>) };
}

describe('createLog', () => {
  it('writes one JSON line per entry from its level on', () => {
    const { log, lines, entries } = logToList();
    log.debug({}, 'below the level');
    log.info({ sandbox: 'abc' }, 'created');
    log.warn({ error: new SandyardError('out_of_disk', 'The disk is full.') }, 'failed');
    expect(lines.every((line) => line.endsWith('\n') && line.indexOf('\n') === line.length - 1)).toBe(true);
    expect(entries()).toMatchObject([
      { msg: 'created', service: 'sandyard', sandbox: 'abc', time: expect.stringMatching(/^\d{4}-.*Z$/) },
      { msg: 'failed', error: { code: 'out_of_disk', message: 'The disk is full.' } },
    ]);
  });

  it('adds the request that an entry belongs to', async () => {
    const { log, entries } = logToList();
    const context = { requestId: 'r1', traceId: 'a'.repeat(32), spanId: 'b'.repeat(16), actor: 'rest' };
    await withContext(context, async () => {
      await Promise.resolve();
      log.info({}, 'inside');
    });
    log.info({}, 'outside');
    const [inside, outside] = entries();
    expect(inside).toMatchObject({
      request_id: 'r1',
      trace_id: 'a'.repeat(32),
      span_id: 'b'.repeat(16),
      actor: 'rest',
    });
    expect(Object.keys(outside ?? {})).toEqual(['level', 'time', 'service', 'msg']);
  });

  it.each([
    { req: { headers: { authorization: 's3cret', cookie: 's3cret', 'Proxy-Authorization': 's3cret' } } },
    { res: { headers: { 'set-cookie': ['s3cret'] } } },
    { env: { ANY: 's3cret' } },
    { options: { create: [{ env: { ANY: 's3cret' } }] } },
    { secrets: { GITHUB_TOKEN: { value: 's3cret', hosts: ['api.github.com'] } } },
    { token: 's3cret', SANDBOX_TOKEN: 's3cret', apiToken: 's3cret' },
    { query: { ticket: 's3cret', token: 's3cret' } },
    { password: 's3cret', api_key: 's3cret', 'X-Api-Key': 's3cret' },
    { error: Object.assign(new Error('failed'), { options: { env: { ANY: 's3cret' } } }) },
    { err: Object.assign(new Error('failed'), { headers: { authorization: 's3cret' } }) },
    { a: { b: { c: { d: { e: { f: { g: { h: 's3cret' } } } } } } } },
  ])('blanks out what is a credential: %j', (fields) => {
    const { log, lines } = logToList();
    log.info(fields, 'request');
    expect(lines).toHaveLength(1);
    expect(lines[0]).not.toContain('s3cret');
    expect(lines[0]).toContain('[redacted]');
  });

  it('leaves what is none as it is', () => {
    const { log, entries } = logToList();
    const at = new Date(0);
    log.info({ idempotency_key: 'k1', environment_count: 2, tokens: 3, list: [{ a: null }], at }, 'x');
    expect(entries()[0]).toMatchObject({
      idempotency_key: 'k1',
      environment_count: 2,
      tokens: 3,
      list: [{ a: null }],
      at: at.toISOString(),
    });
  });

  it('gets by with what contains itself', () => {
    const { log, lines } = logToList();
    const fields: Record<string, unknown> = {};
    fields['self'] = fields;
    log.info(fields, 'x');
    expect(lines).toHaveLength(1);
  });
});

describe('the output of a log', () => {
  it('writes at once, and is flushed when all is read', async () => {
    const stream = new PassThrough();
    const output = openLogOutput(stream);
    output.write('one\n');
    output.write('two\n');
    await output.flush();
    expect(String(stream.read())).toBe('one\ntwo\n');
  });

  it('waits for nobody: what is not read is kept to a bound, and the end comes', async () => {
    let taken = 0;
    const stream = new Writable({ write: () => (taken += 1) });
    const output = openLogOutput(stream);
    const line = 'x'.repeat(1024 * 1024);
    for (let count = 0; count < 20; count += 1) output.write(line);
    expect(taken).toBe(1);
    expect(stream.writableLength).toBe(8 * line.length);
    const started = performance.now();
    await output.flush();
    expect(performance.now() - started).toBeLessThan(3000);
  });

  it('lives on when its reader is gone', async () => {
    const stream = new Writable({
      write: (_chunk, _encoding, done) => done(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' })),
    });
    const output = openLogOutput(stream);
    output.write('one\n');
    await new Promise(setImmediate);
    output.write('two\n');
    await output.flush();
  });
});

it('is silent where the library is given no log', () => {
  for (const level of ['debug', 'info', 'warn', 'error'] as const) expect(silentLog[level]({}, 'x')).toBeUndefined();
});
