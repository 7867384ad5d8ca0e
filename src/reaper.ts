import { setTimeout as sleep } from 'node:timers/promises';
import { schedule, validate, type ScheduledTask } from 'node-cron';

import type { Engine } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import { judgeExpiry, type ExpiryReason, type ExpiryRules } from './expiry.js';
import type { Log } from './log.js';
import { ownedBy, toRecord, type LeaseStore, type SandboxRecord } from './record.js';

const SECOND_LOOK_MS = 200;

/** A sandbox that has expired. */
export interface ReapedSandbox {
  readonly id: string;
  readonly reason: ExpiryReason;
  /** Whether it is gone; not in a dry run, nor when the engine refused. */
  readonly removed: boolean;
}

interface ReaperParts {
  readonly engine: Engine;
  readonly leases: LeaseStore;
  readonly log: Log;
  readonly owner: string;
  readonly rules: ExpiryRules;
  readonly dryRun: boolean;
}

/** The cron expression, when it is one; throws `config_invalid` otherwise. */
export function checkSchedule(expression: string): string {
  if (validate(expression)) return expression;
  throw new SandyardError('config_invalid', `The reaper's schedule "${expression}" is not a cron expression.`, {
    hint: 'Such as "*/30 * * * * *" for every 30 seconds.',
  });
}

/** Removes the sandboxes of one owner that have provably expired, and nothing else. */
export class Reaper {
  readonly #parts: ReaperParts;
  #task: ScheduledTask | undefined;

  constructor(parts: ReaperParts) {
    this.#parts = parts;
  }

  /** Runs by a cron expression of five fields, or six with seconds first. */
  start(expression: string): void {
    this.#task ??= schedule(checkSchedule(expression), () => this.#runScheduled(), { noOverlap: true });
  }

  async stop(): Promise<void> {
    const task = this.#task;
    this.#task = undefined;
    await task?.destroy();
  }

  /** Looks once. A dry run says what it would remove. */
  async run(
    options: { dryRun?: boolean | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<ReapedSandbox[]> {
    const { engine, leases, owner } = this.#parts;
    const { dryRun = this.#parts.dryRun, signal } = options;
    const containers = await engine.listContainers(ownedBy(owner), { signal });
    const records = containers.map(toRecord).filter((record) => record !== undefined);
    leases.keepOnly(new Set(records.map(({ id }) => id)));
    const reaped: ReapedSandbox[] = [];
    for (const record of records) {
      if (signal?.aborted === true) {
        throw new SandyardError('aborted', 'The caller gave up while expired sandboxes were removed.', {
          cause: signal.reason,
        });
      }
      const found = await this.#reap(record, dryRun);
      if (found !== undefined) reaped.push(found);
    }
    return reaped;
  }

  async #reap(record: SandboxRecord, dryRun: boolean): Promise<ReapedSandbox | undefined> {
    const { engine, log, owner } = this.#parts;
    let reason: ExpiryReason | undefined;
    try {
      reason = await this.#judge(record);
      if (reason === undefined) return undefined;
      const fields = { sandbox: record.id, owner, reason, createdAt: record.createdAt };
      if (dryRun) {
        log.info(fields, 'sandbox has expired; kept, because this is a dry run');
        return { id: record.id, reason, removed: false };
      }
      await engine.removeContainer(record.name);
      log.info(fields, 'removed an expired sandbox');
      return { id: record.id, reason, removed: true };
    } catch (error) {
      if (isSandyardError(error, 'sandbox_not_found')) return undefined;
      log.warn({ sandbox: record.id, error }, 'could not look after a sandbox that may have expired; will try again');
      return reason && { id: record.id, reason, removed: false };
    }
  }

  /** Goes by what is known first, and asks the engine and the sandbox itself only where that says expired. */
  async #judge(record: SandboxRecord): Promise<ExpiryReason | undefined> {
    const { engine, leases, rules } = this.#parts;
    const unknown = { busy: false, finishedAt: record.state === 'exited' ? new Date(0) : undefined };
    const likely = judgeExpiry({ ...record, ...leases.known(record), ...unknown }, rules, new Date());
    if (likely === undefined) return undefined;
    let reason: ExpiryReason | undefined;
    // Twice, because another manager may be writing the lease, and for a moment it isn't there to be read.
    for (const waitMs of [0, SECOND_LOOK_MS]) {
      await sleep(waitMs);
      const lease = await leases.read(record);
      const { state, busy, finishedAt } = await engine.inspectContainer(record.name);
      reason = judgeExpiry({ ...record, ...lease, state, busy, finishedAt }, rules, new Date());
      if (reason === undefined) return undefined;
    }
    return reason;
  }

  async #runScheduled(): Promise<void> {
    try {
      await this.run();
    } catch (error) {
      this.#parts.log.warn({ error }, 'the reaper could not look for expired sandboxes; it will again');
    }
  }
}
