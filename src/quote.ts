/*
 * Names as they may be shown. They come from a sandbox, from a caller or from somebody's disk: they are escaped, so that
 * they can't break a line or drive a terminal, and cut, so that they can't flood a log.
 */

const MAX_QUOTED_LENGTH = 200;

/** C1 controls and what reorders or breaks text; JSON escapes the rest of what is dangerous. */
const HARMFUL_IN_TEXT = /[\u007F-\u009F\u200B-\u200F\u2028-\u202E\u2066-\u2069\uFEFF]/g;

/** A name in quotes, escaped as in JSON and cut to about 200 characters. */
export function quoteName(name: string): string {
  const short = name.length > MAX_QUOTED_LENGTH ? `${name.slice(0, MAX_QUOTED_LENGTH)}…` : name;
  return JSON.stringify(short).replace(
    HARMFUL_IN_TEXT,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
