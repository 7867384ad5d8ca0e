import { Router, type Request, type Response } from 'express';
import type { z } from 'zod';

import type { Access } from '../access/access.js';
import type { Caller } from '../access/caller.js';
import type { ServiceConfig } from '../config.js';
import { SandyardError, type ErrorCode } from '../errors.js';
import type { SandboxManager } from '../index.js';
import { fields, parseInput } from '../schemas.js';
import { authorize } from './authentication.js';
import { readJson } from './body.js';
import { knownCallerOf } from './callers.js';
import { shuttingDown, type Calls, type RunningCall } from './calls.js';
import { answerOnce, readIdempotencyKey, toRepeat } from './idempotency.js';
import type { KeptAnswers, Repeat } from './kept-answers.js';
import type { Metrics } from './metrics.js';
import type { ProcessInputs } from './process-inputs.js';
import type { TerminalTickets } from './terminal-tickets.js';
import type { WebSockets } from './web-sockets.js';

/*
 * A route is described once, as an operation: the router is built from the description, and so is the OpenAPI
 * document, so the two can't disagree. Parsing is done here; a handler calls the library and presents what it says.
 */

export interface Service {
  readonly access: Access;
  readonly manager: SandboxManager;
  readonly config: ServiceConfig;
  readonly calls: Calls;
  readonly metrics: Metrics;
  readonly sockets: WebSockets;
  readonly tickets: TerminalTickets;
  readonly inputs: ProcessInputs;
  readonly answers: KeptAnswers;
}

export interface Call<Query, Body> extends Service {
  readonly request: Request;
  readonly response: Response;
  /** Who asks: one who may, with its scopes and to that sandbox. */
  readonly caller: Caller;
  /** The sandbox that the path names; empty where it names none. */
  readonly id: string;
  /** The process that the path names, by its id; empty where it names none. */
  readonly pid: string;
  readonly query: Query;
  readonly body: Body;
  /** Of a request that may be sent again: by what the first is found, where the operation is `durable`. */
  readonly repeat: Repeat | undefined;
  readonly running: RunningCall;
  /** Aborts when the client hangs up or the service ends. */
  readonly signal: AbortSignal;
}

/** What an answer consists of, by media type; `'binary'` for bytes, nothing for an answer without a body. */
export interface Answer {
  readonly description: string;
  readonly content?: Readonly<Record<string, z.ZodType | 'binary'>>;
  readonly headers?: Readonly<Record<string, string>>;
}

/** The media type of bytes as they are. */
export const BYTES = 'application/octet-stream';
/** The answer of what has nothing to tell. */
export const DONE: Answer = { description: 'Done.' };

interface Description {
  readonly method: 'get' | 'post' | 'put' | 'delete';
  /** As OpenAPI writes it: `/api/sandboxes/{id}`. */
  readonly path: string;
  readonly operationId: string;
  readonly tag: 'Sandboxes' | 'Commands' | 'Files' | 'Service';
  /** Whether it needs no token, and is answered to the end of the service. */
  readonly open?: true;
  /**
   * Whether the handler finds by `repeat` what a request that is sent again has done, by what the engine or the sandbox
   * remembers. Otherwise the answer of a POST is kept for that, in memory.
   */
  readonly durable?: true;
  readonly summary: string;
  readonly description?: string;
  /** The media types of a body that is streamed. */
  readonly upload?: readonly string[];
  readonly answers: Readonly<Record<number, Answer>>;
  readonly errors: readonly ErrorCode[];
}

export interface Operation extends Description {
  readonly query?: z.ZodObject;
  readonly body?: z.ZodType;
  run(call: Omit<Call<unknown, unknown>, 'query' | 'body' | 'repeat'>): Promise<void>;
}

export interface OperationInput<Query extends z.ZodObject, Body extends z.ZodType> extends Description {
  readonly query?: Query;
  readonly body?: Body;
  readonly handle: (call: Call<z.output<Query>, z.output<Body>>) => Promise<void> | void;
}

export function operation<Query extends z.ZodObject, Body extends z.ZodType>(
  input: OperationInput<Query, Body>,
): Operation {
  const { handle, ...description } = input;
  return {
    ...description,
    async run(call) {
      const { request, response } = call;
      const key = input.method === 'post' ? readIdempotencyKey(request) : undefined;
      const query = input.query && parseInput(input.query, request.query, 'query parameters');
      const json = input.body && (await readJson(request, response));
      const body = input.body && parseInput(input.body, json, 'fields of the body');
      const repeat = key === undefined ? undefined : repeatOf(key, { call, input, content: [request.query, json] });
      const act = () => handle({ ...call, query: query as z.output<Query>, body: body as z.output<Body>, repeat });
      if (repeat === undefined) await act();
      else await answerOnce({ ...call, repeat, durable: input.durable === true }, act);
    },
  };
}

/** Of a body that is streamed only what was said of it in advance is compared: it may be endless. */
function repeatOf(
  key: string,
  {
    call: { caller, request, id, pid },
    input: { method, path, upload },
    content,
  }: { call: Pick<Call<unknown, unknown>, 'caller' | 'request' | 'id' | 'pid'>; input: Description; content: unknown },
): Repeat {
  const { 'content-type': type, 'content-length': length } = request.headers;
  const place = [caller.owner, method, path, id, pid];
  return toRepeat(key, { place, content: upload === undefined ? content : [content, type, length] });
}

/** The router of some operations. A path that exists with other methods is answered with 405 and `Allow`. */
export function toRouter(operations: readonly Operation[], service: Service): Router {
  const router = Router({ caseSensitive: true });
  for (const operation of operations) {
    router[operation.method](toExpressPath(operation.path), (request, response) =>
      runOperation(operation, service, { request, response }),
    );
  }
  for (const [path, methods] of methodsByPath(operations)) {
    router.all(toExpressPath(path), (request, response) => {
      response.set('Allow', methods.join(', '));
      throw new SandyardError('method_not_allowed', `${request.path} has no ${request.method}.`, {
        hint: `It has ${methods.join(', ')}; see /docs.`,
      });
    });
  }
  return router;
}

/** Who asks for what is open to all: it is good for nothing else. */
const NOBODY: Caller = { owner: '', scopes: [], via: 'open', name: 'nobody' };

async function runOperation(
  operation: Operation,
  service: Service,
  { request, response }: { request: Request; response: Response },
): Promise<void> {
  if (service.calls.draining && operation.open !== true) throw shuttingDown();
  const running = service.calls.begin(response);
  try {
    const id = operation.path.includes('{id}') ? parseId(request.params['id']) : '';
    const pid = operation.path.includes('{pid}') ? parseProcessId(request.params['pid']) : '';
    const { signal } = running;
    const caller = operation.open === true ? NOBODY : knownCallerOf(request);
    if (operation.open !== true) await authorize({ ...service, operation, caller, id, response, signal });
    await operation.run({ ...service, request, response, caller, id, pid, running, signal });
  } catch (error) {
    throw running.explain(error);
  }
}

/** What can't be an id names no sandbox: clients need one answer for "not there", not two. */
function parseId(id: unknown): string {
  const result = fields.id.safeParse(id);
  if (result.success) return result.data;
  throw new SandyardError('sandbox_not_found', `There is no sandbox ${JSON.stringify(id)}.`, {
    hint: 'GET /api/sandboxes lists those there are.',
  });
}

function parseProcessId(pid: unknown): string {
  const result = fields.processId.safeParse(pid);
  if (result.success) return result.data;
  throw new SandyardError('process_not_found', `There is no process ${JSON.stringify(pid)}.`, {
    hint: 'GET …/processes lists those there are.',
  });
}

function methodsByPath(operations: readonly Operation[]): Map<string, string[]> {
  const byPath = new Map<string, string[]>();
  for (const { path, method } of operations) {
    const methods = method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()];
    byPath.set(path, [...(byPath.get(path) ?? []), ...methods]);
  }
  return byPath;
}

function toExpressPath(path: string): string {
  return path.replaceAll(/\{(\w+)\}/g, ':$1');
}
