import { SandyardError } from '../errors.js';
import { decodeExit, decodeListed, decodeRecord, decodeSamples, decodeUsage } from './answers.js';
import { Call, done, one, type CallOptions } from './call.js';
import { gaveUp } from './channel-errors.js';
import type { Connect } from './dial.js';
import { Link, type LinkTimes } from './link.js';
import type {
  RecordChange,
  RemoteExit,
  RemoteProcessInfo,
  RemoteRecord,
  RemoteUsage,
  RemoteSample,
  SpawnRequest,
} from './messages.js';
import { Ping } from './ping.js';
import { RemoteProcess, type RemoteProcessOptions } from './remote-process.js';
import { encodeKill, encodeNamed, encodePlain, encodeRecordSet, encodeSignal, encodeSpawn } from './requests.js';
import { FrameType, MAX_SAMPLES, ProtocolFault } from './wire.js';

const ANSWER_MS = 30_000;
const WINDOW_BYTES = 512 * 1024;
/** Of a frame that says none: it would have no end of them. */
const NO_SAMPLES_BYTES = 4;
const MAX_LISTED = 100_000;
const MAX_LISTED_BYTES = 16 * 1024 * 1024;

export interface ChannelOptions {
  /** Opens a connection to the warden of the sandbox. */
  readonly connect: Connect;
  /** Called when the sandbox was started again since the connection before. Must not throw. */
  readonly onRestart?: (() => void) | undefined;
  /** How much output of one process may wait unread; at least 128 KiB, half a MiB by default. */
  readonly windowBytes?: number;
  /** How long a request with an immediate answer may take. */
  readonly answerMs?: number;
  readonly times?: Partial<LinkTimes>;
}

/**
 * The way to the processes of one sandbox. Connects when there is something to say, and anew when the connection is cut:
 * what waits for an answer then is asked again, and what reads a process goes on where it was. Nothing waits for
 * ever, but for a process that runs.
 */
export class Channel {
  readonly #link: Link;
  readonly #windowBytes: number;
  readonly #answerMs: number;

  /** Does no I/O. */
  constructor({ connect, onRestart, windowBytes, answerMs, times }: ChannelOptions) {
    this.#link = new Link({ connect, onRestart, times });
    this.#windowBytes = windowBytes ?? WINDOW_BYTES;
    this.#answerMs = answerMs ?? ANSWER_MS;
  }

  /**
   * Starts a process and reads it. Returns at once; what is wrong is told by `started`. Aborting `signal` before
   * it has started lets go of it: it may have been started all the same.
   */
  spawn(request: SpawnRequest, { signal }: { signal?: AbortSignal | undefined } = {}): RemoteProcess {
    const windowBytes = this.#windowBytes;
    const options = { id: request.id, input: inputOf(request), after: 0, windowBytes, startMs: this.#answerMs };
    try {
      if (signal?.aborted === true) throw gaveUp(signal);
      const spawn = encodeSpawn(request, windowBytes);
      const process = new RemoteProcess(this.#link, { ...options, spawn });
      if (signal !== undefined) letGoOnAbort(process, signal);
      this.#link.enter(process);
      return process;
    } catch (error) {
      return failed(new RemoteProcess(this.#link, options), error);
    }
  }

  /**
   * Reads a process that is there, from after the piece of output numbered `after`, or from the first that is kept. What is
   * written to it goes behind what others have written.
   */
  attach(id: string, { after = 0 }: { after?: number | undefined } = {}): RemoteProcess {
    const bounds = { windowBytes: this.#windowBytes, startMs: this.#answerMs };
    const options = { id, input: 'appended', after, ...bounds } as const;
    const process = new RemoteProcess(this.#link, options);
    try {
      encodeNamed('wait', id); // says whether it can be an id
      if (!Number.isSafeInteger(after) || after < 0) {
        throw new SandyardError('validation_failed', `${after} can't be the number of a piece of output.`);
      }
      this.#link.enter(process);
      return process;
    } catch (error) {
      return failed(process, error);
    }
  }

  /** Sends a signal, by Linux's number, to the process or its whole tree. */
  async signal(id: string, signal: number, { tree }: { tree: boolean }): Promise<void> {
    const request = encodeSignal(id, { signal, tree });
    return this.#ask({ request, doing: `signal process ${id}`, endsWithSandbox: true, answer: done });
  }

  /** Sends a signal, and SIGKILL after the grace. Resolves when nothing of its tree is left. */
  async kill(id: string, { signal, graceMs }: { signal: number; graceMs: number }): Promise<void> {
    const request = encodeKill(id, { signal, graceMs });
    const deadlineMs = this.#answerMs + graceMs;
    return this.#ask({ request, doing: `kill process ${id}`, deadlineMs, endsWithSandbox: true, answer: done });
  }

  /** Resolves when it has ended, whoever has read what. */
  async wait(id: string, { signal }: { signal?: AbortSignal | undefined } = {}): Promise<RemoteExit> {
    const request = encodeNamed('wait', id);
    const answer = one(FrameType.exit, decodeExit);
    const doing = `wait for process ${id}`;
    return this.#ask({ request, doing, deadlineMs: undefined, signal, endsWithSandbox: true, answer });
  }

  async list(): Promise<RemoteProcessInfo[]> {
    let listed: RemoteProcessInfo[] = [];
    let bytes = 0;
    const answer = (type: number, payload: Buffer) => {
      if (type !== FrameType.listed) return { value: done(type, payload) };
      bytes += payload.length;
      if (listed.length >= MAX_LISTED || bytes > MAX_LISTED_BYTES)
        throw new ProtocolFault('it lists no end of processes');
      listed.push(decodeListed(payload));
      return undefined;
    };
    const onSend = () => {
      [listed, bytes] = [[], 0]; // what came before a cut comes again
    };
    await this.#ask({ request: encodePlain('list'), doing: 'list its processes', answer, onSend });
    return listed;
  }

  /** Has the warden forget a process that has ended. */
  async forget(id: string): Promise<void> {
    const request = encodeNamed('forget', id);
    return this.#ask({ request, doing: `forget process ${id}`, endsWithSandbox: true, removes: true, answer: done });
  }

  async usage(): Promise<RemoteUsage> {
    return this.#ask({
      request: encodePlain('usage'),
      doing: 'tell what it uses',
      answer: one(FrameType.usageIs, decodeUsage),
    });
  }

  /** What it used in the last hour, the oldest first. */
  async usageHistory(): Promise<RemoteSample[]> {
    let samples: RemoteSample[] = [];
    const answer = (type: number, payload: Buffer) => {
      if (type !== FrameType.usageSamples) return { value: done(type, payload) };
      samples.push(...decodeSamples(payload));
      if (payload.length <= NO_SAMPLES_BYTES || samples.length > MAX_SAMPLES) {
        throw new ProtocolFault('it tells no end of what it used');
      }
      return undefined;
    };
    const onSend = () => {
      samples = []; // what came before a cut comes again
    };
    await this.#ask({ request: encodePlain('usageHistory'), doing: 'tell what it used', answer, onSend });
    return samples;
  }

  async record(): Promise<RemoteRecord> {
    return this.#ask({
      request: encodePlain('recordGet'),
      doing: 'read its record',
      answer: one(FrameType.recordIs, decodeRecord),
    });
  }

  /** Where it is repeated after a cut, `version` may not be the record's any more because of the first time. */
  async setRecord(change: RecordChange): Promise<RemoteRecord> {
    return this.#ask({
      request: encodeRecordSet(change),
      doing: 'write its record',
      answer: one(FrameType.recordIs, decodeRecord),
    });
  }

  /** Resolves when the warden has answered. */
  async ping(): Promise<void> {
    return this.#pingOnce({ doing: 'answer', asks: true });
  }

  /** Connects, where there is no connection. */
  async open(): Promise<void> {
    return this.#pingOnce({ doing: 'connect', asks: false });
  }

  /** Gives up the connection there is: what is asked next, and what waits, has another opened. */
  cut(): void {
    this.#link.cut();
  }

  /** Everything that waits rejects with `manager_closed`. What runs, runs on. */
  close(): void {
    this.#link.close();
  }

  /** The sandbox is no more: processes end with `sandbox_died`, all else that waits rejects with `sandbox_not_found`. */
  destroyed(): void {
    this.#link.close({ destroyed: true });
  }

  async #ask<T>(options: CallOptions<T>): Promise<T> {
    const call = new Call(this.#link, { deadlineMs: this.#answerMs, ...options });
    if (!call.over) this.#link.enter(call);
    return call.answered;
  }

  async #pingOnce({ doing, asks }: { doing: string; asks: boolean }): Promise<void> {
    const ping = new Ping(this.#link, { doing, asks, deadlineMs: this.#answerMs });
    this.#link.enter(ping);
    return ping.answered;
  }
}

function inputOf({ stdin, tty }: SpawnRequest): RemoteProcessOptions['input'] {
  if (tty !== undefined) return 'appended';
  return stdin === true ? 'whole' : 'none';
}

function letGoOnAbort(process: RemoteProcess, signal: AbortSignal): void {
  const onAbort = () => process.letGo(gaveUp(signal));
  const stop = () => signal.removeEventListener('abort', onAbort);
  signal.addEventListener('abort', onAbort, { once: true });
  process.started.then(stop, stop);
}

function failed(process: RemoteProcess, error: unknown): RemoteProcess {
  process.fail(error instanceof Error ? error : new Error(String(error)));
  return process;
}
