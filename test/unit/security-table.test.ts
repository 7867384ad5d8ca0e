import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { ROOT } from '../../scripts/setup/common.mjs';
import { notTried, rowsOf, withTable } from '../../scripts/security-table.mjs';
import { readDocument, readTable } from '../fixtures/documents.js';
import { CASES, type SecurityCase } from '../security/catalogue.js';

const document = readDocument('SANDBOX.md');
const FOLDER = join(ROOT, 'test/security');

describe('the table of cases in SANDBOX.md', () => {
  const rows = readTable(document, '#');

  it('has the cases of the catalogue, as they are declared, and no other', () => {
    const declared = CASES.map(({ number, tried, expected }) => [String(number), tried, expected].map(withoutCode));
    expect(rows.map((cells) => cells.slice(0, 3))).toEqual(declared);
  });

  it('tells what was found of each on each runtime, or why it is not tried there', () => {
    for (const [index, { number, notOn = {} }] of CASES.entries()) {
      const found = rows[index]?.slice(3) ?? [];
      expect(found, `case ${number}`).toHaveLength(2);
      for (const [column, runtime] of (['runc', 'runsc'] as const).entries()) {
        const why = notOn[runtime];
        if (why === undefined) expect(found[column], `case ${number}`).toMatch(/^(?!Not tried)\S/);
        else expect(found[column]).toBe(withoutCode(notTried(why)));
      }
    }
  });

  it('is where its rows are written, and what was written is what is read', () => {
    const written = [['7', 'this | that', '`x`', 'a', 'b']];
    const { text } = document;
    const changed = withTable(text, written);
    expect(readTable({ ...document, text: changed }, '#')).toEqual([['7', 'this | that', 'x', 'a', 'b']]);
    expect(changed.split('\n## ').length).toBe(text.split('\n## ').length);
    expect(() => withTable('nothing', written)).toThrow('no place');
  });
});

describe('the catalogue', () => {
  it('has each number once, in order, and a test for each', () => {
    const numbers = CASES.map(({ number }) => number);
    expect(numbers).toEqual([...new Set(numbers)].toSorted((a, b) => a - b));
    const sources = readdirSync(FOLDER).filter((name) => name.endsWith('.test.ts'));
    const tests = sources.flatMap((name) =>
      [...readFileSync(join(FOLDER, name), 'utf8').matchAll(/\battempt\(\s*(\d+),/g)].map(([, number]) =>
        Number(number),
      ),
    );
    expect(tests.toSorted((a, b) => a - b)).toEqual(numbers);
  });
});

describe('the rows of a report', () => {
  const one: SecurityCase = { number: 1, tried: 'this', expected: 'that', notOn: { runsc: 'of a reason' } };
  const report = (status = 'passed', runtime = 'runc') => ({
    success: status === 'passed',
    testResults: [
      {
        assertionResults: [
          { status, fullName: 'a test', meta: { attempted: { number: 1, runtime, found: 'so' } } },
          { status: 'passed', fullName: 'another', meta: {} },
        ],
      },
    ],
  });

  it('are one for each case, with what was found, or why it was not tried', () => {
    expect(rowsOf(report(), [one])).toEqual([['1', 'this', 'that', 'so', 'Not tried: of a reason']]);
  });

  it('are none where a test has failed, or where a case was not tried', () => {
    expect(() => rowsOf(report('failed'), [one])).toThrow('a test');
    expect(() => rowsOf(report('passed', 'runsc'), [one])).toThrow('Case 1 was not tried on runc');
  });
});

/** As `readTable` gives a cell. */
function withoutCode(text: string): string {
  return text.replaceAll('`', '');
}
