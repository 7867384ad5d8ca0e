import { schedule, validate, type ScheduledTask } from 'node-cron';

import type { Engine } from './engine/engine.js';
import { isSandyardError, SandyardError } from './errors.js';
import { judgeExpiry, type ExpiryReason, type ExpiryRules } from './expiry.js';
import type { Log } from './log.js';
import { ownedBy, toRecord, type SandboxRecord } from './record.js';

/** A sandbox that has expired. */
export interface ReapedSandbox {
  readonly id: string;
  readonly reason: ExpiryReason;
  /** Whether it is gone; not in a dry run, nor when the engine refused. */
  readonly removed: boolean;
}

interface ReaperParts {
  readonly engine: Engine;
  readonly log: Log;
  readonly owner: string;
  readonly rules: ExpiryRules;
  readonly dryRun: boolean;
  /** Told which sandboxes there are, each time that it looks. */
  readonly seen: (ids: ReadonlySet<string>) => void;
  readonly removed: (id: string) => void;
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
    const { engine, owner, seen } = this.#parts;
    const { dryRun = this.#parts.dryRun, signal } = options;
    const containers = await engine.listContainers(ownedBy(owner), { signal });
    const records = containers.map(toRecord).filter((record) => record !== undefined);
    seen(new Set(records.map(({ id }) => id)));
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
    const { engine, log, owner, removed } = this.#parts;
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
      removed(record.id);
      log.info(fields, 'removed an expired sandbox');
      return { id: record.id, reason, removed: true };
    } catch (error) {
      if (isSandyardError(error, 'sandbox_not_found')) return undefined;
      log.warn({ sandbox: record.id, error }, 'could not look after a sandbox that may have expired; will try again');
      return reason && { id: record.id, reason, removed: false };
    }
  }

  /** Asks the engine about one of them only where the list doesn't say that it can't have expired. */
  async #judge(record: SandboxRecord): Promise<ExpiryReason | undefined> {
    const { engine, rules } = this.#parts;
    const now = new Date();
    const atMost = { finishedAt: record.state === 'exited' ? new Date(0) : undefined, exitCode: 0 };
    if (judgeExpiry({ ...record, ...atMost }, rules, now) === undefined) return undefined;
    const { state, finishedAt, exitCode } = await engine.inspectContainer(record.name);
    return judgeExpiry({ ...record, state, finishedAt, exitCode }, rules, now);
  }

  async #runScheduled(): Promise<void> {
    try {
      await this.run();
    } catch (error) {
      this.#parts.log.warn({ error }, 'the reaper could not look for expired sandboxes; it will again');
    }
  }
}
