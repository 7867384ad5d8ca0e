import { RE2JS } from 're2js';

/*
 * Which web pages may use the service from a browser. Who asks chooses the Origin that is matched: so patterns are RE2's, which
 * take a time that grows no faster than what is matched.
 */

const MAX_PATTERN = 200;
/** How much a pattern may have for each character to go through, as RE2 counts it: {} multiplies what stands before it. */
const MAX_SIZE = 600;
/** More than the longest scheme, host name and port. */
const MAX_ORIGIN = 300;

/** Tells whether an origin is one of those that are meant. */
export type OriginPattern = (origin: string) => boolean;

/**
 * Of a regular expression for the whole of an origin, without regard to case, as browsers send it in lower case anyway. Throws
 * what is wrong with it.
 */
export function toOriginPattern(text: string): OriginPattern {
  if (text.length > MAX_PATTERN) throw new RangeError(`must have ${MAX_PATTERN} characters at most`);
  const pattern = compile(text);
  if (pattern.programSize() > MAX_SIZE)
    throw new RangeError('must not repeat as much as that: use * or + in place of {}');
  return (origin) => isOrigin(origin) && pattern.testExact(origin);
}

function compile(text: string): RE2JS {
  try {
    return RE2JS.compile(text, RE2JS.CASE_INSENSITIVE);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new RangeError(`must be a regular expression that RE2 knows: ${why}`, { cause: error });
  }
}

/** As a browser sends it: scheme, host and, where it isn't the scheme's own, port; nothing else. */
export function isOrigin(value: string): boolean {
  return value.length <= MAX_ORIGIN && URL.canParse(value) && /^https?:$/.test(new URL(value).protocol)
    ? new URL(value).origin === value
    : false;
}
