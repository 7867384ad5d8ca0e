import type { RowCpu } from './cpu.js';
import { percentile, type Samples } from './measure.js';
import { isRate, type Bar, type Row, type Unit } from './row.js';

export interface Result {
  readonly name: string;
  readonly title: string;
  readonly unit: Unit;
  readonly ours: Summary;
  /** `null` where there is nothing to compare with. */
  readonly byHand: Summary | null;
  /** How many times as fast as by hand; for a bar of another kind than `faster` how many times as long or as much. */
  readonly ratio: number | null;
  readonly bar: Bar;
  readonly met: boolean;
  /** Where it was profiled. */
  readonly cpu?: RowCpu | undefined;
}

export interface Summary {
  /** The median, or what the row is told by. */
  readonly value: number;
  /** What 95 of 100 are no worse than: of a rate, they are no lower. */
  readonly p95: number;
  readonly samples: number;
}

export function toResult(row: Row, samples: Samples): Result {
  const { name, title, unit, bar } = row;
  const ours = summarize(row, samples.ours);
  const byHand = samples.byHand.length === 0 ? null : summarize(row, samples.byHand);
  const ratio = byHand === null ? null : ratioOf(row, { ours: ours.value, byHand: byHand.value });
  return { name, title, unit, ours, byHand, ratio, bar, met: isMet(bar, { value: ours.value, ratio }) };
}

function summarize({ unit, part = 0.5 }: Row, values: readonly number[]): Summary {
  const p95 = percentile(values, isRate(unit) ? 0.05 : 0.95);
  return { value: percentile(values, part), p95, samples: values.length };
}

function ratioOf({ unit, bar }: Row, { ours, byHand }: { ours: number; byHand: number }): number {
  const timesAsFast = isRate(unit) ? ours / byHand : byHand / ours;
  return bar.kind === 'faster' ? timesAsFast : 1 / timesAsFast;
}

function isMet(bar: Bar, { value, ratio }: { value: number; ratio: number | null }): boolean {
  if (bar.kind === 'below') return value < bar.value;
  if (ratio === null) return false;
  return bar.kind === 'faster' ? ratio >= bar.value : ratio <= bar.value;
}

const HEADINGS = ['what', 'by hand', 'p95', 'Sandyard', 'p95', 'ratio', 'bar', 'met', 'samples'];

export function formatTable(results: readonly Result[]): string {
  const cells = results.map((result) => [
    result.title,
    ...formatSummary(result.byHand, result.unit),
    ...formatSummary(result.ours, result.unit),
    result.ratio === null ? '–' : formatRatio(result.ratio, result.bar),
    formatBar(result),
    result.met ? 'yes' : 'no',
    String(result.ours.samples),
  ]);
  const table = [HEADINGS, ...cells];
  const widths = HEADINGS.map((_, column) => Math.max(...table.map((line) => line[column]?.length ?? 0)));
  const lines = table.map((line) =>
    line.map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0))),
  );
  return lines.map((line) => line.join('  ')).join('\n');
}

function formatSummary(summary: Summary | null, unit: Unit): [string, string] {
  if (summary === null) return ['–', '–'];
  return [`${formatNumber(summary.value)} ${unit}`, formatNumber(summary.p95)];
}

function formatRatio(ratio: number, { kind }: Bar): string {
  if (kind === 'faster') return `${ratio >= 100 ? ratio.toFixed(0) : ratio.toFixed(2)} × as fast`;
  return kind === 'slower' ? `${ratio.toFixed(2)} × the time` : `${ratio.toFixed(2)} × as much`;
}

function formatBar({ bar: { kind, value }, unit }: Result): string {
  if (kind === 'below') return `< ${value} ${unit}`;
  return kind === 'slower' ? `≤ ${value.toFixed(1)} ×` : `≥ ${value} ×`;
}

function formatNumber(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(value < 10 ? 2 : 1);
}
