import type { Writable } from 'node:stream';

/** Whoever read what we print has gone: nothing more is to be said. */
export class BrokenPipe extends Error {
  override readonly name = 'BrokenPipe';
}

/** Settles when it is passed on, so that a slow reader is waited for. Throws `BrokenPipe` when there is no reader. */
export async function write(stream: Writable, data: string | Uint8Array): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    stream.write(data, (error) => {
      if (error == null) resolve();
      else reject(isBrokenPipe(error) ? new BrokenPipe('nobody reads the output', { cause: error }) : error);
    });
  });
}

function isBrokenPipe(error: Error): boolean {
  return 'code' in error && (error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED');
}

/*
 * What a terminal would obey or hide: control characters, those of C1 included; what changes the direction of text; and
 * line separators. Names and texts that come from a sandbox may have any of them.
 */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\u2028\u2029\p{Surrogate}]/gu;
const SHORT: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' };

/** One line that is safe to show on a terminal. */
export function escapeForTerminal(text: string): string {
  return text.replaceAll(UNPRINTABLE, (character) => SHORT[character] ?? unicodeEscape(character));
}

function unicodeEscape(character: string): string {
  const hex = (character.codePointAt(0) ?? 0).toString(16);
  return hex.length <= 2 ? `\\x${hex.padStart(2, '0')}` : `\\u{${hex}}`;
}

/** A JSON document that is safe to show on a terminal, too: JSON leaves DEL and the C1 characters as they are. */
export function formatJson(value: unknown, { indent }: { indent?: number } = {}): string {
  const text = JSON.stringify(value, undefined, indent);
  return `${text.replaceAll(/[\u007F-\u009F]/g, (character) => `\\u00${character.charCodeAt(0).toString(16)}`)}\n`;
}

/** A table like those of `docker ps`: columns three spaces apart, the last one as long as it is. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = [header, ...rows.map((row) => row.map(escapeForTerminal))];
  const widths = header.map((_, column) => Math.max(...cells.map((row) => width(row[column] ?? ''))));
  const line = (row: readonly string[]) =>
    row.map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - width(cell))).join('   ');
  return cells.map((row) => `${line(row).trimEnd()}\n`).join('');
}

/** One text a line, each after its label. */
export function formatFields(fields: readonly (readonly [label: string, text: string])[]): string {
  const widest = Math.max(...fields.map(([label]) => width(label)));
  return fields
    .map(([label, text]) => `${label}${' '.repeat(widest - width(label))}   ${escapeForTerminal(text)}\n`)
    .join('');
}

function width(text: string): number {
  return Array.from(text).length;
}

const AGE_UNITS = [
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
  ['second', 1],
] as const;

/** `5 minutes ago`, `in 2 hours`: in the largest unit of which there are two, or the smallest. */
export function formatTime(time: Date, now: Date = new Date()): string {
  const seconds = Math.round((time.getTime() - now.getTime()) / 1000);
  const [unit, length] = AGE_UNITS.find(([, length]) => Math.abs(seconds) >= 2 * length) ?? (['second', 1] as const);
  const count = Math.floor(Math.abs(seconds) / length);
  const text = `${count} ${unit}${count === 1 ? '' : 's'}`;
  return seconds > 0 ? `in ${text}` : `${text} ago`;
}

const DURATION_UNITS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
] as const;

/** `90s`, `2h`: as flags take it, in the largest unit in which it is a whole number. */
export function formatDuration(ms: number): string {
  const [unit, length] = DURATION_UNITS.find(([, length]) => ms > 0 && ms % length === 0) ?? (['ms', 1] as const);
  return `${ms / length}${unit}`;
}

/** `1.5MiB`: four digits at the most, in binary units. */
export function formatBytes(bytes: number): string {
  if (!Number.isFinite(bytes)) return '-';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = bytes < 1024 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1);
  return `${Number((bytes / 1024 ** power).toPrecision(4))}${units[power]}`;
}
