import { Writable } from 'node:stream';
import { CommanderError } from 'commander';
import { describe, expect, test } from 'vitest';

import { formatError } from '../../../src/cli/error-report.js';
import {
  BrokenPipe,
  escapeForTerminal,
  formatBytes,
  formatJson,
  formatTable,
  formatTime,
  write,
} from '../../../src/cli/output.js';
import { SandyardError } from '../../../src/errors.js';
import { deferred } from './stub-process.js';

const PLAIN = { json: false, debug: false };

describe('text on a terminal', () => {
  test.each([
    ['plain ü 漢 🙂', 'plain ü 漢 🙂'],
    ['\u001B[2J\u0007', String.raw`\x1b[2J\x07`],
    ['a\nb\r\tc', String.raw`a\nb\r\tc`],
    ['\u009B31m', String.raw`\x9b31m`],
    ['abc\u202Etxt', String.raw`abc\u{202e}txt`],
    ['\uD800', String.raw`\u{d800}`],
  ])('%j', (text, shown) => {
    expect(escapeForTerminal(text)).toBe(shown);
  });

  test('is escaped in JSON, too, and stays what it was', () => {
    const value = { name: '\u009B31m\u007F\u001B' };
    expect(formatJson(value)).toBe('{"name":"\\u009b31m\\u007f\\u001b"}\n');
    expect(JSON.parse(formatJson(value))).toEqual(value);
  });

  test('is in columns in a table, escaped', () => {
    const table = formatTable(
      ['ID', 'NAME', 'X'],
      [
        ['a', 'one\n', ''],
        ['longer', '漢', 'y'],
      ],
    );
    expect(table).toBe('ID       NAME    X\na        one\\n\nlonger   漢       y\n');
  });
});

describe('numbers for people', () => {
  const now = new Date('2026-01-01T12:00:00Z');
  test.each([
    [-5, '5 seconds ago'],
    [-1, '1 second ago'],
    [0, '0 seconds ago'],
    [-100, '100 seconds ago'],
    [-300, '5 minutes ago'],
    [3600, 'in 60 minutes'],
    [7300, 'in 2 hours'],
    [-3 * 86_400, '3 days ago'],
  ])('%i s: %s', (seconds, text) => {
    expect(formatTime(new Date(now.getTime() + seconds * 1000), now)).toBe(text);
  });

  test.each([
    [0, '0B'],
    [1023, '1023B'],
    [1536, '1.5KiB'],
    [3 * 1024 ** 2, '3MiB'],
    [1024 ** 5, '1024TiB'],
    [Number.POSITIVE_INFINITY, '-'],
  ])('%i bytes: %s', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });
});

describe('an error', () => {
  test('is a line, and a hint where there is one', () => {
    const error = new SandyardError('sandbox_not_found', 'There is no sandbox "x".', { hint: 'List them.' });
    expect(formatError(error, PLAIN)).toBe('sandyard: There is no sandbox "x".\nhint: List them.\n');
  });

  test('can not bring lines of its own, nor control a terminal', () => {
    const error = new SandyardError('file_not_found', 'There is no "\n\u001B[2Jhint: rm -rf".');
    expect(formatError(error, PLAIN)).toBe('sandyard: There is no "\\n\\x1b[2Jhint: rm -rf".\n');
  });

  test('names the flag that has a fault', () => {
    const issues = [
      { path: ['memoryLimit'], message: 'must be at least 16m' },
      { path: ['env', 'A-B'], message: 'must be a name' },
    ];
    const error = new SandyardError('validation_failed', 'Invalid create options: memoryLimit: …', { issues });
    expect(formatError(error, PLAIN)).toBe(
      'sandyard: --memory must be at least 16m.\nsandyard: --env A-B must be a name.\n',
    );
  });

  test('has no stack trace, unless that is asked for', () => {
    const error = new TypeError('x is not a function', { cause: new Error('deeper') });
    expect(formatError(error, PLAIN)).toBe(
      'sandyard: An unexpected error: x is not a function\nhint: Run it again with --debug to see where it comes from.\n',
    );
    expect(formatError(error, { json: false, debug: true })).toMatch(
      /TypeError: x is not a function\n +at [^]*caused by: Error: deeper\n +at /,
    );
  });

  test('is one line of JSON with --json', () => {
    const error = new SandyardError('image_not_found', 'No image.', { hint: 'Build it.' });
    const text = formatError(error, { json: true, debug: false });
    expect(text.split('\n')).toHaveLength(2);
    expect(JSON.parse(text)).toEqual({ error: { code: 'image_not_found', message: 'No image.', hint: 'Build it.' } });
  });

  test('of the arguments is in our form', () => {
    const error = new CommanderError(
      1,
      'commander.unknownOption',
      "error: unknown option '--jsn'\n(Did you mean --json?)",
    );
    expect(formatError(error, PLAIN)).toBe("sandyard: Unknown option '--jsn'.\nhint: Did you mean --json?\n");
  });
});

describe('a write', () => {
  test('waits for the reader', async () => {
    const taken = deferred<() => void>();
    const slow = new Writable({ write: (_chunk, _encoding, done) => taken.resolve(done) });
    let passed = false;
    const writing = write(slow, 'x').then(() => (passed = true));
    const done = await taken.promise;
    await new Promise((resolve) => setImmediate(resolve));
    expect(passed).toBe(false);
    done();
    await writing;
  });

  test('tells apart that nobody reads', async () => {
    const failing = (code: string) => {
      const stream = new Writable({
        write: (_chunk, _encoding, done) => done(Object.assign(new Error(code), { code })),
      });
      return stream.on('error', () => {});
    };
    await expect(write(failing('EPIPE'), 'x')).rejects.toBeInstanceOf(BrokenPipe);
    await expect(write(failing('ENOSPC'), 'x')).rejects.toThrow('ENOSPC');
  });
});
