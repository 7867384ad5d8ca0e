import { Transform, type TransformCallback } from 'node:stream';

import type { SecretEntry } from './secrets.ts';

/*
 * The place of a placeholder is taken by its secret in the values of a request's headers, and nowhere else: what is in a
 * URL is logged by whoever gets it, and what is in a body can be fetched again. What an answer repeats of it is covered.
 */

/** A placeholder is short and may be sent often, a secret is long. */
const MAX_HEADERS_BYTES = 64 * 1024;
/** Of user and password, as they were sent: what is made of them is looked for in all that is answered. */
const MAX_BASIC_BYTES = 512;

export interface Substituted {
  readonly headers: string[];
  /** What an answer must not have: the secrets, and what they were made a part of. */
  readonly covered: readonly string[];
}

/** In raw headers, names and values in turn. `undefined` where they are too large, or become so. */
export function substitute(raw: readonly string[], secrets: readonly SecretEntry[]): Substituted | undefined {
  const covered = new Set(secrets.map(({ value }) => value));
  let isTooLarge = false;
  const headers = raw.map((text, index) => {
    if (index % 2 === 0) return text;
    const put = replaceAll(text, secrets);
    if (raw[index - 1]?.toLowerCase() !== 'authorization') return put;
    const basic = substituteBasic(put, secrets);
    if (basic === undefined) return put;
    if (basic.sentBytes > MAX_BASIC_BYTES) isTooLarge = true;
    covered.add(basic.encoded);
    return `Basic ${basic.encoded}`;
  });
  const bytes = headers.reduce((sum, text) => sum + text.length, 0);
  return isTooLarge || bytes > MAX_HEADERS_BYTES ? undefined : { headers, covered: [...covered] };
}

/** `Basic` has user and password in base64 (RFC 7617); `undefined` where there is no placeholder in that. */
function substituteBasic(text: string, secrets: readonly SecretEntry[]) {
  const [, encoded] = /^basic +([A-Za-z0-9+/]+={0,2})$/i.exec(text.trim()) ?? [];
  // As latin1, so that whatever other bytes there are stay as they are.
  const decoded = Buffer.from(encoded ?? '', 'base64').toString('latin1');
  const put = replaceAll(decoded, secrets);
  if (put === decoded) return undefined;
  return { encoded: Buffer.from(put, 'latin1').toString('base64'), sentBytes: decoded.length };
}

function replaceAll(text: string, secrets: readonly SecretEntry[]): string {
  return secrets.reduce((done, { placeholder, value }) => done.split(placeholder).join(value), text);
}

/** As long as what it covers, so that no length changes that was told before. */
function stars(found: string): string {
  return '*'.repeat(found.length);
}

export function cover(text: string, covered: readonly string[]): string {
  return text.replaceAll(toPattern(covered), stars);
}

/** So long nothing more has come, and what is held back goes. */
const QUIET_MS = 50;

/**
 * Covers what goes through it, in whatever pieces that comes. The end of each piece, as long as what could have begun there,
 * is held back until more comes, or nothing does for a moment: whatever is in it. Were it held back only where it is like
 * the beginning of a secret, a sandbox that has its host repeat guesses could tell by the time which of them are.
 */
export class Cover extends Transform {
  readonly #pattern: RegExp;
  readonly #longest: number;
  readonly #quietMs: number;
  #held = '';
  #pieces = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(covered: readonly string[], { quietMs = QUIET_MS }: { quietMs?: number } = {}) {
    super();
    this.#pattern = toPattern(covered);
    this.#longest = Math.max(...covered.map(({ length }) => length));
    this.#quietMs = quietMs;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    clearTimeout(this.#timer);
    // A character for each byte, whatever they mean.
    const text = this.#held + chunk.toString('latin1');
    let end = 0;
    const shown = text.replaceAll(this.#pattern, (found, at: number) => {
      end = at + found.length;
      return stars(found);
    });
    const kept = Math.max(end, text.length - this.#longest + 1, 0);
    this.#held = text.slice(kept);
    // What has come while this program had no time is read before it is taken for quiet.
    this.#pieces += 1;
    const pieces = this.#pieces;
    this.#timer = setTimeout(() => setImmediate(() => this.#release(pieces)), this.#quietMs);
    done(null, Buffer.from(shown.slice(0, kept), 'latin1'));
  }

  override _flush(done: TransformCallback): void {
    clearTimeout(this.#timer);
    done(null, Buffer.from(this.#held, 'latin1'));
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearTimeout(this.#timer);
    done(error);
  }

  /** Unless more has come since. */
  #release(pieces: number): void {
    if (this.#pieces !== pieces || this.writableEnded || this.destroyed) return;
    this.push(Buffer.from(this.#held, 'latin1'));
    this.#held = '';
  }
}

/** The longest first: where one begins with another, it is that one. */
function toPattern(covered: readonly string[]): RegExp {
  const longestFirst = covered.toSorted((a, b) => b.length - a.length);
  return new RegExp(longestFirst.map((text) => text.replaceAll(/[^A-Za-z0-9]/g, String.raw`\$&`)).join('|'), 'g');
}
