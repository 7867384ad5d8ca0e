import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isMain, reportFailure, ROOT } from './setup/common.mjs';

/*
 * Writes into SANDBOX.md what the last `npm run test:security` has found: `npm run docs:security`.
 */

/** Where a run leaves its report, which vitest writes. */
export const SECURITY_REPORT = join(ROOT, '.cache/security.json');

const DOCUMENT = join(ROOT, 'SANDBOX.md');
const BEGIN = '<!-- Between these lines is what `npm run docs:security` has written. -->';
const END = '<!-- The end of it. -->';
const HEAD = ['#', 'What is tried', 'Expected', 'Found on runc', 'Found on gVisor'];
const RUNTIMES = ['runc', 'runsc'];

/**
 * One row for each case of a report, in the order of the numbers. What a case isn't tried on has `notOn` say why.
 * @throws Error when a case has failed, or was not tried: a table tells of a run that was whole.
 */
export function rowsOf(report, cases) {
  const results = report.testResults.flatMap(({ assertionResults }) => assertionResults);
  const failed = results.filter(({ status }) => status !== 'passed');
  if (failed.length > 0 || !report.success)
    throw new Error(`This run hasn't passed: ${failed.map(({ fullName }) => fullName).join(', ')}`);
  const attempts = results.flatMap(({ meta }) => (meta?.attempted === undefined ? [] : [meta.attempted]));
  return cases.map(({ number, tried, expected, notOn = {} }) => [
    String(number),
    tried,
    expected,
    ...RUNTIMES.map((runtime) => {
      if (runtime in notOn) return notTried(notOn[runtime]);
      const attempt = attempts.find((one) => one.number === number && one.runtime === runtime);
      if (attempt === undefined) throw new Error(`Case ${number} was not tried on ${runtime} in this run.`);
      return attempt.found;
    }),
  ]);
}

/** How the table tells that a case isn't tried on a runtime. */
export function notTried(why) {
  return `Not tried: ${why}`;
}

/**
 * The document with these rows in its table, and all else as it was.
 * @throws Error where it has no place for them.
 */
export function withTable(document, rows) {
  const [begin, end] = [document.indexOf(BEGIN), document.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`SANDBOX.md has no place between "${BEGIN}" and "${END}".`);
  const lines = [HEAD, HEAD.map(() => '---'), ...rows].map(
    (cells) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`,
  );
  return `${document.slice(0, begin)}${BEGIN}\n\n${lines.join('\n')}\n\n${document.slice(end)}`;
}

async function main() {
  const report = await readFile(SECURITY_REPORT, 'utf8').catch((cause) => {
    throw new Error('There is no report yet. Run this first: npm run test:security', { cause });
  });
  const { register } = await import('tsx/esm/api');
  register();
  const { CASES } = await import('../test/security/catalogue.ts');
  const { format, resolveConfig } = await import('prettier');
  const document = withTable(await readFile(DOCUMENT, 'utf8'), rowsOf(JSON.parse(report), CASES));
  await writeFile(DOCUMENT, await format(document, { ...(await resolveConfig(DOCUMENT)), filepath: DOCUMENT }));
  console.log(`${CASES.length} cases are in SANDBOX.md.`);
}

if (isMain(import.meta.url)) await main().catch(reportFailure);
