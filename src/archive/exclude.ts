/*
 * Exclude patterns. Written here because Node 20 has no glob matcher and because the names matched may be hostile: a
 * regular expression made of a pattern with several stars can take minutes on a crafted name, this takes
 * (length of pattern) × (length of name) steps at most.
 */

type Exclude = (path: string) => boolean;

/**
 * Compiles exclude patterns to one test of a path (relative, `/` between names, no leading `/`).
 *
 * - A pattern without `/` matches a name at any depth: `node_modules`, `*.log`.
 * - A pattern with a `/` at its start or in its middle matches the path from the top: `/build`, `src/*.js`, `a/b/**`.
 * - `*` is any run of characters other than `/` (also none), `?` exactly one. `**` as a whole name is any number of
 *   names, also none; at the end of a pattern it is one or more, so `a/**` empties `a` and keeps it.
 * - A leading `./` and a trailing `/` are ignored. Case matters. All other characters stand for themselves: there is
 *   no negation, no character class and no escape. A leading dot is nothing special: `*` matches `.env`.
 * - A path is also excluded when a directory above it is.
 */
export function compileExcludes(patterns: readonly string[] = []): Exclude {
  const compiled = patterns.map(compile);
  if (compiled.length === 0) return () => false;
  return (path) => {
    const names = path.split('/');
    return compiled.some((matches) => names.some((_, index) => matches(names.slice(0, index + 1))));
  };
}

function compile(pattern: string): (names: readonly string[]) => boolean {
  const trimmed = pattern.replace(/^(?:\.\/+)+/, '').replace(/\/+$/, '');
  const wanted = trimmed.split('/').filter((name) => name !== '');
  const [only] = wanted;
  if (only === undefined) return () => false;
  if (!trimmed.includes('/')) {
    return (names) => matchesName(only, names.at(-1) ?? '');
  }
  if (wanted.at(-1) === '**') wanted.splice(-1, 0, '*');
  return (names) => matchesRun(wanted, names, { isStar: (name) => name === '**', matches: matchesName });
}

function matchesName(pattern: string, name: string): boolean {
  return matchesRun(Array.from(pattern), Array.from(name), {
    isStar: (character) => character === '*',
    matches: (wanted, character) => wanted === '?' || wanted === character,
  });
}

interface Matcher {
  /** Whether this part of a pattern stands for any run of items. */
  readonly isStar: (part: string) => boolean;
  readonly matches: (part: string, item: string) => boolean;
}

/** Matches with one point to come back to, the last star, which is enough: an earlier star never needs to grow again. */
function matchesRun(pattern: readonly string[], items: readonly string[], matcher: Matcher): boolean {
  let at = 0;
  let retryPart = -1;
  let retryItem = 0;
  for (let item = 0; item < items.length;) {
    const part = pattern[at];
    if (part !== undefined && matcher.isStar(part)) {
      retryPart = at;
      retryItem = item;
      at += 1;
    } else if (part !== undefined && matcher.matches(part, items[item] ?? '')) {
      at += 1;
      item += 1;
    } else if (retryPart >= 0) {
      retryItem += 1;
      item = retryItem;
      at = retryPart + 1;
    } else {
      return false;
    }
  }
  return pattern.slice(at).every(matcher.isStar);
}
