import type { Duplex } from 'node:stream';
import { setImmediate } from 'node:timers';

import { isSandyardError } from '../errors.js';
import { decodeFault, decodeHello, decodePong, type Hello } from './answers.js';
import { channelFailed, connectFailed, otherVersion, type TunnelEnd } from './channel-errors.js';
import { FrameReader, type Frame } from './frame-reader.js';
import { Outbox, type BulkSource, type Lazy } from './outbox.js';
import { encodeDetach, encodeHello, encodePing, toFrames, type Encoded } from './requests.js';
import { FrameType, PROTOCOL_VERSION, ProtocolFault } from './wire.js';

/** Gets what comes on one stream. Throws a `ProtocolFault` where that can't be. */
export interface StreamOwner {
  take(type: number, payload: Buffer): void;
}

export interface TunnelEvents {
  readonly onHello: (hello: Hello) => void;
  /** Once, and nothing after it; not when it was closed. */
  readonly onEnd: (end: TunnelEnd) => void;
}

export interface KeepAlive {
  readonly pingMs: number;
  readonly pongMs: number;
}

const MAX_STREAM = 0xffff_ffff;
/** How often within `pongMs` it is looked whether the answer is there. */
const LOOKS = 4;
/** How many requests may be waited for that nobody wants answered any more. */
const MAX_ABANDONED = 1000;

/** One connection to the warden. It ends at the first fault, and in one way. */
export class Tunnel {
  readonly #connection: Duplex;
  readonly #events: TunnelEvents;
  readonly #outbox: Outbox;
  readonly #streams = new Map<number, StreamOwner>();
  /**
   * Streams that we closed, and on which something may come yet: until the answer to a PING that was sent after that. With
   * the last PING before it, the oldest first.
   */
  readonly #closedStreams = new Map<number, number>();
  #abandoned = 0;
  #lastStream = 0;
  #greeted = false;
  #ended = false;
  readonly #pings = new Map<number, (() => void) | undefined>();
  #lastToken = 0;
  #keepAlive: NodeJS.Timeout | undefined;
  #busy = true;
  #error: Error | undefined;
  /** Whether anything came but the greeting. */
  progressed = false;
  readonly openedAt = performance.now();

  constructor(connection: Duplex, events: TunnelEvents) {
    this.#connection = connection;
    this.#events = events;
    this.#outbox = new Outbox(connection);
    const reader = new FrameReader((frame) => this.#take(frame));
    connection.on('data', (chunk: Buffer) => {
      if (this.#ended) return;
      try {
        reader.push(chunk);
      } catch (error) {
        this.#fail(error);
      }
    });
    connection.on('error', (error: Error) => {
      this.#error ??= error;
    });
    // Where it also has an error to tell, that comes a moment later.
    connection.on('end', () =>
      setImmediate(() => this.#cut(reader.within ? 'it broke off within a frame' : 'it ended')),
    );
    connection.on('close', () => this.#cut('it was closed'));
    this.#outbox.send(encodeHello());
  }

  /** Takes a stream for a request, and sends it. */
  request(request: Encoded, owner: StreamOwner): number {
    const stream = this.#freeStream();
    this.#streams.set(stream, owner);
    this.#outbox.send(toFrames(request, stream));
    return stream;
  }

  /** The last answer came on it. */
  release(stream: number): void {
    this.#streams.delete(stream);
  }

  /** Nobody wants the answer any more; it will come all the same, and the stream isn't free until then. */
  abandon(stream: number): void {
    this.#streams.set(stream, {
      take: (type) => {
        if (type === FrameType.listed) return;
        this.#abandoned -= 1;
        this.release(stream);
      },
    });
    this.#abandoned += 1;
    // What is left open at both ends goes with the tunnel; everything else is taken up again on the next.
    if (this.#abandoned > MAX_ABANDONED) this.#cut('too many requests are open that nobody waits for');
  }

  /** Lets go of a process; which the warden is told with the next write. */
  detach(stream: number): void {
    if (!this.#streams.delete(stream)) return;
    this.#closedStreams.set(stream, this.#lastToken);
    this.#outbox.lazily({ collect: () => encodeDetach(stream) }, { urgent: false });
  }

  send(frame: Buffer): void {
    this.#outbox.send(frame);
  }

  lazily(lazy: Lazy, options: { urgent: boolean }): void {
    this.#outbox.lazily(lazy, options);
  }

  offer(source: BulkSource): void {
    this.#outbox.offer(source);
  }

  withdraw(source: BulkSource): void {
    this.#outbox.withdraw(source);
  }

  /** Calls back when the warden has answered. */
  ping(onPong?: () => void): void {
    this.#lastToken += 1;
    this.#pings.set(this.#lastToken, onPong);
    this.#outbox.send(encodePing(this.#lastToken));
  }

  /** Sends PING from now on, and takes the tunnel for cut when nothing comes back. */
  keepAlive({ pingMs, pongMs }: KeepAlive): void {
    const lookMs = pongMs / LOOKS;
    let sincePing = 0;
    let misses = 0;
    let waitsFor: number | undefined;
    // Looks are counted, not time: after this program has stood still, what came meanwhile is read first.
    const look = () => {
      sincePing += lookMs;
      if (waitsFor !== undefined && this.#pings.has(waitsFor)) {
        misses += 1;
        if (misses >= LOOKS) this.#cut(`it did not answer within ${pongMs / 1000} s`);
      } else if (sincePing >= pingMs) {
        [sincePing, misses] = [0, 0];
        this.ping();
        waitsFor = this.#lastToken;
      }
    };
    this.#keepAlive = setInterval(look, lookMs);
    this.#holdProgram(this.#busy);
  }

  /** Whether something waits for this tunnel; it keeps the program from ending only then. */
  set busy(busy: boolean) {
    if (busy === this.#busy) return;
    this.#busy = busy;
    this.#holdProgram(busy);
  }

  /** Sends what there is to send, and is gone. */
  close(): void {
    if (this.#ended) return;
    this.#outbox.flush();
    this.#stop();
    const timer = setTimeout(() => this.#connection.destroy(), 1000).unref();
    this.#connection.end(() => {
      clearTimeout(timer);
      this.#connection.destroy();
    });
  }

  #take({ type, stream, payload }: Frame): void {
    if (this.#ended) return;
    if (!this.#greeted) return this.#greet(type, payload);
    this.progressed = true;
    if (stream === 0) return this.#takeOwn(type, payload);
    const owner = this.#streams.get(stream);
    if (owner !== undefined) return owner.take(type, payload);
    if (this.#closedStreams.has(stream)) return;
    throw new ProtocolFault(`there is no stream ${stream}`);
  }

  #greet(type: number, payload: Buffer): void {
    if (type === FrameType.fault) return this.#takeOwn(type, payload);
    if (type !== FrameType.helloBack) throw new ProtocolFault('it does not begin with a greeting');
    const hello = decodeHello(payload);
    if (hello.version !== PROTOCOL_VERSION) throw otherVersion(hello);
    this.#greeted = true;
    this.#events.onHello(hello);
  }

  #takeOwn(type: number, payload: Buffer): void {
    if (type === FrameType.fault) throw channelFailed(`it says: ${decodeFault(payload)}`);
    if (type !== FrameType.pong) throw new ProtocolFault(`a frame of type ${type} has no stream`);
    const token = decodePong(payload);
    const onPong = this.#pings.get(token);
    if (!this.#pings.delete(token)) throw new ProtocolFault('it answered a question that was not asked');
    for (const [stream, lastToken] of this.#closedStreams) {
      if (lastToken >= token) break;
      this.#closedStreams.delete(stream);
    }
    onPong?.();
  }

  #freeStream(): number {
    do {
      this.#lastStream = this.#lastStream === MAX_STREAM ? 1 : this.#lastStream + 1;
    } while (this.#streams.has(this.#lastStream) || this.#closedStreams.has(this.#lastStream));
    return this.#lastStream;
  }

  #fail(error: unknown): void {
    const told = isSandyardError(error) ? error : channelFailed((error as Error).message, error);
    this.#end({ kind: 'fault', error: told });
  }

  #cut(why: string): void {
    this.#end({ kind: 'cut', error: connectFailed(this.#error ?? new Error(why)) });
  }

  #end(end: TunnelEnd): void {
    if (this.#ended) return;
    this.#stop();
    this.#connection.destroy();
    this.#events.onEnd(end);
  }

  #stop(): void {
    this.#ended = true;
    this.#outbox.close();
    this.#streams.clear();
    this.#pings.clear();
    clearInterval(this.#keepAlive);
  }

  /** A connection that isn't the system's has no hold on the program, and none of these methods. */
  #holdProgram(hold: boolean): void {
    const connection = this.#connection as Duplex & Partial<Pick<NodeJS.Timeout, 'ref' | 'unref'>>;
    const method = hold ? 'ref' : 'unref';
    connection[method]?.();
    this.#keepAlive?.[method]();
  }
}
