import type { AdmissionSettings, Ceilings } from '../config.js';
import { SandyardError } from '../errors.js';
import { formatSize } from '../schemas.js';

/** What there is of all that has a ceiling: as they were promised, not as they are used. */
export type Usage = Ceilings;

type Scope = keyof AdmissionSettings['ceilings'];
type Measure = keyof Ceilings;

/** CPUs are fractions, whose sums are never quite what they should be. */
const ROUNDING = 1e-9;
/** Nobody knows when a sandbox will end: soon enough to notice, seldom enough to be no load. */
const RETRY_S = 10;

const MEASURES = ['sandboxes', 'memoryBytes', 'cpus', 'pids'] as const satisfies readonly Measure[];
/** A measure in `details.ceiling`, after a number, in the names of variables, and as an option of a sandbox. */
const WORDS = {
  sandboxes: { key: 'sandboxes', unit: 'sandboxes', variable: 'MAX_SANDBOXES', field: undefined },
  memoryBytes: { key: 'memory', unit: 'of memory', variable: 'MAX_MEMORY', field: 'memoryLimit' },
  cpus: { key: 'cpus', unit: 'CPUs', variable: 'MAX_CPUS', field: 'cpuLimit' },
  pids: { key: 'pids', unit: 'processes', variable: 'MAX_PIDS', field: 'pidsLimit' },
} as const satisfies Record<Measure, object>;

/** What one sandbox will count as, and whose it will be. */
export interface Promised extends Usage {
  readonly tenant?: string | undefined;
}

/** What there is already; of the tenant that is asked for, where one is. */
export interface Used {
  readonly owner: Usage;
  readonly manager: Usage;
  readonly tenant?: Usage | undefined;
}

interface Excess {
  readonly scope: Scope;
  readonly measure: Measure;
  readonly limit: number;
  readonly used: number;
  readonly wanted: number;
}

interface CeilingCheck {
  readonly ceilings: AdmissionSettings['ceilings'];
  readonly used: Used;
  /** Promised beside what is used; counts for all, but for the ceiling of a tenant only where it is that tenant's. */
  readonly reserved: readonly Promised[];
}

export function hasCeilings({ owner, manager, tenant = owner }: AdmissionSettings['ceilings']): boolean {
  return [owner, manager, tenant].some((ceilings) => MEASURES.some((measure) => ceilings[measure] !== Infinity));
}

/** The first ceiling that would be exceeded. */
export function findExcess(wanted: Promised, { ceilings, used, reserved }: CeilingCheck): Excess | undefined {
  for (const scope of ['owner', 'manager', 'tenant'] as const) {
    if (scope === 'tenant' && wanted.tenant === undefined) continue;
    const counted = scope === 'tenant' ? reserved.filter(({ tenant }) => tenant === wanted.tenant) : reserved;
    for (const measure of MEASURES) {
      const limit = ceilings[scope]?.[measure] ?? Infinity;
      const promised = counted.reduce((sum, one) => sum + one[measure], used[scope]?.[measure] ?? 0);
      if (promised + wanted[measure] <= limit + ROUNDING) continue;
      return { scope, measure, limit, used: promised, wanted: wanted[measure] };
    }
  }
  return undefined;
}

function nameOf(scope: Exclude<Scope, 'manager'>, variable: string): string {
  if (scope === 'tenant') return `SANDBOX_TENANT_${variable}`;
  return `SANDBOX_${variable === 'MAX_SANDBOXES' ? variable : variable.replace('MAX', 'MAX_TOTAL')}`;
}

/** `over_capacity`; `limit_exceeded` where it would be too much even if there were no other sandbox. */
export function toCeilingError({ scope, measure, limit, used, wanted }: Excess, queueLength: number): SandyardError {
  const { key, unit, variable, field } = WORDS[measure];
  const show = measure === 'memoryBytes' ? formatSize : (value: number) => String(Math.round(value * 1e6) / 1e6);
  const ceiling = `ceiling of ${show(limit)} ${unit} for all sandboxes of this ${scope} together`;
  const raise =
    scope === 'manager' ? 'give the manager a higher ceiling' : `have the operator raise ${nameOf(scope, variable)}`;
  if (wanted > limit + ROUNDING) {
    const message = `${show(wanted)} is above the ${ceiling}`;
    return new SandyardError('limit_exceeded', `${message}.`, {
      hint: `Ask for less, or ${raise}.`,
      issues: field === undefined ? [] : [{ path: [field], message }],
    });
  }
  const message = `The ${ceiling} is reached: ${show(used)} taken, ${show(wanted)} more wanted.`;
  return new SandyardError('over_capacity', message, {
    hint: `Destroy sandboxes that are no longer needed, wait until some have expired, or ${raise}.`,
    details: {
      ceiling: `${scope}.${key}`,
      limit,
      used,
      wanted,
      queue_length: queueLength,
      retry_after_s: RETRY_S,
    },
  });
}
