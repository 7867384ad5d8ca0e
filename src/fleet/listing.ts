import { SandyardError } from '../errors.js';
import { isTenants, type SandboxRecord } from '../record/record.js';
import { listOptionsSchema, parseInput, type ListOptions } from '../schemas.js';

const LIST_LIMIT = 100;

export interface Page {
  readonly records: readonly SandboxRecord[];
  /** Where the next one begins; `null` at the end. */
  readonly cursor: string | null;
}

/** Some of the sandboxes that anybody has, the newest first. Throws `validation_failed`. */
export function listPage(
  all: readonly SandboxRecord[],
  options: ListOptions,
  { tenant }: { tenant?: string | undefined } = {},
): Page {
  const given = parseInput(listOptionsSchema, options, 'list options');
  const after = given.cursor === undefined ? undefined : decodeCursor(given.cursor);
  const found = all
    .filter((record) => !record.warm && (tenant === undefined || isTenants(record, tenant)))
    .filter(({ state }) => given.state === undefined || state === given.state)
    .filter(({ projectName }) => given.projectName === undefined || projectName === given.projectName)
    .map((record) => ({ record, key: `${record.createdAt.toISOString()} ${record.id}` }))
    .filter(({ key }) => after === undefined || key < after)
    .toSorted((a, b) => (a.key < b.key ? 1 : -1));
  const page = found.slice(0, given.limit ?? LIST_LIMIT);
  const last = page.length < found.length ? page.at(-1) : undefined;
  return {
    records: page.map(({ record }) => record),
    cursor: last === undefined ? null : Buffer.from(last.key).toString('base64url'),
  };
}

function decodeCursor(cursor: string): string {
  const key = Buffer.from(cursor, 'base64url').toString('utf8');
  if (/^\d{4}-[\dT:.-]+Z [a-z0-9]+$/.test(key)) return key;
  throw new SandyardError('validation_failed', 'The cursor is not one that a list has returned.', {
    hint: 'Leave it out to list from the beginning.',
    issues: [{ path: ['cursor'], message: 'is not a cursor' }],
  });
}
