import type Docker from 'dockerode';
import type { IncomingMessage } from 'node:http';

import { SandyardError } from '../errors.js';
import { QUICK_MS, type EngineConnection } from './connection.js';
import { engineUnavailable, translateEngineError } from './engine-errors.js';
import type { CallOptions, ContainerAction, ContainerEvent } from './engine.js';
import { abortedError } from './queues.js';

const ACTIONS: readonly ContainerAction[] = ['create', 'start', 'die', 'oom', 'pause', 'unpause', 'rename', 'destroy'];

/** An event has its container's labels, which have less than that. */
const MAX_LINE_BYTES = 1024 * 1024;
const NEW_LINE = 0x0a;

/** What the engine puts among the labels of a container. */
const OWN_ATTRIBUTES = new Set(['name', 'image', 'exitCode', 'signal', 'oldName', 'execID', 'execDuration']);

/** How soon a connection is noticed to be dead whose other end went without a word. */
const PROBE_AFTER_MS = 30_000;

const DOING = 'watch containers';

export async function* watchContainers(
  connection: EngineConnection,
  labels: readonly string[],
  { ready, signal }: CallOptions & { readonly ready?: () => void },
): AsyncGenerator<ContainerEvent, never, undefined> {
  const stream = await subscribe(connection, labels, { signal });
  const hangUp = () => stream.destroy();
  signal?.addEventListener('abort', hangUp, { once: true });
  try {
    signal?.throwIfAborted();
    ready?.();
    for await (const line of linesOf(stream)) {
      const event = toEvent(line);
      if (event !== undefined) yield event;
    }
    throw engineUnavailable('it ended the stream of events');
  } catch (error) {
    throw signal?.aborted === true ? abortedError(signal, DOING) : translateEngineError(error, { doing: DOING });
  } finally {
    signal?.removeEventListener('abort', hangUp);
    stream.destroy();
  }
}

function subscribe(
  connection: EngineConnection,
  labels: readonly string[],
  options: CallOptions,
): Promise<IncomingMessage> {
  return connection.call(
    { operation: 'watch_containers', doing: DOING, deadlineMs: QUICK_MS, idempotent: true, ...options },
    async (docker, abortSignal) => {
      // An engine answers before it subscribes: what happens between the two it tells only to who says since when.
      const { SystemTime } = (await docker.info()) as { SystemTime?: string };
      const since = Date.parse(SystemTime ?? '') / 1000;
      const stream = await ask(docker, {
        filters: { type: ['container'], label: [...labels], event: [...ACTIONS] },
        ...(Number.isNaN(since) ? {} : { since: since.toFixed(3) }),
        abortSignal,
      });
      stream.on('error', () => {}); // one that comes when nobody reads any more
      if (abortSignal.aborted) {
        stream.destroy(); // nobody waits for it any more
        throw abortSignal.reason;
      }
      stream.socket.setKeepAlive(true, PROBE_AFTER_MS);
      return stream;
    },
  );
}

/** dockerode's types know neither what it answers with, nor that it can be given up. */
function ask(docker: Docker, query: object): Promise<IncomingMessage> {
  return docker.getEvents(query) as Promise<unknown> as Promise<IncomingMessage>;
}

async function* linesOf(stream: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  const hold = (part: Buffer) => {
    held.push(part);
    heldBytes += part.length;
    if (heldBytes > MAX_LINE_BYTES) throw notAnEvent(`it has more than ${MAX_LINE_BYTES} bytes`);
  };
  for await (const chunk of stream) {
    let at = 0;
    for (let end = chunk.indexOf(NEW_LINE); end !== -1; end = chunk.indexOf(NEW_LINE, at)) {
      hold(chunk.subarray(at, end));
      yield Buffer.concat(held).toString('utf8');
      [held, heldBytes, at] = [[], 0, end + 1];
    }
    if (at < chunk.length) hold(Buffer.from(chunk.subarray(at))); // a slice would keep all that was read with it
  }
}

interface Told {
  readonly Type?: unknown;
  readonly Action?: unknown;
  readonly Actor?: { readonly ID?: unknown; readonly Attributes?: Readonly<Record<string, unknown>> };
  readonly time?: unknown;
  readonly timeNano?: unknown;
}

/** `undefined` for what is of no interest, as newer engines may tell more than they are asked for. */
function toEvent(line: string): ContainerEvent | undefined {
  if (line.trim() === '') return undefined;
  const { Type, Action, Actor, time, timeNano } = parse(line);
  const action = ACTIONS.find((name) => name === Action);
  if (action === undefined || (Type !== undefined && Type !== 'container')) return undefined;
  const attributes = Object.entries(Actor?.Attributes ?? {}).filter(
    (entry): entry is [string, string] => typeof entry[1] === 'string',
  );
  const { name, image, exitCode } = Object.fromEntries(attributes) as Partial<Record<string, string>>;
  const milliseconds = typeof timeNano === 'number' ? timeNano / 1e6 : Number(time) * 1000;
  if (typeof Actor?.ID !== 'string' || name === undefined || Number.isNaN(milliseconds)) {
    throw notAnEvent('it names no container, or no time');
  }
  return {
    action,
    id: Actor.ID,
    name: name.replace(/^\//, ''),
    image: image ?? '',
    labels: Object.fromEntries(attributes.filter(([attribute]) => !OWN_ATTRIBUTES.has(attribute))),
    exitCode: action === 'die' && exitCode !== undefined ? Number(exitCode) : undefined,
    at: new Date(milliseconds),
  };
}

function parse(line: string): Told {
  try {
    const told = JSON.parse(line) as Told | null;
    if (typeof told === 'object' && told !== null) return told;
  } catch (error) {
    throw notAnEvent('it is not JSON', error);
  }
  throw notAnEvent('it is no object');
}

function notAnEvent(why: string, cause?: unknown): SandyardError {
  return new SandyardError('engine_error', `The engine told of an event that is none: ${why}.`, { cause });
}
