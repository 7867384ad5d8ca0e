import { customAlphabet } from 'nanoid';

import { currentContext } from '../context.js';
import { SandyardError } from '../errors.js';
import type { ExpiryReason } from '../record/expiry.js';
import { isTenants, type SandboxRecord } from '../record/record.js';

/** How many events a manager remembers. */
const KEPT_EVENTS = 2000;

export type LifecycleEventType =
  | 'created'
  | 'started'
  | 'stopped'
  | 'paused'
  | 'unpaused'
  | 'renewed'
  /** The kernel killed something in it for want of memory. */
  | 'oom'
  /** It had written more than it may, and all that ran in it was ended. */
  | 'disk_full'
  | 'destroyed';

/**
 * Why it happened. `requested`: a caller of this manager asked for it. `woken`: it was used. `ended`: PID 1 of the sandbox
 * ended, by itself or by somebody else's doing; `out_of_memory`, `too_many_threads` and `killed` say of what, see `DiedOf`. `lost`: it was found so after the engine was away. `elsewhere`: neither this
 * manager nor the sandbox itself did it.
 */
export type LifecycleReason =
  ExpiryReason | 'requested' | 'woken' | 'out_of_memory' | 'too_many_threads' | 'killed' | 'ended' | 'elsewhere';

export interface LifecycleEvent {
  /** Its place among the events of one manager: a later `events` goes on after it. */
  readonly id: string;
  readonly type: LifecycleEventType;
  readonly at: Date;
  readonly sandboxId: string;
  readonly owner: string;
  readonly tenant: string | null;
  readonly projectName: string | null;
  readonly reason: LifecycleReason;
  /** Who asked for it: `rest`, `cli`, `reaper`, or whatever the caller is called; `null` where that isn't known. */
  readonly by: string | null;
  readonly requestId: string | null;
  /** Of `stopped` only. */
  readonly exitCode: number | null;
}

export interface EventFilter {
  readonly types?: readonly LifecycleEventType[] | undefined;
  readonly sandboxId?: string | undefined;
  readonly projectName?: string | undefined;
  readonly tenant?: string | undefined;
}

export interface EventsOptions extends EventFilter {
  /** The id of an event: begins after it. Default: with what happens from now on. */
  readonly after?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface LifecycleChange {
  readonly type: LifecycleEventType;
  readonly record: Pick<SandboxRecord, 'id' | 'owner' | 'tenant' | 'projectName'>;
  readonly exitCode?: number | undefined;
  /** Unless it was intended. */
  readonly reason: LifecycleReason;
}

interface Intent {
  readonly reason: LifecycleReason;
  readonly types: readonly LifecycleEventType[];
  readonly by: string | null;
  readonly requestId: string | null;
  readonly until: number;
}

/** What is known of how a sandbox ended, whatever was just being done to it. */
const CERTAIN: ReadonlySet<LifecycleReason> = new Set(['lease_expired', 'idle', 'out_of_memory', 'too_many_threads']);

/** How long after something is begun what is told of it counts as that. */
const INTENT_MS = 90_000;

const newEpoch = customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz', 8);

/** What has happened to the sandboxes of one manager's owner, in order, and what happens. */
export class LifecycleEvents {
  /** Another for each manager: the numbers of one mean nothing to the next. */
  readonly #epoch = newEpoch();
  readonly #kept: LifecycleEvent[] = [];
  readonly #intents = new Map<string, Intent>();
  readonly #wake = new Set<() => void>();
  #last = 0;
  #closed = false;

  /**
   * Notes that something is about to be done to a sandbox, by whom and why: what the engine then tells of it, was that. Returns what
   * takes it back, for when it came to nothing.
   */
  intend(sandboxId: string, reason: LifecycleReason, types: readonly LifecycleEventType[]): () => void {
    const { actor, requestId } = currentContext();
    for (const [id, { until }] of this.#intents) if (until < performance.now()) this.#intents.delete(id);
    const until = performance.now() + INTENT_MS;
    const intent = { reason, types, by: actor ?? null, requestId: requestId ?? null, until };
    this.#intents.set(sandboxId, intent);
    return () => {
      if (this.#intents.get(sandboxId) === intent) this.#intents.delete(sandboxId);
    };
  }

  /** Tells what has become of a sandbox. */
  tell({ type, record, exitCode, reason }: LifecycleChange): void {
    const intent = this.#intents.get(record.id);
    // How it ended is certain where its exit code tells.
    const certain = type === 'oom' || type === 'disk_full' || (type === 'stopped' && CERTAIN.has(reason));
    const meant = intent?.types.includes(type) === true && intent.until >= performance.now() && !certain;
    if (type === 'destroyed') this.#intents.delete(record.id);
    this.#last += 1;
    this.#kept.push({
      id: this.position,
      type,
      at: new Date(),
      sandboxId: record.id,
      owner: record.owner,
      tenant: record.tenant,
      projectName: record.projectName,
      reason: meant ? intent.reason : reason,
      by: meant ? intent.by : null,
      requestId: meant ? intent.requestId : null,
      exitCode: exitCode ?? null,
    });
    if (this.#kept.length > KEPT_EVENTS) this.#kept.shift();
    for (const wake of this.#wake) wake();
  }

  /**
   * The events after `after`, or from now on; ends when the manager is closed. Throws `output_lost` when `after` is no more
   * remembered, or was another manager's: whoever wants to know how things stand lists the sandboxes then.
   */
  read({ after, signal, ...filter }: EventsOptions = {}): AsyncGenerator<LifecycleEvent> {
    // Now, not when the first is asked for: what happens in between is not to be missed.
    const next = after === undefined ? this.#last + 1 : this.#parse(after) + 1;
    return this.#readFrom(next, { filter, signal });
  }

  async *#readFrom(
    next: number,
    { filter, signal }: { filter: EventFilter; signal: AbortSignal | undefined },
  ): AsyncGenerator<LifecycleEvent> {
    for (;;) {
      const first = this.#last - this.#kept.length + 1;
      if (next < first) throw lost();
      for (; next <= this.#last; next += 1) {
        // What is read may have been dropped while the reader was busy.
        const event = this.#kept[next - (this.#last - this.#kept.length + 1)];
        if (event === undefined) throw lost();
        if (matches(event, filter)) yield event;
      }
      if (this.#closed || signal?.aborted === true) return;
      await this.#changed(signal);
    }
  }

  /** The id of the last event, of whatever kind: reading `after` it misses nothing that is to come. */
  get position(): string {
    return `${this.#epoch}-${this.#last}`;
  }

  close(): void {
    this.#closed = true;
    for (const wake of this.#wake) wake();
  }

  #parse(id: string): number {
    const [, epoch, number] = /^([0-9a-z]{8})-(\d{1,15})$/.exec(id) ?? [];
    if (epoch === undefined) {
      throw new SandyardError('validation_failed', 'The event to begin after is not the id of an event.', {
        hint: 'Leave it out to begin with what happens from now on.',
        issues: [{ path: ['after'], message: 'is not the id of an event' }],
      });
    }
    if (epoch !== this.#epoch || Number(number) > this.#last) throw lost();
    return Number(number);
  }

  #changed(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#wake.delete(wake);
        signal?.removeEventListener('abort', wake);
        resolve();
      };
      this.#wake.add(wake);
      signal?.addEventListener('abort', wake, { once: true });
    });
  }
}

function lost(): SandyardError {
  return new SandyardError('output_lost', 'The events after that one are no longer remembered.', {
    hint: 'List the sandboxes to see how things stand, and begin anew without it.',
  });
}

function matches(event: LifecycleEvent, { types, sandboxId, projectName, tenant }: EventFilter): boolean {
  return (
    (types === undefined || types.includes(event.type)) &&
    (sandboxId === undefined || event.sandboxId === sandboxId) &&
    (projectName === undefined || event.projectName === projectName) &&
    (tenant === undefined || isTenants(event, tenant))
  );
}
