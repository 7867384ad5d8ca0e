import { escapeForTerminal } from './output.js';

/* A list of checks for people: a line for each, and what is to be done about those that need something done. */

interface ReportedCheck {
  /** A short word: `ok`, `warn`, `drift`. */
  readonly verdict: string;
  readonly check: string;
  readonly expected: string;
  readonly found: string;
  readonly fix: string | null;
}

const DEFAULT_WIDTH = 80;
const LEAST_WIDTH = 40;
const MOST_WIDTH = 120;
const GAP = '  ';
/** Longer names have a line of their own. */
const MOST_NAME = 24;

/** As wide as the terminal is, between 40 and 120 columns; 80 where there is none. */
export function formatChecks(
  checks: readonly ReportedCheck[],
  { columns = DEFAULT_WIDTH }: { columns?: number | undefined } = {},
): string {
  const width = Math.min(Math.max(columns, LEAST_WIDTH), MOST_WIDTH);
  const verdicts = Math.max(...checks.map(({ verdict }) => verdict.length));
  const names = Math.min(MOST_NAME, Math.max(...checks.map(({ check }) => check.length)));
  const indent = ' '.repeat(verdicts + GAP.length + names + GAP.length);
  const room = width - indent.length;
  const lines = checks.flatMap(({ verdict, check, expected, found, fix }) => {
    const text = fix === null ? [found] : [found, `expected: ${expected}`, `fix: ${fix}`];
    const [first = '', ...rest] = text.flatMap((one) => wrap(escapeForTerminal(one), room));
    const begin = `${verdict.padEnd(verdicts)}${GAP}${check.padEnd(names)}`;
    const own = check.length > names ? [begin, `${indent}${first}`] : [`${begin}${GAP}${first}`];
    return [...own, ...rest.map((line) => `${indent}${line}`)];
  });
  return lines.map((line) => `${line.trimEnd()}\n`).join('');
}

/** Lines of that many characters at the most, broken between words where there are any. */
function wrap(text: string, room: number): string[] {
  const lines: string[] = [''];
  for (const word of text.split(' ').flatMap((long) => cut(long, room))) {
    const line = lines.at(-1) ?? '';
    if (line === '') lines[lines.length - 1] = word;
    else if (line.length + 1 + word.length <= room) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines;
}

function cut(word: string, room: number): string[] {
  return word.match(new RegExp(`.{1,${room}}`, 'gu')) ?? [];
}
