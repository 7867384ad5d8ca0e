import { it } from 'vitest';

import { CASES } from './catalogue.js';

/** What a test of a case leaves in the report of its run, for the table in SANDBOX.md. */
interface Attempted {
  readonly number: number;
  readonly runtime: string;
  readonly found: string;
}

declare module 'vitest' {
  interface TaskMeta {
    attempted?: Attempted;
  }
}

/** Tries a case, and tells in a few words what was found: from what it has seen, and the same each time. */
export type Attempt = () => Promise<string>;

/**
 * Declares the test of a case on a runtime. A case of the catalogue that isn't for that runtime is none.
 * @throws Error where the catalogue has no such case.
 */
export function attemptsOn(runtime: string): (number: number, attempt: Attempt, timeoutMs?: number) => void {
  return (number, attempt, timeoutMs) => {
    const found = CASES.find((one) => one.number === number);
    if (found === undefined) throw new Error(`catalogue.ts has no case ${number}.`);
    const { tried, notOn = {} } = found;
    if (runtime in notOn) return;
    const options = timeoutMs === undefined ? {} : { timeout: timeoutMs };
    it(`${number}: ${tried}`, options, async ({ task }) => {
      task.meta.attempted = { number, runtime, found: await attempt() };
    });
  };
}
