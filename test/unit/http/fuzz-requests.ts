import * as fc from 'fast-check';

/*
 * Requests at random, for every route of an OpenAPI document: some as they should be, most of them not.
 */

export interface FuzzRequest {
  readonly operationId: string;
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | Uint8Array | undefined;
  /** Which sandbox the path names. */
  readonly sandbox: string;
}

interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
  readonly additionalProperties?: Schema | boolean;
}

interface OperationObject {
  readonly operationId: string;
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly schema: Schema }[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema?: Schema }>> };
}

export interface OpenApiDocument {
  readonly paths: Readonly<Record<string, Readonly<Record<string, OperationObject>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
}

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'PROPFIND'];

/** What is known to be somewhere, and what has broken others. */
const TEXTS = [
  '',
  '0',
  '-1',
  '1',
  '1e309',
  'NaN',
  'null',
  'true',
  '/',
  '/workspace',
  '/workspace/a.txt',
  '/etc/../etc/passwd',
  '../../../etc/passwd',
  '/proc/self/environ',
  '\u0000',
  '%00',
  '%',
  '${7*7}',
  '{{7*7}}',
  "' OR 1=1 --",
  '<script>',
  '\r\nX-Injected: 1',
  '__proto__',
  'constructor',
  '\ud800',
  '𝒳'.repeat(20),
  'x'.repeat(5000),
  'admin',
  'bob',
  'default',
  '512m',
  '10s',
];

const text = fc.oneof(
  fc.constantFrom(...TEXTS),
  fc.string({ maxLength: 40 }),
  fc.string({ unit: 'binary', maxLength: 20 }),
);
const rawPath = fc.string({
  unit: fc.constantFrom(...Array.from('abz019/%.._-~!$&()*+,;=:@?\\')),
  maxLength: 60,
});

/** What is good for more than to be refused, by its name. */
const USUAL: Readonly<Record<string, readonly unknown[]>> = {
  path: ['/workspace', '/workspace/a.txt', '/tmp/b'],
  from: ['/workspace/a.txt'],
  to: ['/workspace/c.txt'],
  workdir: ['/workspace'],
  user: ['sandbox', '1001'],
  command: [['echo', 'x'], 'echo x', ['cat'], ['sleep', '0.01']],
  project_name: ['p'],
  memory_limit: ['64m'],
  cpu_limit: [0.5, '1'],
  image: ['sandyard-sandbox:latest', 'missing'],
  timeout: [1, 0.1, 60],
  grace: [0],
  signal: ['SIGTERM'],
  mode: ['644'],
  env: [{ A: 'b' }],
  metadata: [{ a: 'b' }],
  limit: [1, 2],
  rows: [24],
  columns: [80],
  dry_run: [true],
  exec_id: ['p1', 'p2'],
  id: ['p1', 'p2'],
};

function named(name: string, schema: Schema, { document, depth = 0 }: { document: OpenApiDocument; depth?: number }) {
  const usual = USUAL[name];
  const any = fitting(schema, document, depth);
  return usual === undefined ? any : fc.oneof({ weight: 5, arbitrary: fc.constantFrom(...usual) }, any);
}

/** What the schema allows, as a rule. */
function fitting(schema: Schema, document: OpenApiDocument, depth = 0): fc.Arbitrary<unknown> {
  if (schema.$ref !== undefined) {
    const found = document.components.schemas[schema.$ref.split('/').at(-1) ?? ''] ?? {};
    return fitting(found, document, depth + 1);
  }
  if (depth > 4) return fc.constant(null);
  if (schema.const !== undefined) return fc.constant(schema.const);
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  if (schema.anyOf !== undefined) {
    return fc.oneof(...schema.anyOf.map((one) => fitting(one, document, depth + 1)));
  }
  const types = schema.type === undefined ? ['string'] : [schema.type].flat();
  return fc.oneof(...types.map((type) => ofType(type, schema, { document, depth })));
}

function ofType(
  type: string,
  { properties = {}, required = [], items = {}, additionalProperties }: Schema,
  { document, depth }: { document: OpenApiDocument; depth: number },
): fc.Arbitrary<unknown> {
  switch (type) {
    case 'object': {
      if (typeof additionalProperties === 'object') {
        return fc.dictionary(text, fitting(additionalProperties, document, depth + 1), { maxKeys: 3 });
      }
      const members = Object.entries(properties).map(([name, one]) => [
        name,
        named(name, one, { document, depth: depth + 1 }),
      ]);
      return fc.record(Object.fromEntries(members) as Record<string, fc.Arbitrary<unknown>>, {
        requiredKeys: [...required],
      });
    }
    case 'array':
      return fc.array(fitting(items, document, depth + 1), { maxLength: 3 });
    case 'integer':
    case 'number':
      return fc.oneof(
        fc.integer({ min: 0, max: 100 }),
        fc.double(),
        fc.constantFrom(-1, 0, 1e21, Number.MAX_SAFE_INTEGER),
      );
    case 'boolean':
      return fc.boolean();
    case 'null':
      return fc.constant(null);
    default:
      return text;
  }
}

/** Mostly what is wanted, sometimes anything. */
const orAnything = (wanted: fc.Arbitrary<unknown>) => fc.oneof({ weight: 4, arbitrary: wanted }, text, fc.jsonValue());

function queryOf({ parameters = [] }: OperationObject, document: OpenApiDocument): fc.Arbitrary<string> {
  const known = parameters.filter((one) => one.in === 'query');
  const pairs = known.map(({ name, schema }) =>
    fc
      .option(fc.oneof({ weight: 9, arbitrary: named(name, schema, { document }).map(String) }, text), {
        nil: undefined,
      })
      .map((value) => [name, value]),
  );
  const more = fc.array(fc.tuple(text, text), { maxLength: 1 });
  return fc
    .tuple(fc.tuple(...pairs), fc.oneof({ weight: 6, arbitrary: fc.constant([]) }, more))
    .map(([values, others]) => {
      const given = [...values, ...others].filter((pair) => pair[1] !== undefined) as [string, string][];
      return given.map(([name, value]) => `${encode(name)}=${encode(value)}`).join('&');
    });
}

/** As URLs have it, what can't be had in one included. */
function encode(value: string): string {
  return encodeURIComponent(value.replaceAll(/\p{Surrogate}/gu, '\ufffd'));
}

function bodyOf(
  { requestBody }: OperationObject,
  document: OpenApiDocument,
): fc.Arbitrary<string | Uint8Array | undefined> {
  const anything = fc.oneof(
    fc.constant(undefined),
    text,
    fc.json(),
    fc.uint8Array({ maxLength: 200 }),
    fc.constantFrom('{', '[]', 'null', '"x"', '{"__proto__":{"x":1}}', '['.repeat(5000), `{"a":${'1'.repeat(400)}}`),
  );
  const schema = requestBody?.content['application/json']?.schema;
  if (schema === undefined) return anything;
  const json = orAnything(fitting(schema, document)).map((value) => JSON.stringify(value));
  return fc.oneof({ weight: 4, arbitrary: json }, anything);
}

const headerText = fc.oneof(
  fc.string({ maxLength: 30 }),
  fc.constantFrom('*', '*/*', 'text/event-stream', 'application/x-ndjson', 'bytes=0-', 'bytes=5-2', '"a"', 'gzip'),
);
const HEADERS = {
  'Content-Type': fc.oneof(
    { weight: 6, arbitrary: fc.constant('application/json') },
    fc.constantFrom(
      'application/octet-stream',
      'application/x-tar',
      'text/plain',
      'multipart/form-data',
      '',
      'a/b; charset=x',
    ),
  ),
  Accept: headerText,
  'Content-Encoding': fc.constantFrom('gzip', 'br', 'identity', 'x'),
  'Idempotency-Key': fc.oneof(fc.constantFrom('a', 'b', 'x'.repeat(300)), headerText),
  Range: headerText,
  'If-Match': headerText,
  'If-None-Match': headerText,
  'If-Range': headerText,
  'If-Modified-Since': headerText,
  'Last-Event-ID': fc.oneof(headerText, fc.constant('00000000-1')),
  'X-Request-Id': headerText,
  'X-HTTP-Method-Override': fc.constantFrom('DELETE', 'GET'),
  'X-Forwarded-For': headerText,
  'X-Original-URL': fc.constant('/api/sandboxes'),
  Origin: fc.oneof(headerText, fc.constant('https://evil.example')),
  traceparent: headerText,
  Cookie: headerText,
  Upgrade: fc.constantFrom('websocket', 'h2c'),
  Connection: fc.constantFrom('upgrade', 'close'),
  Expect: fc.constantFrom('100-continue', 'x'),
};

const someHeaders = fc
  .record(HEADERS, { requiredKeys: [] })
  .chain((all) => fc.subarray(Object.entries(all), { maxLength: 4 }).map((some) => Object.fromEntries(some)));
const headers = fc.tuple(HEADERS['Content-Type'], someHeaders).map(([type, some]): Record<string, string> => {
  const given = { 'Content-Type': type, ...some } as Record<string, string>;
  // A request that is malformed for the client itself isn't sent.
  return Object.fromEntries(
    Object.entries(given).map(([name, value]) => [name, value.replaceAll(/[^\x20-\x7e]/g, '')]),
  );
});

/** A request for one of the routes of the document, to one of the sandboxes. */
export function requestsOf(document: OpenApiDocument, sandboxes: fc.Arbitrary<string>): fc.Arbitrary<FuzzRequest> {
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
  );
  const odd = fc.oneof(text, rawPath).map(encode);
  const id = fc.oneof({ weight: 6, arbitrary: sandboxes }, odd);
  const pid = fc.oneof({ weight: 3, arbitrary: fc.constantFrom('p1', 'p2') }, odd);
  return fc.constantFrom(...operations).chain(({ path, method, operation }) => {
    const way = fc.oneof(
      { weight: 12, arbitrary: fc.constant(undefined) },
      { weight: 1, arbitrary: rawPath.map((raw) => `/${raw}`) },
    );
    const verb = fc.oneof({ weight: 8, arbitrary: fc.constant(method) }, fc.constantFrom(...METHODS));
    return fc
      .record({ id, pid, way, verb, headers, query: queryOf(operation, document), body: bodyOf(operation, document) })
      .map((given) => {
        const place = given.way ?? path.replace('{id}', given.id).replace('{pid}', given.pid);
        return {
          operationId: operation.operationId,
          method: given.verb,
          path: given.query === '' ? place : `${place}?${given.query}`,
          headers: given.headers,
          body: /^(GET|HEAD|TRACE|OPTIONS)$/.test(given.verb) ? undefined : given.body,
          sandbox: given.way === undefined && path.includes('{id}') ? given.id : '',
        };
      });
  });
}
