import type { ProcessExit, ProcessOutput } from '../../../src/index.js';

export interface Script {
  readonly chunks?: readonly { stream: 'stdout' | 'stderr'; data: string }[];
  readonly exit?: Partial<ProcessExit>;
  /** Thrown after the chunks. */
  readonly fault?: Error;
  /** Whether it goes on until it is killed. */
  readonly hangs?: boolean;
}

export class StubProcess {
  readonly id = 'p1';
  readonly calls: unknown[][] = [];
  readonly #script: Script;
  readonly #killed = deferred<void>();
  #signal: string | null = null;
  disposed = false;

  constructor(script: Script) {
    this.#script = script;
  }

  async *output(): AsyncGenerator<ProcessOutput> {
    let seq = 0;
    for (const { stream, data } of this.#script.chunks ?? [])
      yield { seq: (seq += 1), stream, data: Buffer.from(data) };
    if (this.#script.fault) throw this.#script.fault;
    if (this.#script.hangs === true) await this.#killed.promise;
  }

  async wait(): Promise<ProcessExit> {
    const exit = { outcome: 'exited', exitCode: 0, signal: null, durationMs: 1500, processesLeft: false } as const;
    if (this.#signal !== null)
      return { ...exit, outcome: 'killed', exitCode: null, signal: this.#signal } as ProcessExit;
    return { ...exit, ...this.#script.exit } as ProcessExit;
  }

  async kill(signal: string): Promise<void> {
    this.calls.push(['kill', signal]);
    this.#signal = signal;
    this.#killed.resolve();
  }

  async write(data: Uint8Array): Promise<void> {
    this.calls.push(['write', Buffer.from(data).toString()]);
  }

  async closeStdin(): Promise<void> {
    this.calls.push(['closeStdin']);
  }

  resize(size: unknown): void {
    this.calls.push(['resize', size]);
  }

  detach(): void {
    this.calls.push(['detach']);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.disposed = true;
  }
}

/** A promise to be settled from outside. */
export function deferred<Value>(): { readonly promise: Promise<Value>; readonly resolve: (value: Value) => void } {
  let resolve: (value: Value) => void = () => {};
  const promise = new Promise<Value>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
