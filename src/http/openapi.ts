import { z } from 'zod';

import { describeError, type ErrorCode } from '../errors.js';
import { fields } from '../schemas.js';
import { egressBody } from '../egress-schemas.js';
import { secretBody } from '../secret-schemas.js';
import {
  egressAnswer,
  egressDecisionAnswer,
  egressLogAnswer,
  endAnswer,
  execAnswer,
  exitAnswer,
  fileAnswer,
  fileListAnswer,
  lifecycleEventAnswer,
  processAnswer,
  processListAnswer,
  pruneAnswer,
  sandboxAnswer,
  sandboxListAnswer,
  statsAnswer,
  statsHistoryAnswer,
} from '../wire/answers.js';
import { secretsAnswer } from '../wire/secret-answers.js';
import { scopeOf } from './access-table.js';
import { sandboxEvent } from './event-routes.js';
import { linkAnswer, linkBody } from './file-link-routes.js';
import { watchEvent } from './file-events.js';
import { chmodBody, makeDirBody, renameBody } from './file-requests.js';
import { checkBody } from './egress-routes.js';
import type { Answer, Operation } from './operation.js';
import { PROBLEM_TYPE, problemAnswer } from './problem.js';
import { processEvent } from './process-events.js';
import { executeBody, killBody, processBody, signalBody, sizeBody } from './process-requests.js';
import { createBody, pruneBody, renewBody, stopBody } from './sandbox-requests.js';
import { ticketAnswer } from './terminal-routes.js';
import { tokenAnswer, tokenBody } from './token-routes.js';

type Json = Record<string, unknown>;

const REQUESTS = named({
  CreateSandbox: createBody,
  Execute: executeBody,
  Egress: egressBody,
  CheckEgress: checkBody,
  SetSecret: secretBody,
  RenewSandbox: renewBody,
  StopSandbox: stopBody,
  Cleanup: pruneBody,
  StartProcess: processBody,
  Signal: signalBody,
  KillProcess: killBody,
  TerminalSize: sizeBody,
  MakeDirectory: makeDirBody,
  Rename: renameBody,
  SetMode: chmodBody,
  IssueToken: tokenBody,
  IssueFileLink: linkBody,
});
const ANSWERS = named({
  Sandbox: sandboxAnswer,
  SandboxList: sandboxListAnswer,
  SandboxStats: statsAnswer,
  SandboxStatsHistory: statsHistoryAnswer,
  SandboxEnd: endAnswer,
  EgressPolicy: egressAnswer,
  EgressLog: egressLogAnswer,
  EgressDecision: egressDecisionAnswer,
  Secrets: secretsAnswer,
  LifecycleEvent: lifecycleEventAnswer,
  SandboxEvent: sandboxEvent,
  CleanupResult: pruneAnswer,
  ExecResult: execAnswer,
  Process: processAnswer,
  ProcessList: processListAnswer,
  ProcessExit: exitAnswer,
  ProcessEvent: processEvent,
  TerminalTicket: ticketAnswer,
  Token: tokenAnswer,
  FileLink: linkAnswer,
  FileInfo: fileAnswer,
  FileList: fileListAnswer,
  FileChange: watchEvent,
  Problem: problemAnswer,
});

/** What any route that needs a token may answer. */
const COMMON_ERRORS: readonly ErrorCode[] = ['forbidden', 'internal'];
/** What any route of sandboxes may answer besides. */
const ENGINE_ERRORS: readonly ErrorCode[] = ['engine_unavailable', 'engine_timeout', 'engine_error'];

export interface OpenApiOptions {
  readonly version: string;
  /** Whether a token is in force. */
  readonly secured: boolean;
}

/** The OpenAPI 3.1 document of the operations, made from the schemas that parse requests and describe answers. */
export function toOpenApi(operations: readonly Operation[], { version, secured }: OpenApiOptions): Json {
  const paths: Record<string, Json> = {};
  for (const operation of operations) {
    paths[operation.path] ??= {};
    Object.assign(paths[operation.path] ?? {}, { [operation.method]: describe(operation, secured) });
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Sandyard',
      version,
      description: 'Disposable Linux sandboxes for agents on your own Docker engine.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/' }],
    tags: ['Sandboxes', 'Commands', 'Files', 'Service'].map((name) => ({ name })),
    paths,
    components: {
      schemas: { ...components(REQUESTS, 'input'), ...components(ANSWERS, 'output') },
      ...(secured && { securitySchemes: SECURITY_SCHEMES }),
    },
  };
}

function describe(operation: Operation, secured: boolean): Json {
  const { operationId, tag, summary, description, body, upload, answers } = operation;
  const isOpen = operation.open === true;
  const parameters = [...pathParameters(operation), ...queryParameters(operation), ...headerParameters(operation)];
  return {
    operationId,
    tags: [tag],
    summary,
    ...(description !== undefined && { description }),
    security: secured && !isOpen ? securityOf(operation) : [],
    ...(parameters.length > 0 && { parameters }),
    ...(body !== undefined && { requestBody: jsonBody(body) }),
    ...(upload !== undefined && { requestBody: { required: true, content: binary(upload) } }),
    responses: {
      ...Object.fromEntries(Object.entries(answers).map(([status, answer]) => [status, describeAnswer(answer)])),
      ...(!isOpen && problems(errorsOf(operation, secured))),
    },
  };
}

const SECURITY_SCHEMES = {
  bearer: {
    type: 'http',
    scheme: 'bearer',
    description:
      'A key or a token that was issued. It has scopes; what a route needs is in its "security". "admin" is good for all.',
  },
  ticket: { type: 'apiKey', in: 'query', name: 'ticket', description: 'Admission to one terminal, once.' },
  link: { type: 'apiKey', in: 'query', name: 'link', description: 'Admission to one file.' },
} as const;

/** Which of them admit to a route, and by which scope. */
function securityOf({ operationId, query }: Operation): Json[] {
  const others = (['ticket', 'link'] as const).filter((name) => query !== undefined && name in query.shape);
  return [{ bearer: [scopeOf(operationId)] }, ...others.map((name) => ({ [name]: [] }))];
}

function jsonBody(schema: z.ZodType): Json {
  const required = !schema.safeParse({}).success;
  return { required, content: { 'application/json': { schema: reference(schema, 'input') } } };
}

function describeAnswer({ description, content, headers }: Answer): Json {
  return {
    description,
    ...(headers !== undefined && {
      headers: Object.fromEntries(
        Object.entries(headers).map(([name, text]) => [name, { description: text, schema: { type: 'string' } }]),
      ),
    }),
    ...(content !== undefined && {
      content: Object.fromEntries(
        Object.entries(content).map(([type, schema]) => [
          type,
          schema === 'binary' ? {} : { schema: reference(schema, 'output') },
        ]),
      ),
    }),
  };
}

/** An empty media type object is how OpenAPI 3.1 says "bytes". */
function binary(types: readonly string[]): Json {
  return Object.fromEntries(types.map((type) => [type, {}]));
}

function errorsOf({ method, tag, path, query, body, upload, errors }: Operation, secured: boolean): ErrorCode[] {
  const codes = new Set<ErrorCode>([...errors, ...COMMON_ERRORS]);
  if (tag !== 'Service') for (const code of ENGINE_ERRORS) codes.add(code);
  if (secured) for (const code of ['unauthorized', 'rate_limited'] as const) codes.add(code);
  if (path.includes('{id}')) codes.add('sandbox_not_found');
  if (path.includes('{pid}')) codes.add('process_not_found');
  if (query !== undefined || body !== undefined || method === 'post') codes.add('validation_failed');
  if (method === 'post') for (const code of IDEMPOTENCY_ERRORS) codes.add(code);
  if (body !== undefined) for (const code of BODY_ERRORS) codes.add(code);
  if (upload !== undefined) for (const code of UPLOAD_ERRORS) codes.add(code);
  return [...codes];
}

const IDEMPOTENCY_ERRORS = ['idempotency_mismatch', 'idempotency_in_progress'] as const;
const UPLOAD_ERRORS = ['payload_too_large', 'unsupported_media_type'] as const;
const BODY_ERRORS = ['invalid_request', ...UPLOAD_ERRORS] as const;

function problems(codes: readonly ErrorCode[]): Json {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of codes) {
    const { status } = describeError(code);
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  return Object.fromEntries(
    [...byStatus].map(([status, same]) => [
      status,
      {
        description: same.map((code) => `\`${code}\`: ${describeError(code).title}.`).join('\n\n'),
        content: { [PROBLEM_TYPE]: { schema: reference(problemAnswer, 'output') } },
      },
    ]),
  );
}

const PATH_FIELDS = { id: fields.id, pid: fields.processId };

function pathParameters({ path }: Operation): Json[] {
  return (['id', 'pid'] as const)
    .filter((name) => path.includes(`{${name}}`))
    .map((name) => ({ name, in: 'path', required: true, schema: toJsonSchema(PATH_FIELDS[name], 'input') }));
}

function queryParameters({ query }: Operation): Json[] {
  if (query === undefined) return [];
  const { properties = {}, required = [] } = toJsonSchema(query, 'input') as {
    properties?: Record<string, Json>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, { description, ...schema }]) => ({
    name,
    in: 'query',
    required: required.includes(name),
    ...(description !== undefined && { description }),
    schema,
  }));
}

function headerParameters({ method, durable }: Operation): Json[] {
  return method === 'post' ? [durable === true ? DURABLE_KEY : KEY] : [];
}

const KEY = {
  name: 'Idempotency-Key',
  in: 'header',
  required: false,
  description:
    'Has it done once, however often the request is sent: a repeated one gets the answer of the first, with the header ' +
    '"Idempotent-Replayed: true"; `idempotency_mismatch` when its content is not the same, `idempotency_in_progress` while ' +
    'the first is under way. Answers are kept for 24 hours while the service runs, but for those that say ' +
    '"Idempotent-Kept: false" and errors after which trying again can help. Of a streamed body only length and type are compared.',
  schema: { type: 'string', minLength: 1, maxLength: 255, pattern: '^[ -~]+$' },
};
const DURABLE_KEY = {
  ...KEY,
  description:
    'Has it done once, however often the request is sent, also after a restart of the service: a repeated one finds what ' +
    'the first has made, and its answer has the header "Idempotent-Replayed: true"; `idempotency_mismatch` when its content ' +
    'is not the same.',
};

type Direction = 'input' | 'output';

function named(schemas: Record<string, z.ZodType>) {
  const registry = z.registry<{ id: string }>();
  for (const [id, schema] of Object.entries(schemas)) registry.add(schema, { id });
  return registry;
}

/** By name where it has one, otherwise in place. */
function reference(schema: z.ZodType, io: Direction): Json {
  const name = (io === 'input' ? REQUESTS : ANSWERS).get(schema)?.id;
  return name === undefined ? toJsonSchema(schema, io) : { $ref: uri(name) };
}

function components(registry: ReturnType<typeof named>, io: Direction): Json {
  const { schemas } = z.toJSONSchema(registry, { io, uri });
  return clean(schemas, io) as Json;
}

function toJsonSchema(schema: z.ZodType, io: Direction): Json {
  return clean(z.toJSONSchema(schema, { io }), io) as Json;
}

function uri(name: string): string {
  return `#/components/schemas/${name}`;
}

/**
 * Without what belongs to a document of its own, and without the bounds that every JavaScript integer has. Answers may
 * get more fields in time, so they aren't closed, as requests are.
 */
function clean(value: unknown, io: Direction): unknown {
  if (Array.isArray(value)) return value.map((item) => clean(item, io));
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).filter(
    ([key, item]) =>
      !(['$schema', '$id', 'id'].includes(key) && typeof item === 'string') &&
      !(typeof item === 'number' && Math.abs(item) === Number.MAX_SAFE_INTEGER) &&
      !(io === 'output' && key === 'additionalProperties' && item === false),
  );
  return Object.fromEntries(entries.map(([key, item]) => [key, clean(item, io)]));
}
