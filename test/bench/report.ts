import type { Samples } from './measure.js';
import { summarize, type Bar, type Row } from './rows.js';

export interface Result {
  readonly name: string;
  readonly title: string;
  readonly unit: Row['unit'];
  readonly ours: number;
  /** `null` where there is nothing to compare with. */
  readonly byHand: number | null;
  /** How many times as fast as by hand; for a bar of the kind `slower` how many times as long it takes. */
  readonly ratio: number | null;
  readonly bar: Bar;
  readonly met: boolean;
  readonly samples: number;
}

export function toResult(row: Row, samples: Samples): Result {
  const { name, title, unit, bar } = row;
  const ours = summarize(row, samples.ours) ?? Number.NaN;
  const byHand = summarize(row, samples.byHand) ?? null;
  const ratio = byHand === null ? null : ratioOf({ ours, byHand }, row);
  return { name, title, unit, ours, byHand, ratio, bar, met: isMet(bar, ratio ?? ours), samples: samples.ours.length };
}

function ratioOf({ ours, byHand }: { ours: number; byHand: number }, { unit, bar }: Row): number {
  const timesAsFast = unit === 'ms' ? byHand / ours : ours / byHand;
  return bar.kind === 'slower' ? 1 / timesAsFast : timesAsFast;
}

function isMet({ kind, value }: Bar, found: number): boolean {
  return kind === 'faster' ? found >= value : kind === 'slower' ? found <= value : found < value;
}

const HEADINGS = ['what', 'by hand', 'Sandyard', 'ratio', 'bar', 'met', 'samples'];

export function formatTable(results: readonly Result[]): string {
  const cells = results.map((result) => [
    result.title,
    result.byHand === null ? '–' : `${formatNumber(result.byHand)} ${result.unit}`,
    `${formatNumber(result.ours)} ${result.unit}`,
    result.ratio === null ? '–' : formatRatio(result.ratio, result.bar),
    formatBar(result),
    result.met ? 'yes' : 'no',
    String(result.samples),
  ]);
  const table = [HEADINGS, ...cells];
  const widths = HEADINGS.map((_, column) => Math.max(...table.map((line) => line[column]?.length ?? 0)));
  const lines = table.map((line) =>
    line.map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0))),
  );
  return lines.map((line) => line.join('  ')).join('\n');
}

function formatRatio(ratio: number, { kind }: Bar): string {
  return kind === 'slower' ? `${ratio.toFixed(2)} × the time` : `${ratio.toFixed(2)} × as fast`;
}

function formatBar({ bar: { kind, value }, unit }: Result): string {
  if (kind === 'below') return `< ${value} ${unit}`;
  return kind === 'slower' ? `≤ ${value.toFixed(1)} ×` : `≥ ${value} ×`;
}

function formatNumber(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}
