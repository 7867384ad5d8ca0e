import { schedule, validate, type ScheduledTask } from 'node-cron';
import pLimit from 'p-limit';

import { withContext } from '../context.js';
import type { CallOptions, ContainerDetails } from '../engine/engine.js';
import { isSandyardError, SandyardError } from '../errors.js';
import { judgeExpiry, type ExpiryFacts, type ExpiryReason, type ExpiryRules } from '../record/expiry.js';
import { removeOrphans, type Orphan, type OrphanParts } from './orphans.js';
import type { Outage } from './lost.js';
import { claimedAs, poolName, toRecord, type Claim, type SandboxRecord } from '../record/record.js';

/** How many are looked after at once: removing is work for the engine, and nobody waits for it. */
const AT_ONCE = 3;
/** Managers with the same schedule run up to so much after it: else all would look at each sandbox at the same moment. */
const SPREAD_MS = 1000;
/** How often a schedule looks for orphans, which are in nobody's way. */
const ORPHANS_EVERY_MS = 10 * 60_000;
/**
 * The warden of a warm sandbox that nobody has claimed ends it at its longest lifetime. What runs a minute later can't be
 * claimed any more, unless it has been.
 */
const WARM_GRACE_MS = 60_000;

/** A sandbox that has expired. */
export interface ReapedSandbox {
  readonly id: string;
  readonly reason: ExpiryReason;
  /** `none` in a dry run, and when the engine failed. */
  readonly action: 'removed' | 'paused' | 'none';
  /** Why it could not be removed. */
  readonly error?: string;
}

/** What is there no more, or in a dry run would not be. */
export interface PruneResult {
  readonly sandboxes: readonly ReapedSandbox[];
  readonly volumes: readonly Orphan[];
  readonly networks: readonly Orphan[];
}

export interface ReapOptions extends CallOptions {
  /** Only tells; removes and pauses nothing. Default: as the reaper is. */
  readonly dryRun?: boolean | undefined;
}

interface ReaperParts extends OrphanParts {
  readonly rules: ExpiryRules;
  readonly dryRun: boolean;
  /** All sandboxes of the owner, as far as is known: each that may have expired is looked at before it is judged. */
  readonly candidates: (options: CallOptions) => Promise<readonly SandboxRecord[]>;
  /** When the lease of a sandbox ends, by its record; `undefined` when that doesn't say. */
  readonly readLeaseEnd: (record: SandboxRecord) => Promise<Date | undefined>;
  /** What a warm one was claimed as, by its record; `undefined` when nobody has claimed it. */
  readonly readClaim: (record: SandboxRecord) => Promise<Claim | undefined>;
  /** When the engine was away, of one that ran before and was found stopped after that. */
  readonly outageOf: (record: SandboxRecord) => Outage | undefined;
  /** Pauses one that runs, if its lease or idle timeout has ended; answers whether it did. */
  readonly pauseExpired: (record: SandboxRecord) => Promise<boolean>;
  /** Called for each that is about to be removed, and that was removed. Must not throw. */
  readonly removing?: (record: SandboxRecord, reason: ExpiryReason) => void;
  readonly removed: (record: SandboxRecord, reason: ExpiryReason) => void;
}

/** A sandbox as it was when it was looked at. */
interface Look {
  readonly record: SandboxRecord;
  readonly details: ContainerDetails;
  readonly leaseEndsAt: Date | undefined;
}

/** The cron expression, when it is one; throws `config_invalid` otherwise. */
export function checkSchedule(expression: string): string {
  if (validate(expression)) return expression;
  throw new SandyardError('config_invalid', `The reaper's schedule "${expression}" is not a cron expression.`, {
    hint: 'Such as "*/30 * * * * *" for every 30 seconds.',
  });
}

/**
 * Removes the sandboxes of one owner that have provably expired, and nothing else. Any number of managers may do so at once:
 * each judges for itself by the engine's time, looks again immediately before it removes, and removes by the container's
 * id, which is never another's, and one that doesn't run only if it still doesn't.
 */
export class Reaper {
  readonly #parts: ReaperParts;
  #task: ScheduledTask | undefined;
  #stop: AbortController | undefined;
  #running: Promise<void> | undefined;
  #orphansAt = 0;

  constructor(parts: ReaperParts) {
    this.#parts = parts;
  }

  /** Runs by a cron expression of five fields, or six with seconds first. */
  start(expression: string): void {
    if (this.#task !== undefined) return;
    const { signal } = (this.#stop = new AbortController());
    const run = () => (this.#running = withContext({ actor: 'reaper' }, () => this.#runScheduled(signal)));
    const say = (message: string | Error) => this.#parts.log.debug({}, String(message));
    const logger = { debug: say, info: say, warn: say, error: say }; // it would print to the console
    this.#task = schedule(checkSchedule(expression), run, { noOverlap: true, maxRandomDelay: SPREAD_MS, logger });
  }

  /** Gives up what the schedule has begun, and returns when that has ended. */
  async stop(): Promise<void> {
    const task = this.#task;
    this.#task = undefined;
    this.#stop?.abort();
    await task?.destroy();
    await this.#running;
  }

  /** Looks once: for sandboxes that have expired, and for what is left of such that are gone. */
  async prune(options: ReapOptions = {}): Promise<PruneResult> {
    const { dryRun = this.#parts.dryRun, signal } = options;
    const sandboxes = await this.run({ dryRun, signal });
    const orphans = await removeOrphans(this.#parts, { dryRun, signal });
    return {
      sandboxes,
      volumes: orphans.filter(({ kind }) => kind === 'volume'),
      networks: orphans.filter(({ kind }) => kind === 'network'),
    };
  }

  /** Looks once. What can't be looked at or removed is logged, and left for the next time. */
  async run({ dryRun = this.#parts.dryRun, signal }: ReapOptions = {}): Promise<ReapedSandbox[]> {
    const { engine, clock, candidates } = this.#parts;
    throwIfAborted(signal);
    // Read anew: a clock that was set back since would make what was just made look old.
    const { systemTime } = await engine.info({ signal });
    clock.see(systemTime);
    const records = await candidates({ signal });
    const limit = pLimit(AT_ONCE);
    const reaped = await Promise.all(records.map((record) => limit(() => this.#reap(record, { dryRun, signal }))));
    throwIfAborted(signal);
    return reaped.filter((found) => found !== undefined);
  }

  async #reap(record: SandboxRecord, { dryRun, signal }: ReapOptions): Promise<ReapedSandbox | undefined> {
    if (signal?.aborted === true) return undefined;
    try {
      if (this.#mayHaveExpired(record)) return await this.#lookAfter(record, { dryRun, signal });
      if (record.state !== 'running') return undefined;
      // Whoever claimed it may have died before it had its name: then nobody else is told of the claim.
      if (record.warm && dryRun !== true) await this.#parts.readClaim(record);
      if (record.onExpiry !== 'pause' || record.warm) return undefined;
      return await this.#pause(record, { dryRun });
    } catch (error) {
      if (isSandyardError(error, 'sandbox_not_found') || isSandyardError(error, 'aborted')) return undefined;
      const { log } = this.#parts;
      log.warn({ sandbox: record.id, error }, 'could not look at a sandbox that may have expired; will try again');
      return undefined;
    }
  }

  /** Whether what is known of it doesn't tell that it hasn't: most sandboxes need not be looked at. */
  #mayHaveExpired(record: SandboxRecord): boolean {
    const longAgo = new Date(0);
    const finishedAt = record.state === 'exited' ? longAgo : undefined;
    return this.#judge(record, { state: record.state, finishedAt, exitCode: 0, leaseEndsAt: longAgo }) !== undefined;
  }

  async #lookAfter(given: SandboxRecord, { dryRun, signal }: ReapOptions): Promise<ReapedSandbox | undefined> {
    const look = await this.#look(given, { signal });
    const reason = look && this.#judgeLook(look);
    if (look === undefined || reason === undefined) return undefined;
    const { log } = this.#parts;
    if (dryRun === true) {
      log.info(this.#toFields(look, reason), 'a sandbox has expired; kept, because this is a dry run');
      return { id: given.id, reason, action: 'none' };
    }
    // What it was judged by took time to read; somebody may have claimed, started or unpaused it meanwhile.
    const again = await this.#inspect(look.record, { signal });
    if (again === undefined || this.#judgeLook({ ...look, details: again }) === undefined) return undefined;
    if (!isUnchanged(look.details, again)) return undefined;
    return this.#remove(look, reason);
  }

  async #remove(look: Look, reason: ExpiryReason): Promise<ReapedSandbox> {
    const { engine, log, telemetry, removing, removed } = this.#parts;
    const { id, containerId } = look.record;
    const fields = this.#toFields(look, reason);
    removing?.(look.record, reason);
    try {
      // Not given up half-way: whoever asks next finds it gone or there.
      const { state } = look.details;
      await engine.removeContainer(containerId, { unlessRunning: state === 'exited' || state === 'created' });
    } catch (error) {
      log.warn({ ...fields, error }, 'could not remove an expired sandbox; will try again');
      return { id, reason, action: 'none', error: error instanceof Error ? error.message : String(error) };
    }
    removed(look.record, reason);
    telemetry.reaped(reason);
    log.info(fields, 'removed an expired sandbox');
    return { id, reason, action: 'removed' };
  }

  async #pause(record: SandboxRecord, { dryRun }: ReapOptions): Promise<ReapedSandbox | undefined> {
    const { log, clock, owner, pauseExpired, readLeaseEnd } = this.#parts;
    const { id } = record;
    const fields = { sandbox: id, owner, reason: 'lease_expired' };
    if (dryRun === true) {
      const leaseEndsAt = await readLeaseEnd(record);
      if (leaseEndsAt === undefined || leaseEndsAt > clock.now()) return undefined;
      log.info({ ...fields, leaseEndsAt }, 'a sandbox is to be paused; left running, because this is a dry run');
      return { id, reason: 'lease_expired', action: 'none' };
    }
    if (!(await pauseExpired(record))) return undefined;
    log.info(fields, 'paused a sandbox whose lease has ended');
    return { id, reason: 'lease_expired', action: 'paused' };
  }

  /** All that it is judged by; `undefined` when it is no longer one of ours. */
  async #look(given: SandboxRecord, options: CallOptions): Promise<Look | undefined> {
    const details = await this.#inspect(given, options);
    if (details === undefined) return undefined;
    const { name, state, createdAt } = details;
    // The age of one that was claimed is in its claim; of any other the engine knows best.
    const agesFrom = given.pool === null || given.warm ? createdAt : given.agesFrom;
    const known = { ...given, name, state, agesFrom };
    const claim = known.warm ? await this.#parts.readClaim(known) : undefined;
    const record = claim === undefined ? known : claimedAs(known, claim);
    // Its name says that it was claimed, after its record was read.
    if (record.warm && record.name !== poolName(record.id)) return undefined;
    const asks = record.state === 'paused' && record.onExpiry === 'destroy';
    const leaseEndsAt = asks ? await this.#readLeaseEnd(record) : undefined;
    return { record, details, leaseEndsAt };
  }

  /** Commands that are root's can spoil the record. What is known without it is the longest lifetime, and that stands. */
  async #readLeaseEnd(record: SandboxRecord): Promise<Date | undefined> {
    try {
      return await this.#parts.readLeaseEnd(record);
    } catch (error) {
      if (!isSandyardError(error, 'engine_error')) throw error;
      this.#parts.log.warn({ sandbox: record.id, error }, 'could not read the lease of a sandbox that is paused');
      return undefined;
    }
  }

  async #inspect({ containerId, owner }: SandboxRecord, options: CallOptions): Promise<ContainerDetails | undefined> {
    const details = await this.#parts.engine.inspectContainer(containerId, options);
    const found = toRecord(details);
    return found !== undefined && found.owner === owner && owner === this.#parts.owner ? details : undefined;
  }

  #judgeLook({ record, details, leaseEndsAt }: Look): ExpiryReason | undefined {
    if (record.warm && details.name !== poolName(record.id)) return undefined;
    const { state, finishedAt, exitCode } = details;
    return this.#judge(record, { state, finishedAt, exitCode, leaseEndsAt });
  }

  #judge(
    record: SandboxRecord,
    facts: Pick<ExpiryFacts, 'state' | 'finishedAt' | 'exitCode' | 'leaseEndsAt'>,
  ): ExpiryReason | undefined {
    const { rules, clock, outageOf } = this.#parts;
    const { agesFrom, onExpiry, warm, maxLifetimeMs } = record;
    const lifetime = { agesFrom, maxLifetimeMs: maxLifetimeMs + (warm ? WARM_GRACE_MS : 0) };
    return judgeExpiry({ ...facts, ...lifetime, onExpiry, warm, outage: outageOf(record) }, rules, clock.now());
  }

  #toFields({ record, details, leaseEndsAt }: Look, reason: ExpiryReason): object {
    const { clock, owner } = this.#parts;
    const ageMs = Math.round(clock.now().getTime() - record.agesFrom.getTime());
    const { state, finishedAt, exitCode } = details;
    const ended = state === 'exited' ? { exitCode, finishedAt } : {};
    const lease = leaseEndsAt === undefined ? {} : { leaseEndsAt };
    return { sandbox: record.id, owner, reason, state, ageMs, ...ended, ...lease };
  }

  async #runScheduled(signal: AbortSignal): Promise<void> {
    try {
      if (this.#orphansAt > performance.now()) await this.run({ signal });
      else {
        await this.prune({ signal });
        this.#orphansAt = performance.now() + ORPHANS_EVERY_MS;
      }
    } catch (error) {
      if (signal.aborted) return;
      this.#parts.log.warn({ error }, 'the reaper could not look for what has expired; it will again');
    }
  }
}

/** Whether nobody has started, stopped, paused or renamed it between two looks. */
function isUnchanged(before: ContainerDetails, now: ContainerDetails): boolean {
  return (
    before.state === now.state &&
    before.name === now.name &&
    before.startedAt?.getTime() === now.startedAt?.getTime() &&
    before.finishedAt?.getTime() === now.finishedAt?.getTime()
  );
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return;
  throw new SandyardError('aborted', 'The caller gave up while expired sandboxes were removed.', {
    cause: signal.reason,
  });
}
