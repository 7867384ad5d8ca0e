import pLimit, { type LimitFunction } from 'p-limit';

import { SandyardError } from '../errors.js';
import type { EngineOperation } from '../telemetry.js';

/**
 * How many calls of a queue are under way at once. What is beyond that waits here, where it can be given up and where its
 * deadline doesn't count yet: the engine would take it in, and be slower with all of it.
 */
const WIDTHS = {
  // The engine makes and starts containers nearly one after the other, and holds locks of its own while it does.
  create: 8,
  // Apart from the creates, as it is what makes room for them. A stop is mostly waiting for a sandbox to end.
  end: 16,
  // Milliseconds each: few are ever under way, and none waits for what takes seconds.
  change: 8,
  // Each has the runtime begin a process in a container, for some 50 ms of a CPU; somebody waits for every one.
  tunnel: 16,
} as const;

type Queue = keyof typeof WIDTHS;

/** The queue that a call waits in; what changes nothing waits in none. */
const QUEUE_OF: Readonly<Record<EngineOperation, Queue | undefined>> = {
  info: undefined,
  version: undefined,
  ping: undefined,
  inspect_image: undefined,
  create_container: 'create',
  inspect_container: undefined,
  list_containers: undefined,
  start_container: 'create',
  stop_container: 'end',
  remove_container: 'end',
  pause_container: 'change',
  unpause_container: 'change',
  rename_container: 'change',
  update_container: 'change',
  container_stats: undefined,
  read_container_file: undefined,
  read_container_link: undefined,
  watch_containers: undefined,
  list_volumes: undefined,
  list_networks: undefined,
  inspect_network: undefined,
  create_network: 'change',
  connect_network: 'change',
  remove_volume: 'change',
  remove_network: 'change',
  attach_container: undefined,
  open_tunnel: 'tunnel',
  inspect_exec: undefined,
  fill_volume: 'create',
};

/** Each call that is under way has a deadline, so a queue moves on; not necessarily as fast as it grows. */
const WAIT_MS = 120_000;

export interface QueuedCall {
  readonly operation: EngineOperation;
  /** What we are about to do, for messages. */
  readonly doing: string;
  readonly signal?: AbortSignal | undefined;
}

/** The queues of one engine. */
export class Queues {
  readonly #limits = new Map<Queue, LimitFunction>();
  readonly #waitMs: number;

  constructor({ waitMs = WAIT_MS } = {}) {
    this.#waitMs = waitMs;
  }

  /** Runs `act` when it is its turn. One that is given up while it waits never runs. */
  run<T>(call: QueuedCall, act: () => Promise<T>): Promise<T> {
    const queue = QUEUE_OF[call.operation];
    if (queue === undefined) return act();
    const { doing, signal } = call;
    if (signal?.aborted === true) return Promise.reject(abortedError(signal, doing));
    return new Promise<T>((resolve, reject) => {
      let waits = true;
      const leave = () => {
        waits = false;
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      };
      const giveUp = (error: SandyardError) => {
        leave();
        reject(error);
      };
      const onAbort = () => giveUp(abortedError(signal, doing));
      const timer = setTimeout(() => giveUp(waitedInVain(doing, this.#waitMs)), this.#waitMs);
      signal?.addEventListener('abort', onAbort, { once: true });
      void this.#limit(queue)(async () => {
        if (!waits) return;
        leave();
        await act().then(resolve, reject);
      });
    });
  }

  #limit(queue: Queue): LimitFunction {
    const limit = this.#limits.get(queue) ?? pLimit(WIDTHS[queue]);
    this.#limits.set(queue, limit);
    return limit;
  }
}

export function abortedError(signal: AbortSignal | undefined, doing: string): SandyardError {
  return new SandyardError('aborted', `The caller gave up while we were about to ${doing}.`, { cause: signal?.reason });
}

function waitedInVain(doing: string, waitMs: number): SandyardError {
  return new SandyardError('engine_timeout', `It was not our turn to ${doing} within ${waitMs / 1000} s.`, {
    hint: 'More is asked of the engine than it gets done. Ask for less at once, and look at what keeps it busy.',
  });
}
