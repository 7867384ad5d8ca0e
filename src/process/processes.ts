import type { RemoteProcessInfo } from '../channel/messages.js';
import { processExitCode, type Outcome } from './process-exit.js';
import { translateProcess } from './remote-errors.js';
import type { HeldChannel, ProcessTarget } from './remote-run.js';
import { SandboxProcess } from './sandbox-process.js';
import { fields, parseInput } from '../schemas.js';
import { signalName } from '../signals.js';

/** What is known of a process that runs, or that has ended and is remembered. */
export interface ProcessInfo {
  readonly id: string;
  /** As the sandbox sees it; `null` when it has ended. */
  readonly pid: number | null;
  /** The program and its arguments, cut at 2 KiB. */
  readonly command: readonly string[];
  readonly state: 'running' | 'exited';
  /** `null` while it runs, as the two that follow. */
  readonly outcome: Outcome | null;
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly startedAt: Date;
  /** Whether it has a terminal. */
  readonly pty: boolean;
  /** The first piece of its output that is kept, `lastSeq + 1` when none is, and the last. */
  readonly firstSeq: number;
  readonly lastSeq: number;
  /** How many read its output now. */
  readonly readers: number;
}

/** The processes of one sandbox: all that run, and the last thousand or so that have ended. */
export class SandboxProcesses {
  readonly #target: ProcessTarget;

  /** @internal Made by a sandbox. */
  constructor(target: ProcessTarget) {
    this.#target = target;
  }

  /** Oldest first. The sandbox's own file operations aren't among them. */
  async list(): Promise<ProcessInfo[]> {
    const found = await this.#ask('', ({ channel }) => channel.list());
    return found
      .filter(({ builtin }) => !builtin)
      .map(toInfo)
      .toSorted((a, b) => a.startedAt.getTime() - b.startedAt.getTime());
  }

  /**
   * A handle of a process, whoever has started it: also another manager, or this one before it was restarted. Throws
   * `process_not_found`.
   */
  async get(id: string): Promise<SandboxProcess> {
    const known = parseInput(fields.processId, id, 'process id');
    const start = await this.#ask(known, async ({ channel }) => {
      const remote = channel.attach(known);
      remote.exit.catch(() => {}); // its start fails with the same
      try {
        return await remote.started;
      } finally {
        // A reader that reads nothing would hold it up.
        remote.detach();
      }
    });
    return new SandboxProcess(this.#target, known, { start: { ...start, existing: true } });
  }

  /** Forgets a process that has ended, and its output. Throws `process_not_found`, and `wrong_state` while it runs. */
  async forget(id: string): Promise<void> {
    const known = parseInput(fields.processId, id, 'process id');
    await this.#ask(known, ({ channel }) => channel.forget(known));
  }

  async #ask<Answer>(id: string, act: (held: HeldChannel) => Promise<Answer>): Promise<Answer> {
    const held = this.#target.hold();
    try {
      return await act(held);
    } catch (error) {
      throw translateProcess(error, id);
    } finally {
      held.release();
    }
  }
}

function toInfo(found: RemoteProcessInfo): ProcessInfo {
  const { id, pid, argv, outcome, signal, startedAt, tty, firstSeq, lastSeq, readers } = found;
  const ended = outcome !== null;
  return {
    id,
    pid,
    command: argv,
    state: ended ? 'exited' : 'running',
    outcome,
    exitCode: ended ? processExitCode(found) : null,
    signal: ended && signal !== null ? signalName(signal) : null,
    startedAt,
    pty: tty,
    firstSeq,
    lastSeq,
    readers,
  };
}
