import { EventEmitter, once } from 'node:events';

import { SandyardError } from '../../../src/errors.js';
import type { ProcessExit, ProcessInfo, ProcessOutput, SpawnOptions } from '../../../src/index.js';

/* Processes in memory: what they print is numbered and kept, and several readers may be at it. */

export interface SpawnScript {
  /** What it prints, taken one by one as somebody reads. */
  readonly chunks: Iterable<{ stream: 'stdout' | 'stderr'; data: Uint8Array }>;
  /** Thrown after the chunks. */
  readonly fault?: Error;
  /** Whether it goes on until it is ended. */
  readonly hangs?: boolean;
}

type Options = SpawnOptions;

export function exitOf(exitCode: number | null, more: Partial<ProcessExit> = {}): ProcessExit {
  const usage = { userMs: 5, systemMs: 2.5, maxRssBytes: 1_000_000 };
  return {
    exitCode,
    signal: null,
    durationMs: 12.5,
    outcome: 'exited',
    processesLeft: false,
    usage,
    diedOf: null,
    ...more,
  };
}

export class StubProcess {
  readonly id: string;
  readonly command: readonly string[];
  readonly options: Options;
  readonly pid: number;
  readonly startedAt = new Date('2026-01-01T00:00:02Z');
  /** What is kept of its output; what is cut off at the front is lost. */
  readonly pieces: ProcessOutput[] = [];
  readonly written: Buffer[] = [];
  inputEnded = false;
  readonly sizes: unknown[] = [];
  readonly signals: string[] = [];
  readonly kills: unknown[][] = [];
  /** What a write waits for. */
  inputGate: Promise<unknown> = Promise.resolve();
  result: ProcessExit | undefined;
  fault: Error | undefined;
  readers = 0;
  /** Handles that were neither let go of nor disposed of. */
  held = 0;
  lastSeq = 0;
  readonly #script: Iterator<{ stream: 'stdout' | 'stderr'; data: Uint8Array }>;
  readonly #after: SpawnScript;
  readonly #changed = new EventEmitter().setMaxListeners(0);

  constructor(id: string, { pid, command, options, script }: StubProcessInit) {
    this.id = id;
    this.pid = pid;
    this.command = typeof command === 'string' ? ['/bin/sh', '-c', command] : (command as string[]);
    this.options = options;
    this.#script = script.chunks[Symbol.iterator]();
    this.#after = script;
  }

  get input(): string {
    return Buffer.concat(this.written).toString();
  }

  print(data: string | Uint8Array, stream: 'stdout' | 'stderr' = 'stdout'): void {
    this.lastSeq += 1;
    this.pieces.push({ seq: this.lastSeq, stream, data: Buffer.from(data as string) });
    this.#changed.emit('change');
  }

  /** Forgets the first pieces, as a ring that is full does. */
  lose(count: number): void {
    this.pieces.splice(0, count);
  }

  end(result: ProcessExit): void {
    this.result ??= result;
    this.#changed.emit('change');
  }

  fail(fault: Error): void {
    this.fault = fault;
    this.#changed.emit('change');
  }

  info(): ProcessInfo {
    return {
      id: this.id,
      pid: this.result === undefined ? this.pid : null,
      command: this.command,
      state: this.result === undefined ? 'running' : 'exited',
      outcome: this.result?.outcome ?? null,
      exitCode: this.result?.exitCode ?? null,
      signal: this.result?.signal ?? null,
      startedAt: this.startedAt,
      pty: this.options.pty !== undefined && this.options.pty !== false,
      firstSeq: this.pieces[0]?.seq ?? this.lastSeq + 1,
      lastSeq: this.lastSeq,
      readers: this.readers,
    };
  }

  /** As `SandboxProcess`. */
  handle({ existing, disposed }: { existing: boolean; disposed: () => void }) {
    let attached = true;
    this.held += 1;
    const letGo = () => {
      if (attached) this.held -= 1;
      attached = false;
      this.#changed.emit('change');
    };
    return {
      id: this.id,
      pid: this.result === undefined ? this.pid : null,
      startedAt: this.startedAt,
      existing,
      output: ({ after = 0 }: { after?: number } = {}) => this.#read(after, () => attached),
      wait: ({ signal }: { signal?: AbortSignal } = {}) => this.#wait(signal),
      kill: async (...how: unknown[]) => {
        this.kills.push(how);
        this.end(exitOf(143, { outcome: 'killed', signal: 'SIGTERM' }));
      },
      signal: async (name: string) => {
        this.signals.push(name);
      },
      write: async (data: string | Uint8Array) => {
        if (this.result !== undefined) throw new SandyardError('wrong_state', 'It reads no more.', { hint: 'Look.' });
        await this.inputGate;
        this.written.push(Buffer.from(data as string));
      },
      closeStdin: async () => {
        this.inputEnded = true;
      },
      resize: (size: unknown) => {
        this.sizes.push(size);
      },
      detach: letGo,
      [Symbol.asyncDispose]: async () => {
        this.end(exitOf(143, { outcome: 'killed' }));
        letGo();
        disposed();
      },
    };
  }

  async *#read(after: number, isAttached: () => boolean): AsyncGenerator<ProcessOutput> {
    this.readers += 1;
    try {
      for (let next = after + 1; ; next += 1) {
        while (next > this.lastSeq && this.result === undefined && isAttached()) await this.#advance();
        if (!isAttached() || next > this.lastSeq) return;
        const firstSeq = this.pieces[0]?.seq ?? this.lastSeq + 1;
        if (next < firstSeq) throw outputLost(firstSeq);
        const piece = this.pieces[next - firstSeq];
        if (piece !== undefined) yield piece;
      }
    } finally {
      this.readers -= 1;
    }
  }

  /** Takes one more from the script, or waits until something happens. */
  async #advance(): Promise<void> {
    if (this.fault !== undefined) throw this.fault;
    const next = this.#script.next();
    if (next.done !== true) return this.print(next.value.data, next.value.stream);
    if (this.#after.fault !== undefined) throw this.#after.fault;
    if (this.#after.hangs === true) await once(this.#changed, 'change');
    else this.end(exitOf(3));
  }

  async #wait(signal: AbortSignal | undefined): Promise<ProcessExit> {
    const onAbort = () => this.#changed.emit('change');
    signal?.addEventListener('abort', onAbort);
    while (this.result === undefined) {
      if (signal?.aborted === true) throw new SandyardError('aborted', 'The caller gave up waiting.');
      if (this.fault !== undefined) throw this.fault;
      await once(this.#changed, 'change');
    }
    signal?.removeEventListener('abort', onAbort);
    return this.result;
  }
}

interface StubProcessInit {
  readonly pid: number;
  readonly command: unknown;
  readonly options: Options;
  readonly script: SpawnScript;
}

function outputLost(firstSeq: number): SandyardError {
  return new SandyardError('output_lost', 'That part of the output is no longer kept.', {
    hint: `Go on after ${firstSeq - 1}.`,
    details: { firstSeq },
  });
}
