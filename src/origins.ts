/*
 * Which web pages may use the service from a browser. Who asks chooses the Origin that is matched, so a pattern must not be one
 * that can take long: nothing that is repeated may itself have a choice in it.
 */

const MAX_PATTERN = 200;
/** More than the longest scheme, host name and port. */
const MAX_ORIGIN = 300;
const MAX_REPEATS = 3;
const MAX_CHOICES = 8;

/** Why it can't be used; `undefined` when it can. */
export function faultOfOriginPattern(pattern: string): string | undefined {
  if (pattern.length > MAX_PATTERN) return `must have ${MAX_PATTERN} characters at most`;
  try {
    void new RegExp(pattern, 'u');
  } catch {
    return 'must be a regular expression';
  }
  // What is escaped, and what stands in a class, is one character each.
  const bare = pattern.replaceAll(/\\(?:u\{[0-9a-f]+\}|.)/gi, (escape) => (/\\[1-9k]/.test(escape) ? '\u0001' : 'x'));
  if (bare.includes('\u0001') || /\(\?(?!:)/.test(bare)) return 'must have no references and no look-around';
  const plain = bare.replaceAll(/\[[^\]]*\]/g, 'x');
  if (/\)(?:[*+]|\{)/.test(plain)) return 'must not repeat a group; "?" after one may stand';
  if ((plain.match(/[*+]|\{\d/g) ?? []).length > MAX_REPEATS) return `must have no more than ${MAX_REPEATS} of * + {}`;
  if ((plain.match(/\||\?(?!:)/g) ?? []).length > MAX_CHOICES) return `must have no more than ${MAX_CHOICES} of | ?`;
  return undefined;
}

/** For the whole of an origin, without regard to case, as browsers send it in lower case anyway. */
export function toOriginPattern(pattern: string): RegExp {
  return new RegExp(`^(?:${pattern})$`, 'iu');
}

/** As a browser sends it: scheme, host and, where it isn't the scheme's own, port; nothing else. */
export function isOrigin(value: string): boolean {
  return value.length <= MAX_ORIGIN && URL.canParse(value) && /^https?:$/.test(new URL(value).protocol)
    ? new URL(value).origin === value
    : false;
}
