import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';

import { silentLog } from '../../src/log.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

const SCRIPT = `
import { createLog } from './src/log.ts';
import { SandyardError } from './src/errors.ts';
const log = createLog({ level: 'info' });
log.debug({}, 'below the level');
log.info({ sandbox: 'abc' }, 'created');
log.info({ req: { headers: { authorization: 'Bearer s3cret', cookie: 's3cret', accept: 'json' } } }, 'request');
log.info({ env: { A: 's3cret' }, options: { env: { A: 's3cret' } } }, 'environment');
log.warn({ error: new SandyardError('out_of_disk', 'The disk is full.') }, 'failed');
`;

/** It writes to standard output itself, past the test runner, so it is run as a program. */
async function lines(): Promise<Record<string, unknown>[]> {
  const args = ['--import', 'tsx', '--input-type=module', '--eval', SCRIPT];
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: ROOT });
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

describe('createLog', () => {
  let entries: Record<string, unknown>[];
  beforeAll(async () => {
    entries = await lines();
  });

  it('writes one JSON line per entry from its level on', () => {
    expect(entries.map(({ msg }) => msg)).toEqual(['created', 'request', 'environment', 'failed']);
    expect(entries[0]).toMatchObject({
      service: 'sandyard',
      sandbox: 'abc',
      time: expect.stringMatching(/^\d{4}-.*Z$/),
    });
  });

  it('blanks out credentials and environments', () => {
    expect(JSON.stringify(entries)).not.toContain('s3cret');
    expect(entries[1]).toMatchObject({ req: { headers: { authorization: '[redacted]', accept: 'json' } } });
  });

  it('says what an error was', () => {
    expect(entries[3]).toMatchObject({ error: { code: 'out_of_disk', message: 'The disk is full.' } });
  });
});

it('is silent where the library is given no log', () => {
  for (const level of ['debug', 'info', 'warn', 'error'] as const) expect(silentLog[level]({}, 'x')).toBeUndefined();
});
