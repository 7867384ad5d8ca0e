import { isSandyardError } from '../errors.js';
import type { Sandbox, SandboxProcess } from '../index.js';

/** What was written may still be on its way when the request that brought it is answered. */
const LINGER_MS = 5000;

interface Shared {
  readonly attach: () => Promise<SandboxProcess>;
  users: number;
  process: Promise<SandboxProcess> | undefined;
  /** When the last write was taken. */
  idle: Promise<unknown>;
  /** Lets go of it, when nobody has come for a while. */
  leaving: NodeJS.Timeout | undefined;
}

export interface ProcessInput {
  /** Settles when it may be followed by more. */
  write(data: Uint8Array): Promise<void>;
  end(): Promise<void>;
  resize(size: { rows: number; columns: number }): Promise<void>;
  release(): void;
}

/**
 * What processes read. A handle counts the bytes that it has written itself, so several that write to one process would
 * write over each other: all clients of a process share one handle, and take turns.
 */
export class ProcessInputs {
  readonly #open = new Map<string, Shared>();
  readonly #lingerMs: number;

  constructor({ lingerMs = LINGER_MS }: { readonly lingerMs?: number } = {}) {
    this.#lingerMs = lingerMs;
  }

  acquire(sandbox: Sandbox, pid: string): ProcessInput {
    const key = `${sandbox.id}/${pid}`;
    const shared = this.#open.get(key) ?? {
      attach: () => sandbox.processes.get(pid),
      users: 0,
      process: undefined,
      idle: Promise.resolve(),
      leaving: undefined,
    };
    clearTimeout(shared.leaving);
    this.#open.set(key, shared);
    shared.users += 1;
    let released = false;
    return {
      write: (data) => takeTurn(shared, (process) => process.write(data)),
      end: () => takeTurn(shared, (process) => process.closeStdin()),
      resize: (size) => takeTurn(shared, async (process) => process.resize(size)),
      release: () => {
        if (released) return;
        released = true;
        shared.users -= 1;
        if (shared.users > 0) return;
        shared.leaving = setTimeout(() => {
          this.#open.delete(key);
          letGo(shared);
        }, this.#lingerMs).unref();
      },
    };
  }
}

function takeTurn(shared: Shared, act: (process: SandboxProcess) => Promise<void>): Promise<void> {
  const turn = shared.idle.then(async () => {
    const known = shared.process;
    try {
      await act(await attached(shared));
    } catch (error) {
      // The handle may be of a process that was there before under the same id. After another failure some of it may have
      // been taken.
      const isStale = isSandyardError(error, 'wrong_state') || isSandyardError(error, 'process_not_found');
      if (known === undefined || !isStale) throw error;
      letGo(shared);
      await act(await attached(shared));
    }
  });
  shared.idle = turn.catch(() => {});
  return turn;
}

/** Looked up when it is first needed: most that watch never write. */
function attached(shared: Shared): Promise<SandboxProcess> {
  shared.process ??= shared.attach().catch((error: unknown) => {
    shared.process = undefined;
    throw error;
  });
  return shared.process;
}

function letGo(shared: Shared): void {
  shared.process?.then(
    (process) => process.detach(),
    () => {}, // who wrote was told
  );
  shared.process = undefined;
}
