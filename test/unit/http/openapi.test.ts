import { describe, expect, test } from 'vitest';

import { createApp } from '../../../src/http/app.js';
import { readConfig } from '../../../src/config.js';
import { pino } from 'pino';
import { runApp, send, TOKEN } from './harness.js';
import { StubManager } from './stub-manager.js';

interface Layer {
  readonly route?: { readonly path: string; readonly methods: Record<string, boolean> };
  readonly handle?: { readonly stack?: Layer[] };
}

type Document = Record<string, Record<string, Record<string, unknown>>>;

const HTTP_METHODS = new Set(['get', 'post', 'put', 'delete', 'patch', 'head', 'options']);

/** Every route that Express really has, as `get /path/{id}`. */
function routesOf(stack: readonly Layer[]): string[] {
  return stack.flatMap(({ route, handle }) => {
    if (route === undefined) return routesOf(handle?.stack ?? []);
    const path = route.path.replaceAll(/:(\w+)/g, '{$1}');
    return Object.keys(route.methods)
      .filter((method) => HTTP_METHODS.has(method))
      .map((method) => `${method} ${path}`);
  });
}

function findAll(value: unknown, key: string): unknown[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, item]) => [...(name === key ? [item] : []), ...findAll(item, key)]);
}

describe('/openapi.json', () => {
  test('has exactly the routes that there are', async () => {
    await using app = await runApp();
    const { json } = await send(app, '/openapi.json');
    const documented = Object.entries(json['paths'] as Document).flatMap(([path, operations]) =>
      Object.keys(operations).map((method) => `${method} ${path}`),
    );
    const express = createApp({
      manager: new StubManager().manager,
      config: readConfig({}),
      log: pino({ level: 'silent' }),
    });
    const routes = routesOf(express.router.stack as unknown as Layer[]).filter((route) => !/docs|openapi/.test(route));
    expect(documented.toSorted()).toEqual(routes.toSorted());
    expect(documented).toHaveLength(56);
  });

  test('is sound: references lead somewhere, parameters are declared, ids are unique', async () => {
    await using app = await runApp();
    const { json, status } = await send(app, '/openapi.json');
    expect(status).toBe(200);
    expect(json['openapi']).toBe('3.1.0');
    const schemas = (json['components'] as { schemas: Record<string, unknown> }).schemas;
    for (const reference of findAll(json, '$ref')) {
      expect(Object.keys(schemas)).toContain(String(reference).replace('#/components/schemas/', ''));
    }
    const operations = Object.entries(json['paths'] as Document).flatMap(([path, methods]) =>
      Object.values(methods).map((operation: Record<string, unknown>) => ({ path, operation })),
    );
    const ids = operations.map(({ operation }) => operation['operationId']);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { path, operation } of operations) {
      const { parameters = [], responses } = operation;
      const declared = (parameters as { name: string; in: string }[]).filter((one) => one.in === 'path');
      expect(declared.map(({ name }) => `{${name}}`)).toEqual(path.match(/\{\w+\}/g) ?? []);
      expect(Object.keys(responses as object).some((code) => /^(101|2..)$/.test(code))).toBe(true);
    }
    for (const schema of Object.values(schemas)) expect(schema).toHaveProperty('description');
  });

  test('is free of what only our tools mean', async () => {
    await using app = await runApp();
    const { text, json } = await send(app, '/openapi.json');
    expect(text).not.toMatch(/"\$(schema|id)"/);
    expect(text).not.toContain(String(Number.MAX_SAFE_INTEGER));
    const schemas = (json['components'] as { schemas: Record<string, Record<string, unknown>> }).schemas;
    expect(schemas['CreateSandbox']).toMatchObject({
      additionalProperties: false,
      properties: {
        memory_limit: { type: ['number', 'string'] },
        timeout: { type: 'number', minimum: 1 },
      },
    });
    expect(schemas['SandboxList']).toMatchObject({
      properties: { sandboxes: { items: { $ref: '#/components/schemas/Sandbox' } } },
    });
  });

  test('asks for a token where one is in force', async () => {
    await using open = await runApp();
    expect(findAll((await send(open, '/openapi.json')).json, 'bearer')).toEqual([]);
    await using secured = await runApp({ env: { SANDBOX_TOKEN: TOKEN } });
    const { json } = await send(secured, '/openapi.json');
    const paths = json['paths'] as Document;
    expect(paths['/api/sandboxes']?.['post']).toMatchObject({ security: [{ bearer: ['lifecycle'] }] });
    expect(paths['/api/sandboxes/{id}/files']?.['get']).toMatchObject({
      security: [{ bearer: ['files'] }, { link: [] }],
    });
    expect(paths['/api/sandboxes/{id}/terminal']?.['get']).toMatchObject({
      security: [{ bearer: ['exec'] }, { ticket: [] }],
    });
    expect(paths['/healthz']?.['get']).toMatchObject({ security: [] });
    expect(json['components']).toMatchObject({ securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } } });
  });
});

describe('/docs', () => {
  test('is served from our own files, with a policy that allows no inline script', async () => {
    await using app = await runApp({ env: { SANDBOX_TOKEN: TOKEN } });
    const page = await send(app, '/docs/');
    expect(page.status).toBe(200);
    expect(page.headers['content-type']).toMatch(/^text\/html/);
    expect(page.headers['content-security-policy']).toMatch(/script-src 'self';/);
    const links = [...page.text.matchAll(/(?:src|href)="(\/[^"]*)"/g)].map(([, link]) => link ?? '');
    expect(links).toHaveLength(4);
    expect(page.text).not.toMatch(/https?:/);
    for (const link of links) {
      const file = await send(app, link);
      expect(file.status).toBe(200);
      if (link.endsWith('.js')) expect(file.headers['content-type']).toMatch(/javascript/);
      if (link.endsWith('.css')) expect(file.headers['content-type']).toMatch(/css/);
    }
  });
});
